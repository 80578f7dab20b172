"""What every command on entities begins with."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, is_dataclass
from datetime import datetime
from typing import Any

from embeddings_pipeline.engine import Engine, opened
from embeddings_pipeline.entities.entity import Entity
from embeddings_pipeline.resources.dbt_project import prepared_manifest
from embeddings_pipeline.settings import Settings


@contextmanager
def session() -> Iterator[Engine]:
    """An engine over the dbt project as it is now."""
    settings = Settings.load()
    prepared_manifest(settings)
    with opened(settings) as engine:
        yield engine


def chosen(engine: Engine, names: Sequence[str]) -> list[Entity]:
    """The named entities, or all. Raises ConfigurationError for one that is not there."""
    return [engine.entity(name) for name in names or engine.entities]


def print_json(document: object) -> None:
    """One JSON document on standard output; dataclasses as objects, times in ISO form."""
    json.dump(document, sys.stdout, default=_plain, indent=2)
    sys.stdout.write("\n")


def _plain(value: object) -> Any:
    if is_dataclass(value) and not isinstance(value, type):
        return asdict(value)
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, bytes):
        return value.hex()
    return str(value)
