"""What a run makes of a provider that misbehaves: what is stored, paid, asked, and said."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

from embeddings_pipeline.cli import main
from embeddings_pipeline.encoders.openai import encoder
from embeddings_pipeline.encoders.openai.client import Timeouts, learnt_about
from embeddings_pipeline.encoders.registry import Encoders
from embeddings_pipeline.errors import EmbeddingsError
from embeddings_pipeline.settings import Settings
from tests.support import provider as misbehaving
from tests.support.declared import write_manifest
from tests.support.environment import only_settings
from tests.support.provider import KEY, Change, Provider, Trouble
from tests.support.world import SCHEMA, World

pytestmark = pytest.mark.long

MODEL = "text-embedding-3-small"
ODD = "the odd text"
TEXTS = [*(f"text number {n}" for n in range(7)), ODD]
PAGE = "<html><head><title>403</title></head><body>Request <b>blocked</b></body></html>"

Outcome = Trouble | Change | str | None
Behave = Callable[[list[str], dict[str, Any]], Outcome]


class Expected(NamedTuple):
    """The vectors stored, the texts paid (the probe included), the requests, the exit code, and
    words of the error or of the quarantine."""

    stored: int
    paid: int
    requests: int
    exit_code: int = 0
    message: str = ""


GOOD = Expected(8, 8, 1)


# --- what a provider may do


def every(outcome: Outcome) -> Behave:
    """Every request has this outcome."""
    return lambda texts, body: outcome


def odd(outcome: Outcome) -> Behave:
    """Every request with the odd text has this outcome."""
    return lambda texts, body: outcome if ODD in texts else None


def each(**changed: Any) -> Change:
    """Each item of an answer has these values; a value of None is left out."""

    def change(answer: dict[str, Any]) -> None:
        for place, item in enumerate(answer["data"]):
            for key, value in changed.items():
                item[key] = value(place, item) if callable(value) else value

    return change


def without(*keys: str) -> Change:
    def change(answer: dict[str, Any]) -> None:
        for key in keys:
            answer.pop(key, None)
            for item in answer["data"]:
                item.pop(key, None)

    return change


def top(**changed: Any) -> Change:
    return lambda answer: answer.update(changed)


def odd_vector(embedding: Any) -> Behave:
    """The vector of the odd text is this, in each answer."""

    def behave(texts: list[str], body: dict[str, Any]) -> Change | None:
        if ODD not in texts:
            return None
        place = texts.index(ODD)
        return lambda answer: answer["data"][place].update(embedding=embedding)

    return behave


def null_item(texts: list[str], body: dict[str, Any]) -> Change | None:
    """The item of the odd text is null."""
    if ODD not in texts:
        return None
    return lambda answer: answer["data"].__setitem__(texts.index(ODD), None)


def numbers(answer: dict[str, Any]) -> None:
    for item, text in zip(answer["data"], TEXTS, strict=False):
        item["embedding"] = misbehaving.vector_of(text, 1536).tolist()


def bare(answer: dict[str, Any]) -> None:
    answer["data"] = [item["embedding"] for item in answer["data"]]


def other_key(answer: dict[str, Any]) -> None:
    answer["embeddings"] = [item["embedding"] for item in answer.pop("data")]


def one_more(answer: dict[str, Any]) -> None:
    answer["data"].append(dict(answer["data"][0], index=len(answer["data"])))


def first_for_all(answer: dict[str, Any]) -> None:
    for item in answer["data"]:
        item["embedding"] = answer["data"][0]["embedding"]


def as_base64(outcome: Outcome) -> Behave:
    """Requests for base64 have this outcome."""
    return lambda texts, body: outcome if body.get("encoding_format") == "base64" else None


def at_most(count: int, message: str, status: int = 400) -> Behave:
    return lambda texts, body: (
        (status, {"message": message.format(len(texts))}, {}) if len(texts) > count else None
    )


def refusing(*formats: str | None) -> Behave:
    """Requests for vectors in these formats are refused."""
    refusal: Trouble = (422, {"message": "encoding_format: not permitted"}, {})
    return lambda texts, body: refusal if body.get("encoding_format") in formats else None


def times(count: int, outcome: Outcome) -> Behave:
    """The first requests have this outcome."""
    left = [outcome] * count
    return lambda texts, body: left.pop() if left else None


def refusal(status: int, message: str = "no") -> Trouble:
    return status, {"message": message}, {}


CASES: dict[str, tuple[Behave, Expected]] = {
    # answers that are clear, though something is missing or otherwise than specified
    "no usage": (every(without("usage")), GOOD),
    "no model": (every(without("model")), GOOD),
    "no object": (every(without("object")), GOOD),
    "no index": (every(without("index")), GOOD),
    "nothing but vectors": (every(without("usage", "model", "object", "index")), GOOD),
    "an index of null": (every(each(index=None)), GOOD),
    "an index as text": (every(each(index=lambda place, _: str(place))), GOOD),
    "an index as a float": (every(each(index=lambda place, _: float(place))), GOOD),
    "an index from 1": (every(each(index=lambda place, _: place + 1)), GOOD),
    "another order": (every(misbehaving.shuffled), GOOD),
    "unknown keys": (every(top(error=None, id="x", more=[1])), GOOD),
    "an absurd bill": (every(top(usage={"total_tokens": 10**30})), GOOD),
    "a bill that is text": (every(top(usage={"total_tokens": "9"})), GOOD),
    "numbers for base64": (every(numbers), GOOD),
    "base64 without padding": (
        every(each(embedding=lambda _, item: item["embedding"].rstrip("="))),
        GOOD,
    ),
    "vectors without objects": (every(bare), GOOD),
    "another name for the vectors": (every(other_key), GOOD),
    # answers that are not clear
    "an index twice": (
        every(misbehaving.one_twice),
        Expected(0, 8, 1, 1, "two vectors have the index 0"),
    ),
    "one index for all": (
        every(each(index=0)),
        Expected(0, 8, 1, 1, "two vectors have the index 0"),
    ),
    "an index beyond": (
        every(each(index=lambda place, _: place * 2)),
        Expected(0, 8, 1, 1, "the vectors have the indexes 0, 2, 4"),
    ),
    "some without an index": (
        every(each(index=lambda place, _: place or None)),
        Expected(0, 8, 1, 1, "the vectors have the indexes None, 1, 2"),
    ),
    "one vector less": (
        every(misbehaving.one_less),
        Expected(0, 10, 3, 1, "0 vectors for 1 texts"),
    ),
    "one vector more": (every(one_more), Expected(0, 9, 2, 1, "2 vectors for 1 texts")),
    "one vector more for one text": (
        odd(one_more),
        Expected(7, 8 + 1 + 4 + 4 + 2 + 2 + 1 + 1 + 1 + 1 + 1, 11, 0, "2 vectors for 1 texts"),
    ),
    # the pair of texts that tells whether all texts have one vector
    "one vector for all": (
        every(each(embedding=[0.1] * 1536)),
        Expected(0, 8 + 2, 2, 1, "answers different texts, 'a lighthouse"),
    ),
    "the first vector for all of a request": (
        every(first_for_all),
        Expected(0, 8 + 2, 2, 1, "with the same vector: no vector of this answer was stored"),
    ),
    "one vector for all, and one text in a request": (
        lambda texts, body: (
            refusal(400, "at most 1 input") if len(texts) > 1 else each(embedding=[0.1] * 1536)
        ),
        Expected(0, 1 + 1 + 1, 1 + 1 + 1 + 1, 1, "answers different texts, 'a lighthouse"),
    ),
    # vectors that are none
    "booleans": (
        every(each(embedding=[True] * 1536)),
        Expected(0, 9, 2, 1, "the vector has true in place of a number"),
    ),
    "numbers as text": (
        every(each(embedding=["0.1"] * 1536)),
        Expected(0, 9, 2, 1, 'the vector has "0.1" in place of a number'),
    ),
    "null among the numbers": (
        every(each(embedding=[None] + [0.1] * 1535)),
        Expected(0, 9, 2, 1, "the vector has null in place of a number"),
    ),
    "vectors in vectors": (
        every(each(embedding=[[0.1] * 1536])),
        Expected(0, 9, 2, 1, "in place of a number"),
    ),
    "another dimension": (
        every(each(embedding=[0.1] * 64)),
        Expected(0, 9, 2, 1, "the vector has 64 dimensions, not 1536"),
    ),
    "an object": (
        every(each(embedding={"float": [0.1]})),
        Expected(0, 9, 2, 1, "the vector is {"),
    ),
    "NaN for one text": (odd_vector([float("nan")] * 1536), Expected(7, 12, 5, 0, "not finite")),
    "null for one text": (odd_vector(None), Expected(7, 13, 6, 0, "the vector is null")),
    "null in place of one item": (null_item, Expected(7, 13, 6, 0, "the vector is null")),
    "too short for one text": (odd_vector([0.1]), Expected(7, 12, 5, 0, "1 dimensions")),
    "text for one text": (odd_vector(["0.1"] * 1536), Expected(7, 12, 5, 0, '"0.1" in place')),
    # what is no answer
    "no data for base64": (as_base64(top(data=[])), Expected(8, 16, 2)),
    "empty vectors for base64": (as_base64(each(embedding="")), Expected(8, 16, 2)),
    "half-precision base64": (
        as_base64(each(embedding=lambda _, item: item["embedding"][: 1536 * 8 // 3])),
        Expected(8, 16, 2),
    ),
    "no data at all": (every(top(data=[])), Expected(0, 17, 3, 1, "0 vectors for 1 texts")),
    "no JSON": (every(b"{"), Expected(0, 17, 3, 1, "not JSON")),
    "an empty body": (every(b""), Expected(0, 17, 3, 1, "not JSON")),
    "null": (every(b"null"), Expected(0, 17, 3, 1, "no vectors")),
    "a number": (every(b"7"), Expected(0, 17, 3, 1, "no vectors")),
    "half an answer for base64": (as_base64("garbled"), Expected(8, 16, 2)),
    "an error that is said to be fine": (
        every(json.dumps({"error": {"message": "out of memory"}}).encode()),
        Expected(0, 9, 2, 1, "an error: out of memory"),
    ),
    "an error in other words": (
        every(json.dumps({"object": "error", "message": "out of memory", "code": 500}).encode()),
        Expected(0, 9, 2, 1, "an error: out of memory"),
    ),
    "a list of errors": (
        every(json.dumps({"errors": [{"message": "out of memory"}]}).encode()),
        Expected(0, 9, 2, 1, 'an error: [{"message": "out of memory"}]'),
    ),
    # refusals of one text
    **{
        f"{status} for one text": (
            odd(refusal(status, "unsafe")),
            Expected(7, 7 + 2, 9, 0, f"{status}: unsafe"),
        )
        for status in (400, 401, 403, 404, 413, 415, 422, 451)
    },
    "403 with a page for one text": (
        odd((403, PAGE, {})),
        Expected(7, 9, 9, 0, "403: 403 Request blocked"),
    ),
    "500 for one text": (odd(refusal(500, "crash")), Expected(7, 10, 38, 0, "500: crash")),
    "a page in place of an answer for one text": (
        odd("page"),
        Expected(7, 130, 38, 0, "the response is an HTML page, not JSON: We will be back soon"),
    ),
    "hanging up for one text": (odd("hang up"), Expected(7, 10, 38, 0, "disconnected")),
    # refusals of all
    "a wrong key": (every(refusal(401)), Expected(0, 0, 2, 2, "does not accept the key (401: no)")),
    "a page for a wrong key": (
        every((403, PAGE, {})),
        Expected(0, 0, 2, 2, "does not accept the key (403: 403 Request blocked)"),
    ),
    "no such model": (every(refusal(404)), Expected(0, 0, 2, 2, f"has no model '{MODEL}'")),
    "an unknown parameter": (
        every(refusal(400)),
        Expected(0, 0, 2, 2, "rejects even the text 'probe' (400: no)"),
    ),
    "payment required": (every(refusal(402)), Expected(0, 0, 1, 1, "the quota at")),
    "an exhausted quota": (
        every((429, {"code": "insufficient_quota"}, {})),
        Expected(0, 0, 1, 1, "the quota at"),
    ),
    "a redirect": (
        every((307, {}, {"Location": "http://127.0.0.1:1/"})),
        Expected(0, 0, 1, 2, "redirects to http://127.0.0.1:1/"),
    ),
    # limits of a request
    "few texts in a request": (
        at_most(3, "batch size {} > maximum allowed batch size 3", 422),
        Expected(8, 8 + 1, 1 + 1 + 3),
    ),
    "few tokens in a minute": (
        at_most(3, "Request too large on tokens per min (TPM): Limit 40000, Requested 60000", 429),
        Expected(8, 9, 1 + 1 + 1 + 4),
    ),
    "few texts, without a number": (at_most(3, "too many inputs"), Expected(8, 9, 1 + 1 + 1 + 4)),
    "a small request": (at_most(3, "payload too large", 413), Expected(8, 9, 1 + 1 + 1 + 4)),
    "few texts, answered with fewer vectors": (
        lambda texts, body: misbehaving.one_less if len(texts) > 2 else None,
        Expected(8, 8 + 1 + 4 + 8, 1 + 1 + 1 + 4),
    ),
    # formats
    "no base64": (refusing("base64"), Expected(8, 8, 2)),
    "no word of the format": (refusing("base64", "float"), Expected(8, 8, 3)),
    # what passes
    "dripping": (times(1, "dripping"), Expected(8, 16, 2)),
    "busy": (times(3, misbehaving.BUSY), Expected(8, 8, 4)),
    "broken for a moment": (times(3, misbehaving.BROKEN), Expected(8, 8, 4)),
    "away for a while": (times(9, misbehaving.BROKEN), Expected(8, 9, 11)),
}

# refused for their number, so that others may be on their way meanwhile
PROBE_MAY_BE_SPARED = {
    *("few tokens in a minute", "few texts, without a number", "a small request"),
}


@contextmanager
def providing(world: World, **settings: Any) -> Iterator[Provider]:
    """The world's only model is a provider's, that is asked for all texts at once."""
    with misbehaving.serving() as provider:
        made = Settings(
            _env_file=None,
            embedding_model=MODEL,
            openai_base_url=provider.url,
            openai_api_key=KEY,
            **settings,
        )
        world.encoders = Encoders(made, lambda: world.postgres.transaction_in(SCHEMA))
        try:
            yield provider
        finally:
            world.encoders.cleanup()


@pytest.fixture
def run_command(
    world: World,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> Callable[[Provider], tuple[int, str]]:
    """The command `run item` with a provider's model. Returns its exit code and its error."""

    def run(provider: Provider) -> tuple[int, str]:
        # the port may have been another provider's
        learnt_about.cache_clear()
        manifest = write_manifest(
            tmp_path / "manifest.json", template="{name}", partitions={"count": 1}, model=MODEL
        )
        only_settings(
            monkeypatch,
            DBT_MANIFEST=str(manifest),
            STAGING_DB_URL=world.database.url,
            PGVECTOR_URL=world.database.url,
            OPENAI_BASE_URL=provider.url,
            OPENAI_API_KEY=KEY,
        )
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr(sys, "argv", ["embeddings-pipeline", "run", "item", "--no-dbt"])
        # time enough for a busy machine, and short for an answer that never ends
        options = encoder.request_options
        quick = Timeouts(answer=3)
        monkeypatch.setattr(
            encoder, "request_options", lambda made: replace(options(made), timeouts=quick)
        )
        # the command sets its own
        monkeypatch.setattr(sys, "excepthook", sys.excepthook)
        with pytest.raises(SystemExit) as ended:
            main.main()
        _, _, error = capsys.readouterr().err.partition("error: ")
        return int(ended.value.code or 0), error

    return run


