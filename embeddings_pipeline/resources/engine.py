"""Hands the engine to assets, and lets whoever runs them see how far they are and stop them."""

import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from types import FrameType
from typing import Any

import dagster as dg

from embeddings_pipeline.encoders.registry import Encoders
from embeddings_pipeline.engine import Engine
from embeddings_pipeline.entities.entity import Entity
from embeddings_pipeline.errors import Interrupted
from embeddings_pipeline.settings import Settings
from embeddings_pipeline.store.postgres import Postgres
from embeddings_pipeline.store.statements import Statements
from embeddings_pipeline.sync.progress import Progress, of_progress
from embeddings_pipeline.sync.run_options import RunOptions

_LOG_EVERY_SECONDS = 5


class Running:
    """The engine of a run, opened when it is first used."""

    def __init__(self, settings: Settings, report: Callable[[Progress], None]) -> None:
        self._settings = settings
        self.report = report

    @cached_property
    def engine(self) -> Engine:
        """The databases, encoders and entities."""
        return Engine(self._settings)

    @property
    def staging(self) -> Postgres:
        """The database of the staging models."""
        return self.engine.staging

    @property
    def vectors(self) -> Postgres:
        """The database of the vectors."""
        return self.engine.vectors

    @property
    def encoders(self) -> Encoders:
        """The models, loaded when they are first used."""
        return self.engine.encoders

    def on(self, entity: Entity) -> Statements:
        """The entity checked against its staging model's columns."""
        return self.engine.on(entity)

    @property
    def settings(self) -> Settings:
        """The settings of the run."""
        return self._settings

    @property
    def keeps_cache(self) -> bool:
        """Whether the embedding caches are kept after a run."""
        return self._settings.embedding_cache_keep

    @contextmanager
    def options(
        self, run_id: str, keys: Sequence[str] | None, **config: Any
    ) -> Iterator[RunOptions]:
        """What a step of the run is asked for, by its configuration; asked to stop, the block ends
        soon.

        Without a limit of its own it may cost EMBEDDING_MAX_COST_USD. Raises
        DagsterExecutionInterruptedError when stopped, which Dagster shows as a run canceled.
        """
        if config.get("max_cost_usd") is None:
            config["max_cost_usd"] = self._settings.embedding_max_cost_usd
        with _stoppable() as stopped, self.encoders.until(stopped):
            try:
                yield RunOptions(
                    run_id=run_id, keys=keys, report=self.report, stopped=stopped, **config
                )
            except Interrupted as error:
                raise dg.DagsterExecutionInterruptedError(str(error)) from error

    def close(self) -> None:
        """Close what was opened."""
        if "engine" in self.__dict__:
            self.engine.close()


class EngineResource(dg.ConfigurableResource[Running]):
    """The engine, one for each run. `batch_size` stands in for EMBEDDING_BATCH_SIZE in a run."""

    batch_size: int | None = None

    @contextmanager
    def yield_for_execution(self, context: dg.InitResourceContext) -> Iterator[Running]:
        """Give the engine to a run, and close it when the run is over."""
        settings = Settings.load()
        if self.batch_size is not None:
            settings = settings.model_copy(update={"embedding_batch_size": self.batch_size})
        running = Running(settings, _logged(context))
        try:
            yield running
        finally:
            running.close()


def _logged(context: dg.InitResourceContext) -> Callable[[Progress], None]:
    last = time.monotonic()

    def report(progress: Progress) -> None:
        nonlocal last
        if context.log and time.monotonic() - last > _LOG_EVERY_SECONDS:
            last = time.monotonic()
            context.log.info(of_progress(progress))

    return report


@contextmanager
def _stoppable() -> Iterator[Callable[[], bool]]:
    """Whether SIGINT or SIGTERM came; a second one interrupts at once, as they do elsewhere."""
    if threading.current_thread() is not threading.main_thread():
        yield lambda: False
        return
    former = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    received = False

    def restore() -> None:
        for number, handler in former.items():
            signal.signal(number, handler)

    def note(number: int, frame: FrameType | None) -> None:
        nonlocal received
        received = True
        restore()
        sys.stderr.write("stopping; once more to stop at once\n")

    for number in former:
        signal.signal(number, note)
    try:
        yield lambda: received
    finally:
        restore()
