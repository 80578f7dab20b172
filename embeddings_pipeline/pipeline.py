"""The pipeline without Dagster: settings become databases, encoders and entities, and a run brings
entities up to date. The command line, Dagster's assets and a program of your own all use it."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, Self, TypeVar
from uuid import uuid4

import psycopg

from embeddings_pipeline.current_run import in_run
from embeddings_pipeline.database import Database
from embeddings_pipeline.encoders.registry import Encoders
from embeddings_pipeline.entities.entity import Entity
from embeddings_pipeline.entities.manifest import (
    Declared,
    describe_location,
    entities_of,
    load_manifest,
    manifest_path,
)
from embeddings_pipeline.entities.partitions import select_keys
from embeddings_pipeline.errors import (
    ConfigurationError,
    EmbeddingsError,
    Failures,
    Interrupted,
    Unavailable,
)
from embeddings_pipeline.settings import Settings
from embeddings_pipeline.store import declarations, migrations, vector_sets
from embeddings_pipeline.store.connection import SESSIONS_OF_RUN, Deadlines, Postgres
from embeddings_pipeline.store.embedded import server as embedded
from embeddings_pipeline.store.migrations import Migration, create_control_tables
from embeddings_pipeline.store.retry import resumed
from embeddings_pipeline.store.staging.source import source_of
from embeddings_pipeline.store.tables import TableNames
from embeddings_pipeline.store.texts import text_tables
from embeddings_pipeline.store.vectors.coverage import PartitionCoverage
from embeddings_pipeline.sync import publish, status
from embeddings_pipeline.sync.checks import CheckResult, check
from embeddings_pipeline.sync.encode import EncodeResult, encode_entity
from embeddings_pipeline.sync.index import IndexResult, sync_index
from embeddings_pipeline.sync.progress import Report, ignore_progress
from embeddings_pipeline.sync.publish import PublishResult
from embeddings_pipeline.sync.quality.retrieval import GoldenQueries
from embeddings_pipeline.sync.retention import retain
from embeddings_pipeline.sync.run_metrics import (
    RunMetrics,
    configured_metrics,
    pass_on,
    read_figures,
)
from embeddings_pipeline.sync.run_options import RunOptions
from embeddings_pipeline.sync.status import EntityStatus
from embeddings_pipeline.sync.texts import TextsResult, sync_texts

if TYPE_CHECKING:
    import pandas as pd

    from embeddings_pipeline.search.evaluation import Tuning
    from embeddings_pipeline.search.requests import Answer
    from embeddings_pipeline.search.searcher import Searcher
    from embeddings_pipeline.sync.plan import Plan
    from embeddings_pipeline.sync.quality.qrels import Qrels

logger = logging.getLogger(__name__)

T = TypeVar("T")


class Results(list[T], Generic[T]):
    """One result for each entity. `failures` has the errors of entities by name; `remarks` are
    about all of them."""

    def __init__(
        self,
        results: Iterable[T] = (),
        failures: Failures | None = None,
        remarks: Sequence[str] = (),
    ) -> None:
        super().__init__(results)
        self.failures = Failures() if failures is None else failures
        self.remarks = remarks

    def to_pandas(self) -> pd.DataFrame:
        """A data frame with a row for each entity, its index, and a column for each fact."""
        import pandas as pd

        rows = [result.row() for result in self]  # type: ignore[attr-defined]
        frame = pd.DataFrame(rows)
        return frame.set_index("entity") if rows else frame


@dataclass
class EntityRun:
    """What a run did to one entity: the result of each stage that it reached, and its `counts` in
    the run ledger. `status` is the entity's status afterwards, of a failed run, too; None where it
    could not be read."""

    entity: Entity
    options: RunOptions
    texts: TextsResult | None = None
    vectors: EncodeResult | None = None
    indexes: Sequence[IndexResult] = ()
    published: PublishResult | None = None
    checks: Mapping[str, CheckResult] = field(default_factory=dict)
    counts: Mapping[str, Any] = field(default_factory=dict)
    status: EntityStatus | None = None

    @property
    def run_id(self) -> str:
        """The id of the run in the ledger."""
        return self.options.run_id

    def raise_if_stopped(self) -> None:
        """Raise Interrupted once the run was asked to stop."""
        if self.options.stopped():
            raise Interrupted(f"{self.entity.name}: stopped: run again to continue")

    @property
    def warnings(self) -> list[str]:
        """Why the live set was not encoded, and the name and the description of each check that did
        not pass."""
        frozen = [self.vectors.frozen] if self.vectors and self.vectors.frozen else []
        failed = [f"{name}: {c.description}" for name, c in self.checks.items() if not c.passed]
        return frozen + failed

    def row(self) -> dict[str, Any]:
        """The entity, its rows, chunks and coverage, and the counts of the run."""
        now = self.status or status.nothing_of(self.entity.name)
        shown = {"entity": now.entity, "rows": now.rows, "chunks": now.chunks}
        return shown | {"coverage": now.coverage, **self.counts}


# longer than a migration holds a table that does nothing else
_LOCK_SECONDS = 5
_STATEMENT_SECONDS = 3600


def _impatient(database: Postgres) -> Postgres:
    """The database for who looks at the state: a wait for a lock ends in Busy."""
    now = time.monotonic()
    return database.with_deadlines(Deadlines(now + _LOCK_SECONDS, now + _STATEMENT_SECONDS))


class Pipeline:
    """Keeps vectors in step with the staging models of a dbt project.

    The manifest of the dbt project says which entities there are; dbt itself is not run. It is
    DBT_MANIFEST, or the one that dbt wrote last for the project. Nothing is connected or loaded
    before it is used. Use it in a `with`, or close it:

        with Pipeline.open() as pipeline:
            print(pipeline.plan("product").to_pandas())
            pipeline.run("product")
            pipeline.search("product", "garden hose")
    """

    @classmethod
    def open(
        cls, settings: Settings | None = None, manifest: Path | Mapping[str, Any] | None = None
    ) -> Self:
        """A pipeline with these settings and this dbt manifest, a path or its content. By default
        the settings are read from the environment and `.env`.

        Raises ConfigurationError for a wrong variable.
        """
        return cls(settings or Settings.load(), manifest)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def __init__(
        self, settings: Settings, manifest: Path | Mapping[str, Any] | None = None
    ) -> None:
        self.settings = settings
        self._manifest = manifest
        self._opened: dict[Database, Postgres] = {}
        self.encoders = Encoders(settings, lambda: self.vectors.transaction_in(self.schema))

    @property
    def schema(self) -> str:
        """The schema that holds all our tables."""
        return self.settings.pgvector_schema

    @cached_property
    def staging(self) -> Postgres:
        """The database of the staging models."""
        return self._connections(self.settings.staging_database or self._embedded)

    @cached_property
    def vectors(self) -> Postgres:
        """The database of the vectors, with our shared tables in it."""
        database = self._connections(self.vectors_database)
        with database.connection() as connection:
            create_control_tables(connection, self.schema)
        return database

    def _connections(self, database: Database) -> Postgres:
        # one pool for staging and vectors in one database, since a limit of connections holds for
        # both, and neither would give its idle ones back to the other
        if database not in self._opened:
            self._opened[database] = Postgres(database)
        return self._opened[database]

    def planned_migration(self) -> list[Migration]:
        """What the first use of `vectors` will do to tables of an earlier version; empty where they
        have this version. Raises ConfigurationError for tables of a later version."""
        with (
            closing(Postgres(self.vectors_database)) as database,
            database.connection() as connection,
        ):
            return migrations.planned(connection, self.schema)

    @property
    def vectors_database(self) -> Database:
        """The address of the database of the vectors."""
        return self.settings.vectors_database or self._embedded

    @property
    def search_database(self) -> Database:
        """The address of the database that searches read: its replica where one is configured."""
        return self.settings.search_database or self._embedded

    @property
    def one_database(self) -> bool:
        """Whether marts can join staging models with vectors."""
        return self.settings.one_database

    @cached_property
    def manifest(self) -> Mapping[str, Any]:
        """The dbt manifest. Raises ConfigurationError where there is none, or a damaged one."""
        if isinstance(self._manifest, Mapping):
            return self._manifest
        return load_manifest(self._manifest or manifest_path(self.settings))

    def read_manifest_again(self) -> None:
        """Let the next use read the manifest again, since dbt may have written another one."""
        for name in ("manifest", "declared"):
            self.__dict__.pop(name, None)

    @cached_property
    def declared(self) -> Declared:
        """The declarations of the manifest, valid and wrong ones."""
        return entities_of(self.manifest)

    @property
    def entities(self) -> dict[str, Entity]:
        """The entities with a valid declaration, by name."""
        return self.declared.entities

    def entity(self, name: str) -> Entity:
        """One entity. Raises ConfigurationError with the error of its declaration, or with the
        choices where there is no such entity."""
        return self.declared.entity(name)

    def chosen(self, names: Iterable[str] = ()) -> tuple[list[Entity], Failures]:
        """The named entities, or all, and the errors of those with a wrong declaration.

        Raises ConfigurationError with the choices for a name that is not declared.
        """
        entities, failures = [], Failures()
        for name in list(names) or self.declared.models:
            if name in self.declared.broken:
                failures[name] = self.declared.broken[name]
            else:
                entities.append(self.entity(name))
        return entities, failures

    def names_of(self, entity: Entity | str, staging: Postgres | None = None) -> TableNames:
        """The entity checked against its staging model, in `staging` where its deadlines hold.

        Raises ConfigurationError that names the model, the key of the declaration, its value and
        the reason.
        """
        if isinstance(entity, str):
            entity = self.entity(entity)
        with (staging or self.staging).connection() as connection:
            try:
                return TableNames(self.schema, source_of(connection, entity))
            except ConfigurationError as error:
                raise ConfigurationError(f"{self._place_of(entity)}{error}") from error

    def plan(
        self,
        *names: str,
        partitions: str | Sequence[str] | None = None,
        limit: int | None = None,
        force: bool = False,
        allow_deletes: bool = False,
        raise_errors: bool = True,
    ) -> Results[Plan]:
        """What a run of these entities, or of all, would do and cost. Writes nothing and loads no
        model. `run` explains the arguments.

        Raises ConfigurationError or EmbeddingsError for entities that have no plan, unless
        `raise_errors` is False.
        """
        from embeddings_pipeline.sync.plan import plans

        chosen, failures = self.chosen(names)
        # a plan reads in sessions of its own, as the run does
        self.vectors.require(SESSIONS_OF_RUN)
        options = RunOptions(
            run_id="",
            keys=self.partition_keys(chosen, partitions),
            limit=limit,
            force=force,
            allow_deletes=allow_deletes,
        )
        planned, failed = plans(
            self.staging,
            self.vectors,
            chosen,
            self.names_of,
            self.encoders,
            options,
            keep=self.settings.embedding_cache_keep,
        )
        failures.update(failed)
        if raise_errors:
            failures.raise_any()
        return Results(planned, failures)

    def run(
        self,
        *names: str,
        partitions: str | Sequence[str] | None = None,
        limit: int | None = None,
        max_cost_usd: float | None = None,
        force: bool = False,
        allow_deletes: bool = False,
        report: Report = ignore_progress,
        stopped: Callable[[], bool] = lambda: False,
        raise_errors: bool = True,
    ) -> Results[EntityRun]:
        """Bring these entities, or all, up to date: texts, vectors, index, view and checks.

        `partitions` is a key, FIRST..LAST or a list of keys, which each of the entities must have.
        `limit` is the most texts to encode and `max_cost_usd` the most US dollars to spend in all
        (default EMBEDDING_MAX_COST_USD). `force` encodes current texts again, and `allow_deletes`
        lets a run delete more than max_delete_share of the rows. `report` is called with the
        progress. The run ends soon after `stopped` returns True.

        An error of one entity does not stop the others. At the end, unless `raise_errors` is False,
        a run raises EmbeddingsError with all errors, or ConfigurationError where each of them is a
        wrong declaration.
        """
        chosen, failures = self.chosen(names)
        keys = self.partition_keys(chosen, partitions)
        options = RunOptions(
            run_id="",
            keys=keys,
            limit=limit,
            max_cost_usd=self.settings.cost_limit(max_cost_usd),
            force=force,
            allow_deletes=allow_deletes,
            report=report,
            stopped=stopped,
        )
        self.count_failures(failures)
        runs = [EntityRun(entity, replace(options, run_id=str(uuid4()))) for entity in chosen]
        with self.encoders.stop_when(stopped):
            self._run_stages(runs, failures)
        results = Results([run for run in runs if run.counts], failures)
        if raise_errors:
            failures.raise_any()
        return results

    def _run_stages(self, runs: Sequence[EntityRun], failures: Failures) -> None:
        """Take all entities through one stage after the other: a text that two of them have is then
        encoded once, whichever of them comes first."""
        limits: RunOptions | None = None
        for stage in (self._run_texts, self._run_vectors, self._run_rest):
            for run in runs:
                if run.entity.name in failures:
                    continue
                if stage == self._run_vectors:
                    limits = limits or run.options
                    run.options = replace(limits, run_id=run.run_id)
                try:
                    with failures.of(run.entity.name):
                        stage(run)
                    self._read_state(run, ended=run.entity.name in failures)
                except Interrupted as error:
                    self._read_state(run, ended=True)
                    failures[run.entity.name] = error
                    return
                except (EmbeddingsError, psycopg.Error) as error:
                    # what was done cannot be read: the database is gone, for all entities
                    failures.setdefault(run.entity.name, error)
                    return
                if limits and stage == self._run_vectors:
                    limits = limits.less_counts(run.counts)

    def _read_state(self, run: EntityRun, *, ended: bool) -> None:
        run.counts = self.counts_of(run.entity, run.run_id)
        if ended:
            # what ended this run may also prevent that its status is read
            with suppress(EmbeddingsError, psycopg.Error):
                run.status = self._status_now(run.entity)

    def _run_texts(self, run: EntityRun) -> None:
        run.texts = self.sync_texts(run.entity, run.options)

    def _run_vectors(self, run: EntityRun) -> None:
        run.vectors = self.sync_vectors(run.entity, run.options)

    def _run_rest(self, run: EntityRun) -> None:
        run.raise_if_stopped()
        run.indexes = self.sync_index(run.entity, run.run_id, report=run.options.report)
        run.raise_if_stopped()
        run.published = self.publish(run.entity, run_id=run.run_id)
        run.raise_if_stopped()
        run.checks = self.check(run.entity)
        run.status = self.status_of(run.entity)

    def sync_texts(self, entity: Entity, options: RunOptions) -> TextsResult:
        """Bring the texts of an entity in step with its staging model.

        Raises ConfigurationError for null or repeated ids, DeletesRefused where more than
        `max_delete_share` of the rows would be deleted, Interrupted when stopped.
        """
        keep = self.settings.embedding_cache_keep
        with self._stage_of(entity, options.run_id):
            names = self._reached(entity)
            return sync_texts(self.staging, self.vectors, names, self.encoders, options, keep=keep)

    def sync_vectors(self, entity: Entity, options: RunOptions) -> EncodeResult:
        """Encode and project the pending chunks of an entity's vector sets.

        Raises CostLimitReached, Busy, Interrupted, and ConfigurationError for a model that cannot
        be loaded.
        """
        keep = self.settings.embedding_cache_keep
        with self._stage_of(entity, options.run_id):
            names = self._reached(entity)
            return encode_entity(self.vectors, names, self.encoders, options, keep=keep)

    def sync_index(
        self,
        entity: Entity,
        run_id: str | None = None,
        *,
        rebuild: bool = False,
        report: Report = ignore_progress,
    ) -> list[IndexResult]:
        """Build the vector index of each set of an entity where it is due, or always with
        `rebuild`, and measure its recall."""
        with self._stage_of(entity, run_id):
            names = self._reached(entity)
            return sync_index(self.vectors, names, run_id=run_id, rebuild=rebuild, report=report)

    def publish(
        self, entity: Entity | str, *, explicit: bool = False, run_id: str | None = None
    ) -> PublishResult:
        """Publish the set that is built, where it is ready, and delete unused cache entries.

        `explicit` also publishes an entity whose `publish` is manual, or that was rolled back.
        `run_id` is the id of the run that ends here.
        """
        if isinstance(entity, str):
            entity = self.entity(entity)
        with self._stage_of(entity, run_id, last=True):
            names = self._reached(entity)
            golden = self.golden_queries(names)
            result = publish.publish(self.vectors, names, explicit=explicit, golden=golden)
            retain(self.vectors, names, self.encoders, self.settings)
            return result

    def check(self, entity: Entity | str) -> dict[str, CheckResult]:
        """The checks of an entity that has texts, by name."""
        names = self.names_of(entity)
        results = check(self.vectors, names)
        if golden := self.golden_queries(names):
            results["retrieval"] = golden.check()
        return results

    def golden_queries(self, names: TableNames) -> GoldenQueries | None:
        """The golden queries of an entity that declares `retrieval`. Their file is beside the
        manifest, or in the dbt project."""
        retrieval = names.source.entity.retrieval
        if retrieval is None:
            return None
        manifest = self._manifest or self.settings.dbt_manifest
        # dbt writes the manifest to `target` in the project
        beside = [*manifest.parents[:2]] if isinstance(manifest, Path) else []
        folders = [*beside, self.settings.dbt_project_dir]
        return GoldenQueries(retrieval, folders, self.encoders, self.vectors, names)

    def coverage(self, entity: Entity) -> list[PartitionCoverage]:
        """The coverage of each partition of an entity, in the set that searches read."""
        return status.coverage(self.vectors, self.names_of(entity))

    def counts_of(self, entity: Entity, run_id: str) -> dict[str, Any]:
        """The counts of a run in the ledger for an entity; empty where it recorded none."""
        return status.counts_of_run(self.vectors, self.schema, entity, run_id)

    def status_of(self, entity: Entity) -> EntityStatus:
        """The status of one entity; zeros for an entity that was never run."""
        return status.status(self.vectors, self.schema, entity)

    def _status_now(self, entity: Entity) -> EntityStatus:
        return status.status(_impatient(self.vectors), self.schema, entity)

    def status(self, *names: str) -> Results[EntityStatus]:
        """The status of these entities, or of all: rows, vectors, pending chunks and cost.

        The error of a declaration is not raised: it is in `failures`, and in the `problem` of the
        entity's status. So is that of a table that another transaction locks for five seconds.
        """
        with self.vectors.connection() as connection:
            # for an entity whose declaration is wrong now
            stored, _ = declarations.stored_entities(connection, self.schema)
        unreadable = self._staging_problem()
        found, failures = [], Failures()
        for name in names or self.declared.models:
            entity = self.entities.get(name) or stored.get(name)
            now = status.nothing_of(name)
            with failures.of(name):
                if entity:
                    now = self._status_now(entity)
                declared = self.entity(name)
                if unreadable is None:
                    source = self.names_of(declared, _impatient(self.staging)).source
                    with _impatient(self.vectors).connection() as connection:
                        text_tables.refuse_other_id(connection, self.schema, source)
            found.append(replace(now, problem=failures.messages().get(name)))
        remarks = []
        if unreadable:
            remarks.append(
                f"the declarations are not checked against the staging models: {unreadable}"
            )
        if not names:
            remarks += self._no_longer_declared(stored)
        return Results(found, failures, remarks)

    def _no_longer_declared(self, stored: Mapping[str, Entity]) -> list[str]:
        """A remark on each entity that has vectors and is in no declaration of this project."""
        remarks = []
        for name, entity in stored.items():
            if name in self.declared.models:
                continue
            found = f"{name}: no model of this project declares it any more"
            try:
                rows = self._status_now(entity).rows
            except (EmbeddingsError, psycopg.Error) as error:
                remarks.append(f"{found}, and its state cannot be read: {error}")
                continue
            if rows:
                remarks.append(
                    f"{found}; its {rows:,} rows stay as they are, and searches find them"
                    " (docs/dbt.md says how to remove them)"
                )
        return remarks

    def search(self, entity: str, query: str, **options: Any) -> Answer:
        """The best rows of an entity for a query: `top_k` (default
        EMBEDDING_SIMILARITY_TOP_K), `mode` (dense, text or hybrid), `filters`, `columns`, `rerank`
        and the other options of the search API (docs/search.md).

        Raises ConfigurationError for a wrong option, and RunNeeded before anything is published.
        """
        from embeddings_pipeline.search.requests import SearchRequest

        return self.searcher.search(SearchRequest.of(entity=entity, query=query, **options))

    def tune(self, entity: str, judged: Qrels, *, queries_are_rows: bool = False) -> Tuning:
        """Find the weight of the words in hybrid searches of an entity by judged queries, and store
        it with the published set where it is better.

        Raises ConfigurationError for fewer than 20 queries, and ReadOnly where the role may not
        write.
        """
        from embeddings_pipeline.search.evaluation import tune

        tuned = tune(self.searcher, entity, judged, queries_are_rows=queries_are_rows)
        if tuned.is_better:
            with self.vectors.connection() as connection:
                vector_sets.set_text_weight(
                    connection, self.schema, entity, tuned.vector_set, tuned.text_weight
                )
        return tuned

    @cached_property
    def searcher(self) -> Searcher:
        """Answers searches over connections of its own."""
        from embeddings_pipeline.search.searcher import Searcher

        return Searcher(self)

    @staticmethod
    def partition_keys(
        entities: Iterable[Entity], partitions: str | Sequence[str] | None
    ) -> Sequence[str] | None:
        """The partition keys of a selection, which each of the entities must have; None for all.

        Raises ConfigurationError with the choices for an unknown key.
        """
        if partitions is None:
            return None
        wanted = [partitions] if isinstance(partitions, str) else partitions
        chosen: list[str] = []
        for entity in entities:
            keys = entity.partitions.keys()
            try:
                chosen = [key for part in wanted for key in select_keys(part, keys)]
            except ConfigurationError as error:
                raise ConfigurationError(f"{entity.name}: {error}") from None
        return chosen

    def close(self) -> None:
        """Close the open connections, and free the models."""
        if "searcher" in self.__dict__:
            self.searcher.close()
        for opened in self._opened.values():
            opened.close()
        self.encoders.cleanup()

    @cached_property
    def run_metrics(self) -> Sequence[RunMetrics]:
        """Where the figures of runs go."""
        return configured_metrics(self.settings)

    def count_failures(self, names: Iterable[str]) -> None:
        """Count runs that failed before their first stage in the run metrics."""
        for name in names:
            pass_on(self.run_metrics, name, None, failed=True)

    @contextmanager
    def _stage_of(
        self, entity: Entity, run_id: str | None, *, last: bool = False
    ) -> Iterator[None]:
        """A stage of a run, whose log names the run. Where the stage fails, or is the last one, the
        figures of the run are written."""
        with in_run(entity.name, run_id):
            try:
                yield
            except Interrupted:
                raise
            except Exception as error:
                self._write_figures(entity, run_id, error)
                raise
            if last:
                self._write_figures(entity, run_id, None)

    def _write_figures(self, entity: Entity, run_id: str | None, error: Exception | None) -> None:
        if run_id is None or not self.run_metrics:
            return
        figures = None
        # a database that is gone would be waited for
        if not isinstance(error, psycopg.OperationalError | Unavailable):
            try:
                figures = read_figures(self.vectors, self.schema, entity, run_id)
            except (EmbeddingsError, psycopg.Error) as unread:
                logger.error("the figures of a run cannot be read: %s", unread)
        pass_on(self.run_metrics, entity.name, figures, failed=error is not None)

    @resumed
    def _reached(self, entity: Entity) -> TableNames:
        """The entity checked against its staging model. Waits for a database that takes no
        connection yet, as the rest of a run does.

        Raises Unavailable where the role may have fewer connections than a run needs.
        """
        self.vectors.require(SESSIONS_OF_RUN)
        return self.names_of(entity)

    def _staging_problem(self) -> Exception | None:
        """Why the staging models cannot be read; the stored status is shown without them."""
        try:
            with self.staging.connection():
                return None
        except (Unavailable, psycopg.OperationalError) as error:
            return error

    def _place_of(self, entity: Entity) -> str:
        """The place of the entity's declaration, as the beginning of a message; "" without a
        manifest."""
        try:
            return f"{describe_location(self.declared.models[entity.name])}, "
        except (ConfigurationError, KeyError):
            return ""

    @cached_property
    def _embedded(self) -> Database:
        return embedded.start(self.settings.embedded_data_dir)
