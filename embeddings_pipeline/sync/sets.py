"""Brings every live and building set of an entity up to date, each with its own model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from embeddings_pipeline.encoders.registry import Encoders
from embeddings_pipeline.entities.model import ModelIdentity
from embeddings_pipeline.errors import ConfigurationError, EmbeddingsError, Interrupted
from embeddings_pipeline.store import forcing, set_creation, vector_sets
from embeddings_pipeline.store.ledger import Counts
from embeddings_pipeline.store.lost_connections import resumed
from embeddings_pipeline.store.postgres import Postgres
from embeddings_pipeline.store.statements import Statements
from embeddings_pipeline.store.vector_sets import VectorSet
from embeddings_pipeline.sync.evict import evict_noted
from embeddings_pipeline.sync.request import Request
from embeddings_pipeline.sync.vectors import VectorsResult, sync_vectors


@dataclass(frozen=True)
class SetsResult:
    """What a run did to each set; `frozen` says of a live set why it was left as it is."""

    by_set: Sequence[tuple[VectorSet, VectorsResult]]
    frozen: str | None

    @property
    def counts(self) -> Counts:
        """Summed over the sets."""
        return sum((result.counts for _, result in self.by_set), Counts())

    @property
    def keys(self) -> list[str]:
        """The partitions in which something was pending in any set."""
        return sorted({key for _, result in self.by_set for key in result.keys})


def sync_sets(
    database: Postgres, on: Statements, encoders: Encoders, request: Request
) -> SetsResult:
    """Encode what is pending: first in the live set, then in one that is being built beside it.

    Raises Interrupted once `request.stopped()`; ConfigurationError where the entity's own model
    cannot be had, or where what a model costs is limited but not known. A live set of another model
    that cannot be loaded any more is frozen, and the other set goes on. Rows that were chosen by
    their ids go into the sets that there are. Limits hold for all sets together.
    """
    try:
        return _sync_sets(database, on, encoders, request)
    except EmbeddingsError as error:
        if isinstance(error, Interrupted) or not request.stopped():
            raise
        # whoever waited for a provider gave up when the stop was asked for
        raise Interrupted(f"{on.source.entity.name}: stopped, {error}") from error


def _sync_sets(
    database: Postgres, on: Statements, encoders: Encoders, request: Request
) -> SetsResult:
    wanted = None if request.ids is not None else encoders.of(on.source.entity).identity
    sets = _sets(database, on, wanted)
    done = []
    frozen = None
    for vector_set in sorted(sets, key=lambda s: s.state != "live"):
        try:
            encoder = encoders.identical(vector_set.identity)
        except ConfigurationError as error:
            frozen = f"set {vector_set.number} is frozen: {error}"
            continue
        if request.max_cost_usd is not None:
            encoders.require_price(vector_set.model)
        if request.force or vector_set.force_since:
            # until all is made anew, a cache is written to but not believed
            encoder = encoder.renewing()
        result = sync_vectors(
            database,
            on,
            vector_set,
            encoder,
            request,
            usd_per_token=encoders.usd_per_token(vector_set.model),
        )
        done.append((vector_set, result))
        request = request.less(result.counts)
    if request.force and done and all(result.finished for _, result in done):
        _finish_force(database, on, request)
    evict_noted(database, on, encoders.cache.evict)
    return SetsResult(done, frozen)


@resumed
def _sets(database: Postgres, on: Statements, wanted: ModelIdentity | None) -> list[VectorSet]:
    """The sets to be kept up to date, one of them with the wanted model."""
    with database.connection() as connection:
        if wanted is not None:
            set_creation.ensure_set(connection, on, wanted)
        return vector_sets.vector_sets(connection, on, ("live", "building"))


@resumed
def _finish_force(database: Postgres, on: Statements, request: Request) -> None:
    """The next forced run begins anew; until all sets are done it would go on."""
    with database.connection() as connection:
        forcing.finish(connection, on, request.keys)
