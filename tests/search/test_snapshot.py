"""A snapshot answers as the database does, and is never seen half written."""

from __future__ import annotations

import importlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from embeddings_pipeline.entities.model import ModelIdentity
from embeddings_pipeline.errors import ConfigurationError, EmbeddingsError
from embeddings_pipeline.search.query_vectors import encode_one
from embeddings_pipeline.search.requests import Answer, SearchRequest, SimilarRequest
from embeddings_pipeline.search.snapshot import Snapshot
from embeddings_pipeline.settings import Settings
from embeddings_pipeline.store import export as store_export
from embeddings_pipeline.sync.export import export
from embeddings_pipeline.sync.request import Progress
from embeddings_pipeline.sync.snapshot_folder import Manifest
from tests.search.conftest import Search
from tests.words import WordsEncoder
from tests.world import SCHEMA, World

KINDS = ("flat", "ivf", "hnsw")
COLORS = ("red", "blue", "green", "black")
ROWS = [
    (n, f"{COLORS[n % 4]} thing {n} of {n % 17}", COLORS[n % 4], n if n % 5 else None, n % 3 == 0)
    for n in range(400)
]
QUERIES = ("red thing of 3", "blue 42", "something of 16", "black things")
FILTERS: tuple[dict[str, Any], ...] = (
    {},
    {"color": "red"},
    {"color": ["red", "blue"]},
    {"price": None},
    {"price": {"gte": 10, "lt": 50}, "active": True},
    {"price": [11, 12, None], "color": "green"},
    {"day": {"gt": "2026-01-05"}},
    {"seen": {"lte": "2026-01-03T12:00:00+02:00"}},
    {"color": "none has it"},
)


@pytest.fixture
def shop(world: World) -> World:
    """Rows with a column of each type that filters take; one is longer than a chunk."""
    world.table(
        "id bigint, name text, color text, price numeric(8, 2), active boolean,"
        " day date generated always as (date '2026-01-01' + (id % 9)::int) stored,"
        " seen timestamptz default '2026-01-01T00:00:00Z'"
    )
    with world.postgres.connection() as connection, connection.cursor() as cursor:
        cursor.executemany(
            "insert into staging.stg_item (id, name, color, price, active)"
            " values (%s, %s, %s, %s, %s)",
            ROWS,
        )
    world.sql("update staging.stg_item set seen = seen + (id % 9) * interval '1 day'")
    return world


def published(world: World, **keys: Any) -> None:
    declared = {
        "template": "{name}",
        "filters": ["color", "price", "active", "day", "seen"],
        "index": {"type": "none"},
    }
    world.run(world.declare(**{**declared, **keys}))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "snapshot"


def write(world: World, folder: Path, kind: Any = "flat", **options: Any) -> Manifest:
    return export(world.postgres, SCHEMA, "item", folder, kind, **options)


@pytest.fixture
def read(world: World, folder: Path) -> Iterator[Callable[..., Snapshot]]:
    """Opens the snapshot with these settings."""
    opened: list[Snapshot] = []

    def open_snapshot(**settings: Any) -> Snapshot:
        given = Settings(_env_file=None, **settings)
        opened.append(Snapshot(folder, given, encode_one(world.encoders)))
        return opened[-1]

    yield open_snapshot
    for snapshot in opened:
        snapshot.close()


def search(snapshot: Snapshot, query: str, **keys: Any) -> Answer:
    return snapshot.search(SearchRequest.of(entity="item", query=query, **keys))


def assert_same(found: Answer, wanted: Answer) -> None:
    """The same rows with the same scores, but that rows of equal scores may stand otherwise."""
    scores = [hit.score for hit in found.results]
    assert scores == pytest.approx([hit.score for hit in wanted.results], abs=2e-5)
    least = min(scores, default=0)
    sure = {hit.id: hit for hit in wanted.results if hit.score > least + 5e-5}
    by_id = {hit.id: hit for hit in found.results}
    for row_id, hit in sure.items():
        assert replace(by_id[row_id], score=0) == replace(hit, score=0)
    assert (found.shortfall, found.vector_set, found.model) == (
        *(wanted.shortfall, wanted.vector_set),
        wanted.model,
    )


