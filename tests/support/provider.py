"""A provider of embeddings on this machine, that misbehaves as it is told."""

from __future__ import annotations

import base64
import json
import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from hashlib import sha256
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from random import Random
from threading import Event, Lock, Thread
from typing import Any
from unittest.mock import patch

import numpy as np

from embeddings_pipeline.entities.model import Vector

KEY = "sk-test-0123456789abcdef"
POISON = "poison"
ITEMS, REQUEST_TOKENS = 2048, 300_000

# (status, error, headers) of a request that is not served; an error of text is a page, one of bytes
# is the whole body
Trouble = tuple[int, dict[str, Any] | str | bytes, dict[str, str]]
BUSY: Trouble = (429, {"message": "too many requests"}, {"Retry-After": "0"})
BROKEN: Trouble = (500, {"message": "internal error"}, {})


@dataclass(frozen=True)
class Coded:
    """An answer that is said to be in a coding, and what encodes it."""

    coding: str
    encode: Callable[[bytes], bytes]


# what may become of an answer: its body changed or coded, or these bytes in its place
Change = Callable[[dict[str, Any]], object] | bytes | Coded


def vector_of(text: str, dimension: int) -> Vector:
    """The only right vector of a text: of length 1, different for each text."""
    seed = int.from_bytes(sha256(text.encode()).digest()[:8])
    vector = np.random.default_rng(seed).standard_normal(dimension)
    unit: Vector = (vector / np.linalg.norm(vector)).astype(np.float32)
    return unit


def tokens_of(text: str) -> int:
    return len(re.findall(r"\w+|[^\w\s]", text))


class Provider(ThreadingHTTPServer):
    """Serves vectors of `dimension`, of texts of at most `limit` tokens that do not say poison.

    `troubles` are met by the next requests, one each, and `changes` by the next answers; `chance`
    may make either of a request by its texts. `billed` counts each text that was encoded, `usable`
    those whose answer was not changed; `asked` and `keys` are the body and the authorization of
    each request. `clients` are closed with it.
    """

    daemon_threads = True

    def __init__(self, dimension: int = 1536, limit: int = 8191) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.dimension, self.limit = dimension, limit
        self.too_long = (
            "This model's maximum context length is {limit} tokens, however you requested {asked}"
            " tokens"
        )
        self.url = f"http://127.0.0.1:{self.server_port}/v1"
        self.troubles: list[Trouble | str | None] = []
        self.changes: list[Change | str | None] = []
        self.chance: Callable[[list[str]], Trouble | Change | str | None] = lambda texts: None
        self.always: Trouble | None = None
        self.numbers = self.without_usage = self.without_base64 = False
        self.asked: list[dict[str, Any]] = []
        self.keys: list[str] = []
        self.headers: list[dict[str, str]] = []
        self.paths: list[str] = []
        self.billed: Counter[str] = Counter()
        self.usable: Counter[str] = Counter()
        self.tokens = 0
        self.at_once = self.most_at_once = 0
        self.ending = Event()
        self.clients = ExitStack()
        self.lock = Lock()

    def refusal(self, body: dict[str, Any]) -> Trouble | None:
        texts = body["input"]
        if self.without_base64 and body.get("encoding_format") == "base64":
            return 422, {"message": "encoding_format: Input should be 'float'"}, {}
        lengths = [tokens_of(text) for text in texts]
        if not texts or not all(texts) or len(texts) > ITEMS or sum(lengths) > REQUEST_TOKENS:
            return 400, {"message": "'$.input' is invalid", "type": "invalid_request_error"}, {}
        if max(lengths) > self.limit:
            said = self.too_long.format(limit=self.limit, asked=max(lengths))
            return 400, {"message": said}, {}
        if any(POISON in text for text in texts):
            return 400, {"message": "a text cannot be encoded"}, {}
        return None

    def answer(self, body: dict[str, Any]) -> dict[str, Any]:
        texts, dimension = body["input"], body.get("dimensions") or self.dimension
        vectors = [vector_of(text, dimension) for text in texts]
        plain = self.numbers or body.get("encoding_format") != "base64"
        data = [
            {
                "object": "embedding",
                "index": index,
                "embedding": vector.tolist()
                if plain
                else base64.b64encode(vector.tobytes()).decode(),
            }
            for index, vector in enumerate(vectors)
        ]
        tokens = sum(map(tokens_of, texts))
        with self.lock:
            self.billed.update(texts)
            self.tokens += tokens
        usage = {"prompt_tokens": tokens, "total_tokens": tokens}
        done = {"object": "list", "data": data, "model": body["model"]}
        return done if self.without_usage else done | {"usage": usage}