@pytest.mark.parametrize("name", CASES)
def test_a_misbehaviour_has_its_price_and_its_words(
    world: World, run_command: Callable[[Provider], tuple[int, str]], name: str
) -> None:
    behave, expected = CASES[name]
    world.table("id bigint, name text")
    world.insert(*enumerate(TEXTS))
    with misbehaving.serving() as provider:
        provider.chance = lambda texts: behave(texts, provider.asked[-1])
        exit_code, said = run_command(provider)
    stored = world.sql(f"select text, embedding::text from {SCHEMA}.item_vectors_1")
    for text, vector in stored:
        found = np.array(vector.strip("[]").split(","), np.float32)
        np.testing.assert_allclose(found, misbehaving.vector_of(text, 1536), atol=1e-6)
    quarantined = " ".join(
        error for (error,) in world.sql(f"select error from {SCHEMA}.quarantine")
    )
    paid = sum(provider.billed.values())
    actual = Expected(len(stored), paid, len(provider.asked), exit_code, said + quarantined)
    assert expected.message in actual.message
    counted = expected._replace(message="")
    # no probe is sent where another request has succeeded since the refused one was sent
    spared = counted._replace(paid=counted.paid - 1, requests=counted.requests - 1)
    right = (counted, spared) if name in PROBE_MAY_BE_SPARED else (counted,)
    assert actual._replace(message="") in right, actual.message
    # no jargon of the program, and not the key
    assert not re.search(r"Error:|Traceback|KeyError|NoneType", actual.message)
    assert KEY not in actual.message
    assert bool(expected.message) == bool(actual.message)


