"""Golden queries measure a set before it is published."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from embeddings_pipeline.assets.checks import entity_checks
from embeddings_pipeline.assets.options import DefsOptions
from embeddings_pipeline.encoders.encoder import Encodings
from embeddings_pipeline.entities.entity import Entity
from embeddings_pipeline.errors import ConfigurationError, EmbeddingsError
from embeddings_pipeline.pipeline import Pipeline
from embeddings_pipeline.settings import Settings
from embeddings_pipeline.store import locks, vector_sets, views
from embeddings_pipeline.store.tables import open_tables
from embeddings_pipeline.store.vectors.sets import drop_set, set_state
from embeddings_pipeline.sync.checks import CheckResult
from embeddings_pipeline.sync.publish import PublishResult, publish
from embeddings_pipeline.sync.quality.compare import compare
from embeddings_pipeline.sync.quality.qrels import Qrels, mean_interval, read_golden
from embeddings_pipeline.sync.quality.retrieval import GoldenQueries
from tests.support.declared import refusal
from tests.support.words import WORDS, WordsEncoder
from tests.support.world import World

THINGS = ["red shoe", "blue lamp", "green hat", "wooden chair", "garden hose", "water pump"]
GOLDEN = "query,id\nred shoe,0\nblue lamp,1\ngarden hose,4\n"


class Shop:
    """Sixty things, and the golden queries of them."""

    def __init__(self, world: World, folder: Path) -> None:
        self.world = world
        self.folder = folder
        self.write(GOLDEN)
        world.table("id bigint, name text")
        world.insert(*[(n, f"{thing} {n}" if n > 5 else thing) for n, thing in self.things()])

    @staticmethod
    def things() -> list[tuple[int, str]]:
        return [*enumerate(THINGS * 10)]

    def write(self, content: str) -> None:
        (self.folder / "golden.csv").write_text(content)

    def declare(self, bound: float, **keys: Any) -> Entity:
        severity = {"severity": keys.pop("severity")} if "severity" in keys else {}
        retrieval = {"queries": "golden.csv", "ndcg_at_10": bound, **severity}
        return self.world.declare(template="{name}", retrieval=retrieval, **keys)

    def golden(self, item: Entity) -> GoldenQueries:
        assert item.retrieval
        world = self.world
        names = world.names_of(item)
        return GoldenQueries(item.retrieval, [self.folder], world.encoders, world.postgres, names)

    def build(self, item: Entity) -> None:
        """Make a set with its index, which waits to be published."""
        self.world.texts(item)
        self.world.vectors(item)
        self.world.publish(self.world.declare(**{"publish": "manual", "template": "{name}"}))

    def publish(self, item: Entity) -> PublishResult:
        self.build(item)
        return self.publish_built(item)

    def publish_built(self, item: Entity) -> PublishResult:
        return publish(self.world.postgres, self.world.names_of(item), golden=self.golden(item))

    def check(self, item: Entity) -> CheckResult:
        return self.golden(item).check()


@pytest.fixture
def shop(world: World, tmp_path: Path) -> Shop:
    return Shop(world, tmp_path)


def test_a_set_below_the_bound_does_not_replace_the_live_one(shop: Shop) -> None:
    good = shop.declare(0.6)
    assert shop.publish(good).flipped
    # every query has another answer than its words say
    shop.write("query,id\nred shoe,1\nblue lamp,2\ngarden hose,3\n")
    other = shop.declare(0.6, storage="halfvec")
    refused = shop.publish(other)
    assert (refused.flipped, refused.live and refused.live.number) == (False, 1)
    (reason,) = refused.reasons
    assert reason.startswith(
        "set 2: nDCG@10 of 3 golden queries is 0.000 (0.000 to 0.000) in set 2"
    )
    assert "+0.000 (+0.000 to +0.000) against set 1" in reason
    shown = shop.check(other)
    assert (shown.passed, shown.severity, shown.metadata["vector_set"]) == (False, "error", 2)
    shop.write(GOLDEN)
    assert shop.publish(other).flipped


def test_with_severity_warn_a_set_is_published_all_the_same(shop: Shop) -> None:
    shop.write("query,id\nred shoe,1\n")
    item = shop.declare(0.6, severity="warn")
    assert shop.publish(item).flipped
    found = shop.check(item)
    assert (found.passed, found.severity) == (False, "warn")


def test_the_check_shows_the_quality_and_its_change(shop: Shop) -> None:
    first = shop.declare(0.6)
    shop.publish(first)
    assert "compared_with" not in shop.check(first).metadata
    shop.world.use(WordsEncoder().revised("r2"))
    second = shop.declare(0.6)
    assert shop.publish(second).flipped
    shown = shop.check(second)
    assert shown.passed
    assert shown.metadata["compared_with"] == 1
    assert shown.metadata["ndcg_at_10_change"] == 0
    assert shown.metadata["queries"] == 3
    assert shown.metadata["recall_at_10"] == shown.metadata["ndcg_at_10"] == 1
    assert shown.metadata["golden_ids_without_text"] == 0


class Down(WordsEncoder):
    """The model of a provider that is out of order."""

    def encode_query(self, texts: Sequence[str]) -> Encodings:
        raise EmbeddingsError("the provider's quota is used up")


def test_a_live_model_that_is_down_does_not_keep_another_from_being_published(shop: Shop) -> None:
    shop.publish(shop.declare(0.6))
    shop.world.encoders.add(Down())
    shop.write(GOLDEN + "blue lamp,7\n")
    shop.world.use(WordsEncoder(replace(WORDS, model="fake/other")))
    second = shop.declare(0.6, model="fake/other")
    assert shop.publish(second).flipped
    shown = shop.check(second)
    assert shown.passed
    assert "compared_with" not in shown.metadata


def test_no_lock_and_no_session_is_held_while_a_model_encodes_golden_queries(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    item, world, calls = shop.declare(0.6), shop.world, []
    shop.build(item)
    encode = world.encoder.encode_query

    def encode_query(texts: Sequence[str]) -> Encodings:
        calls.append(texts)
        opened = open_tables(world.postgres, world.names_of(item))
        with opened as tables, locks.entity(tables, patience=0):
            pass
        world.sql(
            "select pg_terminate_backend(pid, 10000) from pg_stat_activity"
            " where datname = current_database() and pid <> pg_backend_pid()"
        )
        return encode(texts)

    monkeypatch.setattr(world.encoder, "encode_query", encode_query)
    assert shop.publish_built(item).flipped
    assert len(calls) == 1


class Dropping(WordsEncoder):
    """While it encodes the golden queries, another run drops the set with this number."""

    def __init__(self, world: World, item: Entity, number: int) -> None:
        super().__init__()
        self.world, self.item, self.number = world, item, number

    def encode_query(self, texts: Sequence[str]) -> Encodings:
        if texts[0] in GOLDEN:
            with open_tables(self.world.postgres, self.world.names_of(self.item)) as tables:
                (one,) = [s for s in vector_sets.read(tables) if s.number == self.number]
                set_state(tables, one.number, "retired")
                views.replace_coverage(tables.connection, tables.schema)
                drop_set(tables, one)
        return super().encode_query(texts)


def test_a_set_that_another_run_drops_while_it_is_measured_is_not_published(shop: Shop) -> None:
    item = shop.declare(0.6)
    shop.build(item)
    shop.world.use(Dropping(shop.world, item, 1))
    result = shop.publish_built(item)
    assert (result.live, result.flipped) == (None, False)
    shop.world.use(WordsEncoder())
    assert shop.publish(item).flipped


def test_a_check_of_a_set_that_another_run_drops_says_so(shop: Shop) -> None:
    item = shop.declare(0.6)
    shop.build(item)
    shop.world.use(Dropping(shop.world, item, 1))
    shown = shop.check(item)
    assert not shown.passed
    assert shown.description == (
        "retrieval: set 1 of entity 'item' is gone: another run dropped it meanwhile, try again"
    )


@pytest.fixture
def second(shop: Shop) -> Entity:
    """A live set, and an earlier one of another model, which another run drops while it encodes
    queries."""
    shop.publish(shop.declare(0.6))
    shop.world.use(WordsEncoder(replace(WORDS, model="fake/other")))
    item = shop.declare(0.6, model="fake/other")
    assert shop.publish(item).flipped
    shop.world.encoders.add(Dropping(shop.world, item, 1))
    return item


def test_a_comparison_with_a_set_that_another_run_drops_says_so(shop: Shop, second: Entity) -> None:
    world, qrels = shop.world, Qrels({"q": "red shoe"}, {"q": {"0": 1}})
    with pytest.raises(EmbeddingsError, match=r"set 1 .* another run dropped it"):
        compare(world.postgres, world.names_of(second), world.encoders, qrels)


def test_a_set_is_measured_though_another_run_drops_the_one_before_it(
    shop: Shop, second: Entity
) -> None:
    shop.write(GOLDEN + "blue lamp,7\n")
    shown = shop.check(second)
    assert (shown.passed, shown.metadata["vector_set"]) == (True, 2)
    assert "compared_with" not in shown.metadata


def test_ids_that_are_gone_do_not_count(shop: Shop) -> None:
    item = shop.declare(1)
    shop.write(GOLDEN + "red shoe,600\nyellow bird,601\n")
    shop.publish(item)
    shown = shop.check(item)
    assert shown.passed
    assert (shown.metadata["queries"], shown.metadata["golden_ids_without_text"]) == (3, 2)
    assert "2 ids without a text, such as '600', are left out" in shown.description


def test_an_unchanged_set_is_not_measured_again(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    item = shop.declare(0.6)
    shop.publish(item)
    encode, calls = shop.world.encoder.encode_query, []

    def counted(texts: Any) -> Any:
        calls.append(texts)
        return encode(texts)

    def measurements() -> int:
        calls.clear()
        with monkeypatch.context() as patch:
            patch.setattr(shop.world.encoder, "encode_query", counted)
            assert shop.check(item).passed
        return len(calls)

    assert measurements() == 0
    shop.write(GOLDEN + "blue lamp,7\n")
    assert [measurements(), measurements()] == [1, 0]
    shop.world.sql("update staging.stg_item set name = name || ' x' where id between 10 and 20")
    shop.world.texts(item)
    shop.world.vectors(item)
    assert [measurements(), measurements()] == [1, 0]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, r"there is no file 'golden.csv' \(looked for: .*golden.csv\)"),
        ("query,answer\na,1\n", r"golden.csv has no column id \(columns: query, answer\)"),
        ("query,id\n", "has no rows: write a query"),
        ("query,id\na,\n", "line 2: query and id must not be empty"),
        ("query,id\na,x\n", "id 'x' is not a bigint"),
        ("query,id\na,600\n", "none of the 1 ids in .*golden.csv has a text"),
    ],
)
def test_a_wrong_file_is_the_reason_why_nothing_is_published(
    shop: Shop, content: str | None, message: str
) -> None:
    if content is None:
        (shop.folder / "golden.csv").unlink()
    else:
        shop.write(content)
    item = shop.declare(0.6)
    (reason,) = shop.publish(item).reasons
    assert re.search(message, reason)
    assert not shop.check(item).passed


def test_queries_may_have_several_answers_and_any_characters(tmp_path: Path) -> None:
    file = tmp_path / "golden.csv"
    file.write_text('\ufeffid,query,note\n7,"a, ""b""\nc",x\nNA,"a, ""b""\nc",y\n8,é,\n', "utf-8")
    golden = read_golden(file)
    assert golden.relevant == {'a, "b"\nc': {"7": 1, "NA": 1}, "é": {"8": 1}}
    with pytest.raises(ConfigurationError, match="cannot be read as CSV"):
        read_golden(tmp_path)


def test_an_interval_holds_the_mean_and_narrows_with_more_queries() -> None:
    few, many = (mean_interval([0.0, 1.0, 0.5, 1.0] * times) for times in (2, 50))
    for mean, low, high in (few, many):
        assert low < mean == 0.625 < high
    assert many[2] - many[1] < few[2] - few[1]
    assert mean_interval([0.5] * 9) == (0.5, 0.5, 0.5)


def test_a_run_checks_what_the_dbt_project_declares(world: World, tmp_path: Path) -> None:
    shop = Shop(world, tmp_path)
    keys = {"id": "id", "template": "{name}", "entity": "item"}
    declared = {**keys, "retrieval": {"queries": "golden.csv", "ndcg_at_10": 0.6}}
    node = {
        "resource_type": "model",
        "name": "stg_item",
        "schema": "staging",
        "package_name": "shop",
        "original_file_path": "models/stg_item.yml",
        "config": {"meta": {"embedding": declared}},
    }
    target = shop.folder / "target"
    target.mkdir()
    (target / "manifest.json").write_text(json.dumps({"nodes": {"model.shop.stg_item": node}}))
    settings = Settings(
        _env_file=None,
        staging_db_url=world.database.url,
        pgvector_url=world.database.url,
        embedding_model=WORDS.model,
        dbt_manifest=target / "manifest.json",
    )
    with Pipeline(settings) as pipeline:
        pipeline.encoders.add(WordsEncoder())
        (run,) = pipeline.run("item")
        assert run.checks["retrieval"].passed
        assert run.checks["retrieval"].metadata["ndcg_at_10"] == 1


def test_only_an_entity_with_golden_queries_has_the_check(shop: Shop) -> None:
    for entity, has in ((shop.declare(0.6), True), (shop.world.declare(), False)):
        names = {spec.name for spec in entity_checks(entity, DefsOptions()).check_specs}
        assert ("retrieval" in names) == has


def test_a_wrong_declaration_is_refused() -> None:
    assert refusal(retrieval={"queries": "a.csv"}) == "retrieval.ndcg_at_10 is missing"
    assert "at most 1" in refusal(retrieval={"queries": "a.csv", "ndcg_at_10": 60})
    assert "keys: ndcg_at_10, queries, severity" in refusal(retrieval={"query": "a.csv"})
