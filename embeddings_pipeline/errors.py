"""The exceptions that callers distinguish, and a collection of the errors of several entities."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager

logger = logging.getLogger(__name__)


class EmbeddingsError(Exception):
    """The work failed (exit code 1). Subclasses give the reason."""


class ConfigurationError(EmbeddingsError):
    """The call, the settings, the declaration or the environment is wrong (exit code 2)."""


class RowError(EmbeddingsError):
    """A row or text cannot be rendered or encoded. The row is quarantined; the run continues."""


class Interrupted(EmbeddingsError):
    """The run was asked to stop and has stopped. The next run continues."""


class CostLimitReached(EmbeddingsError):
    """The next text would exceed the cost limit of the run. Finished work is kept."""


class DeletesRefused(EmbeddingsError):
    """A pass would delete more than the entity's max_delete_share. Nothing was deleted."""


class NotFound(ConfigurationError):
    """The entity, row or model does not exist."""


class RunNeeded(ConfigurationError):
    """A run must first bring the stored data of the entity up to date."""


class ReadOnly(ConfigurationError):
    """Nothing can be written: the database is a replica, the role lacks privileges, a pooler gives
    each transaction another session, or the staging models have no configured database."""


class Unavailable(ConfigurationError):
    """A database or a model cannot be used now, but may be usable later."""


class Busy(EmbeddingsError):
    """Another run works on the same rows."""


class Failures(dict[str, Exception]):
    """The errors of entities by name, collected while the work on other entities continued."""

    @contextmanager
    def of(self, entity: str) -> Iterator[None]:
        """Collect the error of a block of work on one entity. Interrupted is raised, not kept."""
        try:
            yield
        except Interrupted:
            raise
        except Exception as error:
            if not _is_expected(error):
                logger.exception("entity %r", entity)
            self[entity] = error

    def messages(self) -> dict[str, str]:
        """Return the message of each error by the entity's name."""
        return {name: _message(error) for name, error in self.items()}

    def raise_any(self) -> None:
        """Raise all errors as one, each message with its entity's name. Does nothing without any.

        The error is a ConfigurationError where all errors are.
        """
        if not self:
            return
        # entities with the same message, as for a lost database, share a line
        entities: dict[str, list[str]] = {}
        for name, message in self.messages().items():
            entities.setdefault(message, []).append(name)
        lines = [_with_names(names, message) for message, names in entities.items()]
        wrong = all(isinstance(error, ConfigurationError) for error in self.values())
        raise (ConfigurationError if wrong else EmbeddingsError)("\n".join(lines))


def _is_expected(error: Exception) -> bool:
    # slow to import: definitions of entities need it only once something failed
    import psycopg

    return isinstance(error, EmbeddingsError | psycopg.Error)


def _message(error: Exception) -> str:
    message = str(error).strip()
    if _is_expected(error):
        return message or type(error).__name__
    return f"{type(error).__name__}: {message}"


def _with_names(names: list[str], message: str) -> str:
    """Put the names before the message, unless the message already has the only name."""
    named = (f"{names[0]}: ", f"entity {names[0]!r}")
    if len(names) == 1 and (message.startswith(named[0]) or named[1] in message):
        return message
    return f"{', '.join(names)}: {message}"
