"""`search` and `evaluate` on a database alone, with the packaged model and no dbt project."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from embeddings_pipeline.encoders.registry import Encoders
from embeddings_pipeline.errors import ConfigurationError
from embeddings_pipeline.settings import DEFAULT_MODEL, Settings
from tests.support.commands import command
from tests.support.databases import Templates
from tests.support.environment import only_settings
from tests.support.world import World


@pytest.fixture
def shop(
    world: World, templates: Templates, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> World:
    """Three rows; the environment names their database and a project that is not there."""
    only_settings(
        monkeypatch,
        STAGING_DB_URL=world.database.url,
        PGVECTOR_URL=world.database.url,
        DBT_PROJECT_DIR=str(tmp_path / "nowhere"),
        EMBEDDING_DEVICE="cpu",
    )
    monkeypatch.chdir(tmp_path)
    templates.restore(world, publish)
    return world


def publish(world: World) -> None:
    world.encoders = Encoders(Settings(_env_file=None, embedding_device="cpu"))
    world.table("id bigint, name text, kind text, price numeric, tags text[]")
    world.insert(
        (1, "red [leather] boots", "shoe", 40, ["red", "new"]),
        (2, "a lamp to read by", "lamp", 25, ["new"]),
        (3, "water pump", None, 300, []),
    )
    filters = ["kind", "price", "tags"]
    world.run(world.declare(template="{name}", filters=filters, model=DEFAULT_MODEL))


def test_json_has_these_keys_and_no_others(shop: World) -> None:
    result = command("search", "item", "footwear", "--top-k", "5", "--json")
    assert result.exception is None, result.exception
    document = json.loads(result.stdout)
    assert list(document) == [
        *("entity", "mode", "results", "coverage", "data_lag_seconds", "model", "shortfall"),
        *("words", "best_similarity", "total", "facets", "histograms", "suggestion"),
    ]
    best = document["results"][0]
    assert list(best) == [
        *("id", "chunk", "score", "text", "fields", "title", "url", "image_url"),
        *("highlights", "vector"),
    ]
    assert (best["id"], best["fields"]) == (
        "1",
        {"kind": "shoe", "price": 40, "tags": ["red", "new"]},
    )
    assert (document["mode"], document["coverage"], document["shortfall"]) == ("dense", 100, 2)


def test_a_person_sees_a_table_and_what_is_missing(shop: World) -> None:
    result = command("search", "item", "footwear", "--mode", "hybrid", "--column", "name")
    assert result.exception is None, result.exception
    lines = [line for line in result.stdout.splitlines() if "[leather]" in line]
    assert len(lines) == 1
    assert "7 rows fewer than requested" in result.stderr
    found = command("search", "item", "leather", "--mode", "hybrid")
    assert "no row has a word" not in found.stderr
    lost = command("search", "item", "zzqxv", "--mode", "hybrid")
    assert "no row has a word of the query: the nearest vector has" in lost.stderr


@pytest.mark.parametrize(
    ("given", "ids"),
    [
        (["kind=lamp"], {"2"}),
        (['{"kind": null}'], {"3"}),
        (['{"price": {"lt": 50}}', "kind=shoe"], {"1"}),
        (["tags=red"], {"1"}),
        (['{"tags": {"has_all": ["new", "red"]}}'], {"1"}),
        (['{"tags": ["new", "old"]}'], {"1", "2"}),
    ],
)
def test_filters_are_short_or_json(shop: World, given: list[str], ids: set[str]) -> None:
    options = [word for text in given for word in ("--filter", text)]
    result = command("search", "item", "things", *options, "--json")
    assert {hit["id"] for hit in json.loads(result.stdout)["results"]} == ids


@pytest.mark.parametrize("text", ["kind", "{kind", '{"kind": [}'])
def test_a_filter_that_is_neither_is_refused(shop: World, text: str) -> None:
    result = command("search", "item", "things", "--filter", text)
    assert isinstance(result.exception, ConfigurationError)
    assert "--filter" in str(result.exception)


def test_evaluate_measures_each_mode_twice(shop: World, tmp_path: Path) -> None:
    (tmp_path / "queries.jsonl").write_text('{"_id": "q", "text": "something for the feet"}\n')
    (tmp_path / "qrels.tsv").write_text("query-id\tcorpus-id\tscore\nq\t1\t1\n")
    files = ("--queries", "queries.jsonl", "--qrels", "qrels.tsv")
    result = command("evaluate", "item", *files, "--json")
    assert result.exception is None, result.exception
    document = json.loads(result.stdout)
    assert (document["entity"], document["queries"]) == ("item", 1)
    assert document["results"][0] == {
        **{"mode": "dense", "exact": True, "ndcg_at_10": 1, "recall_at_100": 1, "mrr": 1}
    }
    assert len(document["results"]) == 6
    assert "nDCG@10" in command("evaluate", "item", *files).stdout
    refused = command("evaluate", "item", *files, "--tune").exception
    assert "tuning needs 20 queries" in str(refused)


def test_evaluate_reads_golden_queries(shop: World, tmp_path: Path) -> None:
    (tmp_path / "golden.csv").write_text("query,id\nsomething for the feet,1\n")
    result = command("evaluate", "item", "--queries", "golden.csv", "--json")
    assert result.exception is None, result.exception
    assert json.loads(result.stdout)["results"][0]["ndcg_at_10"] == 1


def test_evaluate_leaves_rows_out_that_are_not_there_and_says_so(
    shop: World, tmp_path: Path
) -> None:
    queries = [{"_id": "q", "text": "something for the feet"}, {"_id": "r", "text": "nothing"}]
    (tmp_path / "queries.jsonl").write_text("\n".join(map(json.dumps, queries)))
    (tmp_path / "qrels.txt").write_text("q 0 01 1\nq 0 77 1\nr 0 78 1\ns 0 1 1\n")
    files = ("--queries", "queries.jsonl", "--qrels", "qrels.txt")
    result = command("evaluate", "item", *files, "--json")
    assert result.exception is None, result.exception
    document = json.loads(result.stdout)
    assert (document["queries"], document["results"][0]["recall_at_100"]) == (1, 1)
    assert result.stderr.splitlines() == [
        "1 judged queries without a text, such as 's', are left out",
        "2 relevant ids without a published row of item, such as '77', are left out, and 1 queries"
        " that have no other",
    ]


def test_evaluate_refuses_ids_of_another_table(shop: World, tmp_path: Path) -> None:
    (tmp_path / "golden.csv").write_text("query,id\nfeet,77\n")
    files = ("--queries", "golden.csv")
    refused = command("evaluate", "item", *files).exception
    assert "'item' has no published row with any of the 1 relevant ids, such as '77'" in str(
        refused
    )
    (tmp_path / "golden.csv").write_text("query,id\nfeet,doc-1\n")
    assert "id 'doc-1' is not a bigint" in str(command("evaluate", "item", *files).exception)
