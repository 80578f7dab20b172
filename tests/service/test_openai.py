"""Vectors in the form of OpenAI's API, by its own client in a process of its own."""

from __future__ import annotations

import base64
import json
import subprocess
import sys
from typing import Any

import httpx
import numpy as np

from tests.support.keys import KEYS, READ, bearer
from tests.support.serving import served
from tests.support.words import WORDS, WordsEncoder
from tests.support.world import World

CREATE = "client.embeddings.create(model='fake/words', input={}).to_dict()"
# calls are expressions; an error of the client is shown with what it read from the answer
PROGRAM = """
import json, sys
import openai

client = openai.OpenAI(base_url=sys.argv[1], api_key=sys.argv[2], max_retries=0)

def answer(call):
    try:
        return eval(call)
    except openai.APIStatusError as error:
        read = {name: getattr(error, name) for name in ("type", "param", "code", "request_id")}
        return {"raised": type(error).__name__, "message": error.message, **read}

print(json.dumps([answer(call) for call in json.loads(sys.stdin.read())]))
"""


def asked(client: httpx.Client, *calls: str, key: str = "none") -> list[Any]:
    """The answers that the client of OpenAI gives to these calls."""
    process = subprocess.run(
        [sys.executable, "-c", PROGRAM, f"{client.base_url}/v1", key],
        input=json.dumps(calls),
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert process.returncode == 0, process.stderr
    answers: list[Any] = json.loads(process.stdout)
    return answers


def test_openais_client_gets_the_vectors_of_the_model(client: httpx.Client) -> None:
    texts = ["red boots", "blue", "green"]
    one, several, floats, query, models, model = asked(
        client,
        CREATE.format("'red boots'"),
        CREATE.format(texts),
        CREATE.format(f"{texts}, encoding_format='float', dimensions=64, user='me'"),
        CREATE.format("'red', extra_body={'input_type': 'query'}"),
        "client.models.list().to_dict()",
        "client.models.retrieve('fake/words').to_dict()",
    )
    wanted = WordsEncoder().encode_query(texts).vectors
    assert np.allclose(one["data"][0]["embedding"], wanted[0])
    assert one["usage"] == {"prompt_tokens": 4, "total_tokens": 4}
    for answer in (several, floats):
        assert answer["object"] == "list"
        assert [found["index"] for found in answer["data"]] == [0, 1, 2]
        assert np.allclose([found["embedding"] for found in answer["data"]], wanted)
        # two of three came from the cache, or all
        assert answer["usage"] == several["usage"]
        assert answer["model"] == "fake/words"
    assert len(query["data"]) == 1
    described = {"id": "fake/words", "object": "model", "created": 0, "owned_by": "fake"}
    assert (models["data"], model) == ([described], described)


def test_base64_holds_the_same_numbers_as_floats(client: httpx.Client) -> None:
    body = {"model": "fake/words", "input": "red boots"}
    plain, packed = (
        client.post("/v1/embeddings", json={**body, "encoding_format": form}).json()["data"][0]
        for form in ("float", "base64")
    )
    numbers = np.frombuffer(base64.b64decode(packed["embedding"]), "<f4")
    assert numbers.tolist() == plain["embedding"]


def test_usage_counts_what_the_model_reads_of_new_and_of_cached_texts(client: httpx.Client) -> None:
    body = {"model": "fake/words", "input": ["pump " * 1000, "red boots"]}
    for _ in range(2):
        usage = client.post("/v1/embeddings", json=body).json()["usage"]
        assert usage["prompt_tokens"] == WORDS.max_tokens + 4


def test_openais_client_raises_the_error_of_each_refusal(shop: World) -> None:
    with served(shop.database, search_api_keys=KEYS) as client:
        absent, dimension, tokens, blank = asked(
            client,
            "client.embeddings.create(model='gpt', input='a')",
            CREATE.format("'a', dimensions=3"),
            CREATE.format("[[1, 2]]"),
            CREATE.format("['a', ' ']"),
            key=READ,
        )
        (refused,) = asked(client, CREATE.format("'a'"), key="a wrong key")
    assert (absent["raised"], absent["code"]) == ("NotFoundError", "model_not_found")
    assert absent["param"] == "model"
    assert "fake/words (64)" in absent["message"]
    assert (dimension["raised"], dimension["param"]) == ("UnprocessableEntityError", "dimensions")
    assert "send the text" in tokens["message"]
    assert (blank["param"], blank["type"]) == ("input", "invalid_request_error")
    assert "input.1" in blank["message"]
    assert (refused["raised"], refused["code"]) == ("AuthenticationError", "invalid_api_key")
    assert all(len(error["request_id"]) == 16 for error in (absent, dimension, refused))


def test_every_error_has_openais_form(shop: World) -> None:
    read = bearer(READ)
    as_json = read | {"Content-Type": "application/json"}
    with served(shop.database, search_api_keys=KEYS) as client:
        for method, path, headers, content, status in (
            ("POST", "/v1/embeddings", {}, "{}", 401),
            ("GET", "/v1/nothing", read, "", 404),
            ("DELETE", "/v1/embeddings", read, "", 405),
            ("POST", "/v1/embeddings", read, "{}", 415),
            ("POST", "/v1/embeddings", as_json, "x" * (1 << 20 | 1), 413),
            ("POST", "/v1/embeddings", as_json, "{", 422),
            ("GET", "/v1/models/none", read, "", 404),
            ("GET", "/v1/models/fake/words%0A", read, "", 404),
        ):
            answer = client.request(method, path, headers=headers, content=content)
            assert answer.status_code == status
            assert set(answer.json()["error"]) == {"message", "type", "param", "code"}
            assert answer.headers["content-type"] == "application/json"


def test_a_model_that_cannot_be_loaded_is_an_error_of_the_server(world: World) -> None:
    with served(world.database, embedding_model="none/such") as client:
        (answer,) = asked(client, "client.embeddings.create(model='none/such', input='a')")
    assert (answer["raised"], answer["type"]) == ("InternalServerError", "server_error")


def test_each_text_counts_for_the_limit_of_a_key(shop: World) -> None:
    with served(shop.database, search_api_keys=KEYS, search_texts_per_minute=256) as client:
        body = {"model": "fake/words", "input": ["red"] * 256}
        first, second = (
            client.post("/v1/embeddings", json=body, headers=bearer(READ)) for _ in range(2)
        )
    assert (first.status_code, second.status_code) == (200, 429)
    assert second.json()["error"]["code"] == "rate_limit_exceeded"
