"""A static model beside the default one: quality on SciFact and STS-B, and tokens a second.

The static model is WordLlama (l2_supercat, 256 dimensions, MIT): no hub is needed, since its
package carries the weights.
"""

from __future__ import annotations

import json
import shutil
import sys
import tempfile
from functools import partial
from importlib.util import find_spec
from pathlib import Path

from benchmarks.encoder import mixed, scifact, stsb
from benchmarks.scratch import arguments, report, timed
from embeddings_pipeline.encoders.registry import Encoders
from embeddings_pipeline.settings import DEFAULT_MODEL, Settings

_MODEL = "wordllama"
_PARTS = ("StaticEmbedding", ""), ("Normalize", "1_Normalize")
# texts of which each model makes some seconds of work
_TEXTS, _DEFAULT_TEXTS = 60_000, 1_000


def main() -> None:
    options = arguments(__doc__).parse_args()
    with tempfile.TemporaryDirectory() as folder:
        model = wordllama(Path(folder))
        settings = Settings(embedding_model=_MODEL, embedding_model_path=model)
        encoders = Encoders(settings)
        static, default = encoders.get(_MODEL), encoders.get(DEFAULT_MODEL)
        speeds = []
        for encoder, count in ((static, _TEXTS), (default, _DEFAULT_TEXTS)):
            texts = mixed(options.data, count)
            encoder.encode_documents(texts[:10])
            seconds, encodings = timed(partial(encoder.encode_documents, texts))
            speeds.append(encodings.usage.tokens / seconds)
        report(
            bench="static",
            dimension=static.identity.dimension,
            tokens_per_second=speeds[0],
            default_tokens_per_second=speeds[1],
            times_default=speeds[0] / speeds[1],
            scifact_ndcg_at_10=100 * scifact(options.data / "scifact", static),
            stsb_spearman=100 * stsb(options.data / "stsb" / "stsb_test_clean.csv", static),
        )


def wordllama(folder: Path) -> Path:
    """Lay out the files of the package as those of a sentence-transformers model."""
    spec = find_spec(_MODEL)
    if not spec or not spec.submodule_search_locations:
        sys.exit("wordllama is missing: `make bench-static` installs it")
    package = Path(spec.submodule_search_locations[0])
    shutil.copy(package / "weights" / "l2_supercat_256.safetensors", folder / "model.safetensors")
    tokenizer = package / "tokenizers" / "l2_supercat_tokenizer_config.json"
    shutil.copy(tokenizer, folder / "tokenizer.json")
    modules = [
        {"type": f"sentence_transformers.models.{kind}", "path": path} for kind, path in _PARTS
    ]
    (folder / "modules.json").write_text(json.dumps(modules))
    return folder


if __name__ == "__main__":
    main()
