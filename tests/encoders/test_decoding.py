"""Decoding of images, whole, broken and hostile."""

from __future__ import annotations

import subprocess
import sys
import warnings

import numpy as np
import pytest
from PIL import Image

from embeddings_pipeline.encoders.images.decoding import decode, mime_type
from embeddings_pipeline.errors import RowError
from tests.support.pictures import bomb, file_of, picture

RED, GREY = (255, 0, 0), (128, 128, 128)


def near(image: Image.Image, at: tuple[int, int], colour: tuple[int, int, int]) -> bool:
    found = image.getpixel(at)
    assert isinstance(found, tuple)
    return all(abs(a - b) < 32 for a, b in zip(found, colour, strict=True))


@pytest.mark.parametrize(
    ("kind", "mode"),
    [
        *[("PNG", mode) for mode in ("RGB", "RGBA", "P")],
        *[("JPEG", mode) for mode in ("RGB", "CMYK")],
        *[("WEBP", mode) for mode in ("RGB", "RGBA")],
        *[("GIF", "P"), ("BMP", "RGB")],
    ],
)
def test_every_kind_becomes_the_same_colours(kind: str, mode: str) -> None:
    data = file_of(picture(mode=mode), kind)
    image = decode(data, 224)
    assert (image.mode, image.size) == ("RGB", (64, 48))
    assert near(image, (16, 12), RED)
    assert near(image, (50, 40), GREY)
    assert mime_type(data) == f"image/{kind.lower()}"


def test_a_picture_taken_sideways_stands_upright() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned clockwise
    image = decode(file_of(picture(), "JPEG", exif=exif), 224)
    assert image.size == (48, 64)
    assert near(image, (36, 16), RED)


def test_what_is_transparent_is_white() -> None:
    clear = Image.new("RGBA", (8, 8), (0, 0, 0, 0))
    assert near(decode(file_of(clear), 224), (4, 4), (255, 255, 255))


def test_sixteen_bits_are_scaled_and_not_clipped() -> None:
    deep = Image.fromarray(np.full((8, 8), 0x8000, np.uint16))
    assert near(decode(file_of(deep), 224), (4, 4), GREY)


def test_of_an_animation_the_first_image_counts() -> None:
    data = file_of(picture("red"), "GIF", save_all=True, append_images=[picture("blue")])
    assert near(decode(data, 224), (16, 12), RED)


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_a_large_image_is_shrunk_to_twice_what_the_model_sees(kind: str) -> None:
    data = file_of(picture(size=(2000, 1500)), kind)
    image = decode(data, 100)
    assert image.size == (267, 200)
    assert near(image, (66, 50), RED)


def test_an_image_that_is_shrunk_in_bands_has_no_seams() -> None:
    ramp = np.arange(1700, dtype=np.uint8)[:, None, None] // 8
    noise = np.random.default_rng(0).integers(0, 200, (1700, 1301, 3), np.uint8)
    whole = Image.fromarray(noise // 2 + ramp)
    for mode in ("RGB", "RGBA"):
        found = np.asarray(decode(file_of(whole.convert(mode)), 50), np.int16)
        wanted = np.asarray(whole.resize((100, 131), reducing_gap=3.0), np.int16)
        assert np.abs(found - wanted).max() <= 1


def test_a_long_strip_does_not_stay_long() -> None:
    assert decode(file_of(picture(size=(20_000, 10))), 32).size == (512, 1)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "GIF", "BMP"])
@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_a_truncated_file_is_a_failure_of_its_row(kind: str, share: float) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)
    data = file_of(Image.fromarray(noise), kind)
    with pytest.raises(RowError, match="the image"):
        decode(data[: int(len(data) * share)], 224)


@pytest.mark.parametrize(
    "data",
    [b"", b"hello", b"<svg xmlns='http://www.w3.org/2000/svg'/>", file_of(picture(), "TIFF")],
    ids=["empty", "text", "svg", "tiff"],
)
def test_what_is_no_image_that_we_know_is_refused(data: bytes) -> None:
    for read in (mime_type, lambda data: decode(data, 224)):
        with pytest.raises(RowError, match="another format than JPEG, PNG, WEBP, GIF, BMP"):
            read(data)


@pytest.mark.parametrize("size", [(7_100, 7_100), (60_000, 60_000), (1, 65_536)])
def test_a_bomb_is_refused_by_its_header(size: tuple[int, int]) -> None:
    with warnings.catch_warnings():
        # Pillow itself warns, then refuses
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        with pytest.raises(RowError, match="pixels"):
            decode(bomb(*size), 224)


@pytest.mark.skipif(sys.platform != "linux", reason="the peak is read from /proc")
def test_a_large_image_is_in_memory_once() -> None:
    # 4 bytes for each of 25 million pixels are 96 MiB; any copy of it would be as much again
    code = """
import re, sys
from pathlib import Path
from PIL import Image
from embeddings_pipeline.encoders.images.decoding import decode
def peak():
    return int(re.search(r"VmHWM:\\s*(\\d+) kB", Path("/proc/self/status").read_text())[1])
data = sys.stdin.buffer.read()
before = peak()
decode(data, 224)
print((peak() - before) // 1024)
"""
    clear = file_of(Image.new("RGBA", (5_000, 5_000)))
    done = subprocess.run(
        [sys.executable, "-c", code], input=clear, capture_output=True, check=True
    )
    assert 90 < int(done.stdout) < 150


def test_a_webp_may_have_half_the_pixels() -> None:
    with pytest.raises(RowError, match="the limits are 25,165,824 pixels"):
        decode(file_of(Image.new("RGB", (5_100, 5_000)), "WEBP"), 224)
