"""Text on its way to a terminal or a log: characters that would control it are shown escaped.

Stored texts, ids, error messages of servers and names of files come from elsewhere. An escape
sequence in one could retitle or clear the terminal, a carriage return or a bidirectional override
could make a line read as another.
"""

from __future__ import annotations

import logging
import re
from types import TracebackType

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