@pytest.mark.parametrize("batch", [1, 8])
def test_texts_that_a_model_does_not_tell_apart_have_one_vector(world: World, batch: int) -> None:
    world.table("id bigint, name text")
    world.insert((1, "Garden Hose"), (2, "garden hose"), (3, "GARDEN HOSE"))
    item = world.declare(template="{name}", partitions={"count": 1})
    world.texts(item)

    def in_lower_case(answer: dict[str, Any]) -> None:
        for entry, text in zip(answer["data"], provider.asked[-1]["input"], strict=True):
            entry["embedding"] = misbehaving.vector_of(text.lower(), 1536).tolist()

    with providing(world, embedding_batch_size=batch, embedding_requests_in_flight=1) as provider:
        provider.chance = lambda texts: in_lower_case
        world.vectors(item)
        # each request with the same vector costs what tells: another text, or two together
        assert sum(provider.billed.values()) == 3 + 2
    assert world.sql(
        f"select count(*), count(distinct embedding) from {SCHEMA}.item_vectors_1"
    ) == [(3, 1)]


def test_a_run_ends_after_many_refused_texts_in_a_row(world: World) -> None:
    world.table("id bigint, name text")
    world.insert(*((n, f"text number {n}") for n in range(60)))
    item = world.declare(template="{name}", partitions={"count": 1})
    world.texts(item)
    with providing(world) as provider:
        provider.chance = lambda texts: None if texts == ["probe"] else refusal(403, "unsafe")
        with pytest.raises(EmbeddingsError, match=r"25 texts in a row were refused.*403: unsafe"):
            world.vectors(item)
        requests = len(provider.asked)
        provider.chance = lambda texts: None
        world.vectors(item, "the next run")
    # each of the 25 texts and a probe for it, and the halves on the way to them
    assert requests < 4 * 25
    assert world.sql(f"select count(*) from {SCHEMA}.item_vectors_1") == [(35,)]
    assert world.sql(f"select count(*) from {SCHEMA}.quarantine") == [(25,)]


