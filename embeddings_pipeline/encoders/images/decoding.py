"""Decodes images that anybody may have made."""

from __future__ import annotations

from io import BytesIO
from typing import TYPE_CHECKING

from embeddings_pipeline.errors import RowError

if TYPE_CHECKING:
    from PIL.Image import Image
    from PIL.ImageFile import ImageFile

# what cameras, scanners and the web make; each further decoder is one more to be attacked
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP")
# a model that shrinks an image further finds all that it looks for in twice its own size
_SPARE = 2
# of a long strip so much is kept, in sizes of the model, that many of them fit into memory
_LONGEST = 16
# 8192 x 6144 is what the cameras of phones make at most; in memory it has four bytes a pixel
MAX_PIXELS = 50_331_648
# decoding a WebP takes four times that: two canvases, the image as bytes, and the image
MAX_WEBP_PIXELS = MAX_PIXELS // 2
# of JPEG and GIF; in a PNG of one column each pixel is a row with an overhead of its own
MAX_EDGE = 65_535
# pixels that are in true colours at once: larger blocks than these 2 MiB leave malloc with holes
_BAND = 1 << 19
# of a step by whole pixels before the one that is fine: as near to it as cannot be seen
# (pillow.readthedocs.io, Image.resize, reducing_gap)
_GAP = 3


def decode(data: bytes, size: int) -> Image:
    """The image upright, in RGB, over white where it is transparent; of an animation the first.

    A large one is shrunk to about twice `size`, the model's own edge in pixels, while it is
    decoded where its format can do that. Raises RowError for what is no image, is broken, or has
    more pixels than are decoded.
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
        # which says where up is
        image.info.update(opened.info)
        return ImageOps.exif_transpose(image)
    # a decoder raises many kinds for a file that was cut or made to hurt
    except Exception as error:
        raise RowError(f"the image cannot be decoded: {error or type(error).__name__}") from None


def mime_type(data: bytes) -> str:
    """What the image is, like image/png. Raises RowError as `decode` does."""
    return str(_opened(data).get_format_mimetype())


def _opened(data: bytes) -> ImageFile:
    """The image, of which no more than the header is read."""
    from PIL import Image, UnidentifiedImageError

    try:
        image = Image.open(BytesIO(data), formats=FORMATS)
    except UnidentifiedImageError:
        raise RowError(f"the image is none of {', '.join(FORMATS)}, or broken") from None
    except Exception as error:
        raise RowError(f"the image cannot be opened: {error or type(error).__name__}") from None
    most = MAX_WEBP_PIXELS if image.format == "WEBP" else MAX_PIXELS
    if image.width * image.height > most or max(image.size) > MAX_EDGE:
        raise RowError(
            f"the image has {image.width:,} x {image.height:,} pixels; at most {most:,} are"
            f" decoded, and {MAX_EDGE:,} along an edge: shrink it"
        )
    return image


def _shrunk(width: int, height: int, size: int) -> tuple[int, int]:
    scale = min(1.0, _SPARE * size / min(width, height), _LONGEST * size / max(width, height))
    return max(1, round(width * scale)), max(1, round(height * scale))


def _reduced(image: Image, across: int, down: int) -> Image:
    """In true colours, and so many times smaller. Band by band: whole, a copy of the image in each
    of the modes on the way would be in memory, too."""
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
        # `convert` would clip: keep the upper byte of the two
        image = image.point(lambda value: value / 256, "L")
    wanted = "RGBA" if image.has_transparency_data else "RGB"
    return image if image.mode == wanted else image.convert(wanted)


def _over_white(image: Image) -> Image:
    from PIL import Image

    if image.mode == "RGB":
        return image
    white = Image.new("RGBA", image.size, "white")
    return Image.alpha_composite(white, image).convert("RGB")
