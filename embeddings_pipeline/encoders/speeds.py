"""How many tokens a second a model encodes on this machine: measured on demand, and remembered."""

from __future__ import annotations

import json
import os
import platform
import time
from collections.abc import Iterator
from contextlib import closing, suppress
from hashlib import sha256
from itertools import cycle
from pathlib import Path

from embeddings_pipeline.encoders.encoder import StreamingEncoder
from embeddings_pipeline.entities.model import ModelIdentity
from embeddings_pipeline.files import write_atomically
from embeddings_pipeline.settings import Settings, user_cache_dir

_SECONDS = 3.0
_SENTENCE = "A submersible pump with a float switch empties flooded cellars in minutes. "
# texts of one sentence to twelve, as short and long descriptions mixed
_SENTENCES = (1, 4, 2, 12, 1, 3)


def measure(encoder: StreamingEncoder, settings: Settings) -> float:
    """Load the model, encode made-up texts for three seconds, and remember the tokens a second.

    Raises ConfigurationError where the model cannot be loaded.
    """
    encoder.check()
    # the first call prepares memory and threads
    encoder.encode_documents([_SENTENCE])
    started, tokens = time.monotonic(), 0
    with closing(encoder.encode_stream(_texts())) as stream:
        for batch in stream:
            tokens += batch.encodings.usage.tokens
            if time.monotonic() - started > _SECONDS:
                break
    speed = tokens / (time.monotonic() - started)
    with suppress(OSError):
        kept = _file(encoder.identity, settings)
        kept.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(kept, json.dumps(speed))
    return speed


def remembered(identity: ModelIdentity, settings: Settings) -> float | None:
    """Return the tokens a second that were measured on this machine with these settings."""
    with suppress(OSError, ValueError):
        return float(json.loads(_file(identity, settings).read_text()))
    return None


def _texts() -> Iterator[str]:
    # equal texts are not encoded once: the encoder has no cache
    return (_SENTENCE * sentences for sentences in cycle(_SENTENCES))


def _file(identity: ModelIdentity, settings: Settings) -> Path:
    # the folder may be shared by machines
    decides = (
        *(platform.node(), os.cpu_count(), identity.model, identity.revision),
        *(settings.embedding_device, settings.embedding_precision),
        settings.embedding_cpu_kernels,
        *(settings.embedding_batch_size, settings.embedding_batch_tokens),
    )
    name = sha256(json.dumps(decides).encode()).hexdigest()
    return user_cache_dir() / "speeds" / name