def test_what_is_paid_to_find_texts_at_fault_is_bounded(world: World) -> None:
    world.table("id bigint, name text")
    world.insert(*((n, f"text number {n}") for n in range(64)))
    item = world.declare(template="{name}", partitions={"count": 1})
    world.texts(item)
    with providing(world) as provider:
        # every answer is billed, and only a text that is alone has a vector
        provider.chance = lambda texts: misbehaving.one_less if len(texts) > 1 else None
        world.vectors(item)
        assert sum(provider.billed.values()) < 3 * 64
    assert world.sql(f"select count(*) from {SCHEMA}.item_vectors_1") == [(64,)]


def test_texts_at_fault_are_not_looked_for_at_any_price(world: World) -> None:
    world.table("id bigint, name text")
    world.insert(*((n, f"text number {n}") for n in range(64)))
    item = world.declare(template="{name}", partitions={"count": 1})
    world.texts(item)
    with providing(world) as provider:
        # every second text is at fault, and each answer for one of them is billed
        provider.chance = lambda texts: (
            misbehaving.one_less if any(text[-1] in "13579" for text in texts) else None
        )
        with pytest.raises(EmbeddingsError, match="tokens were billed for answers that cannot be"):
            world.vectors(item)
        # the texts once, three times in vain, and a probe for each that is at fault
        assert sum(provider.billed.values()) < 4 * 64 + 64 + 64
    assert world.sql(f"select count(*) from {SCHEMA}.item_vectors_1") > [(0,)]


