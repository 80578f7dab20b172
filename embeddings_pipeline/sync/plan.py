"""Plans what the next run of entities would do and cost. Writes nothing, loads no model.

A plan is a dry run: changed rows are rendered into temporary tables, and the run's own functions
select from them. So the counts of rows and texts are exact. Seconds are estimated, and so are
tokens where there are many texts, or where a provider counts tokens in its own way. Images are not
read; each new URI counts as one image to encode.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from psycopg import Connection, sql
from pydantic import ValidationError

from embeddings_pipeline.encoders.encoder import Encoder
from embeddings_pipeline.encoders.registry import Encoders
from embeddings_pipeline.entities.chunking import estimate_tokens, measure_tokens
from embeddings_pipeline.entities.entity import KEYS_OF_TEXTS, Entity
from embeddings_pipeline.entities.model import ModelIdentity
from embeddings_pipeline.errors import ConfigurationError, Failures
from embeddings_pipeline.store import planning, run_ledger, vector_sets
from embeddings_pipeline.store.connection import Postgres, Row
from embeddings_pipeline.store.planning import PlannedBacklog, PlannedCaches
from embeddings_pipeline.store.run_ledger import Rates
from embeddings_pipeline.store.staging import diff, reader
from embeddings_pipeline.store.staging.diff import Difference
from embeddings_pipeline.store.staging.source import source_of
from embeddings_pipeline.store.tables import EntityTables, TableNames, drop_noticed
from embeddings_pipeline.store.texts import partition_keys, text_tables
from embeddings_pipeline.store.texts import texts as stored_texts
from embeddings_pipeline.store.vector_sets import VectorSet
from embeddings_pipeline.store.vectors import identities, renewals
from embeddings_pipeline.store.vectors.pending import chunk_states
from embeddings_pipeline.store.vectors.sets import (
    is_faster_replaced,
    planned_sets,
    storage_of,
)
from embeddings_pipeline.sync import texts
from embeddings_pipeline.sync.run_options import RunOptions
from embeddings_pipeline.sync.token_costs import SAMPLE, SampledText, TokenCosts, token_costs

# tokens are estimated after this many rendered rows
_COUNT_ALL = 20_000
# a run without limits
_ALL = RunOptions(run_id="")


@dataclass(frozen=True)
class SetPlan:
    """What a run would do to one set, in chunks and texts; `number` is None for a new set.

    `reusable` chunks have a cache entry or share a text with another chunk. `waiting` counts
    pending rows whose text has not changed. `tokens_estimated` is whether the model's own count
    of tokens was not taken of every text. `seconds` is the time of the model. `frozen` is the
    reason why a run would encode nothing for the set. `replaces_for` names the keys of the
    declaration for which a set is built beside the live one.
    """

    number: int | None
    live: bool
    model: str
    pending: int
    waiting: int
    reusable: int
    encode: int
    tokens: int
    tokens_estimated: bool
    seconds: float | None
    cost_usd: float
    frozen: str | None
    replaces_for: str = ""


@dataclass(frozen=True)
class Plan:
    """What a run would do to an entity, in rows, and to each of its sets.

    `why` gives the reasons for work on rows that are not new, each with its share: changed content,
    changed columns that leave the text the same, changed keys of the declaration of the texts or of
    the vector set, an unfinished run, a forced run. `seconds` is the time of the whole run,
    estimated from earlier runs in the ledger; None where there are none.
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
    seconds: float | None

    @property
    def tokens_estimated(self) -> bool:
        """Whether the tokens of any set are estimated."""
        return any(part.tokens_estimated for part in self.sets)

    @property
    def cost_usd(self) -> float:
        """US dollars for all sets."""
        return sum(part.cost_usd for part in self.sets)

    def row(self) -> dict[str, Any]:
        """The plan as one row of a table, with the sums over its sets."""
        return {
            "entity": self.entity,
            "new": self.new,
            "changed": self.changed,
            "deleted": self.deleted,
            "moved": self.moved_partition,
            "unchanged": self.unchanged,
            "reuse": sum(part.reusable for part in self.sets),
            "encode": sum(part.encode for part in self.sets),
            "tokens": sum(part.tokens for part in self.sets),
            "seconds": self.seconds,
            "usd": self.cost_usd,
            "why": ", ".join(f"{share:.0%} {reason}" for reason, share in self.why.items()),
        }


