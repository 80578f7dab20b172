"""The models that people use have the prompts of their cards, and docs/models.md lists them."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from embeddings_pipeline.encoders.encoder import Encoder
from embeddings_pipeline.encoders.local.known_models import KNOWN_MODELS
from embeddings_pipeline.encoders.registry import Encoders
from embeddings_pipeline.entities.entity import Prompts
from embeddings_pipeline.settings import DEFAULT_MODEL, Settings
from tests.support import tiny_models
from tests.support.declared import declared
from tests.support.tiny_models import TEXTS
from tests.support.world import World

MODEL = "intfloat/e5-small-v2"
E5 = {"query": "query: ", "document": "passage: "}
NONE = {"query": "", "document": ""}


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model without prompts in its files."""
    return tiny_models.make("bert", tmp_path_factory.mktemp("plain"))


@pytest.fixture(scope="module")
def prompted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_models.make("bert", tmp_path_factory.mktemp("prompted"), tiny_models.PROMPTS)


def encoders(folder: Path, model: str = MODEL) -> Encoders:
    return Encoders(
        Settings(
            _env_file=None,
            embedding_model=model,
            embedding_model_path=folder,
            embedding_device="cpu",
            embedding_precision="float32",
        )
    )


def same_vectors(one: Encoder, other: Encoder) -> bool:
    documents = one.encode_documents(TEXTS).vectors, other.encode_documents(TEXTS).vectors
    queries = one.encode_query(TEXTS).vectors, other.encode_query(TEXTS).vectors
    return all(np.allclose(*pair, atol=1e-6) for pair in (documents, queries))


def test_a_known_model_without_prompts_in_its_files_has_those_of_its_card(plain: Path) -> None:
    known = encoders(plain).for_entity(declared())
    assert (known.identity.query_prompt, known.identity.document_prompt) == ("query: ", "passage: ")
    assert same_vectors(known, encoders(plain, "my/model").for_entity(declared(prompts=E5)))
    assert encoders(plain).get(MODEL).identity == known.identity


def test_prompts_in_the_files_of_a_known_model_are_used_instead(prompted: Path) -> None:
    known = encoders(prompted).for_entity(declared())
    assert known.identity.document_prompt == ""
    assert same_vectors(known, encoders(prompted, "my/model").for_entity(declared()))


def test_declared_prompts_replace_those_of_a_card_even_where_they_are_empty(plain: Path) -> None:
    made = encoders(plain)
    without = made.for_entity(declared(prompts=NONE))
    assert without.identity.document_prompt == ""
    assert same_vectors(without, encoders(plain, "my/model").for_entity(declared()))
    assert not same_vectors(without, made.for_entity(declared()))


def test_declared_empty_prompts_replace_those_in_the_files(prompted: Path) -> None:
    made = encoders(prompted)
    without = made.for_entity(declared(prompts=NONE))
    assert not same_vectors(without, made.for_entity(declared()))
    assert without.identity != made.for_entity(declared()).identity


@pytest.mark.parametrize("prompts", [None, NONE, E5])
@pytest.mark.parametrize("files", ["plain", "prompted"])
def test_the_encoder_of_stored_vectors_has_the_prompts_of_these(
    files: str, prompts: dict[str, str] | None, request: pytest.FixtureRequest
) -> None:
    folder = request.getfixturevalue(files)
    keys = {} if prompts is None else {"prompts": prompts}
    made = encoders(folder).for_entity(declared(**keys))
    found = encoders(folder).for_identity(made.identity)
    assert found.identity == made.identity
    assert found.identity.query_prompt == made.identity.query_prompt
    assert same_vectors(found, made)


def test_vectors_of_before_the_prompts_leave_new_ones_their_prompts(plain: Path) -> None:
    former = encoders(plain).for_entity(declared(prompts=NONE)).identity
    made = encoders(plain)
    assert made.for_identity(former).identity == former
    assert made.for_entity(declared()).identity.document_prompt == "passage: "
    assert made.for_identity(former).identity == former


def test_a_set_has_the_query_prompt_of_the_card(world: World, plain: Path) -> None:
    world.table("id bigint, name text")
    world.insert((1, "pump"), (2, "hose"))
    world.encoders = encoders(plain)
    world.run(world.declare(template="{name}"))
    (found,) = world.sets(world.declare(template="{name}"))
    assert (found.query_prompt, found.identity.document_prompt) == ("query: ", "passage: ")
    world.encoders.cleanup()


def rows() -> dict[str, list[str]]:
    page = Path(__file__).parents[2] / "docs" / "models.md"
    table = re.findall(r"^\| `([^`]+/[^`]+)` \|(.*)\|$", page.read_text(), re.MULTILINE)
    return {name: [cell.strip() for cell in cells.split(" | ")] for name, cells in table}


def test_the_page_of_models_shows_the_values_of_each_card() -> None:
    assert rows().keys() == KNOWN_MODELS.keys()
    for name, cells in rows().items():
        card = KNOWN_MODELS[name]
        prompts = card.prompts or Prompts()
        shown = [
            f"{card.dimension}",
            ", ".join(map(str, card.shorter)) or "none",
            "no limit" if card.max_tokens is None else f"{card.max_tokens:,}",
            card.pooling,
            *(
                f"`{p}`".replace("\n", "\\n").replace("|", "\\|") if p else "none"
                for p in (prompts.query, prompts.document)
            ),
            card.license,
        ]
        assert cells == shown, name


def test_the_default_model_is_what_its_card_says() -> None:
    card = KNOWN_MODELS[DEFAULT_MODEL]
    identity = Encoders(Settings(_env_file=None)).get(DEFAULT_MODEL).identity
    assert (identity.dimension, identity.max_tokens) == (card.dimension, card.max_tokens)
