"""A snapshot answers as the database does."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from embeddings_pipeline.entities.model import ModelIdentity, Vector
from embeddings_pipeline.errors import ConfigurationError
from embeddings_pipeline.search.requests import Answer, SearchRequest, SimilarRequest
from embeddings_pipeline.search.snapshot import Snapshot
from embeddings_pipeline.settings import Settings
from tests.search.conftest import Search
from tests.search.snapshot.conftest import COLORS, published, search, write
from tests.support.words import WordsEncoder
from tests.support.world import World

KINDS = ("flat", "ivf", "hnsw")
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

    def _vector(self, text: str) -> Vector:
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
    published_shop: World,
    folder: Path,
    read: Callable[..., Snapshot],
    opened: Callable[..., Search],
) -> None:
    write(published_shop, folder)
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
        ({"filters": {"price": "cheap"}}, "'cheap' is not a numeric"),
        ({"filters": {"active": 7}}, "'7' is not a boolean"),
    ],
)
def test_what_a_snapshot_cannot_answer_is_refused(
    published_shop: World,
    folder: Path,
    read: Callable[..., Snapshot],
    keys: dict[str, Any],
    said: str,
) -> None:
    write(published_shop, folder)
    request = SearchRequest.of(**{"entity": "item", "query": "red", **keys})
    with pytest.raises(ConfigurationError) as refused:
        read().search(request)
    assert said in str(refused.value)


def test_a_row_that_is_not_in_the_snapshot_is_similar_to_none(
    published_shop: World, folder: Path, read: Callable[..., Snapshot]
) -> None:
    write(published_shop, folder)
    with pytest.raises(ConfigurationError, match="'4000' is not in the snapshot"):
        read().similar(SimilarRequest.of(entity="item", id="4000"))
    with pytest.raises(ConfigurationError, match="'x' is not a bigint"):
        read().similar(SimilarRequest.of(entity="item", id="x"))


def test_a_query_is_encoded_by_the_model_of_the_snapshot_alone(
    published_shop: World, folder: Path
) -> None:
    write(published_shop, folder)
    asked: list[ModelIdentity] = []

    def encode(identity: ModelIdentity, query: str | bytes) -> Vector:
        assert isinstance(query, str)
        asked.append(identity)
        vector: Vector = published_shop.encoder.encode_query([query]).vectors[0]
        return vector

    with Snapshot(folder, Settings(_env_file=None), encode) as snapshot:
        search(snapshot, "red")
    assert asked == [published_shop.encoder.identity]
