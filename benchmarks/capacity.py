"""How many rows a second the pipeline can keep an encoder busy with: the stages of a first run with
an encoder that returns at once, beside a bare binary COPY of the same ids, texts and vectors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from statistics import median

import numpy as np
from pgvector.psycopg import register_vector
from psycopg.types.numeric import Int8

from benchmarks.scratch import arguments, packages, report, timed, world
from embeddings_pipeline.encoders.encoder import Encodings, Usage
from embeddings_pipeline.entities.model import Vector
from tests.support.words import WORDS, WordsEncoder
from tests.support.world import SCHEMA, World

DIMENSION = 384
_COPIES = 2


class InstantEncoder(WordsEncoder):
    """Gives out vectors that were made before."""

    def __init__(self) -> None:
        super().__init__(replace(WORDS, dimension=DIMENSION))
        self.vectors = unit_vectors(1_000)

    def encode_documents(self, texts: Sequence[str]) -> Encodings:
        return Encodings(self.vectors[np.arange(len(texts)) % 1_000], Usage(texts=len(texts)))


def unit_vectors(count: int) -> Vector:
    made = np.random.default_rng(1).standard_normal((count, DIMENSION)).astype(np.float32)
    unit: Vector = made / np.linalg.norm(made, axis=1, keepdims=True)
    return unit


def copy_bare(scratch: World, rows: Sequence[tuple[int, str]]) -> None:
    """What anything that stores these rows has to send at least."""
    vectors = unit_vectors(1_000)
    with scratch.postgres.connection() as connection:
        register_vector(connection)
        connection.execute("drop table if exists bare")
        connection.execute(
            f"create table bare (id bigint, text text, embedding vector({DIMENSION}))"
        )
        with (
            connection.cursor() as cursor,
            cursor.copy("copy bare from stdin (format binary)") as copy,
        ):
            for n, (row_id, text) in enumerate(rows):
                copy.write_row((Int8(row_id), text, vectors[n % 1_000]))


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--rows", type=int, default=100_000)
    options = parser.parse_args()
    found = packages(options.data)
    rows = [
        # the corpus has 63,436 rows; no text comes twice
        (n, f"{found[n % len(found)]['description_short']} {n}")
        for n in range(options.rows)
    ]
    with world() as scratch:
        scratch.use(InstantEncoder())
        scratch.table("id bigint, name text")
        scratch.insert(*rows)
        plain = scratch.declare(template="{name}", index={"type": "none"})
        halves = scratch.declare(template="{name}", index={"type": "none"}, storage="halfvec")

        def copies() -> list[float]:
            return [timed(lambda: copy_bare(scratch, rows))[0] for _ in range(_COPIES)]

        # the first copies after a pause take half as long as later ones, and the stages do not come
        # first: what is compared begins when the server has written as much as the stages will
        first = copies()
        # the machine's speed changes while the stages run: the median of all copies is compared
        before = copies()
        texts_seconds, _ = timed(lambda: scratch.texts(plain))
        between = copies()
        encode_seconds, encoded = timed(lambda: scratch.vectors(plain))
        after = copies()
        project_seconds, projected = timed(lambda: scratch.vectors(halves))
        ((stored,),) = scratch.sql(f"select count(*) from {SCHEMA}.item_vectors_1")
    assert (encoded.counts.encoded, projected.counts.encoded) == (len(rows), 0)
    assert stored == len(rows)
    copy_seconds = median([*before, *between, *after])
    seconds = texts_seconds + encode_seconds
    report(
        bench="capacity",
        rows=len(rows),
        first_copy_seconds=first[0],
        copy_seconds=copy_seconds,
        texts_seconds=texts_seconds,
        encode_and_project_seconds=encode_seconds,
        project_alone_seconds=project_seconds,
        rows_per_second=len(rows) / seconds,
        share_of_copy=copy_seconds / seconds,
        target=0.12,
    )


if __name__ == "__main__":
    main()
