"""Hashes and vectors as Postgres receives and sends them, many at a time.

psycopg converts value by value, which takes longer than the server does with them.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, TypeAlias
from uuid import UUID

import numpy as np
from psycopg import Connection, Copy, adapters
from psycopg.adapt import Dumper
from psycopg.pq import Format

from embeddings_pipeline.entities.serialise import HASH_BYTES
from embeddings_pipeline.store.postgres import only

Matrix: TypeAlias = np.ndarray[Any, np.dtype[np.float32]]

_UUID_OID = 2950
# of COPY's binary format: signature, flags and length of an extension; and its end
_HEADER_BYTES, _TRAILER_BYTES = 19, 2


class BinaryArray(bytes):
    """An array parameter in the server's binary format; a cast in the statement says its type."""


class _BinaryArrayDumper(Dumper):
    format = Format.BINARY

    def dump(self, obj: BinaryArray) -> bytes:
        return bytes(obj)


adapters.register_dumper(BinaryArray, _BinaryArrayDumper)


def hash_array(hashes: Sequence[bytes]) -> BinaryArray:
    """The parameter of a `uuid[]`."""
    rows = np.empty(len(hashes), dtype=[("length", ">i4"), ("hash", f"V{HASH_BYTES}")])
    rows["length"] = HASH_BYTES
    rows["hash"] = np.frombuffer(b"".join(hashes), dtype=f"V{HASH_BYTES}")
    return _array(rows, _UUID_OID)


def vector_array(vectors: Matrix, oid: int) -> BinaryArray:
    """The parameter of a `vector[]`, from shape (n, dimension); `oid` is that of type vector.

    Each is its dimension, two empty bytes and big-endian floats (vector_recv of pgvector).
    """
    count, dimension = vectors.shape
    rows = np.zeros(
        count,
        dtype=[
            ("length", ">i4"),
            ("dimension", ">i2"),
            ("unused", ">i2"),
            ("numbers", ">f4", (dimension,)),
        ],
    )
    rows["length"] = 4 + 4 * dimension
    rows["dimension"] = dimension
    rows["numbers"] = vectors
    return _array(rows, oid)


def vector_oid(connection: Connection[Any]) -> int:
    """The oid of type vector in this database."""
    return int(only(connection.execute("select 'vector'::regtype::oid::int8"))[0])


def hashes_of(values: Iterable[UUID]) -> list[bytes]:
    """The hashes that a query gave."""
    return [value.bytes for value in values]


def fixed_rows(copy: Copy, columns: Sequence[tuple[str, str]]) -> np.ndarray[Any, np.dtype[Any]]:
    """The rows of a binary COPY whose columns, given as (name, numpy type), are never null and
    always of one size."""
    fields: list[tuple[str, str]] = [("_count", ">i2")]
    for name, kind in columns:
        fields += [(f"_length_{name}", ">i4"), (name, kind)]
    block = b"".join(bytes(part) for part in copy)
    return np.frombuffer(block[_HEADER_BYTES:-_TRAILER_BYTES], dtype=fields)


def _array(rows: np.ndarray[Any, np.dtype[Any]], oid: int) -> BinaryArray:
    if not len(rows):
        # no dimension, no nulls
        return BinaryArray(np.array([0, 0, oid], ">i4").tobytes())
    head = np.array([1, 0, oid, len(rows), 1], ">i4")
    return BinaryArray(head.tobytes() + rows.tobytes())
