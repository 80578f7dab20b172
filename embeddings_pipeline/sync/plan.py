"""Tells what the next run of entities would do and cost. Writes nothing, loads no model.

It goes the way of a run, comparing digests and rendering what moved, into temporary tables; so
its counts of rows and texts are those of the run, not guesses. Only tokens are estimated: where
texts are many, or a provider counts them its own way. Images are not read: of URIs that are new
each counts as one to encode.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import partial

from psycopg import Connection
from pydantic import ValidationError

from embeddings_pipeline.encoders.registry import Encoders
from embeddings_pipeline.entities.chunking import count_tokens, estimate_tokens
from embeddings_pipeline.entities.entity import Entity
from embeddings_pipeline.entities.source import bind
from embeddings_pipeline.errors import ConfigurationError
from embeddings_pipeline.store import changes, entity_tables, passes, planning, staging
from embeddings_pipeline.store.changes import Moved
from embeddings_pipeline.store.planned_sets import PlannedSets
from embeddings_pipeline.store.postgres import Postgres, Row
from embeddings_pipeline.store.statements import Statements
from embeddings_pipeline.store.to_encode import Sampled
from embeddings_pipeline.sync import rendering, texts
from embeddings_pipeline.sync.request import Request
from embeddings_pipeline.sync.set_plans import SetPlan, plan_sets

# beyond so many rendered rows, tokens are estimated
_COUNT_ALL = 20_000
# a run of all that is pending
_ALL = Request(run_id="")


@dataclass(frozen=True)
class Plan:
    """What a run would do to an entity, in rows, and to each of its sets.

    `why` gives, among the rows that are not new, the shares of changed content, a changed
    template, a new model, an unfinished run before and a forced one.
    """

    entity: str
    new: int
    changed: int
    deleted: int
    moved_partition: int
    unchanged: int
    deletes_refused: bool
    why: dict[str, float]
    sets: list[SetPlan]

    @property
    def tokens_estimated(self) -> bool:
        """Whether the tokens of any set are not a count of every text as its model counts."""
        return any(part.tokens_estimated for part in self.sets)

    @property
    def cost_usd(self) -> float:
        """US dollars for all sets."""
        return sum(part.cost_usd for part in self.sets)


def plans(
    staged: Postgres,
    vectors: Postgres,
    entities: Sequence[Statements],
    encoders: Encoders,
    request: Request = _ALL,
    *,
    allow_deletes: bool = False,
) -> list[Plan]:
    """The plan of a run of each entity, asked for so and one after the other: what one has encoded
    the next takes over. Raises ConfigurationError where a run would."""
    planned = PlannedSets()
    done = []
    with staged.connection() as source, vectors.connection() as target:
        for on in entities:
            done.append(
                _plan(source, target, on, encoders, request, planned, allow_deletes=allow_deletes)
            )
            planning.forget(target)
    return done


def _plan(
    source: Connection[Row],
    target: Connection[Row],
    on: Statements,
    encoders: Encoders,
    request: Request,
    planned: PlannedSets,
    *,
    allow_deletes: bool,
) -> Plan:
    on = Statements(on.schema, on.source)
    entity_tables.refuse_other_id(target, on.schema, on.source)
    is_new = planning.without_tables(on, target)
    former = None if is_new else _former(target, source, on)
    if former:
        _compare(source, target, former)
        planning.keep_content_changes(target, on)
    moved = _compare(source, target, on)
    rendering.refuse_bad_ids(on, *changes.bad_ids(target))
    estimated = _render_changed(source, target, on)
    read = partial(_read_texts, source, on)
    sets = plan_sets(target, on, encoders, request, read, planned, estimated=estimated)
    changed = moved.changed - moved.new
    content = planning.content_changes(target) if former else changed
    return Plan(
        entity=on.source.entity.name,
        new=moved.new,
        changed=changed,
        deleted=moved.gone,
        moved_partition=planning.moved_partitions(
            target, on, rekeyed=passes.scheme_changed(target, on)
        ),
        unchanged=moved.stored - changed - moved.gone,
        deletes_refused=not allow_deletes and texts.too_many_deletes(on, moved),
        why=_why(moved, content, sets, force=request.force),
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
    """Fill `planned`; whether the tokens of some texts were estimated."""
    rendered = 0
    planning.receive(target, on, [])
    for ids in changes.slices(target, "changed_rows", texts.SLICE):
        with closing(staging.read_rows(source, on.source, ids)) as rows:
            for batch in rendering.batches(rows, on):
                count = estimate_tokens if rendered >= _COUNT_ALL else count_tokens
                window = rendering.rendered(batch, on, images=None, count=count)
                planning.receive(target, on, window.texts)
                rendered += len(batch)
    return rendered > _COUNT_ALL


def _read_texts(
    source: Connection[Row], on: Statements, wanted: Mapping[bytes, str]
) -> list[Sampled]:
    """What rows of staging say, of the texts whose hashes are wanted."""
    if on.source.entity.image:
        return []
    with closing(staging.read_rows(source, on.source, [*set(wanted.values())])) as rows:
        found = {
            text.text_hash: Sampled(text.parts or [text.text], text.part_tokens or [text.tokens])
            for batch in rendering.batches(rows, on)
            for text in rendering.rendered(batch, on, images=None).texts
            if text.text is not None and text.text_hash is not None
        }
    return [found[key] for key in wanted if key in found]


def _why(moved: Moved, content: int, sets: Sequence[SetPlan], *, force: bool) -> dict[str, float]:
    """The shares of what makes work of rows that are not new."""
    changed = moved.changed - moved.new
    live = [part for part in sets if part.live]
    # of another model than the live set, or what a run before left over
    model = max((part.waiting for part in sets if not part.live), default=0) if live else 0
    waiting = max((part.waiting for part in live or sets), default=0)
    counts = {
        "content": content,
        "template": changed - content,
        "model": 0 if force else max(model - waiting, 0),
        "unfinished": 0 if force else waiting,
        "forced": max(model, waiting) if force else 0,
    }
    total = sum(counts.values())
    return {reason: rows / total if total else 0.0 for reason, rows in counts.items()}
