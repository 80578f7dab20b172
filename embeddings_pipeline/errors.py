"""The exceptions that callers tell apart, and those of several entities kept apart."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager

import psycopg

logger = logging.getLogger(__name__)


class EmbeddingsError(Exception):
    """The work failed: exit code 1. Any other subclass says more precisely why."""


class ConfigurationError(EmbeddingsError):
    """The call, the settings, the declaration or the environment is wrong: exit code 2."""


class RowError(EmbeddingsError):
    """One row or text cannot be rendered or encoded; it goes to quarantine, the run goes on."""


class Interrupted(EmbeddingsError):
    """The run was asked to stop and did so; started again, it goes on."""


class CostLimitReached(EmbeddingsError):
    """The next text would cost more than the run may spend; what was done is kept."""


class DeletesRefused(EmbeddingsError):
    """A pass would delete more than the entity's max_delete_share and deleted nothing."""


class NotFound(ConfigurationError):
    """There is no such entity, row or model."""


class RunNeeded(ConfigurationError):
    """What is stored of an entity has to be brought up to date by a run first."""


class Unavailable(ConfigurationError):
    """A database or a model cannot be used now, and perhaps can be later."""


class Busy(EmbeddingsError):
    """Another run is at work on the same rows."""


class Failures(dict[str, Exception]):
    """Why the work on some entities failed, by their names, while it went on with the others."""

    @contextmanager
    def of(self, entity: str) -> Iterator[None]:
        """Keep what a block of work on one entity raises. Interrupted ends the whole work."""
        try:
            yield
        except Interrupted:
            raise
        except Exception as error:
            if not isinstance(error, EmbeddingsError | psycopg.Error):
                logger.exception("entity %r", entity)
            self[entity] = error

    def told(self) -> dict[str, str]:
        """What went wrong, by the entity's name."""
        return {name: _message(error) for name, error in self.items()}

    def raise_any(self) -> None:
        """Raise all of them as one error, if there are any, each with its entity's name.

        It is a ConfigurationError where all of them are.
        """
        if not self:
            return
        # a database that is gone says the same of each
        entities: dict[str, list[str]] = {}
        for name, message in self.told().items():
            entities.setdefault(message, []).append(name)
        lines = [_with_names(names, message) for message, names in entities.items()]
        wrong = all(isinstance(error, ConfigurationError) for error in self.values())
        raise (ConfigurationError if wrong else EmbeddingsError)("\n".join(lines))


def _message(error: Exception) -> str:
    said = str(error).strip()
    if isinstance(error, EmbeddingsError | psycopg.Error):
        return said or type(error).__name__
    return f"{type(error).__name__}: {said}"


def _with_names(names: list[str], message: str) -> str:
    """The message after the names, unless the one name stands in it."""
    named = (f"{names[0]}: ", f"entity {names[0]!r}")
    if len(names) == 1 and (message.startswith(named[0]) or named[1] in message):
        return message
    return f"{', '.join(names)}: {message}"
