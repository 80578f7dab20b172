"""Images and texts as vectors of one space, by a small model of CLIP's architecture."""

from __future__ import annotations

from base64 import b64decode
from collections.abc import Sequence
from contextlib import closing
from itertools import repeat
from pathlib import Path
from threading import Barrier
from typing import Any

import numpy as np
import pytest
from PIL import Image

from embeddings_pipeline.encoders.images.encoder import ImageEncoder
from embeddings_pipeline.encoders.images.sources import PROBE, ImageFiles, pinned
from embeddings_pipeline.encoders.local.sentence_transformers import SentenceTransformersModel
from embeddings_pipeline.encoders.registry import Encoders
from embeddings_pipeline.entities.model import Vectors
from embeddings_pipeline.errors import ConfigurationError
from embeddings_pipeline.settings import DEFAULT_MODEL, Settings
from tests.support.clip import DIMENSION, MAX_TOKENS
from tests.support.declared import declared
from tests.support.pictures import data_uri, file_of, picture
from tests.support.remembering import remembering
from tests.support.streaming import Source, streamed
from tests.support.waiting import until

MODEL = "some/clip"
SIZES = [(64, 48), (33, 200), (1, 1), (900, 700), (32, 32)]


def encoders(folder: Path, **settings: Any) -> Encoders:
    chosen = {"embedding_model": MODEL, "embedding_model_path": folder, **settings}
    return Encoders(Settings(_env_file=None, embedding_device="cpu", **chosen))


def encoder(folder: Path, **settings: Any) -> ImageEncoder:
    made = encoders(folder, embedding_precision="float32", **settings).get(MODEL)
    assert isinstance(made, ImageEncoder)
    return made


@pytest.fixture(params=["plain", "packed"])
def layout(request: pytest.FixtureRequest, clip: Path) -> Path:
    return clip / str(request.param)


def directly(folder: Path, images: Sequence[Image.Image], texts: Sequence[str]) -> list[Vectors]:
    """What `transformers` makes of images and texts, without any code of ours."""
    import torch
    from transformers import CLIPImageProcessorPil, CLIPModel, CLIPTokenizer

    model = CLIPModel.from_pretrained(folder)
    pixels = CLIPImageProcessorPil.from_pretrained(folder)(list(images), return_tensors="pt")
    tokens = CLIPTokenizer.from_pretrained(folder)(
        list(texts), return_tensors="pt", padding=True, truncation=True
    )
    with torch.inference_mode():
        of_images = model.get_image_features(**pixels).pooler_output
        of_texts = model.get_text_features(**tokens).pooler_output
    return [of_images.numpy(), of_texts.numpy()]


def test_vectors_are_those_of_transformers_in_both_layouts(clip: Path, layout: Path) -> None:
    # small enough that none is shrunk before the model does it
    pictures = [picture(colour, (60, 50)) for colour in ("red", "blue", "green")]
    texts = ["a red disc", "photo of a blue disc on grey"]
    found = encoder(layout)
    images, queries = directly(clip / "plain", pictures, texts)
    uris = [data_uri(file_of(image)) for image in pictures]
    np.testing.assert_allclose(found.encode_documents(uris).vectors, images, atol=1e-5)
    np.testing.assert_allclose(found.encode_query(texts).vectors, queries, atol=1e-5)


def test_the_model_is_known_without_loading_it(layout: Path) -> None:
    identity = encoder(layout).identity
    assert identity.dimension == DIMENSION
    assert identity.max_tokens == MAX_TOKENS
    assert not identity.normalized
    assert identity.revision == encoder(layout.parent / "plain").identity.revision


def test_shrinking_a_large_image_hardly_moves_its_vector(clip: Path) -> None:
    noise = np.random.default_rng(0).normal(0, 20, (1500, 2000, 3))
    large = Image.fromarray(
        np.clip(np.asarray(picture(size=(2000, 1500))) + noise, 0, 255).astype("uint8")
    )
    whole, _ = directly(clip / "plain", [large], ["a"])
    for kind in ("PNG", "JPEG"):
        ours = encoder(clip / "plain").encode_documents([data_uri(file_of(large, kind))]).vectors
        cosine = (ours @ whole.T) / np.linalg.norm(ours) / np.linalg.norm(whole)
        assert cosine.item() > 0.999


