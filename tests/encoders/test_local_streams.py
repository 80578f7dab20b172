"""A stream of texts through a model of this machine: in workers, or by one thread."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from itertools import repeat
from pathlib import Path
from threading import Event, Lock
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch

from embeddings_pipeline.encoders.encoder import StreamingEncoder
from embeddings_pipeline.encoders.local import shared_model
from embeddings_pipeline.encoders.local.loaded_model import PreparedInput
from embeddings_pipeline.encoders.local.plain_bert import PlainBert
from embeddings_pipeline.encoders.local.sentence_transformers import SentenceTransformersModel
from embeddings_pipeline.encoders.registry import Encoders
from embeddings_pipeline.entities.model import Vectors
from embeddings_pipeline.errors import ConfigurationError, RowError
from embeddings_pipeline.settings import DEFAULT_MODEL, Settings
from tests.support.streaming import SECONDS, Source, streamed, threads_of_streams
from tests.support.waiting import until

WORDS = ["red", "shoe", "blue", "lamp", "garden", "hose", "pump", "valve"]
# of one to forty words, in no order of length
TEXTS = [" ".join(WORDS[(n + k) % 8] for k in range(1 + n * 7 % 40)) + f" {n}" for n in range(300)]

Encode = Callable[[Any, Sequence[PreparedInput]], Vectors]


class Model(NamedTuple):
    """An encoder, and the class that its model is of."""

    encoder: StreamingEncoder
    kind: type[PlainBert] | type[SentenceTransformersModel]


def model_of(
    folder: Path | None = None, *, dimension: int | None = None, **settings: Any
) -> StreamingEncoder:
    chosen = {"embedding_device": "cpu", "embedding_precision": "float32", **settings}
    made = Settings(_env_file=None, embedding_model_path=folder, **chosen)
    return Encoders(made).get(DEFAULT_MODEL, dimension)


@pytest.fixture(scope="module")
def workers() -> Model:
    return Model(model_of(), PlainBert)


@pytest.fixture(scope="module")
def alone(tiny: Path) -> Model:
    encoder = model_of(tiny / "model")
    # while a model is loaded, it encodes two texts
    encoder.check()
    return Model(encoder, SentenceTransformersModel)


@pytest.fixture(params=["workers", "alone"])
def model(request: pytest.FixtureRequest) -> Model:
    found: Model = request.getfixturevalue(request.param)
    return found


def around(
    model: Model,
    monkeypatch: pytest.MonkeyPatch,
    before: Callable[[Sequence[PreparedInput]], object],
) -> None:
    """Call `before` with each batch that the model is given."""
    whole = model.kind.encode

    def encode(self: Any, batch: Sequence[PreparedInput], *, query: bool) -> Vectors:
        before(batch)
        return whole(self, batch, query=query)

    monkeypatch.setattr(model.kind, "encode", encode)


def test_vectors_and_usage_are_those_of_one_call(
    model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    # several looks ahead, of several chunks
    monkeypatch.setattr(shared_model, "_CHUNK_TEXTS", 20)
    monkeypatch.setattr(shared_model, "_AHEAD_TOKENS", 2_000)
    texts = [*TEXTS, "", "word " * 600]
    wanted = model.encoder.encode_documents(texts)
    done = streamed(model.encoder.encode_stream(iter(texts)))
    assert (done.raised, done.places) == (None, [*range(len(texts))])
    vectors = done.vectors(model.encoder.identity.dimension)
    np.testing.assert_allclose(vectors, wanted.vectors, atol=1e-5)
    usage = done.usage
    assert (usage.texts, usage.tokens) == (len(texts), wanted.usage.tokens)
    assert usage.truncated == wanted.usage.truncated > 0


def test_a_shortened_vector_is_the_beginning_at_unit_length(workers: Model) -> None:
    done = streamed(model_of(dimension=64).encode_stream(TEXTS[:9]))
    start = workers.encoder.encode_documents(TEXTS[:9]).vectors[:, :64]
    unit = start / np.linalg.norm(start, axis=1, keepdims=True)
    np.testing.assert_allclose(done.vectors(64), unit, atol=1e-5)


def test_texts_of_like_length_share_a_batch(
    workers: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepared = Event()

    def wait(batch: Sequence[PreparedInput]) -> None:
        # until all texts were read and tokenised, and only the thread that gives them out is left
        until(lambda: prepared.is_set() or len(threads_of_streams()) == 1)
        prepared.set()

    around(workers, monkeypatch, wait)
    batches = streamed(workers.encoder.encode_stream(TEXTS)).batches
    lengths = workers.encoder.token_count.of(TEXTS)
    spreads = [
        max(found) - min(found) for b in batches for found in [[lengths[p] for p in b.places]]
    ]
    # of 300 texts of 40 lengths; as they come nearly all batches would have all
    assert np.median(spreads) < 8


def test_batches_come_out_while_the_source_waits(model: Model) -> None:
    source = Source(TEXTS, pause=150)
    batches = model.encoder.encode_stream(source)
    given: list[int] = []
    while len(given) < 150:
        given += next(batches).places
    assert sorted(given) == [*range(150)]
    assert source.read == 150
    source.go_on.set()
    assert streamed(batches).places == [*range(150, 300)]


def test_the_source_is_not_read_to_its_end_while_the_consumer_waits(
    model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shared_model, "_CHUNK_TEXTS", 10)
    # sixteen texts of fewer tokens
    monkeypatch.setattr(shared_model, "_AHEAD_TOKENS", 16 * 32)
    monkeypatch.setattr(shared_model, "_HELD", 3)
    begun: list[int] = []
    around(model, monkeypatch, lambda batch: begun.append(len(batch)))
    source = Source(repeat("a red shoe"))
    with closing(model.encoder.encode_stream(source)) as batches:
        next(batches)
        held = 3 * (min(torch.get_num_threads(), 8) if model.kind is PlainBert else 1)
        until(lambda: len(begun) == 1 + held)
        least = sum(begun) + 16 + 10 + 1
        until(lambda: source.read >= least)
    # one look ahead may be cut in batches
    assert source.read <= least + 10 + 16
    assert len(begun) == 1 + held


def test_a_batch_that_fails_has_the_error_and_the_others_come_out(
    model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    failing: list[int] = []
    lock = Lock()

    def fail(batch: Sequence[PreparedInput]) -> None:
        with lock:
            failing.append(len(batch))
            if len(failing) == 3:
                raise RuntimeError("the model stumbles")

    around(model, monkeypatch, fail)
    done = streamed(model.encoder.encode_stream(TEXTS))
    assert (done.raised, done.places) == (None, [*range(300)])
    (failed,) = [batch for batch in done.batches if batch.error]
    assert isinstance(failed.error, RuntimeError)
    assert (len(failed.places), len(failed.encodings.vectors)) == (failing[2], 0)
    assert done.usage.texts == 300 - failing[2]


@pytest.mark.parametrize(
    ("error", "ends"),
    [(ConfigurationError("gone"), True), (RowError("odd"), False), (SystemExit("gone"), True)],
)
def test_what_is_no_fault_of_texts_ends_the_stream(
    model: Model, monkeypatch: pytest.MonkeyPatch, error: BaseException, ends: bool
) -> None:
    begun: list[int] = []

    def fail(batch: Sequence[PreparedInput]) -> None:
        begun.append(len(batch))
        raise error

    around(model, monkeypatch, fail)
    done = streamed(model.encoder.encode_stream(TEXTS))
    assert done.raised is (error if ends else None)
    assert (sum(begun) < 300) == ends


def test_out_of_memory_halves_a_batch(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # a model of its own, since its batches stay small
    alone = Model(model_of(tiny / "model"), SentenceTransformersModel)
    wanted = alone.encoder.encode_documents(TEXTS).vectors
    sizes: list[int] = []

    def greedy(batch: Sequence[PreparedInput]) -> None:
        if len(batch) > 4:
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory")
        sizes.append(len(batch))

    around(alone, monkeypatch, greedy)
    done = streamed(alone.encoder.encode_stream(TEXTS))
    assert (done.raised, done.places, max(sizes)) == (None, [*range(300)], 4)
    assert not any(batch.error for batch in done.batches)
    np.testing.assert_allclose(done.vectors(24), wanted, atol=1e-5)


def test_later_batches_are_as_small_as_one_that_fitted(
    tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    alone = Model(model_of(tiny / "model", embedding_batch_tokens=1200), SentenceTransformersModel)
    alone.encoder.check()
    fitted: list[int] = []

    def greedy(batch: Sequence[PreparedInput]) -> None:
        tokens = sum(text.tokens for text in batch)
        if tokens > 800:
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory")
        fitted.append(tokens)

    around(alone, monkeypatch, greedy)
    # planned at once, so that several batches fail
    alone.encoder.encode_documents(TEXTS)
    first = len(fitted)
    alone.encoder.encode_documents(TEXTS)
    assert 450 < max(fitted[first:]) <= 600


def test_a_query_does_not_wait_for_a_stream(model: Model) -> None:
    wanted = model.encoder.encode_query(["shoe"]).vectors
    texts = repeat("a red shoe")
    with ThreadPoolExecutor(1) as other, closing(model.encoder.encode_stream(texts)) as batches:
        next(batches)
        query = other.submit(model.encoder.encode_query, ["shoe"])
        # nobody asks the stream for more
        np.testing.assert_allclose(query.result(SECONDS).vectors, wanted, atol=1e-5)
        query = other.submit(model.encoder.encode_query, ["shoe"])
        # and here it goes on as long as the query takes
        for _ in batches:
            if query.done():
                break
        np.testing.assert_allclose(query.result().vectors, wanted, atol=1e-5)


def test_a_model_without_workers_is_entered_by_one_thread_at_a_time(
    alone: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    inside: list[int] = []
    most: list[int] = []
    whole = SentenceTransformersModel.encode

    def encode(
        self: SentenceTransformersModel, batch: Sequence[PreparedInput], *, query: bool
    ) -> Vectors:
        inside.append(1)
        most.append(len(inside))
        try:
            return whole(self, batch, query=query)
        finally:
            inside.pop()

    monkeypatch.setattr(SentenceTransformersModel, "encode", encode)
    with ThreadPoolExecutor(2) as others:
        streams = [
            others.submit(lambda: streamed(alone.encoder.encode_stream(TEXTS))) for _ in range(2)
        ]
        while not all(stream.done() for stream in streams):
            alone.encoder.encode_query(["shoe"])
    assert [stream.result().places for stream in streams] == [[*range(300)]] * 2
    assert max(most) == 1


def test_what_the_source_raises_comes_after_what_the_model_has_begun(
    model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, raised = Event(), Event()
    texts: list[int] = []

    def failing() -> Iterator[str]:
        yield from TEXTS[:100]
        assert begun.wait(SECONDS)
        raised.set()
        raise ValueError("the source is broken")

    def slow(batch: Sequence[PreparedInput]) -> None:
        texts.append(len(batch))
        begun.set()
        assert raised.wait(SECONDS)

    around(model, monkeypatch, slow)
    done = streamed(model.encoder.encode_stream(failing()))
    assert str(done.raised) == "the source is broken"
    assert len(done.places) == sum(texts) > 0


def test_closing_ends_the_threads(model: Model) -> None:
    batches = model.encoder.encode_stream(repeat("a red shoe"))
    next(batches)
    batches.close()
    assert threads_of_streams() == []
    # the model is free for others
    assert model.encoder.encode_query(["shoe"]).usage.texts == 1


def test_a_model_that_cannot_be_loaded_is_said_before_a_text_is_read(
    tiny: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "spoiled"
    folder.mkdir()
    for path in (tiny / "bert").iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    encoder = model_of(folder)
    (folder / "model.safetensors").write_bytes(b"")
    source = Source(TEXTS)
    done = streamed(encoder.encode_stream(source))
    assert isinstance(done.raised, ConfigurationError)
    assert source.read == 0