@pytest.mark.parametrize("metric", ["cosine", "l2", "ip"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_snapshot_finds_what_an_exact_search_in_the_database_finds(
    shop: World,
    folder: Path,
    read: Callable[..., Snapshot],
    opened: Callable[..., Search],
    kind: str,
    metric: str,
) -> None:
    # lengths other than 1 tell the metrics apart
    shop.use(Long(replace(shop.encoder.identity, normalized=False)))
    published(shop, metric=metric)
    manifest = write(shop, folder, kind)
    assert (manifest.count, manifest.kind, manifest.metric) == (400, kind, metric)
    snapshot, searcher = read(), opened()
    for query in QUERIES:
        for filters in FILTERS:
            keys = {"top_k": 7, "filters": filters, "exact": True}
            found = snapshot.search(SearchRequest.of(entity="item", query=query, **keys))
            assert_same(found, searcher.answer(query, **keys))
    for row_id in ("1", "200"):
        request = SimilarRequest.of(entity="item", id=row_id, top_k=5, exact=True)
        assert_same(snapshot.similar(request), searcher.searcher.similar(request))


class Long(WordsEncoder):
    """Vectors whose lengths differ by their texts."""

    def _vector(self, text: str) -> Any:
        return super()._vector(text) * (1 + len(text) % 7)


@pytest.mark.parametrize("kind", ["ivf", "hnsw"])
def test_an_index_that_is_not_exact_reaches_its_recall_and_all_rows_that_match(
    shop: World, folder: Path, read: Callable[..., Snapshot], kind: str
) -> None:
    published(shop, index={"type": "ivfflat", "lists": 20})
    manifest = write(shop, folder, kind)
    assert manifest.effort is not None
    snapshot = read()
    hits = 0
    for query in QUERIES:
        exact = search(snapshot, query, top_k=10, exact=True)
        near = search(snapshot, query, top_k=10)
        hits += len({h.id for h in near.results} & {h.id for h in exact.results})
        assert search(snapshot, query, top_k=1000).shortfall == 600
        assert search(snapshot, query, top_k=100, filters={"color": "red"}).shortfall == 0
    assert hits >= 38


def test_halves_are_compared_as_the_database_compares_them(
    shop: World, folder: Path, read: Callable[..., Snapshot], opened: Callable[..., Search]
) -> None:
    published(shop, storage="halfvec")
    write(shop, folder)
    for query in QUERIES:
        keys = {"top_k": 9, "exact": True}
        assert_same(search(read(), query, **keys), opened().answer(query, **keys))


def test_a_row_of_several_chunks_is_found_once_by_its_best(
    world: World, folder: Path, read: Callable[..., Snapshot], opened: Callable[..., Search]
) -> None:
    world.table("id uuid, name text")
    body = " ".join(f"Sentence {n} about {COLORS[n % 4]} things." for n in range(60))
    ids = [f"00000000-0000-0000-0000-{n:012}" for n in range(3)]
    world.insert(*[(row_id, f"{body} {row_id}") for row_id in ids])
    world.run(world.declare(chunk={"tokens": 16}))
    write(world, folder)
    keys = {"top_k": 3, "exact": True}
    found = search(read(), "sentence 7 about black", **keys)
    assert {hit.id for hit in found.results} == set(ids)
    assert_same(found, opened().answer("sentence 7 about black", **keys))
    # ids are read as the database reads them
    request = SimilarRequest.of(entity="item", id=ids[1].upper(), top_k=3)
    assert {hit.id for hit in read().similar(request).results} == {ids[0], ids[2]}


def test_thresholds_are_those_of_the_database(
    shop: World, folder: Path, read: Callable[..., Snapshot], opened: Callable[..., Search]
) -> None:
    published(shop)
    write(shop, folder)
    for keys in ({"min_similarity": 0.71}, {"max_distance": 0.29}):
        wanted = {"top_k": 50, **keys}
        found = search(read(), "red thing", **wanted)
        assert_same(found, opened().answer("red thing", **wanted))
        assert found.shortfall
    tight = read(embedding_similarity_threshold=0.99)
    assert search(tight, "red thing").results == []


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ({"mode": "text"}, "mode dense"),
        ({"mode": "hybrid"}, "mode dense"),
        ({"columns": ("name",)}, "declare them as filters"),
        ({"entity": "other"}, "of entity 'item', not 'other'"),
        ({"filters": {"name": "x"}}, "color, price, active, day, seen"),
        ({"filters": {"price": "cheap"}}, "'cheap' is no numeric(8,2)"),
        ({"filters": {"active": 7}}, "7 is no boolean"),
    ],
)
def test_what_a_snapshot_cannot_answer_is_refused(
    shop: World, folder: Path, read: Callable[..., Snapshot], keys: dict[str, Any], said: str
) -> None:
    published(shop)
    write(shop, folder)
    request = SearchRequest.of(**{"entity": "item", "query": "red", **keys})
    with pytest.raises(ConfigurationError) as refused:
        read().search(request)
    assert said in str(refused.value)


