"""Whole runs with the model of a provider that misbehaves."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

from embeddings_pipeline.encoders.registry import Encoders
from embeddings_pipeline.errors import (
    ConfigurationError,
    CostLimitReached,
    EmbeddingsError,
    Interrupted,
)
from embeddings_pipeline.settings import Settings
from embeddings_pipeline.store.run_ledger import Cost
from embeddings_pipeline.sync.status import status
from tests.support import provider as misbehaving
from tests.support.provider import BROKEN, BUSY, KEY, Provider, Trouble
from tests.support.waiting import until
from tests.support.world import SCHEMA, World

MODEL = "openai:some/model"
ROWS = [(n, f"text number {n}") for n in range(40)]


@pytest.fixture
def provider(world: World) -> Iterator[Provider]:
    """The world's only model is the provider's, at a dollar a token."""
    world.table("id bigint, name text")
    world.insert(*ROWS)
    with misbehaving.serving(dimension=16) as provider:
        world.encoders = encoders_of(world, provider, {MODEL: 1_000_000})
        yield provider
        world.encoders.cleanup()


def encoders_of(world: World, provider: Provider, prices: dict[str, float]) -> Encoders:
    settings = Settings(
        _env_file=None,
        embedding_model=MODEL,
        embedding_batch_size=5,
        embedding_prices=prices,
        openai_base_url=provider.url,
        openai_api_key=KEY,
    )
    return Encoders(settings, lambda: world.postgres.transaction_in(SCHEMA))


def vectors_of(world: World) -> list[tuple[int, int]]:
    return [(a, b) for a, b in world.sql(f"select id, chunk from {SCHEMA}.item_vectors_1")]


def assert_vectors_are_right(world: World) -> None:
    for text, vector in world.sql(f"select text, embedding::text from {SCHEMA}.item_embeddings"):
        found = np.array(vector.strip("[]").split(","), np.float32)
        np.testing.assert_allclose(found, misbehaving.vector_of(text, 16), atol=1e-6)


def test_a_run_survives_what_passes_and_pays_each_text_once(
    world: World, provider: Provider
) -> None:
    # the first request asks for the dimension
    provider.troubles = [BUSY, BROKEN, BUSY]
    provider.changes = [None, misbehaving.shuffled]
    counts = world.run(world.declare(template="{name}"))
    assert_vectors_are_right(world)
    assert (counts["encoded"], len(world.view())) == (40, 40)
    assert {provider.billed[text] for _, text in ROWS} == {1}
    assert counts["cost_usd"] == counts["tokens"] == provider.tokens - 1


def test_a_poisoned_text_is_quarantined_and_the_others_are_published(
    world: World, provider: Provider
) -> None:
    world.insert((40, "poison"), (41, "poison too"))
    item = world.declare(template="{name}")
    counts = world.run(item)
    assert (counts["encoded"], counts["quarantined"]) == (40, 2)
    assert {provider.billed[text] for _, text in ROWS} == {1}
    quarantined = world.sql(
        f"select t.id, stage, error from {SCHEMA}.quarantine join {SCHEMA}.item_texts t"
        " using (text_hash) order by 1"
    )
    assert [row[:2] for row in quarantined] == [(40, "encode"), (41, "encode")]
    assert all("400: a text cannot be encoded" in error for *_, error in quarantined)


def test_what_runs_cost_and_what_reuse_saved_is_in_the_status(
    world: World, provider: Provider
) -> None:
    item = world.declare(template="{name}")
    first = float(world.run(item)["cost_usd"])
    # a text that is there already costs nothing
    world.insert((50, "text number 1"), (51, "something else"))
    second = world.run(item)
    assert (second["encoded"], second["reused"], second["cost_usd"]) == (1, 1, 2)
    found = status(world.postgres, SCHEMA, item).cost
    assert found == Cost(2, first + 2, float(second["saved_usd"]))
    assert found.saved_usd > 0


def test_a_run_stops_before_it_costs_more_than_it_may(world: World, provider: Provider) -> None:
    item = world.declare(template="{name}")
    world.texts(item)
    with pytest.raises(CostLimitReached, match="of the run's limit is left"):
        world.vectors(item, max_cost_usd=70)
    assert 0 < provider.tokens - 1 <= 70
    spent = provider.tokens
    world.vectors(item)
    assert {provider.billed[text] for _, text in ROWS} == {1}
    assert provider.tokens > spent


def test_a_cost_limit_needs_to_know_what_the_model_costs(world: World, provider: Provider) -> None:
    item = world.declare(template="{name}")
    world.texts(item)
    world.encoders.cleanup()
    world.encoders = encoders_of(world, provider, {})
    with pytest.raises(ConfigurationError, match="'openai:some/model' has no price"):
        world.vectors(item, max_cost_usd=70)
    assert not provider.usable.keys() & {text for _, text in ROWS}
    assert world.vectors(item).counts.encoded == 40


def test_what_was_paid_before_a_key_is_refused_is_stored_in_whole_rows(
    world: World, provider: Provider
) -> None:
    # in requests of five texts the chunks of row 7 are in the second and, with row 9, the third
    many = "(select string_agg('part ' || n, ' ') from generate_series(1, 60) n)"
    world.sql(f"update staging.stg_item set name = {many} where id = 7")
    item = world.declare(template="{name}", chunk={"tokens": 32}, partitions={"count": 1})
    world.texts(item)
    revoked: Trouble = (401, {"message": "revoked"}, {})
    refused: list[str] = []

    def chance(texts: list[str]) -> Trouble | None:
        if "text number 9" in texts:
            until(lambda: any(text.startswith("part ") for text in provider.usable))
            refused.append("the key")
        return revoked if refused else None

    provider.chance = chance

    with pytest.raises(ConfigurationError, match="revoked"):
        world.vectors(item, "cut short")

    stored = vectors_of(world)
    assert {*range(5)} <= {row_id for row_id, _ in stored} <= {*range(40)} - {7, 9}
    ((encoded, cost),) = world.sql(
        f"select encoded, cost_usd from {SCHEMA}.run_ledger where run_id = 'cut short'"
    )
    assert cost == provider.tokens - 1
    # chunks of the row that is not whole are kept, too, but in the cache alone
    assert world.sql(f"select count(*) from {SCHEMA}.embedding_cache_1") == [(encoded,)]
    assert encoded > len(stored)
    assert world.sql(f"select count(*) from {SCHEMA}.quarantine") == [(0,)]
    provider.chance = lambda texts: None
    provider.billed.clear()
    world.vectors(item)
    world.publish(item)
    assert sum(provider.billed.values()) == 39 + 4 - encoded
    assert_vectors_are_right(world)
    assert len(world.view()) == 39 + 4


def test_what_was_billed_for_nothing_is_in_the_ledger(world: World, provider: Provider) -> None:
    item = world.declare(template="{name}")
    world.texts(item)
    _ = world.encoders.for_entity(item).identity
    asked = provider.tokens
    provider.chance = lambda texts: misbehaving.one_less
    with pytest.raises(EmbeddingsError, match="vectors for"):
        world.vectors(item, "for nothing")
    ((encoded, cost),) = world.sql(
        f"select encoded, cost_usd from {SCHEMA}.run_ledger where run_id = 'for nothing'"
    )
    assert (encoded, cost) == (0, provider.tokens - asked)
    assert world.sql(f"select count(*) from {SCHEMA}.quarantine") == [(0,)]


@pytest.mark.parametrize("asks", ["vectors", "the dimension"])
def test_a_run_that_waits_for_its_provider_hears_that_it_is_to_stop(
    world: World, provider: Provider, asks: str
) -> None:
    item = world.declare(template="{name}")
    world.texts(item)
    if asks == "vectors":
        _ = world.encoders.for_entity(item).identity
    provider.always = (429, {}, {"Retry-After": "60"})
    before = len(provider.asked)

    def stopping() -> bool:
        return len(provider.asked) > before

    with world.encoders.stop_when(stopping), pytest.raises(Interrupted, match="item: stopped"):
        world.vectors(item, stopped=stopping)


def test_a_refused_key_stops_the_run_and_is_nowhere_in_the_database(
    world: World, provider: Provider
) -> None:
    item = world.declare(template="{name}")
    world.run(item)
    world.insert((60, "one more"), (61, "poison"))
    provider.always = (401, {"message": f"revoked: {KEY}"}, {})
    world.texts(item)
    with pytest.raises(ConfigurationError, match="revoked: …"):
        world.vectors(item)
    provider.always = (400, {"message": f"refused with {KEY}"}, {})
    with pytest.raises(ConfigurationError, match="rejects even the text 'probe'"):
        world.vectors(item)
    provider.always = None
    world.vectors(item)
    for (table,) in world.sql("select tablename from pg_tables where schemaname = %s", SCHEMA):
        rows = world.sql(f"select t::text from {SCHEMA}.{table} t")
        assert KEY not in str(rows)
