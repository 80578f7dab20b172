"""Decodes images from untrusted sources."""

from __future__ import annotations

from io import BytesIO
from typing import TYPE_CHECKING

from embeddings_pipeline.errors import RowError

if TYPE_CHECKING:
    from PIL.Image import Image
    from PIL.ImageFile import ImageFile

# the formats of cameras, scanners and the web; each further decoder adds an attack surface
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP")
# an image is kept at twice the model's size, so that the model's own resizing loses no detail
_SPARE = 2
# longest edge of an elongated image, in multiples of the model's size, to limit memory
_LONGEST = 16
# 8192 x 6144, the largest image of phone cameras; four bytes a pixel in memory
MAX_PIXELS = 50_331_648
# decoding a WebP holds four copies: two canvases, the bytes and the image
MAX_WEBP_PIXELS = MAX_PIXELS // 2
# the limit of JPEG and GIF, for all formats: a PNG of one column has an overhead for each pixel
MAX_EDGE = 65_535
# pixels converted to true colour at once: blocks above 2 MiB fragment the heap
_BAND = 1 << 19
# reducing_gap of Image.resize: 3 is indistinguishable from full resampling
# (pillow.readthedocs.io, Image.resize)
_GAP = 3


def decode(data: bytes, size: int) -> Image:
    """Return the image upright, in RGB, on white where transparent; the first of an animation.

    A large image is shrunk to about twice `size`, the model's edge in pixels, during decoding where
    the format allows. Raises RowError for bytes that are not an image, a damaged image, and an
    image with more pixels than MAX_PIXELS.
    """
    from PIL import ImageOps

    opened = _opened(data)
    try:
        opened.draft("RGB", _shrunk(*opened.size, size))
        smaller = _shrunk(*opened.size, size)
        steps = [max(1, old // new // _GAP) for old, new in zip(opened.size, smaller, strict=True)]
        image = _reduced(opened, *steps)
        if image.size != smaller:
            width, height = opened.size
            image = image.resize(smaller, box=(0, 0, width / steps[0], height / steps[1]))
        # the EXIF data has the orientation
        image.info.update(opened.info)
        return ImageOps.exif_transpose(image)
    # a decoder may raise any exception for a truncated or malicious file
    except Exception as error:
        raise RowError(f"the image cannot be decoded: {error or type(error).__name__}") from None


def mime_type(data: bytes) -> str:
    """Return the MIME type of the image, like image/png. Raises RowError as `decode` does."""
    return str(_opened(data).get_format_mimetype())


def _opened(data: bytes) -> ImageFile:
    """Open the image and check its size; only the header is read."""
    from PIL import Image, UnidentifiedImageError

    try:
        image = Image.open(BytesIO(data), formats=FORMATS)
    except UnidentifiedImageError:
        raise RowError(
            f"the image is damaged or has another format than {', '.join(FORMATS)}"
        ) from None
    except Exception as error:
        raise RowError(f"the image cannot be opened: {error or type(error).__name__}") from None
    most = MAX_WEBP_PIXELS if image.format == "WEBP" else MAX_PIXELS
    if image.width * image.height > most or max(image.size) > MAX_EDGE:
        raise RowError(
            f"the image has {image.width:,} x {image.height:,} pixels; the limits are {most:,}"
            f" pixels and {MAX_EDGE:,} along an edge: shrink the image"
        )
    return image


def _shrunk(width: int, height: int, size: int) -> tuple[int, int]:
    scale = min(1.0, _SPARE * size / min(width, height), _LONGEST * size / max(width, height))
    return max(1, round(width * scale)), max(1, round(height * scale))


def _reduced(image: Image, across: int, down: int) -> Image:
    """Convert to true colour and reduce by whole factors.

    Works in bands: conversions of the whole image would each hold a full copy in memory.
    """
    from PIL import Image

    width, height = image.size
    reduced = Image.new("RGB", (-(-width // across), -(-height // down)))
    rows = max(1, _BAND // (width * down)) * down
    for top in range(0, height, rows):
        band = image.crop((0, top, width, min(top + rows, height)))
        coloured = _over_white(_in_true_colours(band))
        reduced.paste(coloured.reduce((across, down)), (0, top // down))
    return reduced


def _in_true_colours(image: Image) -> Image:
    if image.mode.startswith("I;16"):
        # `convert` would clip 16-bit values: keep the upper byte
        image = image.point(lambda value: value / 256, "L")
    mode = "RGBA" if image.has_transparency_data else "RGB"
    return image if image.mode == mode else image.convert(mode)


def _over_white(image: Image) -> Image:
    from PIL import Image

    if image.mode == "RGB":
        return image
    white = Image.new("RGBA", image.size, "white")
    return Image.alpha_composite(white, image).convert("RGB")
