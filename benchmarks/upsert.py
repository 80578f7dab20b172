"""Writes vectors through the pipeline's own upsert, without an index."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from benchmarks.scratch import arguments, report, timed, world
from embeddings_pipeline.store import set_creation, vectors
from embeddings_pipeline.store.vectors import Encoded
from tests.words import WORDS, WordsEncoder

_WINDOW = 1_000


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--rows", type=int, default=50_000)
    options = parser.parse_args()
    with world() as scratch:
        scratch.use(WordsEncoder(replace(WORDS, dimension=384)))
        scratch.table("id bigint, name text")
        scratch.sql(
            "insert into staging.stg_item select n, 'thing ' || n from"
            f" generate_series(1, {options.rows}) n"
        )
        item = scratch.declare(index={"type": "none"})
        scratch.texts(item)
        on = scratch.on(item)
        random = np.random.default_rng(0)
        with scratch.postgres.connection() as connection:
            vector_set = set_creation.ensure_set(connection, on, scratch.encoder.identity)
            rows = connection.execute(
                "select id::text, chunk, text_hash from analytics_features.item_texts"
            ).fetchall()
            encoded = [
                Encoded(*row, random.standard_normal(384, dtype=np.float32), None) for row in rows
            ]

            def write() -> None:
                for start in range(0, len(encoded), _WINDOW):
                    window = encoded[start : start + _WINDOW]
                    vectors.write(connection, on, vector_set, window, "bench")

            seconds, _ = timed(write)
            again, _ = timed(write)
    report(
        bench="upsert",
        rows=len(rows),
        inserted_per_second=len(rows) / seconds,
        updated_per_second=len(rows) / again,
        target=50_000,
    )


if __name__ == "__main__":
    main()