class Planner:
    """Plans runs of several entities in one session. A later entity reuses what an earlier one
    would encode. `keep` is False where the caches are emptied after each run, so that a run copies
    the vectors of the sets into them first."""

    def __init__(
        self,
        source: Connection[Row],
        target: Connection[Row],
        encoders: Encoders,
        options: RunOptions = _ALL,
        *,
        keep: bool = True,
    ) -> None:
        self._source = source
        self._target = target
        self._encoders = encoders
        self._options = options
        self._keep = keep
        self._caches = PlannedCaches()
        # the limit is shared by all entities
        self._left = options.limit

    def plan(self, names: TableNames) -> Plan:
        """The plan of an entity. Raises ConfigurationError where a run would."""
        # separate names, because `without_texts` replaces the name of the texts table
        tables = EntityTables(self._target, TableNames(names.schema, names.source))
        self._caches.version += 1
        try:
            with drop_noticed(tables.entity):
                return self._plan(tables)
        finally:
            planning.forget(tables)

    def _plan(self, tables: EntityTables) -> Plan:
        names, options = tables.names, self._options
        text_tables.refuse_other_id(self._target, names.schema, names.source)
        is_new = planning.without_texts(tables)
        former = None if is_new else _former(self._target, self._source, names)
        if former and former.names:
            diff.compare(
                self._source, EntityTables(self._target, former.names), options.partition_keys
            )
            planning.keep_content_changes(tables)
        found = diff.compare(self._source, tables, options.partition_keys)
        estimated = self._render_changed(tables)
        rekeyed = not is_new and partition_keys.scheme_changed(tables)
        sets = self._sets(tables, estimated=estimated)
        if former and former.names is None:
            # rows whose content changed, too, cannot be told from the others
            planning.keep_no_content_changes(tables)
        reasons = planning.changes(tables, former=former is not None)
        changed = found.changed - found.new
        return Plan(
            entity=tables.entity,
            new=found.new,
            changed=changed,
            deleted=found.gone,
            moved_partition=planning.moved_partitions(tables, rekeyed=rekeyed),
            unchanged=found.stored - changed - found.gone,
            deletes_refused=not options.allow_deletes and texts.too_many_deletes(names, found),
            why=_why(reasons, former, names, sets, force=options.force),
            sets=sets,
            seconds=_seconds(run_ledger.rates(tables), found, sets),
        )

    def _render_changed(self, tables: EntityTables) -> bool:
        """Render changed rows into temporary tables; returns whether some tokens were estimated."""
        rendered = 0
        planning.create(tables)
        for ids, _ in diff.changed_slices(tables):
            with closing(reader.read_rows(self._source, tables, ids)) as rows:
                for batch in texts.batches(rows, tables.names):
                    count = estimate_tokens if rendered >= _COUNT_ALL else measure_tokens
                    window = texts.rendered(batch, tables.names, images=None, count=count)
                    planning.add(tables, window.texts)
                    rendered += len(batch)
        return rendered > _COUNT_ALL

    def _sets(self, tables: EntityTables, *, estimated: bool) -> list[SetPlan]:
        """The plan of each set that the run maintains, in the order of the run."""
        plans: list[SetPlan] = []
        scope = self._options.scope(tables.source.entity)
        chosen = self._chosen(tables)
        live = next((s for s, _ in chosen if s and s.state == "live"), None)
        for identity in dict.fromkeys(identity for _, identity in chosen):
            sets = [vector_set for vector_set, other in chosen if other == identity]
            encoder, frozen = self._encoder(identity)
            limit = self._left if encoder else 0
            states = [self._states(tables, vector_set, identity) for vector_set in sets]
            if not self._keep:
                known = vector_sets.read(tables)
                self._caches.seed(tables, identity, [s for s in known if s.identity == identity])
            self._caches.encode(tables, identity, states, scope, limit)
            cache = self._caches.of(tables, identity)
            for place, (vector_set, state) in enumerate(zip(sets, states, strict=True)):
                backlog = planning.backlog(
                    tables,
                    state,
                    cache,
                    scope,
                    place=place,
                    max_tokens=identity.max_tokens,
                )
                if self._left is not None:
                    self._left -= backlog.encode
                costs = TokenCosts(0)
                if encoder:
                    sample = partial(self._sample, tables, place)
                    costs = token_costs(encoder, backlog.encode, backlog.tokens, sample)
                planned = self._set_plan(
                    tables,
                    vector_set,
                    identity,
                    backlog,
                    costs,
                    frozen=frozen,
                    estimated=estimated,
                )
                if live and not planned.live:
                    keys = _keys_of_set(live, identity, tables.source.entity)
                    planned = replace(planned, replaces_for=keys)
                plans.append(planned)
        return plans

    def _set_plan(
        self,
        tables: EntityTables,
        vector_set: VectorSet | None,
        identity: ModelIdentity,
        backlog: PlannedBacklog,
        costs: TokenCosts,
        *,
        frozen: str | None,
        estimated: bool,
    ) -> SetPlan:
        rate = run_ledger.throughput(tables, identity.model)
        return SetPlan(
            number=vector_set.number if vector_set else None,
            live=vector_set is not None and vector_set.state == "live",
            model=identity.model,
            pending=backlog.projected if frozen else backlog.pending,
            waiting=0 if frozen else backlog.waiting,
            reusable=max(0, backlog.projected - backlog.encode),
            encode=backlog.encode,
            tokens=costs.tokens,
            tokens_estimated=costs.estimated or (estimated and backlog.encode > 0),
            seconds=costs.tokens / rate if rate else None,
            cost_usd=costs.tokens * self._encoders.usd_per_token(identity.model),
            frozen=frozen,
        )

    def _chosen(self, tables: EntityTables) -> list[tuple[VectorSet | None, ModelIdentity]]:
        """The sets that the run maintains, with their identities; None is a set that it creates."""
        chosen = sets_of_run(tables, self._encoders)
        live, identity = chosen[0]
        options = self._options
        scope = options.scope(tables.source.entity)
        if live is None or live.state != "live" or not options.is_unrestricted or options.force:
            return chosen
        states = self._states(tables, live, identity)
        self._caches.encode(tables, identity, [states], scope, 0)
        missing = planning.backlog(
            tables,
            states,
            self._caches.of(tables, identity),
            scope,
            place=0,
            max_tokens=identity.max_tokens,
        ).missing
        if is_faster_replaced(tables, live, missing):
            return [(None, identity), *chosen[1:]]
        return chosen

    def _states(
        self, tables: EntityTables, vector_set: VectorSet | None, identity: ModelIdentity
    ) -> sql.Composable:
        """The states in a set of the chunks as the next pass leaves them."""
        renewal = None
        if self._options.force:
            keys = self._options.partition_keys
            sets = vector_sets.maintained(vector_sets.read(tables))
            if not any(renewals.is_unfinished(tables, s, keys) for s in sets):
                renewal = renewals.as_planned(keys, self._caches.version)
        stored = identities.find(self._target, tables.schema, identity)
        return sql.SQL("({})").format(
            chunk_states(
                tables.names,
                vector_set,
                identity=stored.number if stored else None,
                texts=planning.texts(tables.names),
                renewal=renewal,
            )
        )

    def _sample(self, tables: EntityTables, place: int) -> Sequence[SampledText]:
        """A sample of the texts to encode, from stored texts or rendered again from staging."""
        tokens = planning.sampled_hashes(tables, place, SAMPLE)
        found: dict[bytes, str] = {}
        rows = planning.rows_of(tables, [*tokens])
        with closing(reader.read_rows(self._source, tables, sorted(set(rows.values())))) as read:
            for batch in texts.batches(read, tables.names):
                for text in texts.rendered(batch, tables.names, images=None).texts:
                    if text.part_hashes and text.parts:
                        found |= dict(zip(text.part_hashes, text.parts, strict=True))
                    elif text.text_hash and text.text:
                        found[text.text_hash] = text.text
        left = [text_hash for text_hash in tokens if text_hash not in found]
        if left and tables.names.identifiers["texts"] == tables.table(f"{tables.entity}_texts"):
            found |= dict(stored_texts.read(tables, left))
        return [SampledText(found[h], count) for h, count in tokens.items() if h in found]

    def _encoder(self, identity: ModelIdentity) -> tuple[Encoder | None, str | None]:
        """The encoder of an identity, or why it is not available."""
        try:
            return self._encoders.for_identity(identity), None
        except ConfigurationError as error:
            return None, str(error)