class _Handler(BaseHTTPRequestHandler):
    server: Provider
    protocol_version = "HTTP/1.1"
    # the head and the body of an answer are written apart
    disable_nagle_algorithm = True

    def log_message(self, format: str, *args: object) -> None:
        pass

    def do_POST(self) -> None:
        provider = self.server
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with provider.lock:
            provider.asked.append(body)
            provider.keys.append(self.headers["Authorization"])
            provider.headers.append(dict(self.headers.items()))
            provider.paths.append(self.path)
            provider.at_once += 1
            provider.most_at_once = max(provider.most_at_once, provider.at_once)
            trouble = provider.always or (provider.troubles.pop(0) if provider.troubles else None)
            change = provider.changes.pop(0) if provider.changes else None
        try:
            if trouble is None and change is None:
                # not under the lock: requests may wait for one another there
                drawn = provider.chance(body["input"])
                if isinstance(drawn, tuple):
                    trouble = drawn
                elif drawn == "hang up":
                    trouble = "hang up"
                else:
                    change = drawn
            self._serve(body, trouble, change)
        finally:
            with provider.lock:
                provider.at_once -= 1

    def _serve(
        self, body: dict[str, Any], trouble: Trouble | str | None, change: Change | str | None
    ) -> None:
        provider = self.server
        if trouble == "silent":
            provider.ending.wait(30)
            self.close_connection = True
            return
        if trouble == "dripping head":
            self._drip_head()
            return
        if trouble == "dripping error":
            self._drip(json.dumps({"error": "x" * 5_000}).encode(), 500)
            return
        if trouble == "hang up":
            self.close_connection = True
            return
        if (
            trouble is None
            and self.headers["Authorization"] not in (f"Bearer {KEY}", "Bearer none")
            and self.headers["api-key"] != KEY
        ):
            said = f"Incorrect API key provided: {self.headers['Authorization']}"
            trouble = (401, {"message": said, "code": "invalid_api_key"}, {})
        trouble = trouble or provider.refusal(body)
        if isinstance(trouble, tuple):
            status, error, headers = trouble
            page = isinstance(error, str)
            if isinstance(error, dict):
                error = json.dumps({"error": error})
            self._send(
                error.encode() if isinstance(error, str) else error,
                status,
                ({"Content-Type": "text/html"} if page else {}) | headers,
            )
            return
        answer = provider.answer(body)
        if callable(change):
            change(answer)
        elif change is None:
            provider.usable.update(body["input"])
        raw = change if isinstance(change, bytes) else json.dumps(answer).encode()
        if change == "nested":
            raw = b"[" * 200_000
        if change == "dripping":
            self._drip(raw)
            return
        if isinstance(change, Coded):
            self._send(change.encode(raw), headers={"Content-Encoding": change.coding})
            return
        if change == "page":
            raw = b"<html>We will be back soon</html>"
        if change == "garbled":
            raw = raw[: len(raw) // 2]
        self._send(raw, promised=len(raw) + (10 if change == "truncated" else 0))

    def _drip(self, body: bytes, status: int = 200) -> None:
        """Each part comes soon after the one before, and the whole never."""
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        for part in body:
            self.wfile.write(bytes([part]))
            if self.server.ending.wait(0.01):
                return

    def _drip_head(self) -> None:
        self.wfile.write(b"HTTP/1.1 200 OK\r\n")
        while not self.server.ending.wait(0.05):
            self.wfile.write(b"X-More: to come\r\n")

    def _send(
        self,
        body: bytes,
        status: int = 200,
        headers: dict[str, str] | None = None,
        promised: int | None = None,
    ) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(promised or len(body)))
        for name, value in ({"Content-Type": "application/json"} | (headers or {})).items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)
        if promised and promised > len(body):
            self.close_connection = True


def one_less(answer: dict[str, Any]) -> None:
    answer["data"].pop()


def one_twice(answer: dict[str, Any]) -> None:
    answer["data"][-1]["index"] = 0 if len(answer["data"]) > 1 else 7


def shorter(answer: dict[str, Any]) -> None:
    answer["data"][0]["embedding"] = [0.5, 0.5]


def no_data(answer: dict[str, Any]) -> None:
    answer.pop("data")


def not_finite(answer: dict[str, Any]) -> None:
    size = len(base64.b64decode(answer["data"][0]["embedding"])) // 4
    answer["data"][0]["embedding"] = [float("nan")] * size


def shuffled(answer: dict[str, Any]) -> None:
    Random(0).shuffle(answer["data"])


# after any of these the same texts have to be sent again
UNUSABLE: Sequence[Change | str] = (
    *(one_less, shorter, no_data),
    *("garbled", "truncated", "nested"),
)


@contextmanager
def pauses(first: float, longest: float) -> Iterator[None]:
    """OpenAI's client pauses so many seconds after a failure, twice as long after the next."""
    with (
        patch("openai._base_client.INITIAL_RETRY_DELAY", first),
        patch("openai._base_client.MAX_RETRY_DELAY", longest),
    ):
        yield


@contextmanager
def serving(**options: Any) -> Iterator[Provider]:
    """The provider, for a block of work. OpenAI's client asks it again without long pauses."""
    with pauses(0.001, 0.01), Provider(**options) as provider:
        thread = Thread(target=provider.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield provider
        finally:
            provider.clients.close()
            provider.ending.set()
            provider.shutdown()
            thread.join()
