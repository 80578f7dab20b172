"""Renders a row whose document is an image: its text is the image's URI."""

from __future__ import annotations

from base64 import b64decode
from collections.abc import Mapping

from embeddings_pipeline.encoders.image_files import ImageFiles
from embeddings_pipeline.encoders.pixels import mime_type
from embeddings_pipeline.entities.serialise import (
    MAX_IMAGE_BYTES,
    Rendered,
    content_hash,
    within_limit,
)
from embeddings_pipeline.entities.source import BYTES, Source
from embeddings_pipeline.errors import RowError


def render_image(source: Source, value: str | None, images: ImageFiles | None) -> Rendered | None:
    """The image of a row, hashed by its bytes; None where the row has none.

    `value` is a URI or, of a column of bytes, base64. Without `images` nothing is read, and a URI
    is hashed in place of what is behind it. Raises RowError for an image that cannot be had.
    """
    value = (value or "").strip()
    if not value:
        return None
    if source.columns[source.text_columns[0]] == BYTES:
        uri, data = _data_uri(value)
    else:
        uri = within_limit(value)
        data = images.read(uri) if images else uri.encode()
    return Rendered(uri, image_hash=content_hash(data))


def image_uri(source: Source, values: Mapping[str, str | None]) -> str | None:
    """Where the image of a row is; None for an entity of texts, or of images in a column."""
    image = source.entity.image
    return (values[image] or "").strip() if image and source.has_uris else None


def _data_uri(base64: str) -> tuple[str, bytes]:
    data = b64decode(base64)
    if len(data) > MAX_IMAGE_BYTES:
        raise RowError(
            f"the image has more than the {MAX_IMAGE_BYTES:,} bytes that fit into a text as a data"
            " URI: keep images as large in files or a bucket, and their URIs in the column"
        )
    return f"data:{mime_type(data)};base64,{base64}", data