def plans(
    staged: Postgres,
    vectors: Postgres,
    entities: Iterable[Entity],
    checked: Callable[[Entity], TableNames],
    encoders: Encoders,
    options: RunOptions = _ALL,
    *,
    keep: bool = True,
) -> tuple[list[Plan], Failures]:
    """The plan of a run of each entity, and the failures of entities without a plan.

    `checked` checks an entity against its staging model; it may raise an error.
    """
    planned, failures = [], Failures()
    with staged.connection() as source, vectors.connection() as target:
        planner = Planner(source, target, encoders, options, keep=keep)
        for entity in entities:
            with failures.of(entity.name):
                planned.append(planner.plan(checked(entity)))
    return planned, failures


def sets_of_run(
    tables: EntityTables, encoders: Encoders
) -> list[tuple[VectorSet | None, ModelIdentity]]:
    """The sets that a run maintains, in the order of the run, with their identities; None is a set
    that the run creates."""
    stored = [s.identity for s in vector_sets.read(tables)]
    identity = encoders.for_entity(tables.source.entity, stored).identity
    return [(s, s.identity if s else identity) for s in planned_sets(tables, identity)]


@dataclass(frozen=True)
class _Former:
    """The declaration that the texts follow, where it is another one: None where it cannot be read.
    `names` are those of its tables, None where it does not fit the staging model any more."""

    entity: Entity | None
    names: TableNames | None


