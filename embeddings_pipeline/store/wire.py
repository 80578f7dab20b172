"""Values on their way to Postgres and back: hashes, vectors and ids in its binary format, many at a
time; texts that its encoding has; JSON numbers without rounding.

psycopg converts value by value, which takes longer than the statement on the server.
"""

from __future__ import annotations

import codecs
import json
import struct
from collections.abc import Iterable, Sequence
from decimal import Decimal
from itertools import chain
from typing import Any, TypeAlias

import numpy as np
from psycopg import Connection, Copy, adapters
from psycopg.abc import Buffer
from psycopg.adapt import Dumper
from psycopg.pq import Format

from embeddings_pipeline.entities.fields import stand_in
from embeddings_pipeline.entities.rendering import HASH_BYTES

Matrix: TypeAlias = np.ndarray[Any, np.dtype[np.float32]]
# values of one type, each of the same size and in the server's binary format
Column: TypeAlias = np.ndarray[Any, np.dtype[Any]]

# encodings of Postgres that hold every character; SQL_ASCII holds any bytes, so those of UTF-8 too
_OF_ALL_CHARACTERS = frozenset({"UTF8", "SQL_ASCII"})
# names of encodings that Python spells otherwise
_PYTHON_NAMES = {"KOI8R": "koi8-r", "KOI8U": "koi8-u"}

_UUID_OID, _INT8_OID, _TEXT_OID = 2950, 20, 25
# COPY's binary format begins with signature, flags and extension length, and ends with a trailer
_HEADER, _TRAILER = b"PGCOPY\n\xff\r\n\0" + bytes(8), b"\xff\xff"


class BinaryArray:
    """An array parameter in the server's binary format. The statement casts it to its type."""

    def __init__(self, elements: Iterable[bytes], count: int, oid: int) -> None:
        # dimensions, has-nulls flag, element type; length and lower bound of the dimension
        head = (1, 0, oid, count, 1) if count else (0, 0, oid)
        self.data = b"".join([struct.pack(f">{len(head)}i", *head), *elements])


class _BinaryArrayDumper(Dumper):
    format = Format.BINARY

    def dump(self, obj: BinaryArray) -> Buffer:
        return obj.data


adapters.register_dumper(BinaryArray, _BinaryArrayDumper)


def hash_elements(hashes: Sequence[bytes]) -> Column:
    """Hashes as values of type uuid."""
    return np.frombuffer(b"".join(hashes), dtype=f"V{HASH_BYTES}")


def hash_array(hashes: Sequence[bytes]) -> BinaryArray:
    """Hashes as a `uuid[]` parameter."""
    return _array(hash_elements(hashes), _UUID_OID)


def text_array(texts: Sequence[str]) -> BinaryArray:
    """Texts as a `text[]` parameter."""
    encoded = [text.encode() for text in texts]
    elements = chain.from_iterable((len(text).to_bytes(4), text) for text in encoded)
    return BinaryArray(elements, len(texts), _TEXT_OID)


def number_array(numbers: Sequence[int]) -> BinaryArray:
    """Numbers as an `int8[]` parameter."""
    return _array(np.asarray(numbers, ">i8"), _INT8_OID)


def vector_elements(vectors: Matrix) -> Column:
    """Vectors, shape (n, dimension), as n values of type vector: the dimension, two empty bytes and
    big-endian floats (vector_recv of pgvector)."""
    count, dimension = vectors.shape
    fields: list[Any] = [("dimension", ">i2"), ("unused", ">i2"), ("numbers", ">f4", (dimension,))]
    elements = np.zeros(count, fields)
    elements["dimension"] = dimension
    elements["numbers"] = vectors
    return elements


def write_rows(copy: Copy, *columns: Column) -> None:
    """Send rows to a binary COPY; each column has a value for each row."""
    fields: list[Any] = [("count", ">i2")]
    for n, column in enumerate(columns):
        fields += [(f"length_{n}", ">i4"), (f"value_{n}", column.dtype)]
    rows = np.empty(len(columns[0]), fields)
    rows["count"] = len(columns)
    for n, column in enumerate(columns):
        rows[f"length_{n}"] = column.dtype.itemsize
        rows[f"value_{n}"] = column
    copy.write(_HEADER)
    copy.write(rows.view(np.uint8).data)
    copy.write(_TRAILER)


def fixed_rows(copy: Copy, columns: Sequence[tuple[str, str]]) -> np.ndarray[Any, np.dtype[Any]]:
    """The rows of a binary COPY. Its columns, given as (name, numpy type), have a fixed size and
    are never null."""
    fields: list[tuple[str, str]] = [("_count", ">i2")]
    for name, kind in columns:
        fields += [(f"_length_{name}", ">i4"), (name, kind)]
    block = b"".join(bytes(part) for part in copy)
    return np.frombuffer(block[len(_HEADER) : -len(_TRAILER)], dtype=fields)


def _array(elements: Column, oid: int) -> BinaryArray:
    rows = np.empty(len(elements), [("length", ">i4"), ("value", elements.dtype)])
    rows["length"] = elements.dtype.itemsize
    rows["value"] = elements
    return BinaryArray([rows.tobytes()], len(elements), oid)


def encoding_of(connection: Connection[Any]) -> str | None:
    """Python's name of the database's encoding; None where the database holds every character."""
    name = connection.info.parameter_status("server_encoding") or "UTF8"
    if name in _OF_ALL_CHARACTERS:
        return None
    try:
        return codecs.lookup(_PYTHON_NAMES.get(name, name.replace("WIN", "cp"))).name
    except LookupError:
        # every encoding of Postgres has ASCII
        return "ascii"


def encodable(text: str, encoding: str | None) -> bool:
    """Whether a database of this encoding holds the text."""
    if encoding is None or text.isascii():
        return True
    try:
        text.encode(encoding)
    except UnicodeEncodeError:
        return False
    return True


def stored_id(row_id: str, encoding: str | None) -> str:
    """The id as a database of this encoding holds it: itself, or its stand-in."""
    return row_id if encodable(row_id, encoding) else stand_in(row_id.encode())


def storable_message(text: str, encoding: str | None) -> str:
    """A message that a database of this encoding holds; other characters are escaped."""
    text = text.replace("\0", "\\x00")
    encoding = encoding or "utf-8"
    return text.encode(encoding, "backslashreplace").decode(encoding)


def _float(text: str) -> float | str:
    number = float(text)
    return number if Decimal(repr(number)) == Decimal(text) else text


def _integer(text: str) -> int | str:
    # a float has each integer of 15 digits
    return int(text) if len(text) <= 15 or _float(text) != text else text


# `json.loads` makes a decoder for each call with these arguments
_DECODER = json.JSONDecoder(parse_float=_float, parse_int=_integer)


def exact_json(text: str | bytes) -> Any:
    """Psycopg's `json_loads`: a number with more digits than a float has stays a text, as NaN and
    infinity are in JSON."""
    return _DECODER.decode(text if isinstance(text, str) else text.decode())
