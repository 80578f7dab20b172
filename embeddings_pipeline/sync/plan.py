"""Tells what the next run of an entity would do and cost. Writes nothing, loads no model.

It goes the way of a run, comparing digests and rendering what moved, into temporary tables; so
its counts of rows and texts are those of the run, not guesses. Only tokens are estimated, and only
where texts are many. Images are not read: of URIs that are new each counts as one to encode.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass

from psycopg import Connection
from pydantic import ValidationError

from embeddings_pipeline.encoders.registry import Encoders
from embeddings_pipeline.entities.entity import Entity
from embeddings_pipeline.entities.model import ModelIdentity
from embeddings_pipeline.entities.source import bind
from embeddings_pipeline.errors import ConfigurationError
from embeddings_pipeline.store import changes, passes, planning, set_creation, staging, vector_sets
from embeddings_pipeline.store.changes import Moved
from embeddings_pipeline.store.postgres import Postgres, Row
from embeddings_pipeline.store.statements import Statements
from embeddings_pipeline.store.vector_sets import VectorSet
from embeddings_pipeline.sync import rendering, texts

# beyond so many rendered rows, tokens are counted in one window of ten
_COUNT_ALL = 20_000
_COUNT_ONE_IN = 10


@dataclass(frozen=True)
class SetPlan:
    """What a run would do to one set, in chunks and texts; `number` is None for a new one."""

    number: int | None
    live: bool
    model: str
    rows: int
    pending: int
    reusable: int
    encode: int
    tokens: int
    seconds: float | None
    cost_usd: float


@dataclass(frozen=True)
class Plan:
    """What a run would do to an entity, in rows, and to each of its sets.

    `why` gives the shares of content, template and model among the rows that are not new.
    `tokens_estimated` says that tokens were counted on a sample.
    """

    entity: str
    new: int
    changed: int
    deleted: int
    moved_partition: int
    unchanged: int
    deletes_refused: bool
    why: dict[str, float]
    tokens_estimated: bool
    sets: list[SetPlan]

    @property
    def cost_usd(self) -> float:
        """US dollars for all sets."""
        return sum(part.cost_usd for part in self.sets)


def plan(staged: Postgres, vectors: Postgres, on: Statements, encoders: Encoders) -> Plan:
    """The plan of the next run. Raises ConfigurationError where a run would."""
    with staged.connection() as source, vectors.connection() as target:
        on = Statements(on.schema, on.source)
        is_new = planning.without_tables(on, target)
        former = None if is_new else _former(target, source, on)
        if former:
            _compare(source, target, former)
            planning.keep_content_changes(target, on)
        moved = _compare(source, target, on)
        rendering.refuse_bad_ids(on, *changes.bad_ids(target))
        estimated = _render_changed(source, target, on)
        sets = _plan_sets(target, on, encoders, _sets(target, on, encoders))
        changed = moved.changed - moved.new
        content = planning.content_changes(target) if former else changed
        by_model = max((s.rows for s in sets if not s.live), default=0) - moved.new - changed
        return Plan(
            entity=on.source.entity.name,
            new=moved.new,
            changed=changed,
            deleted=moved.gone,
            moved_partition=planning.moved_partitions(
                target, on, rekeyed=passes.scheme_changed(target, on)
            ),
            unchanged=moved.stored - changed - moved.gone,
            deletes_refused=texts.too_many_deletes(on, moved),
            why=_shares(content, changed - content, 0 if is_new else max(by_model, 0)),
            tokens_estimated=estimated,
            sets=sets,
        )


def _compare(source: Connection[Row], target: Connection[Row], on: Statements) -> Moved:
    buckets, stored = changes.digests(target, on)
    with closing(staging.moved_rows(source, on.source, buckets, stored)) as rows:
        return changes.compare(target, on, buckets, stored, rows)


def _former(target: Connection[Row], source: Connection[Row], on: Statements) -> Statements | None:
    """The entity as it was declared at its last pass, where that was otherwise and still fits."""
    definition, definition_hash = on.one(
        target, "select definition, definition_hash from {entities} where entity = {entity}"
    )
    if definition_hash in ("", on.source.definition_hash):
        return None
    try:
        entity = Entity.model_validate(definition)
        columns = staging.staging_columns(source, entity.db_schema, entity.table)
        former = Statements(on.schema, bind(entity, columns))
    except (ConfigurationError, ValidationError):
        # a column of it is gone, or an earlier version wrote it: all counts as content
        return None
    return former if former.source.definition_hash == definition_hash else None


def _render_changed(source: Connection[Row], target: Connection[Row], on: Statements) -> bool:
    """Fill `planned`; whether tokens were counted for a sample alone."""
    rendered = 0
    planning.receive(target, on, [])
    for ids in changes.slices(target, "changed_rows", texts.SLICE):
        with closing(staging.read_rows(source, on.source, ids)) as rows:
            for number, batch in enumerate(rendering.batches(rows, on)):
                counted = rendered < _COUNT_ALL or number % _COUNT_ONE_IN == 0
                window = rendering.rendered(batch, on, images=None, count=counted)
                planning.receive(target, on, window.texts)
                rendered += len(batch)
    return rendered > _COUNT_ALL


def _sets(
    target: Connection[Row], on: Statements, encoders: Encoders
) -> list[tuple[VectorSet | None, ModelIdentity]]:
    wanted = encoders.of(on.source.entity).identity
    storage = set_creation.storage_of(on.source.entity, wanted.dimension)
    known = vector_sets.vector_sets(target, on, ("building", "live", "retired"))
    chosen: list[tuple[VectorSet | None, ModelIdentity]] = [
        (s, s.identity) for s in known if s.state == "live"
    ]
    of_wanted = [s for s in known if (s.identity, s.storage) == (wanted, storage)]
    if not any(s.state == "live" for s in of_wanted):
        chosen.append((of_wanted[-1] if of_wanted else None, wanted))
    return chosen


def _plan_sets(
    target: Connection[Row],
    on: Statements,
    encoders: Encoders,
    sets: Sequence[tuple[VectorSet | None, ModelIdentity]],
) -> list[SetPlan]:
    plans = []
    for vector_set, identity in sets:
        origins = vector_sets.same_model(target, on, identity)
        work = planning.work(target, on, vector_set, origins, identity.max_tokens)
        rate = planning.throughput(target, on, identity.model)
        plans.append(
            SetPlan(
                number=vector_set.number if vector_set else None,
                live=vector_set is not None and vector_set.state == "live",
                model=identity.model,
                rows=work.rows,
                pending=work.pending,
                reusable=work.reusable,
                encode=work.encode,
                tokens=work.tokens,
                seconds=work.tokens / rate if rate else None,
                cost_usd=work.tokens * encoders.usd_per_token(identity.model),
            )
        )
    return plans


def _shares(content: int, template: int, model: int) -> dict[str, float]:
    total = content + template + model
    counts = {"content": content, "template": template, "model": model}
    return {reason: rows / total if total else 0.0 for reason, rows in counts.items()}
