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


def decode(data: bytes, size: int) -> Image:
    """The image upright, in RGB, over white where it is transparent; of an animation the first.

    A large one is shrunk to about twice `size`, the model's own edge in pixels, while it is
    decoded where its format can do that. Raises RowError for what is no image, is broken, or has
    more pixels than Pillow holds safe (Image.MAX_IMAGE_PIXELS).
    """
    from PIL import ImageOps

    opened = _opened(data)
    try:
        opened.draft("RGB", _shrunk(*opened.size, size))
        image = _in_true_colours(opened)
        if image.size != (smaller := _shrunk(*image.size, size)):
            image = image.resize(smaller, reducing_gap=3.0)
        return _over_white(ImageOps.exif_transpose(image))
    # a decoder raises many kinds for a file that was cut or made to hurt
    except Exception as error:
        raise RowError(f"the image cannot be decoded: {error or type(error).__name__}") from None


def mime_type(data: bytes) -> str:
    """What the image is, like image/png. Raises RowError as `decode` does."""
    return str(_opened(data).get_format_mimetype())


def _opened(data: bytes) -> ImageFile:
    """The image, of which no more than the header is read."""
    from PIL import Image, UnidentifiedImageError

    most = Image.MAX_IMAGE_PIXELS or 0
    try:
        image = Image.open(BytesIO(data), formats=FORMATS)
    except UnidentifiedImageError:
        raise RowError(f"the image is none of {', '.join(FORMATS)}, or broken") from None
    except Exception as error:
        raise RowError(f"the image cannot be opened: {error or type(error).__name__}") from None
    if image.width * image.height > most:
        raise RowError(
            f"the image has {image.width:,} x {image.height:,} pixels; at most {most:,} are decoded"
        )
    return image


def _shrunk(width: int, height: int, size: int) -> tuple[int, int]:
    scale = min(1.0, _SPARE * size / min(width, height), _LONGEST * size / max(width, height))
    return max(1, round(width * scale)), max(1, round(height * scale))


def _in_true_colours(image: Image) -> Image:
    if image.mode.startswith("I;16"):
        # `convert` would clip: keep the upper byte of the two
        image = image.point(lambda value: value / 256, "L")
    return image.convert("RGBA" if image.has_transparency_data else "RGB")


def _over_white(image: Image) -> Image:
    from PIL import Image

    if image.mode == "RGBA":
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert("RGB")