@pytest.mark.parametrize("batch_texts", [1, 2, 256])
def test_vectors_stand_in_the_order_of_their_images(clip: Path, batch_texts: int) -> None:
    uris = [data_uri(file_of(picture("red", size))) for size in SIZES]
    alone = [encoder(clip / "plain").encode_documents([uri]).vectors[0] for uri in uris]
    together = encoder(clip / "plain", embedding_batch_size=batch_texts).encode_documents(uris)
    np.testing.assert_allclose(together.vectors, np.stack(alone), atol=1e-5)
    assert together.usage.texts == len(uris)
    assert together.usage.tokens == 0


def test_what_cannot_be_decoded_or_read_fails_alone(clip: Path) -> None:
    good = data_uri(file_of(picture()))
    uris = [data_uri(b"junk"), good, "missing.png", good, pinned(good, bytes(16))]
    done = encoder(clip / "plain").encode_documents(uris)
    assert sorted(done.failures) == [0, 2, 4]
    assert "another format than JPEG" in done.failures[0]
    assert "EMBEDDING_IMAGE_ROOT" in done.failures[2]
    assert "has changed since" in done.failures[4]
    assert done.usage.texts == 2
    np.testing.assert_array_equal(done.vectors[1], done.vectors[3])
    assert done.vectors[1].any()


def test_a_stream_of_images_has_the_vectors_and_failures_of_one_call(clip: Path) -> None:
    good = [data_uri(file_of(picture("red", size))) for size in SIZES]
    uris = [*good, data_uri(b"junk"), *good, "missing.png", *good]
    found = encoder(clip / "plain", embedding_batch_size=4)
    wanted = found.encode_documents(uris)
    done = streamed(found.encode_stream(iter(uris)))
    assert (done.raised, done.places) == (None, [*range(len(uris))])
    assert done.failures == wanted.failures
    assert sorted(done.failures) == [5, 11]
    np.testing.assert_allclose(done.vectors(DIMENSION), wanted.vectors, atol=1e-5)
    assert done.usage.texts == wanted.usage.texts == 15
    assert max(len(batch.places) for batch in done.batches) == 4


def test_images_come_out_while_the_source_waits_and_are_decoded_a_few_ahead(clip: Path) -> None:
    uri = data_uri(file_of(picture()))
    found = encoder(clip / "plain", embedding_batch_size=4)
    source = Source(repeat(uri), pause=10)
    with closing(found.encode_stream(source)) as batches:
        given: list[int] = []
        while len(given) < 10:
            given += next(batches).places
        assert sorted(given) == [*range(10)]
        source.go_on.set()
        next(batches)
        # held: 16 batches of at most 4; then a batch that is cut and one that is decoded, and four
        # images each that are being decoded and that are read
        until(lambda: source.read > 10 + 4)
    assert source.read <= 10 + 4 * (1 + 16 + 2 + 2) + 4 + 1


def test_images_are_read_by_four_threads_at_once(
    clip: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    four = Barrier(4)
    whole = ImageFiles.read

    def meet(self: ImageFiles, uri: str) -> bytes:
        # it ends only if there are always four
        four.wait(30)
        return whole(self, uri)

    monkeypatch.setattr(ImageFiles, "read", meet)
    uris = [data_uri(file_of(picture()))] * 12
    assert streamed(encoder(clip / "plain").encode_stream(uris)).places == [*range(12)]


def test_a_batch_of_images_that_fails_has_the_error_and_the_others_come_out(
    clip: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = SentenceTransformersModel.encode
    begun: list[int] = []

    def fail(self: SentenceTransformersModel, batch: Sequence[Any], *, query: bool) -> Vectors:
        begun.append(len(batch))
        if len(begun) == 2:
            raise RuntimeError("the model stumbles")
        return whole(self, batch, query=query)

    monkeypatch.setattr(SentenceTransformersModel, "encode", fail)
    uris = [data_uri(file_of(picture("red", (n + 1, 20)))) for n in range(12)]
    found = encoder(clip / "plain", embedding_batch_size=4)
    done = streamed(found.encode_stream(uris))
    assert (done.raised, done.places) == (None, [*range(12)])
    (failed,) = [batch for batch in done.batches if batch.error]
    assert (str(failed.error), len(failed.places)) == ("the model stumbles", begun[1])
    begun.clear()
    with pytest.raises(RuntimeError, match="the model stumbles"):
        found.encode_documents(uris)


def test_an_image_as_a_query_has_the_vector_that_it_has_as_a_document(clip: Path) -> None:
    data = file_of(picture("blue", (900, 700)), "JPEG")
    found = encoder(clip / "plain")
    done = found.encode_image(data)
    np.testing.assert_array_equal(done.vectors, found.encode_documents([data_uri(data)]).vectors)
    assert (done.usage.texts, done.failures) == (1, {})


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"junk", "another format than JPEG"),
        (file_of(picture())[:60], "decoded"),
        (bytes(2000), "1,000 bytes"),
    ],
)
def test_of_a_query_that_is_no_image_it_is_said_why(clip: Path, data: bytes, said: str) -> None:
    done = encoder(clip / "plain", embedding_image_max_bytes=1000).encode_image(data)
    assert said in done.failures[0]
    assert done.usage.texts == 0


