"""A cold run through the pipeline, beside the same encoder called directly on the same texts."""

from __future__ import annotations

import numpy as np

from benchmarks.scratch import arguments, packages, report, timed, world
from embeddings_pipeline.encoders.registry import Encoders
from embeddings_pipeline.settings import DEFAULT_MODEL, Settings

# texts a second of an encoder, and the share of its throughput that is asked of a run
_RATES, _SHARES = (700, 1_500), (0.95, 0.85)


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--rows", type=int, default=20_000)
    options = parser.parse_args()
    rows = [(r["package"], r["description_short"]) for r in packages(options.data)[: options.rows]]
    with world() as scratch:
        scratch.encoders = Encoders(Settings())
        encoder = scratch.encoders.get(DEFAULT_MODEL)
        encoder.check()
        encoder.encode_documents(["warm up"] * 32)
        scratch.table("id text, name text")
        scratch.insert(*rows)
        item = scratch.declare(template="{id}: {name}", index={"type": "none"})

        texts = list(dict.fromkeys(f"{package}: {name}" for package, name in rows))

        def directly() -> float:
            return timed(lambda: encoder.encode_documents(texts))[0]

        before = directly()
        texts_seconds, _ = timed(lambda: scratch.texts(item))
        vectors_seconds, _ = timed(lambda: scratch.vectors(item))
        pipeline = texts_seconds + vectors_seconds
        # before and after: a machine that others use changes its pace within a minute
        direct = (before + directly()) / 2
    rate = len(texts) / direct
    report(
        bench="cold",
        rows=len(rows),
        texts_per_second=rate,
        direct_seconds=direct,
        texts_seconds=texts_seconds,
        encode_and_project_seconds=vectors_seconds,
        share_of_direct_throughput=direct / pipeline,
        # the database takes the same time for a text, however fast the encoder is
        target=float(np.interp(rate, _RATES, _SHARES)),
    )


if __name__ == "__main__":
    main()
