"""What commands print: tables for people, one JSON document for programs; the rest on stderr."""

from __future__ import annotations

import json
import os
import re
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, is_dataclass
from datetime import datetime
from decimal import Decimal
from typing import TYPE_CHECKING, Any, TextIO

import typer

from embeddings_pipeline.sync.progress import Progress as Done
from embeddings_pipeline.sync.progress import of_progress, usd

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

_LOG_EVERY_SECONDS = 5
_WORD = re.compile(r"[^\W\d_]")


def say(message: str) -> None:
    """A line for a person, kept out of standard output."""
    typer.echo(message, err=True)


def print_json(document: object) -> None:
    """The document that a program asked for; dataclasses are objects, times in ISO form."""
    typer.echo(json.dumps(document, ensure_ascii=False, default=_plain))


def _plain(value: object) -> Any:
    if is_dataclass(value) and not isinstance(value, type):
        return asdict(value)
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, Decimal):
        return float(value)
    raise TypeError(f"{type(value).__name__} has no place in JSON")


def print_table(columns: Sequence[str], rows: Sequence[Sequence[object]], title: str = "") -> None:
    """A table on standard output: columns of numbers to the right, of words to the left."""
    from rich.console import Console
    from rich.table import Table

    table = Table(title=title or None, title_justify="left")
    shown = [[_shown(value) for value in row] for row in rows]
    for n, column in enumerate(columns):
        words = any(_WORD.search(row[n]) for row in shown)
        table.add_column(column, justify="left" if n == 0 or words else "right")
    for row in shown:
        table.add_row(*row)
    # piped, a table keeps its width and its numbers
    Console(width=None if sys.stdout.isatty() else 120).print(table)


def percent(value: float | None) -> str | None:
    """A percentage; 100 % only where nothing is missing."""
    return None if value is None else f"{value:.6g} %"


@contextmanager
def progress() -> Iterator[Callable[[Done], None]]:
    """A bar on stderr for each entity while it is encoded; lines where that is no terminal."""
    # Dagster sends what a step writes to its own files: this is the terminal itself
    with os.fdopen(os.dup(2), "w", buffering=1) as stderr:
        if not stderr.isatty():
            yield _lines(stderr)
            return
        with _progress_bars(stderr) as bars:
            yield _bars(bars)


def _progress_bars(stderr: TextIO) -> Progress:
    from rich import progress
    from rich.console import Console

    return progress.Progress(
        progress.TextColumn("{task.description}"),
        progress.BarColumn(),
        progress.MofNCompleteColumn(),
        progress.TextColumn(
            "{task.fields[rate]:,.0f}/s, {task.fields[tokens]:,} tokens, {task.fields[spent]}"
        ),
        progress.TimeRemainingColumn(),
        console=Console(file=stderr),
        transient=True,
    )


def _bars(bars: Progress) -> Callable[[Done], None]:
    tasks: dict[str, TaskID] = {}

    def report(done: Done) -> None:
        task = tasks.get(done.entity)
        if task is None:
            task = tasks[done.entity] = bars.add_task(done.entity, rate=0.0, tokens=0, spent="")
        bars.update(
            task,
            completed=done.done,
            total=done.pending,
            rate=done.rate,
            tokens=done.counts.tokens if done.counts else 0,
            spent=usd(done.counts.cost_usd) if done.counts else "",
        )

    return report


def _lines(stderr: TextIO) -> Callable[[Done], None]:
    last = time.monotonic()

    def report(done: Done) -> None:
        nonlocal last
        if time.monotonic() - last > _LOG_EVERY_SECONDS:
            last = time.monotonic()
            stderr.write(f"{of_progress(done)}\n")

    return report


def _shown(value: object) -> str:
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:,.1f}"
    return f"{value:,}" if isinstance(value, int) else str(value)