def test_only_a_model_that_sees_takes_an_image_as_a_query(clip: Path) -> None:
    made = encoders(clip / "plain")
    encoder = remembering(made, MODEL).image_encoder
    assert encoder.encode_image(file_of(picture())).usage.texts == 1
    with pytest.raises(ConfigurationError, match=f"model '{DEFAULT_MODEL}' reads only text"):
        _ = remembering(made, DEFAULT_MODEL).image_encoder


def test_nothing_but_failures_needs_no_model_at_work(clip: Path) -> None:
    done = encoder(clip / "plain").encode_documents(["a", "b"])
    assert sorted(done.failures) == [0, 1]
    assert done.vectors.shape == (2, DIMENSION)


def test_the_probe_is_an_image(clip: Path) -> None:
    assert not encoder(clip / "plain").encode_documents([PROBE]).failures
    assert b64decode(PROBE.partition(",")[2]).startswith(b"\x89PNG")


def test_out_of_memory_halves_the_batches_of_images(
    clip: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes: list[int] = []
    whole = SentenceTransformersModel.encode

    def greedy(self: SentenceTransformersModel, batch: Sequence[Any], *, query: bool) -> Vectors:
        sizes.append(len(batch))
        if len(batch) > 16:
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory")
        return whole(self, batch, query=query)

    uris = [data_uri(file_of(picture("red", (n + 1, 20)))) for n in range(40)]
    expected = encoder(clip / "plain").encode_documents(uris).vectors
    # 17 tokens an image: room for 32 of them
    short = encoder(clip / "plain", embedding_batch_tokens=32 * 17)
    short.check()
    monkeypatch.setattr(SentenceTransformersModel, "encode", greedy)
    np.testing.assert_allclose(short.encode_documents(uris).vectors, expected, atol=1e-5)
    assert sizes == [32, 16, 16, 8]


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_a_lower_precision_gives_nearly_the_same_vectors(clip: Path, precision: str) -> None:
    uris = [data_uri(file_of(picture("red", size))) for size in SIZES]
    exact = encoder(clip / "plain").encode_documents(uris).vectors
    made = encoders(clip / "plain", embedding_precision=precision).get(MODEL)
    rough = made.encode_documents(uris).vectors
    assert rough.dtype == np.float32
    cosines = (rough * exact).sum(1) / np.linalg.norm(rough, axis=1) / np.linalg.norm(exact, axis=1)
    assert cosines.min() > 0.99


def test_an_entity_of_images_needs_a_model_that_sees(clip: Path) -> None:
    made = encoders(clip / "plain")
    assert isinstance(made.for_entity(declared(image="photo")), ImageEncoder)
    with pytest.raises(
        ConfigurationError, match=r"'product': model .* reads only text; .*clip-ViT"
    ):
        made.for_entity(declared(image="photo", model=DEFAULT_MODEL))
    with pytest.raises(ConfigurationError, match="documents of model 'some/clip' are images"):
        made.for_entity(declared())


def test_pickled_weights_are_refused(clip: Path, tmp_path: Path) -> None:
    folder = tmp_path / "pickled"
    folder.mkdir()
    for file in (clip / "plain").glob("*.json"):
        (folder / file.name).write_bytes(file.read_bytes())
    (folder / "pytorch_model.bin").write_bytes(b"")
    with pytest.raises(ConfigurationError, match="no safetensors weights"):
        encoder(folder)
