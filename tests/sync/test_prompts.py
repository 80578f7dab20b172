"""Prompts that an entity declares stand before its chunks and before queries of its sets."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from embeddings_pipeline.encoders.registry import Encoders
from embeddings_pipeline.search.query_vectors import query_encoder
from embeddings_pipeline.settings import Settings
from embeddings_pipeline.store import vector_sets
from embeddings_pipeline.store.tables import open_tables
from embeddings_pipeline.store.vector_sets import VectorSet
from tests.encoders.conftest import tiny
from tests.support import provider as misbehaving
from tests.support.declared import declared
from tests.support.provider import KEY, Provider
from tests.support.world import SCHEMA, World

__all__ = ["tiny"]

E5 = {"query": "query: ", "document": "passage: "}


@pytest.fixture
def provider(world: World) -> Iterator[Provider]:
    """The world's only model is the provider's."""
    world.table("id bigint, name text")
    world.insert((1, "pump"), (2, "hose"))
    with misbehaving.serving(dimension=16) as provider:
        settings = Settings(
            _env_file=None,
            embedding_model="openai:intfloat/e5",
            openai_base_url=provider.url,
            openai_api_key=KEY,
        )
        world.encoders = Encoders(settings, lambda: world.postgres.transaction_in(SCHEMA))
        yield provider
        world.encoders.cleanup()


def sets_of(world: World, entity: Any) -> list[VectorSet]:
    with open_tables(world.postgres, world.names_of(entity)) as tables:
        return vector_sets.read(tables)


def test_documents_and_queries_are_sent_with_the_declared_prompts(
    world: World, provider: Provider
) -> None:
    item = world.declare(template="{name}", prompts=E5)
    world.run(item)
    assert provider.billed.keys() == {"probe", "passage: pump", "passage: hose"}
    (made,) = sets_of(world, item)
    assert (made.document_prompt, made.query_prompt) == ("passage: ", "query: ")
    # the text of the row is its own
    assert {text for (text,) in world.sql(f"select text from {SCHEMA}.item_vectors_1")} == {
        "pump",
        "hose",
    }
    found = query_encoder(world.encoders)(made.identity, "garden")
    np.testing.assert_array_equal(found, misbehaving.vector_of("query: garden", 16))


def test_another_document_prompt_is_another_model_and_another_query_prompt_is_not(
    world: World, provider: Provider
) -> None:
    world.run(world.declare(template="{name}", prompts=E5))
    provider.billed.clear()

    changed = world.declare(template="{name}", prompts=E5 | {"query": "search_query: "})
    world.run(changed)
    assert [s.query_prompt for s in sets_of(world, changed)] == ["search_query: "]
    assert not provider.billed
    encode = query_encoder(world.encoders)
    (made,) = sets_of(world, changed)
    np.testing.assert_array_equal(
        encode(made.identity, "garden"), misbehaving.vector_of("search_query: garden", 16)
    )

    other = world.declare(template="{name}", prompts=E5 | {"document": "search_document: "})
    assert world.plan(other).why["prompts"] == 1.0
    world.run(other)
    assert {"search_document: pump", "search_document: hose"} <= provider.billed.keys()
    assert [s.state for s in sets_of(world, other)] == ["retired", "live"]


def test_chunks_each_have_the_document_prompt(world: World, provider: Provider) -> None:
    world.sql("update staging.stg_item set name = repeat('one sentence. ', 60) where id = 1")
    world.run(world.declare(template="{name}", prompts=E5, chunk={"tokens": 64}))
    sent = [text for text in provider.billed if "sentence" in text]
    assert len(sent) > 1
    assert all(text.startswith("passage: ") for text in sent)


@pytest.mark.parametrize("prompt", ["passage: ", "{name} %s\n", " "])
def test_weighted_fields_each_have_the_document_prompt_as_it_is(
    world: World, provider: Provider, prompt: str
) -> None:
    world.run(world.declare(weights={"name": 2}, prompts={"document": prompt, "query": ""}))
    assert provider.billed.keys() == {"probe", f"{prompt}pump", f"{prompt}hose"}


def test_prompts_that_are_declared_replace_those_of_a_local_models_files(tiny: Path) -> None:
    settings = Settings(
        _env_file=None,
        embedding_model="some/model",
        embedding_model_path=tiny / "model",
        embedding_device="cpu",
        embedding_precision="float32",
    )
    encoders = Encoders(settings)
    own = encoders.for_entity(declared())
    same = encoders.for_entity(declared(prompts={"query": "query: ", "document": "passage: "}))
    other = encoders.for_entity(declared(prompts={"query": "find: "}))
    vector = own.encode_documents(["pump"]).vectors
    np.testing.assert_allclose(same.encode_documents(["pump"]).vectors, vector, atol=1e-6)
    np.testing.assert_allclose(
        own.encode_query(["pump"]).vectors, same.encode_query(["pump"]).vectors, atol=1e-6
    )
    assert not np.allclose(other.encode_documents(["pump"]).vectors, vector, atol=1e-3)
    assert len({own.identity, same.identity, other.identity}) == 3
    assert encoders.for_identity(other.identity) is other
    assert encoders.for_identity(own.identity) is own
    encoders.cleanup()
