"""Asks the misbehaving provider, without patience."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import Any

import numpy as np
from pydantic import SecretStr

from embeddings_pipeline.encoders.encoder import Encodings
from embeddings_pipeline.encoders.openai.client import Timeouts
from embeddings_pipeline.encoders.openai.encoder import OpenAIEncoder, RequestOptions
from embeddings_pipeline.encoders.openai.endpoint import Endpoint
from embeddings_pipeline.encoders.openai.models import remote_model
from tests.support import provider as misbehaving
from tests.support.provider import KEY, Provider

SMALL = "text-embedding-3-small"
QUICK = Timeouts(answer=5, total=20)
TEXTS = [f"text number {n}" for n in range(40)]


def encoder(
    provider: Provider,
    model: str = SMALL,
    *,
    key: str | None = KEY,
    dimension: int | None = None,
    stopping: Callable[[], bool] = lambda: False,
    **options: Any,
) -> OpenAIEncoder:
    remote = remote_model(model)
    assert remote is not None
    endpoint = Endpoint(provider.url, SecretStr(key) if key else None)
    options = {"timeouts": QUICK, "batch_texts": 10, **options}
    made = OpenAIEncoder(
        *(model, remote, endpoint),
        dimension=dimension,
        options=RequestOptions(**options),
        stop_signal=lambda: stopping,
    )
    provider.clients.callback(made.close)
    return made


def assert_right(
    done: Encodings,
    texts: Sequence[str],
    dimension: int = 1536,
    *,
    failed: Collection[int] = frozenset(),
) -> None:
    """Exactly these places failed, and each other text has its own vector."""
    assert done.failures.keys() == set(failed), done.stopped
    for index, text in enumerate(texts):
        if index not in failed:
            wanted = misbehaving.vector_of(text, dimension)
            np.testing.assert_array_equal(done.vectors[index], wanted, err_msg=text)
