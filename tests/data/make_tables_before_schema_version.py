"""Makes tables_before_schema_version.sql; README.md beside it says how to run this.

It needs the code of COMMIT, whose tables the dump holds, and refuses to run with any other. The
figures in the first lines of the dump are what the `plan` of that code says of the loaded dump.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any
from uuid import UUID

import psycopg
from psycopg.sql import SQL, Identifier

import embeddings_pipeline
from embeddings_pipeline.database import Database
from embeddings_pipeline.entities.entity import Entity
from embeddings_pipeline.sync.erase import erase
from embeddings_pipeline.sync.plan import Plan

if __name__ == "__main__":
    # modules of COMMIT; some have other names today
    from tests.words import WORDS, WordsEncoder
    from tests.world import SCHEMA, World, world_in

    from embeddings_pipeline.store import _host, embedded
else:
    from tests.support.words import WORDS, WordsEncoder

COMMIT = "3a29cc6"
DUMP = Path(__file__).with_name("tables_before_schema_version.sql")

MODELS = [
    replace(WORDS, dimension=8),
    # of another revision, so that its vectors are others
    replace(WORDS, dimension=8, model="fake/other", revision="r2"),
]
POISON = "poison"

ITEM = {
    "template": "{name}",
    "filters": ["stock"],
    "chunk": {"tokens": 16},
    "changed_at": "updated_at",
    "partitions": {"count": 2},
}
DECLARED: dict[str, dict[str, Any]] = {
    "item": {**ITEM, "model": "fake/other"},
    "shoe": {"weights": {"name": 3, "brand": 1}},
    "lamp": {
        "template": "{name}",
        "storage": "halfvec",
        "partitions": {"by": "day", "column": "lit_on", "start": "2026-01-01"},
    },
    "forced": {},
}

LONG = (
    "A tent for three people with two doors. The poles are made of light metal and fold to half a"
    " metre. The floor is sewn to the walls, and keeps out rain that runs down a slope. Pegs, ropes"
    " and a bag are part of it."
)
ITEMS = [
    (1, "red canvas tent", 5),
    (2, "blue rubber boots", 0),
    (3, POISON, 3),
    (4, None, 1),
    (5, "red canvas tent", 2),
    (6, LONG, 7),
    (7, "steel water bottle", 9),
    (8, "wool winter hat", 4),
    (9, "a letter that is to be forgotten", 8),
    (10, "folding camp chair", 6),
]
ERASED = "9"
SHOES = [
    ("a/1", "trail runner", "Hill"),
    ("a/2", "rain boot", "Pond"),
    ("a/3", "sandal", None),
    ("b-1", "trail runner", "Pond"),
    ("b-2", "house slipper", "Hearth"),
]
LAMPS = [
    (UUID(int=1), "brass desk lamp", "2026-01-02"),
    (UUID(int=2), "blue rubber boots", "2026-01-02"),
    (UUID(int=3), "paper lantern", "2026-01-05"),
    (UUID(int=4), "garden torch", None),
    (UUID(int=5), "lamp of another age", "2999-01-01"),
]
FORCED = [
    (1, "oak bowl"),
    (2, "ash bowl"),
    (3, "elm bowl"),
    (4, "yew bowl"),
    (5, "fir bowl"),
    (6, "fig bowl"),
]


def main() -> None:
    refuse_other_code()
    with server() as empty:
        with database(empty, "made") as made:
            with world_in(made) as world:
                fill(world)
            dump = dumped(made)
        with database(empty, "loaded") as loaded:
            with closing(psycopg.connect(loaded.url, autocommit=True)) as connection:
                connection.execute(dump)
            with world_in(loaded, fresh=False) as world:
                figures = planned(world)
    DUMP.write_text("\n".join([*comment(figures), dump]))


def refuse_other_code() -> None:
    checkout = Path(embeddings_pipeline.__file__).parents[1]
    head = subprocess.run(
        ["git", "rev-parse", "HEAD"], cwd=checkout, check=True, capture_output=True, text=True
    ).stdout
    if not head.startswith(COMMIT):
        raise SystemExit(f"embeddings_pipeline is of commit {head.strip()}, not of {COMMIT}")


@contextmanager
def server() -> Iterator[Database]:
    """An embedded server with a database that has the vector extension and nothing more."""
    folder = Path(tempfile.mkdtemp(prefix="ep-"))
    # the server's system user has to reach it where this runs as root
    folder.chmod(0o755)
    try:
        yield embedded.start(folder)
    finally:
        embedded.stop(folder)
        shutil.rmtree(folder)


@contextmanager
def database(empty: Database, name: str) -> Iterator[Database]:
    """A copy of the empty database."""
    maintenance = replace(empty, name="postgres")
    with closing(psycopg.connect(maintenance.url, autocommit=True)) as connection:
        names = [Identifier(name), Identifier(empty.name)]
        connection.execute(SQL("create database {} template {}").format(*names))
    yield replace(empty, name=name)


def use_models(world: World) -> None:
    for identity in MODELS:
        world.use(WordsEncoder(identity, refuse_poison))


def refuse_poison(texts: Sequence[str]) -> None:
    if POISON in texts:
        raise ValueError("cannot take this")


def declared(world: World) -> list[Entity]:
    return [world.declare(name, **keys) for name, keys in DECLARED.items()]


def fill(world: World) -> None:
    use_models(world)
    item, shoe, lamp, forced = declared(world)

    world.table("id bigint, name text, stock int, updated_at timestamptz")
    world.insert(*[(*row, f"2026-01-{row[0]:02} 12:00+00") for row in ITEMS])
    of_words = world.declare("item", **ITEM)
    world.run(of_words)
    world.vectors(of_words)

    world.table("id text, name text, brand text", name="stg_shoe")
    world.insert(*SHOES, name="stg_shoe")
    world.run(shoe)

    world.table("id uuid, name text, lit_on date", name="stg_lamp")
    world.insert(*LAMPS, name="stg_lamp")
    world.run(lamp)

    world.table("id bigint, name text", name="stg_forced")
    world.insert(*FORCED, name="stg_forced")
    world.run(forced)
    # cut short by its limit
    world.vectors(forced, force=True, limit=2)

    # another model, half filled. In the live set the poison now fails for the third time
    world.texts(item)
    world.vectors(item, limit=7)
    # a cache that is down: what it is to forget stays noted
    erase(world.postgres, world.names_of(item), [ERASED], lambda hashes: False)

    world.sql(
        "create view staging.mart as"
        f" select id, text, text_hash, updated_at from {SCHEMA}.item_embeddings"
    )
    world.sql(f"grant select on {SCHEMA}.item_embeddings to public")


def dumped(made: Database) -> str:
    """Both schemas as SQL that psql and drivers take, also with servers older than this one."""
    result = subprocess.run(
        [
            *(str(_host.programs() / "pg_dump"), "--no-owner", "--inserts"),
            *("--schema=staging", f"--schema={SCHEMA}"),
            *(f"--host={made.host}", f"--port={made.port}"),
            *(f"--username={made.user}", f"--dbname={made.name}"),
        ],
        env={**os.environ, "PGPASSWORD": made.password.get_secret_value()},
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    return re.sub(r"(?m)^(\\(un)?restrict |SET transaction_timeout ).*\n", "", result)


def planned(world: World) -> list[str]:
    """What is to encode of each entity and set, a line each."""
    use_models(world)
    lines = []
    for entity in declared(world):
        lines += described(world.plan(entity))
    *_, forced = declared(world)
    lines += described(world.plan(forced, force=True), ", with force")
    return lines


def described(plan: Plan, how: str = "") -> list[str]:
    rows = f"{plan.new} new, {plan.changed} changed, {plan.deleted} deleted"
    return [
        f"{plan.entity}{how}: {rows}, {plan.unchanged} unchanged",
        *(
            f"    set {s.number} ({'live' if s.live else 'building'}, {s.model}): {s.rows} rows,"
            f" {s.pending} chunks pending, {s.reusable} reusable, {s.encode} to encode"
            for s in plan.sets
        ),
    ]


def comment(figures: Sequence[str]) -> list[str]:
    lines = (
        f"The tables of commit {COMMIT}, made by make_tables_before_schema_version.py.",
        "What `plan` of that commit says of them:",
        "",
        *figures,
    )
    return [f"-- {line}".rstrip() for line in lines]


if __name__ == "__main__":
    main()
