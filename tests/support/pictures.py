"""Image files as cameras, scanners, browsers and attackers make them."""

from __future__ import annotations

import struct
import zlib
from base64 import b64encode
from io import BytesIO
from typing import Any

from PIL import Image, ImageDraw


def picture(
    colour: str = "red", size: tuple[int, int] = (64, 48), mode: str = "RGB"
) -> Image.Image:
    """A disc of a colour on grey, in the left half: it can be seen which way is up."""
    image = Image.new("RGB", size, "grey")
    width, height = size
    ImageDraw.Draw(image).ellipse((0, 0, width // 2, height // 2), fill=colour)
    return image.quantize() if mode == "P" else image.convert(mode)


def file_of(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    buffer = BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def data_uri(data: bytes) -> str:
    return f"data:image/png;base64,{b64encode(data).decode()}"


def bomb(width: int, height: int) -> bytes:
    """A PNG with this number of black pixels in a few bytes; its body is cut off."""
    header = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    body = zlib.compress(bytes(1_000))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in [(b"IHDR", header), (b"IDAT", body), (b"IEND", b"")]
    )