def test_a_row_that_is_not_in_the_snapshot_is_similar_to_none(
    shop: World, folder: Path, read: Callable[..., Snapshot]
) -> None:
    published(shop)
    write(shop, folder)
    with pytest.raises(ConfigurationError, match="'4000' is not in the snapshot"):
        read().similar(SimilarRequest.of(entity="item", id="4000"))
    with pytest.raises(ConfigurationError, match="'x' is no bigint"):
        read().similar(SimilarRequest.of(entity="item", id="x"))


def test_a_query_is_encoded_by_the_model_of_the_snapshot_alone(shop: World, folder: Path) -> None:
    published(shop)
    write(shop, folder)
    asked: list[ModelIdentity] = []

    def encode(identity: ModelIdentity, query: str) -> Any:
        asked.append(identity)
        return shop.encoder.encode_query([query]).vectors[0]

    with Snapshot(folder, Settings(_env_file=None), encode) as snapshot:
        search(snapshot, "red")
    assert asked == [shop.encoder.identity]


def files(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_new_snapshot_takes_the_place_of_the_old_one_and_leaves_nothing(
    shop: World, folder: Path, read: Callable[..., Snapshot]
) -> None:
    published(shop)
    first = write(shop, folder)
    former = read()
    shop.sql("update staging.stg_item set name = 'a purple cow' where id = 7")
    published(shop)
    second = write(shop, folder)
    assert files(folder) == sorted([".lock", "manifest.json", second.index.name, second.rows.name])
    assert first.index.name != second.index.name
    assert search(read(), "purple cow").results[0].id == "7"
    # who has the old one open goes on with it
    assert search(former, "purple cow").results[0].text != "a purple cow"


@pytest.mark.parametrize("part", ["index", "rows"])
@pytest.mark.parametrize("damage", ["truncated", "one bit", "gone", "another file"])
def test_a_damaged_file_is_not_opened(
    shop: World, folder: Path, read: Callable[..., Snapshot], part: str, damage: str
) -> None:
    published(shop)
    manifest = write(shop, folder)
    path = folder / getattr(manifest, part).name
    good = path.read_bytes()
    if damage == "truncated":
        path.write_bytes(good[:-100])
    elif damage == "one bit":
        path.write_bytes(good[:5000] + bytes([good[5000] ^ 1]) + good[5001:])
    elif damage == "another file":
        path.write_bytes(bytes(len(good)))
    else:
        path.unlink()
    with pytest.raises(EmbeddingsError) as refused:
        read()
    assert path.name in str(refused.value)


def edit(folder: Path, **values: Any) -> None:
    path = folder / "manifest.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


def test_a_manifest_with_another_checksum_or_a_foreign_path_is_refused(
    shop: World, folder: Path, read: Callable[..., Snapshot]
) -> None:
    published(shop)
    index = write(shop, folder).index.model_dump()
    edit(folder, index={**index, "sha256": "0" * 64})
    with pytest.raises(EmbeddingsError, match="sha256 is not that of the manifest"):
        read()
    edit(folder, index={**index, "name": "../../etc/passwd"})
    with pytest.raises(EmbeddingsError, match=r"manifest in .* is damaged: index\.name"):
        read()
    edit(folder, format=2)
    with pytest.raises(EmbeddingsError, match="damaged: format"):
        read()
    (folder / "manifest.json").write_text('{"format": 1, "enti')
    with pytest.raises(EmbeddingsError, match="is damaged"):
        read()


def test_a_folder_without_a_snapshot_says_how_to_write_one(
    folder: Path, read: Callable[..., Snapshot]
) -> None:
    with pytest.raises(ConfigurationError, match="export ENTITY --to"):
        read()


# writes a snapshot, and is killed when the files are half or wholly written, but not yet named
_KILLED = """
import os, signal, sys
from pathlib import Path
from pydantic import SecretStr
from embeddings_pipeline.database import Database
from embeddings_pipeline.store import export as store_export
from embeddings_pipeline.store.postgres import Postgres
from embeddings_pipeline.sync import snapshot_folder
from embeddings_pipeline.sync.export import export
folder, at, host, port, name, user, password = sys.argv[1:]
def die(*_): os.kill(os.getpid(), signal.SIGKILL)
store_export._BATCH = 100
if at == "files": snapshot_folder._sha256 = die
if at == "manifest": snapshot_folder.remove_leftovers = lambda folder: None; Path.replace = die
report = die if at == "rows" else lambda progress: None
database = Postgres(Database(host, int(port), name, user, SecretStr(password)))
export(database, "analytics_features", "item", Path(folder), "flat", report)
"""


@pytest.mark.parametrize("at", ["rows", "files", "manifest"])
def test_an_export_that_is_killed_leaves_the_old_snapshot(
    shop: World, folder: Path, read: Callable[..., Snapshot], at: str
) -> None:
    published(shop)
    first = write(shop, folder)
    where = shop.database
    killed = subprocess.run(
        [
            *(sys.executable, "-c", _KILLED, str(folder), at, where.host, str(where.port)),
            *(where.name, where.user, where.password.get_secret_value()),
        ],
        env={**os.environ, "PYTHONPATH": os.getcwd()},
        timeout=60,
    )
    assert killed.returncode == -signal.SIGKILL
    assert len(files(folder)) > 4
    assert read().manifest == first
    assert len(search(read(), "red thing").results) == 10
    # and the next export removes what it left
    second = write(shop, folder)
    assert files(folder) == sorted([".lock", "manifest.json", second.index.name, second.rows.name])


def test_two_exports_to_one_folder_do_not_meet(shop: World, folder: Path) -> None:
    published(shop)
    met: list[str] = []

    def another(progress: Progress) -> None:
        try:
            write(shop, folder)
        except ConfigurationError as error:
            met.append(str(error))

    write(shop, folder, report=another)
    assert met
    assert "another export is writing" in met[0]


def test_a_snapshot_is_of_one_moment(
    shop: World, folder: Path, read: Callable[..., Snapshot], monkeypatch: pytest.MonkeyPatch
) -> None:
    published(shop)
    monkeypatch.setattr(store_export, "_BATCH", 50)
    told: list[Progress] = []

    def change(progress: Progress) -> None:
        if not told:
            shop.sql("delete from staging.stg_item where id >= 300")
            shop.texts(
                shop.declare(
                    template="{name}", filters=["color", "price", "active", "day", "seen"]
                ),
                allow_deletes=True,
            )
        told.append(progress)

    assert write(shop, folder, report=change).count == 400
    assert (told[-1].done, told[-1].pending, told[-1].unit) == (400, 400, "vectors")
    assert shop.sql(f"select count(*) from {SCHEMA}.item_vectors_1") == [(300,)]


def test_a_set_without_vectors_is_not_exported(world: World, folder: Path) -> None:
    world.table("id bigint, name text")
    world.insert((1, "pump"))
    world.run(world.declare())
    world.sql(f"delete from {SCHEMA}.item_vectors_1")
    with pytest.raises(EmbeddingsError, match="no vectors to export"):
        write(world, folder)
    with pytest.raises(ConfigurationError, match="published: item"):
        export(world.postgres, SCHEMA, "other", folder)


def test_without_the_extra_it_is_said_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    module = "embeddings_pipeline.sync.faiss_index"
    monkeypatch.setitem(sys.modules, "faiss", None)
    monkeypatch.delitem(sys.modules, module)
    with pytest.raises(ConfigurationError, match=r"embeddings-pipeline\[faiss\]"):
        importlib.import_module(module)
