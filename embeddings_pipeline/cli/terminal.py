"""Text on its way to a terminal or a log: characters that would control it are shown escaped. A log
is lines of text, or of JSON.

Stored texts, ids, error messages of servers and names of files come from elsewhere. An escape
sequence in one could retitle or clear the terminal, a carriage return or a bidirectional override
could make a line read as another.
"""

from __future__ import annotations

import json
import logging
import re
from datetime import UTC, datetime
from traceback import format_exception
from types import TracebackType

from embeddings_pipeline.current_run import current_run

# C0, DEL and C1; line separators; marks, embeddings, overrides and isolates of text direction
# (unicode.org/reports/tr9); halves of surrogate pairs, which no encoding has. Not the line feed
_CONTROLS = re.compile(
    r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]"
)


def printable(text: str) -> str:
    """Return the text with its control characters escaped as in Python, like \\x1b. Lines stay."""
    return _CONTROLS.sub(lambda match: match[0].encode("unicode_escape").decode(), text)


def on_one_line(text: str) -> str:
    """Return the text as `printable` does, with its line feeds escaped as well."""
    return printable(text).replace("\n", "\\n")


def printable_json(document: str) -> str:
    """Return a JSON document whose strings have control characters as escapes of JSON."""
    return _CONTROLS.sub(lambda match: f"\\u{ord(match[0]):04x}", document)


class LogFormatter(logging.Formatter):
    """Formats a record as one printable line, and its traceback as printable lines."""

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - the name of logging
        """Return the line of a record."""
        return on_one_line(super().formatMessage(record))

    def formatException(  # noqa: N802 - the name of logging
        self,
        ei: tuple[type[BaseException], BaseException, TracebackType | None]
        | tuple[None, None, None],
    ) -> str:
        """Return the lines of a traceback."""
        return printable(super().formatException(ei))


class JsonFormatter(logging.Formatter):
    """Formats a record as one JSON object on one line, with its traceback, and the run in which its
    thread works. A record may have more `fields`."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line of a record."""
        traceback = None
        if record.exc_info and record.exc_info[1]:
            traceback = "".join(format_exception(record.exc_info[1])).rstrip()
        return json_line(
            record.getMessage(),
            time=datetime.fromtimestamp(record.created, UTC),
            level=record.levelname,
            logger=record.name,
            traceback=traceback,
            **getattr(record, "fields", {}),
        )


def json_line(
    message: str,
    *,
    time: datetime | None = None,
    level: str = "INFO",
    logger: str = "embeddings_pipeline",
    **fields: object,
) -> str:
    """Return a line of the log in JSON. `time` is now by default; fields that are None are left
    out."""
    run = current_run()
    document = {
        "time": (time or datetime.now(UTC)).isoformat(timespec="milliseconds"),
        "level": level,
        "logger": logger,
        "message": message,
        "run_id": run.run_id if run else None,
        "entity": run.entity if run else None,
        **fields,
    }
    given = {name: value for name, value in document.items() if value is not None}
    # JSON escapes the line feeds
    return printable_json(json.dumps(given, ensure_ascii=False, default=str))


def log_as_json() -> None:
    """From now on the log of this process, and the messages of its command, are JSON."""
    for handler in logging.getLogger().handlers:
        handler.setFormatter(JsonFormatter())


def logs_json() -> bool:
    """Whether the log of this process is JSON."""
    handlers = logging.getLogger().handlers
    return any(isinstance(handler.formatter, JsonFormatter) for handler in handlers)
