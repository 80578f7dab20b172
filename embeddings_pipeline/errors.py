"""The exceptions that callers tell apart."""


class EmbeddingsError(Exception):
    """The work failed: exit code 1. Any other subclass says more precisely why."""


class ConfigurationError(EmbeddingsError):
    """The call, the settings, the declaration or the environment is wrong: exit code 2."""


class RowError(EmbeddingsError):
    """One row or text cannot be rendered or encoded; it goes to quarantine, the run goes on."""


class Interrupted(EmbeddingsError):
    """The run was asked to stop and did so between two windows; started again, it goes on."""


class CostLimitReached(EmbeddingsError):
    """The next window would cost more than the run may spend; what was done is kept."""


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
