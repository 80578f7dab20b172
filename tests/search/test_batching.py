"""Queries that come at once go through the model together, and each gets its own answer."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from threading import Event, Lock, current_thread
from typing import Any, cast

import numpy as np
import pytest

from embeddings_pipeline.encoders.encoder import Encodings, Usage
from embeddings_pipeline.encoders.images.encoder import ImageEncoder
from embeddings_pipeline.errors import Unavailable
from embeddings_pipeline.search.batching import BatchedEncoder, BatchedImageEncoder
from embeddings_pipeline.service import models
from tests.support.published_shop import ROWS
from tests.support.serving import served
from tests.support.waiting import until
from tests.support.words import WordsEncoder
from tests.support.world import World

CLIENTS = 32


class Watched(WordsEncoder):
    """Notes its batches, lets a test hold it back, and fails where two threads enter it."""

    def __init__(self) -> None:
        super().__init__()
        self.batches: list[list[str]] = []
        self.go_on = Event()
        self.go_on.set()
        self._entered = Lock()

    def encode_query(self, texts: Sequence[str]) -> Encodings:
        if not self._entered.acquire(blocking=False):
            raise AssertionError("two threads are in the model")
        try:
            self.batches.append([*texts])
            assert self.go_on.wait(30)
            return super().encode_query(texts)
        finally:
            self._entered.release()


def batched(model: Watched, timeout: float = 30, usages: list[Usage] | None = None) -> Any:
    reported = [] if usages is None else usages
    return BatchedEncoder(model, lambda kind, usage: reported.append(usage), timeout=timeout)


def test_queries_that_come_while_the_model_is_at_work_are_its_next_batch() -> None:
    model = Watched()
    usages: list[Usage] = []
    encoder = batched(model, usages=usages)
    model.go_on.clear()
    texts = [f"query number {n}" for n in range(20)]
    with ThreadPoolExecutor(20) as threads:
        first = threads.submit(encoder.encode_query, texts[:1])
        until(lambda: model.batches)
        others = [threads.submit(encoder.encode_query, [text]) for text in texts[1:]]
        until(lambda: len(encoder._waiting) == 19)
        model.go_on.set()
        answers = [future.result() for future in (first, *others)]
    assert [len(batch) for batch in model.batches] == [1, 19]
    wanted = WordsEncoder().encode_query(texts).vectors
    assert np.allclose(np.concatenate([answer.vectors for answer in answers]), wanted)
    # each token is paid by one of them
    tokens = sum(answer.usage.tokens for answer in answers)
    assert abs(tokens - sum(usage.tokens for usage in usages)) <= 10
    assert all(answer.usage.texts == 1 for answer in answers)
    encoder.close()


def test_what_the_model_does_not_take_is_told_to_who_asked_for_it() -> None:
    model = Watched()
    encoder = batched(model)

    class Choosy:
        identity, device = model.identity, "cpu"

        def encode_query(self, texts: Sequence[str]) -> Encodings:
            made = model.encode_query(texts)
            bad = {i: "poison" for i, text in enumerate(texts) if text == "bad"}
            return Encodings(made.vectors, made.usage, bad)

    encoder._inner = Choosy()
    with ThreadPoolExecutor(3) as threads:
        model.go_on.clear()
        threads.submit(encoder.encode_query, ["first"])
        until(lambda: model.batches)
        good = threads.submit(encoder.encode_query, ["a", "b"])
        until(lambda: len(encoder._waiting) == 1)
        bad = threads.submit(encoder.encode_query, ["c", "bad"])
        until(lambda: len(encoder._waiting) == 2)
        model.go_on.set()
        assert (good.result().failures, bad.result().failures) == ({}, {1: "poison"})
    encoder.close()


def test_a_batch_is_bounded() -> None:
    model = Watched()
    encoder = batched(model)
    model.go_on.clear()
    with ThreadPoolExecutor(100) as threads:
        futures = [threads.submit(encoder.encode_query, [str(n)]) for n in range(100)]
        until(lambda: len(encoder._waiting) + sum(map(len, model.batches)) == 100)
        model.go_on.set()
        for future in futures:
            future.result()
    assert sum(map(len, model.batches)) == 100
    assert max(map(len, model.batches)) <= 64
    encoder.close()


def test_a_query_is_read_between_slices_of_many_documents() -> None:
    class Reading(Watched):
        def encode_documents(self, texts: Sequence[str]) -> Encodings:
            # both kinds are noticed alike
            return self.encode_query(texts)

    model = Reading()
    encoder = batched(model)
    model.go_on.clear()
    documents = [f"document {n}" for n in range(70)]
    with ThreadPoolExecutor(2) as threads:
        many = threads.submit(encoder.encode_documents, documents)
        until(lambda: model.batches)
        query = threads.submit(encoder.encode_query, ["query"])
        until(lambda: encoder._waiting)
        model.go_on.set()
        query.result()
        found = many.result()
    assert [len(batch) for batch in model.batches] == [32, 1, 32, 6]
    assert np.allclose(found.vectors, WordsEncoder().encode_query(documents).vectors)
    assert found.usage.texts == 70
    encoder.close()


def test_a_model_that_does_not_answer_in_time_is_unavailable_and_is_spared_the_text() -> None:
    model = Watched()
    encoder = batched(model, timeout=0.1)
    model.go_on.clear()
    with pytest.raises(Unavailable, match="did not finish within"):
        encoder.encode_query(["slow"])
    with pytest.raises(Unavailable):
        encoder.encode_query(["given up"])
    model.go_on.set()
    encoder.close()
    assert [batch for batch in model.batches if "given up" in batch] == []


def test_a_model_that_fails_fails_for_all_of_a_batch_and_works_again() -> None:
    class Failing(Watched):
        fails = True

        def encode_query(self, texts: Sequence[str]) -> Encodings:
            if self.fails:
                raise OSError("no memory")
            return super().encode_query(texts)

    model = Failing()
    encoder = batched(model)
    with pytest.raises(OSError, match="no memory"):
        encoder.encode_query(["a"])
    model.fails = False
    assert encoder.encode_query(["a"]).vectors.shape == (1, 64)
    encoder.close()


def test_many_clients_at_once_all_get_right_answers_in_few_batches(
    shop: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = Watched()
    made: list[BatchedEncoder] = []

    def noted(*args: Any, **options: Any) -> BatchedEncoder:
        made.append(BatchedEncoder(*args, **options))
        return made[-1]

    monkeypatch.setattr(models, "BatchedEncoder", noted)
    words = ["red", "blue", "green", "garden", "lamp", "shoe", "boots", "hose"]
    queries = [f"{a} {b}" for a in words for b in words][:CLIENTS]
    with served(shop.database, model) as client:

        def answer(query: str) -> list[str]:
            found = client.post("/search", json={"entity": "item", "query": query})
            assert found.status_code == 200, found.text
            return [hit["id"] for hit in found.json()["results"]]

        assert answer("something else")
        model.batches.clear()
        model.go_on.clear()
        with ThreadPoolExecutor(CLIENTS) as threads:
            futures = [threads.submit(answer, query) for query in queries]
            until(lambda: len(made[0]._waiting) + sum(map(len, model.batches)) == CLIENTS)
            model.go_on.set()
            found = dict(zip(queries, [future.result() for future in futures], strict=True))
    assert sum(map(len, model.batches)) == CLIENTS
    # those that came while the first was in the model
    assert len(model.batches) == 2
    texts = WordsEncoder().encode_query([f"name: {name}" for _, name, *_ in ROWS]).vectors
    for query, ids in found.items():
        near = texts @ WordsEncoder().encode_query([query]).vectors[0]
        assert ids == [str(ROWS[n][0]) for n in np.argsort(-near)]


def test_a_remembered_query_waits_for_no_model(shop: World) -> None:
    model = Watched()
    with served(shop.database, model) as client:
        query = {"entity": "item", "query": "red boots"}
        first = client.post("/search", json=query).json()
        model.go_on.clear()
        with ThreadPoolExecutor(1) as threads:
            slow = threads.submit(client.post, "/search", json={**query, "query": "new"})
            until(lambda: model.batches[-1] == ["new"])
            assert client.post("/search", json=query).json() == first
            model.go_on.set()
            assert slow.result().status_code == 200


class ImageQueryEncoder(Watched):
    """Takes images, too; decoding and reading note the thread that does it."""

    def __init__(self) -> None:
        super().__init__()
        self.decoding = Event()
        self.decoding.set()
        self.threads: list[str] = []

    def decoded(self, data: bytes) -> str:
        self.threads.append(current_thread().name)
        assert self.decoding.wait(30)
        return data.decode()

    def encode_decoded(self, image: str) -> Encodings:
        self.threads.append(current_thread().name)
        return self.encode_query([image])


def batched_images(
    model: ImageQueryEncoder, timeout: float = 30, reported: list[Any] | None = None
) -> Any:
    def report(kind: str, usage: Usage) -> None:
        if reported is not None:
            reported.append((kind, usage.texts))

    return BatchedImageEncoder(cast(ImageEncoder, model), report, timeout=timeout)


def test_an_image_is_decoded_apart_and_read_by_the_thread_of_the_model() -> None:
    model = ImageQueryEncoder()
    reported: list[Any] = []
    encoder = batched_images(model, reported=reported)
    wanted = WordsEncoder().encode_query(["red"]).vectors
    assert np.allclose(encoder.encode_image(b"red").vectors, wanted)
    assert [name.rpartition("_")[0] for name in model.threads] == ["decoder", "model"]
    assert reported == [("query", 1)]
    encoder.close()


def test_a_text_does_not_wait_for_an_image_that_is_being_decoded() -> None:
    model = ImageQueryEncoder()
    encoder = batched_images(model)
    model.decoding.clear()
    with ThreadPoolExecutor(1) as threads:
        slow = threads.submit(encoder.encode_image, b"red")
        until(lambda: model.threads)
        assert encoder.encode_query(["a text"]).vectors.shape == (1, 64)
        model.decoding.set()
        assert slow.result().vectors.shape == (1, 64)
    encoder.close()


@pytest.mark.parametrize("waited_for", ["decoding", "go_on"])
def test_an_image_that_takes_too_long_makes_the_model_unavailable(waited_for: str) -> None:
    model = ImageQueryEncoder()
    encoder = batched_images(model, timeout=0.1)
    getattr(model, waited_for).clear()
    with pytest.raises(Unavailable, match="did not finish within"):
        encoder.encode_image(b"slow")
    getattr(model, waited_for).set()
    encoder.close()