def _former(target: Connection[Row], source: Connection[Row], names: TableNames) -> _Former | None:
    """None where the declaration is unchanged."""
    definition, definition_hash = text_tables.followed(EntityTables(target, names))
    if definition_hash in ("", names.source.definition_hash):
        return None
    # dbt leaves the old table of a model that moved where it was
    place = {"db_schema": names.source.entity.db_schema, "table": names.source.entity.table}
    try:
        entity = Entity.model_validate(definition | place)
    except ValidationError:
        return _Former(None, None)
    try:
        former = TableNames(names.schema, source_of(source, entity))
    except ConfigurationError:
        return _Former(entity, None)
    # another hash: a column has another type now
    return _Former(entity, former if former.source.definition_hash == definition_hash else None)


def _why(
    changed: planning.Changes,
    former: _Former | None,
    names: TableNames,
    sets: Sequence[SetPlan],
    *,
    force: bool,
) -> dict[str, float]:
    """The reasons for work on rows that are not new, with their shares."""
    live = [part for part in sets if part.live]
    # unchanged rows wait for a set that is built beside the live one, or for an unfinished run
    built = {part.replaces_for: part.waiting for part in sets if live and not part.live}
    most = max(built.values(), default=0)
    waiting = max((part.waiting for part in live or sets), default=0)
    counts = {
        "content": changed.content,
        "columns": changed.columns,
        _changed_keys(former, names): changed.declaration,
        **{keys: 0 if force else max(rows - waiting, 0) for keys, rows in built.items()},
        "unfinished": 0 if force else waiting,
        "forced": max(most, waiting) if force else 0,
    }
    total = sum(counts.values())
    return {reason: rows / total for reason, rows in counts.items() if rows}


def _keys_of_set(live: VectorSet, identity: ModelIdentity, entity: Entity) -> str:
    """The keys of the declaration for which the live set is replaced, like `dimension, storage`."""
    old = live.identity
    if (old.provider, old.model, old.revision) != (
        identity.provider,
        identity.model,
        identity.revision,
    ):
        return "model"
    changed = {
        "dimension": old.dimension != identity.dimension,
        "prompts": old.document_prompt != identity.document_prompt,
        "storage": live.storage != storage_of(entity, identity.dimension),
    }
    return ", ".join(key for key, differs in changed.items() if differs) or "model"


def _changed_keys(former: _Former | None, names: TableNames) -> str:
    """The keys of the declaration that changed since the last pass, like `chunk, filters`."""
    if former is None or former.entity is None:
        return "declaration"
    before, now = former.entity, names.source.entity
    keys = [key for key in KEYS_OF_TEXTS if getattr(before, key) != getattr(now, key)]
    return ", ".join(keys) or "types of columns"


def _seconds(rates: Rates | None, found: Difference, sets: Sequence[SetPlan]) -> float | None:
    """The seconds of the whole run."""
    if rates is None:
        return None
    encoding = [part.seconds for part in sets if part.encode]
    if None in encoding:
        return None
    projected = sum(part.reusable + part.encode for part in sets)
    return rates.of(
        rows=found.stored - found.gone + found.new,
        rendered=found.changed,
        projected=projected,
        indexed=sum(1 for part in sets if not part.live and part.pending),
        encode_seconds=sum(seconds or 0.0 for seconds in encoding),
    )
