"""Runs in which nothing or little changed, beside one sequential scan of the same table.

The first vectors are random, because only the search for changes is measured. Only changed rows are
encoded with the model; its own time for them is printed, too.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence

import numpy as np

from benchmarks.scratch import arguments, packages, peak_memory_mib, report, timed, world
from embeddings_pipeline.encoders.encoder import Encodings, StreamingEncoder, Usage
from embeddings_pipeline.encoders.registry import Encoders
from embeddings_pipeline.entities.entity import Entity
from embeddings_pipeline.settings import DEFAULT_MODEL, Settings
from tests.support.words import WORDS, WordsEncoder
from tests.support.world import World

_REPEATS = 5
_SCAN = "select count(md5(t::text)) from staging.stg_item t"


class RandomEncoder(WordsEncoder):
    """Vectors without a meaning, as fast as they can be drawn."""

    random = np.random.default_rng(0)

    def encode_documents(self, texts: Sequence[str]) -> Encodings:
        # texts are not kept, as tests do: they would count as memory of the run
        shape = (len(texts), self.identity.dimension)
        vectors = self.random.standard_normal(shape, dtype=np.float32)
        return Encodings(vectors, Usage(texts=len(texts)))


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--synthetic", type=int, help="made-up rows, instead of the packages")
    options = parser.parse_args()
    with world() as scratch:
        real = Encoders(Settings()).get(DEFAULT_MODEL)
        scratch.use(RandomEncoder(WORDS if options.synthetic else real.identity))
        rows = load(scratch, options)
        item = scratch.declare(model=scratch.encoder.identity.model, index={"type": "none"})
        scratch.run(item)
        scan = statistics.median(
            timed(lambda: sequential_scan(scratch))[0] for _ in range(_REPEATS)
        )
        unchanged = measured(scratch, item)
        memory = peak_memory_mib()
        changed = {} if options.synthetic else one_percent(scratch, item, real, unchanged)
    report(
        bench="unchanged",
        rows=rows,
        scan_seconds=scan,
        unchanged_seconds=unchanged,
        ratio_to_scan=unchanged / scan,
        target=4,
        peak_memory_mib=memory,
        **changed,
    )


def one_percent(
    scratch: World, item: Entity, encoder: StreamingEncoder, unchanged: float
) -> dict[str, object]:
    """A run after one row in a hundred changed, with the model; and that model alone."""
    encoder.check()
    scratch.encoders.add(encoder)
    scratch.sql(
        "update staging.stg_item set name = name || '!'"
        " where mod(('x' || left(md5(id::text), 8))::bit(32)::bigint, 100) = 0"
    )
    seconds, counts = timed(lambda: scratch.run(item))
    texts = [
        text
        for (text,) in scratch.sql(
            "select distinct t.text from analytics_features.item_texts t"
            " join analytics_features.item_vectors_1 v using (id, chunk)"
            " where v.run_id = (select run_id from analytics_features.run_ledger"
            " order by started_at desc limit 1)"
        )
    ]
    encoding, _ = timed(lambda: encoder.encode_documents(texts))
    return {
        "changed_texts": counts["encoded"],
        "changed_seconds": seconds,
        "encoding_seconds": encoding,
        "changed_to_unchanged_and_encoding": seconds / (unchanged + encoding),
        "changed_target": 1.3,
    }


def load(scratch: World, options: object) -> int:
    data, synthetic = vars(options)["data"], vars(options)["synthetic"]
    scratch.table("id text, name text, description text, section text, size_kb int")
    if synthetic:
        scratch.sql(
            "insert into staging.stg_item select n::text, 'product ' || n,"
            " repeat(md5(n::text) || ' ', 4), 'section ' || n % 50, n % 1000"
            f" from generate_series(1, {int(synthetic)}) n"
        )
    else:
        columns = ("package", "description_short", "description_long", "section")
        scratch.insert(
            *[
                (*(r[column] for column in columns), r["installed_size_kb"] or None)
                for r in packages(data)
            ]
        )
    scratch.sql("vacuum analyze staging.stg_item")
    return int(scratch.sql("select count(*) from staging.stg_item")[0][0])


def sequential_scan(scratch: World) -> None:
    with scratch.postgres.connection() as connection:
        connection.execute("set max_parallel_workers_per_gather = 0")
        connection.execute(_SCAN).fetchone()


def measured(scratch: World, item: Entity) -> float:
    """The median of some runs that find nothing to do."""

    def run() -> None:
        counts = scratch.run(item)
        done = {k: counts[k] for k in ("read", "encoded", "reused", "deleted") if counts[k]}
        if done:
            raise SystemExit(f"a run of unchanged rows did something: {done}")

    return statistics.median(timed(run)[0] for _ in range(_REPEATS))


if __name__ == "__main__":
    main()
