"""Every id of an indexed live set changes, and no text: nothing is encoded, and the set is
projected and indexed again, beside the first projection and index of the same rows."""

from __future__ import annotations

from benchmarks.capacity import InstantEncoder
from benchmarks.scratch import arguments, packages, report, timed, world
from tests.support.world import SCHEMA


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--rows", type=int, default=50_000)
    options = parser.parse_args()
    found = packages(options.data)
    rows = [(n, f"{found[n % len(found)]['description_short']} {n}") for n in range(options.rows)]
    with world() as scratch:
        scratch.use(InstantEncoder())
        scratch.table("id bigint, name text")
        scratch.insert(*rows)
        item = scratch.declare(template="{name}", index={"type": "hnsw"})
        first_seconds, first = timed(lambda: scratch.run(item))
        scratch.sql(f"update staging.stg_item set id = id + {len(rows)}")
        again_seconds, again = timed(lambda: scratch.run(item, allow_deletes=True))
        ((published,),) = scratch.sql(
            f"select count(*) from {SCHEMA}.item_embeddings where id >= {len(rows)}"
        )
    assert (first["encoded"], again["encoded"], published) == (len(rows), 0, len(rows))
    report(
        bench="rekeyed",
        rows=len(rows),
        first_seconds=first_seconds,
        rekeyed_seconds=again_seconds,
        ratio=again_seconds / first_seconds,
    )


if __name__ == "__main__":
    main()