@pytest.mark.parametrize("learns", ["a number of texts", "a format"])
def test_what_is_learnt_of_a_provider_is_remembered(world: World, learns: str) -> None:
    world.table("id bigint, name text")
    world.insert(*enumerate(TEXTS))
    item = world.declare(template="{name}", partitions={"count": 1})
    behave = at_most(3, "at most 3") if learns == "a number of texts" else refusing("base64")
    with providing(world) as provider:
        provider.chance = lambda texts: behave(texts, provider.asked[-1])
        world.texts(item)
        world.vectors(item)
        world.insert(*((100 + n, f"more {n}") for n in range(8)))
        world.texts(item)
        provider.asked.clear()
        # another encoder of the same process
        world.encoders.cleanup()
        world.vectors(item)
        sizes = [len(body["input"]) for body in provider.asked]
        formats = {body["encoding_format"] for body in provider.asked}
    assert sizes == ([3, 3, 2] if learns == "a number of texts" else [8])
    assert formats == ({"base64"} if learns == "a number of texts" else {"float"})


def test_a_single_answer_of_another_dimension_changes_nothing(world: World) -> None:
    world.table("id bigint, name text")
    world.insert(*enumerate(TEXTS))
    item = world.declare(
        template="{name}", partitions={"count": 1}, model="openai:some/model", publish="auto"
    )
    with providing(world) as provider:
        provider.dimension = 32
        world.run(item)
        assert provider.billed["probe"] == 1
    world.insert((100, "one more"))
    with providing(world) as provider:
        provider.dimension = 64
        # a process that knows nothing yet asks the same address
        sets = world.sql(f"select number, state, identity from {SCHEMA}.vector_sets")
        world.sql(
            f"update {SCHEMA}.model_identities set revision = %s",
            f"some/model@127.0.0.1:{provider.server_port}",
        )
        world.texts(item)
        with pytest.raises(EmbeddingsError, match="the vector has 64 dimensions, not 32"):
            world.vectors(item)
        # the text, also as numbers, and the probe: the dimension is not asked for again
        assert provider.billed == {"one more": 2, "probe": 1}
        provider.dimension = 32
        world.vectors(item, "the next run")
    assert world.sql(f"select count(*) from {SCHEMA}.item_vectors_1") == [(9,)]
    assert world.sql(f"select number, state, identity from {SCHEMA}.vector_sets") == sets
