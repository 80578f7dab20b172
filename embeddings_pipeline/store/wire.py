"""Hashes and vectors in Postgres' binary format, many at a time.

psycopg converts value by value, which takes longer than the statement on the server.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np
from psycopg import Connection, Copy, adapters
from psycopg.abc import Buffer
from psycopg.adapt import Dumper
from psycopg.pq import Format

from embeddings_pipeline.entities.rendering import HASH_BYTES
from embeddings_pipeline.store.connection import only

Matrix: TypeAlias = np.ndarray[Any, np.dtype[np.float32]]

_UUID_OID, _INT8_OID = 2950, 20
# COPY's binary format begins with signature, flags and extension length, and ends with a trailer
_HEADER_BYTES, _TRAILER_BYTES = 19, 2


class BinaryArray:
    """An array parameter in the server's binary format. The statement casts it to its type."""

    def __init__(self, buffer: np.ndarray[Any, np.dtype[np.uint8]]) -> None:
        self.buffer = buffer


class _BinaryArrayDumper(Dumper):
    format = Format.BINARY

    def dump(self, obj: BinaryArray) -> Buffer:
        return obj.buffer.data


adapters.register_dumper(BinaryArray, _BinaryArrayDumper)


def hash_array(hashes: Sequence[bytes]) -> BinaryArray:
    """Hashes as a `uuid[]` parameter."""
    array, rows = _empty(len(hashes), [("hash", f"V{HASH_BYTES}")], HASH_BYTES, _UUID_OID)
    rows["hash"] = np.frombuffer(b"".join(hashes), dtype=f"V{HASH_BYTES}")
    return array


def number_array(numbers: Sequence[int]) -> BinaryArray:
    """Numbers as an `int8[]` parameter."""
    array, rows = _empty(len(numbers), [("number", ">i8")], 8, _INT8_OID)
    rows["number"] = numbers
    return array


def vector_array(vectors: Matrix, oid: int) -> BinaryArray:
    """Vectors, shape (n, dimension), as a `vector[]` parameter. `oid` identifies type vector.

    An element is its dimension, two empty bytes and big-endian floats (vector_recv of pgvector).
    """
    count, dimension = vectors.shape
    array, rows = _empty(
        count,
        [("dimension", ">i2"), ("unused", ">i2"), ("numbers", ">f4", (dimension,))],
        4 + 4 * dimension,
        oid,
    )
    rows["dimension"] = dimension
    rows["unused"] = 0
    rows["numbers"] = vectors
    return array


def vector_oid(connection: Connection[Any]) -> int:
    """The oid of type vector in this database."""
    return int(only(connection.execute("select 'vector'::regtype::oid::int8"))[0])


def fixed_rows(copy: Copy, columns: Sequence[tuple[str, str]]) -> np.ndarray[Any, np.dtype[Any]]:
    """The rows of a binary COPY. Its columns, given as (name, numpy type), have a fixed size and
    are never null."""
    fields: list[tuple[str, str]] = [("_count", ">i2")]
    for name, kind in columns:
        fields += [(f"_length_{name}", ">i4"), (name, kind)]
    block = b"".join(bytes(part) for part in copy)
    return np.frombuffer(block[_HEADER_BYTES:-_TRAILER_BYTES], dtype=fields)


def _empty(
    count: int, fields: list[Any], size: int, oid: int
) -> tuple[BinaryArray, np.ndarray[Any, np.dtype[Any]]]:
    """An array of `count` elements of `size` bytes, and the rows to fill in."""
    row = np.dtype([("length", ">i4"), *fields])
    # number of dimensions, has-nulls flag, element type; length and lower bound of the dimension
    head = np.array([1, 0, oid, count, 1] if count else [0, 0, oid], ">i4")
    buffer = np.empty(head.nbytes + count * row.itemsize, np.uint8)
    buffer[: head.nbytes] = head.view(np.uint8)
    rows = buffer[head.nbytes :].view(row)
    rows["length"] = size
    return BinaryArray(buffer), rows
