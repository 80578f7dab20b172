"""Renders a row as a text: `field: value` joined by `. `, a template, or weighted parts."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from embeddings_pipeline.entities.entity import Entity
from embeddings_pipeline.entities.template import fill
from embeddings_pipeline.errors import RowError

MAX_TEXT_BYTES = 1 << 20
# limit of an image in a column: as a base64 data URI the image must fit in MAX_TEXT_BYTES
MAX_IMAGE_BYTES = MAX_TEXT_BYTES // 4 * 3 - 300
_as_json = json.JSONEncoder(ensure_ascii=False).encode
HASH_BYTES = 16


class Rendered(NamedTuple):
    """The text of a row or of a chunk.

    `parts` and `weights` are set only where fields are weighted, `image_hash` only where the text
    is an image's URI.
    """

    text: str
    parts: tuple[str, ...] | None = None
    weights: tuple[float, ...] | None = None
    image_hash: bytes | None = None

    @property
    def inputs(self) -> tuple[str, ...]:
        """What the model reads: the text, or its weighted parts."""
        return self.parts or (self.text,)

    @property
    def text_hash(self) -> bytes:
        """The hash of what the model reads: the text, or the bytes of an image."""
        if self.image_hash is not None:
            return self.image_hash
        if self.parts is None:
            return text_hash(self.text)
        weighted = zip(self.weights or (), self.parts, strict=True)
        return content_hash(_as_json([*weighted]).encode())

    @property
    def part_hashes(self) -> list[bytes] | None:
        """The hash of each weighted part, the key of its vector in the embedding cache."""
        return None if self.parts is None else [text_hash(part) for part in self.parts]


def text_hash(text: str) -> bytes:
    """Return the hash of a text that is encoded unchanged: a part, a query or a chunk."""
    # the JSON of a list of one string, built without a list for speed
    return content_hash(f"[{_as_json(text)}]".encode())


def content_hash(data: bytes) -> bytes:
    """Return the first 16 bytes of the sha256 of a model's input, the size of a uuid."""
    return hashlib.sha256(data).digest()[:HASH_BYTES]


def render(
    entity: Entity, text_columns: tuple[str, ...], row: Mapping[str, str | None]
) -> Rendered | None:
    """Return the text of a row whose values are already text; None where all are empty. The columns
    that stand in front of each chunk are left out.

    Raises RowError for a text of more than MAX_TEXT_BYTES.
    """
    values = {column: (row[column] or "").strip() for column in text_columns}
    if not any(values.values()):
        return None
    if entity.template is not None:
        rendered = Rendered(fill(entity.template, values).strip())
    else:
        present = [c for c in text_columns if values[c] and c not in entity.repeated]
        rendered = Rendered(_joined(present, values))
        if entity.weights:
            # a part is the value without its field, so equal values are encoded once
            rendered = Rendered(
                rendered.text,
                tuple(values[column] for column in present),
                tuple(entity.weights[column] for column in present),
            )
    within_limit(rendered.text)
    return rendered


def render_header(entity: Entity, row: Mapping[str, str | None]) -> str:
    """Return what stands in front of each chunk of a row: the values of `chunk.repeat`, with the
    names of their fields where no template says how a row reads."""
    values = {column: (row[column] or "").strip() for column in entity.repeated}
    present = [column for column in entity.repeated if values[column]]
    if entity.template is not None:
        return ". ".join(values[column] for column in present)
    return _joined(present, values)


def _joined(columns: Sequence[str], values: Mapping[str, str]) -> str:
    return ". ".join(f"{column}: {values[column]}" for column in columns)


def within_limit(text: str) -> str:
    """Return the text. Raises RowError for a text of more than MAX_TEXT_BYTES."""
    # a character has at most four bytes in UTF-8
    if 4 * len(text) <= MAX_TEXT_BYTES:
        return text
    size = len(text.encode())
    if size > MAX_TEXT_BYTES:
        raise RowError(f"the text has {size:,} bytes, more than {MAX_TEXT_BYTES:,}")
    return text
