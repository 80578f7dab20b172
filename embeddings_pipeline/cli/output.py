"""The output of commands: lines, tables, or one JSON document, on stdout; messages and progress on
stderr. Control characters are escaped."""

from __future__ import annotations

import codecs
import json
import os
import re
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, is_dataclass
from datetime import datetime
from decimal import Decimal
from typing import TYPE_CHECKING, Any, Literal, TextIO

import typer

from embeddings_pipeline.cli.terminal import json_line, logs_json, printable, printable_json
from embeddings_pipeline.sync.progress import LOG_SECONDS, Report, of_progress, throttled, usd
from embeddings_pipeline.sync.progress import Progress as EntityProgress

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

_WORD = re.compile(r"[^\W\d_]")


def print_line(line: str) -> None:
    """Print a line, or several, on standard output."""
    typer.echo(printable(line))


def print_message(message: str) -> None:
    """Print a line, or several, on standard error; one JSON object where the log is JSON."""
    typer.echo(json_line(message) if logs_json() else printable(message), err=True)


def print_json(document: object) -> None:
    """Print a document as JSON; dataclasses are objects, times in ISO form."""
    # JSON is UTF-8 in every locale
    is_utf8 = codecs.lookup(sys.stdout.encoding or "utf-8").name == "utf-8"
    typer.echo(printable_json(json.dumps(document, ensure_ascii=not is_utf8, default=_plain)))


def _plain(value: object) -> Any:
    if is_dataclass(value) and not isinstance(value, type):
        return asdict(value)
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, Decimal):
        return float(value)
    raise TypeError(f"a {type(value).__name__} cannot be written as JSON")


def print_table(columns: Sequence[str], rows: Sequence[Sequence[object]], title: str = "") -> None:
    """Print a table on standard output: numbers to the right, words to the left."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(title=Text(printable(title)) if title else None, title_justify="left")
    shown = [[_shown(value) for value in row] for row in rows]
    for n, column in enumerate(columns):
        words = any(_WORD.search(row[n]) for row in shown)
        justify: Literal["left", "right"] = "left" if n == 0 or words else "right"
        # an id or a model that is wider than its column is broken, not cut
        table.add_column(Text(printable(column)), justify=justify, overflow="fold")
    for row in shown:
        # a Text has no markup: square brackets stay
        table.add_row(*(Text(printable(value)) for value in row))
    # a pipe has no width of its own
    Console(width=None if sys.stdout.isatty() else 120).print(table)


def percent(value: float | None) -> str | None:
    """A percentage, such as 99.9 %. It reads 100 % only where nothing is missing."""
    return None if value is None else f"{value:.6g} %"


@contextmanager
def progress(every_seconds: float = LOG_SECONDS) -> Iterator[Report]:
    """Show the progress of each entity on stderr: as bars in a terminal, else as lines, at most one
    in `every_seconds`; they are JSON where the log is."""
    # Dagster redirects the output of a step to files: this is the terminal itself
    with os.fdopen(os.dup(2), "w", buffering=1, errors="backslashreplace") as stderr:
        if logs_json() or not stderr.isatty():
            yield throttled(lambda now: print(_line(now), file=stderr), every_seconds)
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


def _bars(bars: Progress) -> Report:
    tasks: dict[str, TaskID] = {}

    def report(now: EntityProgress) -> None:
        task = tasks.get(now.entity)
        if task is None:
            task = tasks[now.entity] = bars.add_task(now.entity, rate=0.0, tokens=0, spent="")
        bars.update(
            task,
            completed=now.done,
            total=now.pending,
            rate=now.rate,
            tokens=now.counts.tokens if now.counts else 0,
            spent=usd(now.counts.cost_usd) if now.counts else "",
        )

    return report


def _line(now: EntityProgress) -> str:
    if not logs_json():
        return of_progress(now)
    return json_line(
        of_progress(now),
        entity=now.entity,
        done=now.done,
        pending=now.pending,
        unit=now.unit,
        eta_seconds=now.eta_seconds,
        tokens=now.counts.tokens if now.counts else None,
        cost_usd=float(now.counts.cost_usd) if now.counts else None,
    )


def _shown(value: object) -> str:
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:,.1f}"
    return f"{value:,}" if isinstance(value, int) else str(value)
