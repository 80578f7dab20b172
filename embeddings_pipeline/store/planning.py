"""The texts of an entity as the next pass will leave them, and the caches as the next runs will:
temporary tables and queries that replace the real ones. They end with the session."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from psycopg import sql
from psycopg.sql import Identifier, Literal

from embeddings_pipeline.entities.model import ModelIdentity
from embeddings_pipeline.entities.partitions import HashPartitions
from embeddings_pipeline.store.staging import diff
from embeddings_pipeline.store.staging.columns import hash_key
from embeddings_pipeline.store.tables import EntityTables, TableNames
from embeddings_pipeline.store.texts.texts import Text
from embeddings_pipeline.store.vector_sets import VectorSet
from embeddings_pipeline.store.vectors import identities
from embeddings_pipeline.store.vectors.pending import Scope, missing_hashes


def without_texts(tables: EntityTables) -> bool:
    """Give an entity that was never run an empty temporary `texts`; whether it needed one."""
    (known,) = tables.one(
        "select to_regclass({name}) is not null",
        name=Literal(tables.names.identifiers["texts"].as_string(tables.connection)),
    )
    if known:
        return False
    tables.execute(
        "create temporary table no_texts ({id} {id_type}, chunk int, partition_key text,"
        " fingerprint bigint, text_hash uuid, tokens int, part_hashes uuid[], part_tokens int[],"
        " source_changed_at timestamptz, serialised_at timestamptz)"
    )
    tables.names.identifiers["texts"] = Identifier("pg_temp", "no_texts")
    return True


def forget(tables: EntityTables) -> None:
    """Drop the temporary tables of one entity, before the session plans the next one."""
    diff.forget(tables)
    tables.execute("drop table if exists no_texts, content_rows, rendered")


def create(tables: EntityTables) -> None:
    """Create the empty table of rendered texts."""
    tables.execute(
        "create temporary table rendered (id {id_type}, chunk int, partition_key text,"
        " text_hash uuid, tokens int, part_hashes uuid[], part_tokens int[])"
    )


def add(tables: EntityTables, texts: Sequence[Text]) -> None:
    """Add rendered texts, without their text."""
    with tables.connection.cursor() as cursor, cursor.copy("copy rendered from stdin") as copy:
        for text in texts:
            copy.write_row(
                (
                    text.id,
                    text.chunk,
                    text.partition_key,
                    text.text_hash.hex() if text.text_hash else None,
                    text.tokens,
                    [part.hex() for part in text.part_hashes] if text.part_hashes else None,
                    text.part_tokens,
                )
            )


def texts(names: TableNames) -> sql.Composable:
    """A query that replaces `texts`: the texts after the next pass."""
    return names.fill(
        """
        (
            select t.{id}, t.chunk, {key} as partition_key, t.text_hash, t.tokens, t.part_hashes,
                t.part_tokens, t.source_changed_at, t.serialised_at
            from {texts} t
            where not exists (select from changed_rows c where c.id = t.{id})
                and not exists (select from gone_rows g where g.id = t.{id})
            union all
            select id, chunk, partition_key, text_hash, tokens, part_hashes, part_tokens, null,
                null
            from rendered
        )
        """,
        key=_key(names),
    )


def keep_content_changes(tables: EntityTables) -> None:
    """Keep the rows that changed by the former definition as `content_rows`."""
    tables.execute("alter table changed_rows rename to content_rows")
    diff.forget(tables)


def keep_no_content_changes(tables: EntityTables) -> None:
    """Keep `content_rows` empty, where the former definition cannot be used any more."""
    tables.execute("create temporary table content_rows as select id from changed_rows limit 0")


@dataclass(frozen=True)
class Changes:
    """Why rows that are not new are rendered: their text changed (`content`), only columns outside
    the text changed (`columns`), or the `declaration` changed."""

    content: int
    columns: int
    declaration: int


def changes(tables: EntityTables, *, former: bool) -> Changes:
    """Count the changes; `former` is whether the table `content_rows` exists."""
    return Changes(
        *tables.one(
            """
            with changed as (
                select c.id, {by_content} as by_content, array(
                    select row(chunk, text_hash)::text from {texts} t
                    where t.{id} = c.id order by chunk
                ) = array(
                    select row(chunk, text_hash)::text from rendered r
                    where r.id = c.id order by chunk
                ) as same
                from changed_rows c where not c.is_new
            )
            select count(*) filter (where by_content and not same),
                count(*) filter (where by_content and same), count(*) filter (where not by_content)
            from changed
            """,
            by_content=sql.SQL(
                "exists (select from content_rows k where k.id = c.id)" if former else "true"
            ),
        )
    )


def moved_partitions(tables: EntityTables, *, rekeyed: bool) -> int:
    """How many rows get another partition key, by a new scheme or a changed day."""
    partitions = tables.source.entity.partitions
    if isinstance(partitions, HashPartitions):
        if not rekeyed:
            return 0
        (moved,) = tables.one(
            "select count(*) from {texts} where chunk = 0 and partition_key <> {key}",
            key=hash_key(tables.source, partitions, Identifier(tables.source.entity.id)),
        )
    else:
        (moved,) = tables.one(
            "select count(*) from rendered r join {texts} t on t.{id} = r.id"
            " and t.chunk = 0 and r.chunk = 0 and t.partition_key <> r.partition_key"
        )
    return int(moved)


@dataclass
class PlannedCaches:
    """The caches as the planned runs will leave them. `version` is the version of the run that is
    planned now; it is above all stored versions."""

    version: int = 1 << 62
    _numbers: dict[ModelIdentity, int] = field(default_factory=dict)

    def of(self, tables: EntityTables, identity: ModelIdentity) -> sql.Composable:
        """A query of (text_hash, version) that replaces the cache of an identity."""
        number = self._numbers.get(identity)
        if number is None:
            number = self._numbers[identity] = len(self._numbers) + 1
            tables.execute(
                "create temporary table {planned} (text_hash uuid, version bigint)",
                planned=_planned(number),
            )
        stored = identities.find(tables.connection, tables.schema, identity)
        entries = sql.SQL("select text_hash, version from {}").format(_planned(number))
        if stored:
            entries = sql.SQL("{} union all select text_hash, version from {}").format(
                entries, tables.table(stored.cache_table)
            )
        return sql.SQL("({})").format(entries)

    def seed(
        self, tables: EntityTables, identity: ModelIdentity, sets: Sequence[VectorSet]
    ) -> None:
        """Add the vectors of these sets, which a run copies where caches are not kept."""
        self.of(tables, identity)
        for vector_set in sets:
            tables.execute(
                "insert into {planned} select text_hash, version from {vectors}",
                planned=_planned(self._numbers[identity]),
                vectors=tables.table(vector_set.table_name),
            )

    def encode(
        self,
        tables: EntityTables,
        identity: ModelIdentity,
        states: Sequence[sql.Composable],
        scope: Scope,
        limit: int | None,
    ) -> None:
        """Fill the temporary table `selected` with the texts that a run will encode, and add them
        to the cache."""
        tables.execute("drop table if exists selected")
        tables.execute(
            "create temporary table selected as {missing_hashes}",
            missing_hashes=missing_hashes(
                tables.names, states, self.of(tables, identity), scope, limit
            ),
        )
        tables.execute("analyze selected")
        tables.execute(
            "insert into {planned} select text_hash, {version} from selected",
            planned=_planned(self._numbers[identity]),
            version=Literal(self.version),
        )


@dataclass(frozen=True)
class PlannedBacklog:
    """What a run will do to one set: its pending and missing chunks, the chunks that the run can
    project, the texts to encode for this set first, their tokens up to the model's longest input,
    and the pending rows whose text has not changed (`waiting`)."""

    pending: int
    missing: int
    projected: int
    encode: int
    tokens: int
    waiting: int


def backlog(
    tables: EntityTables,
    state: sql.Composable,
    cache: sql.Composable,
    scope: Scope,
    *,
    place: int,
    max_tokens: int,
) -> PlannedBacklog:
    """The backlog of a set, from the table `selected` and the planned cache. `place` is the
    position of the set in the run."""
    usable = (
        "not exists (select from unnest(s.part_hashes) as h where not exists ("
        "select from {cache} c where c.text_hash = h and c.version >= s.floor))"
        if tables.source.entity.weights
        else "exists (select from {cache} c where c.text_hash = s.text_hash"
        " and c.version >= s.floor)"
    )
    return PlannedBacklog(
        *tables.one(
            """
            with waiting as materialized (
                select s.{id}, s.missing, {usable} as usable from {state} s
                where s.pending and {scope}
            )
            select
                (select count(*) from waiting),
                (select count(*) from waiting where missing),
                (select coalesce(sum(chunks), 0)::bigint from (
                    select count(*) as chunks from waiting group by {id} having bool_and(usable)
                ) as whole),
                (select count(*) from selected where place = {place}),
                (select coalesce(sum(least(tokens, {max_tokens})), 0)::bigint from selected
                    where place = {place}),
                (select count(distinct w.{id}) from waiting w
                    where not exists (select from changed_rows c where c.id = w.{id}))
            """,
            state=state,
            scope=scope.condition(tables.names),
            usable=sql.SQL(usable).format(cache=cache),
            place=Literal(place),
            max_tokens=Literal(max_tokens),
        )
    )


def sampled_hashes(tables: EntityTables, place: int, limit: int) -> dict[bytes, int]:
    """The hashes of at most `limit` selected texts of a set, with their tokens. The choice is
    random, but the same each time."""
    rows = tables.execute(
        "select text_hash, tokens from selected where place = {place} order by text_hash limit %s",
        (limit,),
        place=Literal(place),
    )
    return {text_hash.bytes: tokens for text_hash, tokens in rows}


def rows_of(tables: EntityTables, hashes: Sequence[bytes]) -> dict[bytes, str]:
    """For each of these hashes the id of a rendered row with this text or weighted part."""
    rows = tables.execute(
        "select distinct on (h) h, id::text from rendered,"
        " unnest(coalesce(part_hashes, array[text_hash])) as h where h = any(%s::uuid[])",
        ([text_hash.hex() for text_hash in hashes],),
    )
    return {text_hash.bytes: row_id for text_hash, row_id in rows}


def _planned(number: int) -> Identifier:
    return Identifier("pg_temp", f"planned_cache_{number}")


def _key(names: TableNames) -> sql.Composable:
    """The partition of a stored text `t` by the current scheme."""
    partitions = names.source.entity.partitions
    if isinstance(partitions, HashPartitions):
        return hash_key(names.source, partitions, Identifier("t", names.source.entity.id))
    return sql.SQL("t.partition_key")
