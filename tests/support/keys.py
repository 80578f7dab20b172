"""A key that reads and a key that writes, as SEARCH_API_KEYS has them."""

from __future__ import annotations

import hashlib

READ, WRITE = "the key that reads", "the key that writes"


def entry(name: str, scope: str, key: str) -> str:
    return f"{name}:{scope}:{hashlib.sha256(key.encode()).hexdigest()}"


KEYS = f"{entry('page', 'read', READ)}, {entry('loader', 'write', WRITE)}"


def bearer(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}
