"""The published view of an entity's vectors with the function that searches it, and the view
`entity_coverage`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import LiteralString, NamedTuple

from psycopg import Connection, sql
from psycopg.errors import DependentObjectsStillExist, InvalidFunctionDefinition
from psycopg.sql import Identifier

from embeddings_pipeline.entities.entity import RESERVED_COLUMNS
from embeddings_pipeline.errors import ConfigurationError
from embeddings_pipeline.store import vector_sets
from embeddings_pipeline.store.connection import Row, columns_of, only, trusted
from embeddings_pipeline.store.vector_sets import (
    EFFORT_SETTINGS,
    MAX_EF_SEARCH,
    OPERATORS,
    SIMILARITY,
    VectorSet,
)

# a statement that waits for a long reader blocks all later readers
LOCK_TIMEOUT = "10s"
_FIXED = ("chunk", "text", "embedding", "model", "text_hash", "updated_at")
# the name of the unique column of the view; a column of the entity of this name stands in its place
KEY = "key"
# names of the function itself; a column of the entity that has one of them gets an underscore
_FUNCTION_NAMES = frozenset({"query", "k", "distance", "similarity"})
_ITERATIVE_SCAN: dict[str, LiteralString] = {
    "hnsw": "hnsw.iterative_scan",
    "ivfflat": "ivfflat.iterative_scan",
}


class Grant(NamedTuple):
    """A privilege of a role: EXECUTE on the function, or another on the view. The role None is
    PUBLIC."""

    role: str | None
    privilege: str
    grantable: bool


def limit_lock_wait(connection: Connection[Row]) -> None:
    """Make the statements of this transaction raise LockNotAvailable, where they would wait for a
    long reader. The next run tries again.
    """
    connection.execute(sql.SQL("set local lock_timeout = {}").format(sql.Literal(LOCK_TIMEOUT)))


class PublishedView:
    """The view `<entity>_embeddings` of an entity, with its function `search_<entity>`."""

    def __init__(self, connection: Connection[Row], schema: str, entity: str) -> None:
        self._connection = connection
        self._schema = schema
        self._entity = entity
        self._name = f"{entity}_embeddings"
        self._view = Identifier(schema, self._name)
        self._function = SearchFunction(connection, schema, entity)

    def replace(self, *, again: bool = False) -> bool:
        """Make the view and its function show the live vector set; False where there is none.

        Columns keep their positions, so that dependent views and grants survive. A current view is
        not replaced, unless `again` is true, because replacing it waits for its readers and blocks
        new ones.
        """
        sets = vector_sets.live_sets(self._connection, self._schema)
        live = next((s for s in sets if s.entity == self._entity), None)
        if live is None:
            return False
        (id_column,) = only(
            self._connection.execute(
                sql.SQL("select definition->>'id' from {} where entity = %s").format(
                    Identifier(self._schema, "entities")
                ),
                (self._entity,),
            )
        )
        fixed = (id_column, *_FIXED)
        copied = [
            column
            for column in columns_of(self._connection, self._schema, live.table_name)
            if column not in RESERVED_COLUMNS and column != id_column
        ]
        key = KEY
        while key in (id_column, *copied):
            key += "_"
        present = list(columns_of(self._connection, self._schema, self._name))
        known = [column for column in present if column in (key, *copied)]
        ordered = known + [column for column in (key, *copied) if column not in known]
        right = present == [*fixed, *ordered] and self._reads(live.table_name)
        replaced = again or not right
        if replaced:
            self._replace_view(live, (*fixed, *ordered), key)
        copied = [column for column in ordered if column != key]
        if self._function.replace(live, (id_column, "chunk", "text", *copied)) or replaced:
            self._comment(live, id_column, copied, key)
        return True

    def _replace_view(self, live: VectorSet, columns: Sequence[str], key: str) -> None:
        # the cast drops the dimension: `create or replace view` does not change the type of a
        # column
        values = {
            "embedding": sql.SQL("embedding::vector"),
            "model": sql.Literal(live.model),
            # the view has always shown the hash as bytea
            "text_hash": sql.SQL("uuid_send(text_hash)"),
            key: sql.SQL("{}::text || '/' || chunk").format(Identifier(columns[0])),
        }
        selected = sql.SQL(", ").join(
            sql.SQL("{} as {}").format(values.get(column, Identifier(column)), Identifier(column))
            for column in columns
        )
        limit_lock_wait(self._connection)
        self._connection.execute(
            sql.SQL("create or replace view {} as select {} from {}").format(
                self._view, selected, Identifier(self._schema, live.table_name)
            )
        )

    def _comment(self, live: VectorSet, id_column: str, copied: Sequence[str], key: str) -> None:
        """Say on the view and on its columns what they are."""
        function = self._function.name.as_string(self._connection)
        operator = OPERATORS[live.metric]
        view = (
            f"The published vectors of {self._entity}, a row for each chunk."
            f" {function}('[...]', 100) returns the 100 nearest, best first."
            f" `order by embedding {operator} '[...]' limit 100` returns at most hnsw.ef_search"
            " (40) rows, unless hnsw.iterative_scan is set."
        )
        columns = {
            id_column: f"id of the row of {self._entity}",
            "chunk": "number of the chunk in the text of its row, from 0",
            "text": "the text that was encoded; of an image, its URI",
            "embedding": f"the vector of the text. {function} finds the nearest;"
            f" the distance is {operator} ({live.metric})",
            "model": "the model that encoded the vector",
            "text_hash": "hash of the text",
            "updated_at": "when the vector was written",
            key: "id and chunk in one unique value, for clients that need one; it has no index",
            **dict.fromkeys(copied, "copied from the staging model"),
        }
        self._connection.execute(
            sql.SQL("; ").join(
                [
                    sql.SQL("comment on view {} is {}").format(self._view, sql.Literal(view)),
                    *(
                        sql.SQL("comment on column {} is {}").format(
                            Identifier(self._schema, self._name, column), sql.Literal(comment)
                        )
                        for column, comment in columns.items()
                    ),
                ]
            )
        )

    def drop(self) -> list[Grant]:
        """Drop the view and its function, to remove a column; returns the grants on them.

        Raises ConfigurationError with the objects that depend on them.
        """
        granted = self._connection.execute(
            """
            select r.rolname, a.privilege_type, a.is_grantable
            from pg_class c cross join aclexplode(c.relacl) a
            left join pg_roles r on r.oid = a.grantee
            where c.oid = to_regclass(format('%%I.%%I', %s::text, %s::text))
                and a.grantee <> c.relowner
            """,
            (self._schema, self._name),
        ).fetchall()
        try:
            with self._connection.transaction():
                on_function = self._function.drop()
                self._connection.execute(sql.SQL("drop view if exists {}").format(self._view))
        except DependentObjectsStillExist as error:
            raise ConfigurationError(
                f"entity {self._entity!r}: a filter, title, url or image_url was removed, changed"
                f" its type or took the name {KEY}, but {error.diag.message_detail}; drop the"
                " dependent objects (dbt builds its models again), then run once more"
            ) from None
        return [*(Grant(*row) for row in granted), *on_function]

    def grant(self, grants: Sequence[Grant]) -> None:
        """Grant the privileges on the dropped view and function on the new ones."""
        self._function.grant(grants)
        on_view = [grant for grant in grants if grant.privilege != "EXECUTE"]
        _grant(self._connection, self._view, on_view)

    def _reads(self, table: str) -> bool:
        """Whether the view reads this table."""
        row = self._connection.execute(
            """
            select from pg_rewrite r
            join pg_depend d on d.classid = 'pg_rewrite'::regclass and d.objid = r.oid
            where r.ev_class = to_regclass(format('%%I.%%I', %(schema)s::text, %(view)s::text))
                and d.refobjid = to_regclass(format('%%I.%%I', %(schema)s::text, %(table)s::text))
            """,
            {"schema": self._schema, "view": self._name, "table": table},
        ).fetchone()
        return row is not None


class SearchFunction:
    """The function `search_<entity>(query vector, k int default 10)`: the k nearest chunks of the
    published view, best first, with their distance and similarity.

    It runs with the privileges of its caller. Its settings end with the call, so that it works
    behind a pooler.
    """

    def __init__(self, connection: Connection[Row], schema: str, entity: str) -> None:
        self._connection = connection
        self._schema = schema
        self._entity = entity
        self._view = Identifier(schema, f"{entity}_embeddings")
        self.name = Identifier(schema, f"search_{entity}")

    def replace(self, live: VectorSet, columns: Sequence[str]) -> bool:
        """Make the function return these columns of the view, the id first; returns whether it was
        another one before.

        Raises ConfigurationError with the objects that depend on it, where its columns change.
        """
        extension, signature, present = self._present()
        body = self._body(live, columns, extension)
        if present == body:
            return False
        create = self._definition(live, columns, extension, body)
        # a role that is no superuser may set what the library defines, and a cast loads the library
        self._connection.execute(
            sql.SQL("select '[0]'::{}").format(Identifier(extension, "vector"))
        )
        try:
            with self._connection.transaction():
                self._connection.execute(create)
        except InvalidFunctionDefinition:
            # `create or replace function` does not change the columns
            try:
                with self._connection.transaction():
                    granted = self.drop()
                    self._connection.execute(create)
                    self.grant(granted)
            except DependentObjectsStillExist as error:
                raise ConfigurationError(
                    f"entity {self._entity!r}: the filters, title, url or image_url changed, and"
                    f" with them the columns of {signature}, but {error.diag.message_detail};"
                    " drop the dependent objects, then run once more"
                ) from None
        return True

    def drop(self) -> list[Grant]:
        """Drop the function; returns the grants on it."""
        _, signature, _ = self._present()
        rows = self._connection.execute(
            """
            select r.rolname, a.privilege_type, a.is_grantable
            from pg_proc p cross join aclexplode(p.proacl) a
            left join pg_roles r on r.oid = a.grantee
            where p.oid = to_regprocedure(%s) and a.grantee <> p.proowner
            """,
            (signature,),
        ).fetchall()
        self._connection.execute(
            sql.SQL("drop function if exists {}").format(trusted(signature, escaped=False))
        )
        return [Grant(*row) for row in rows]

    def grant(self, grants: Sequence[Grant]) -> None:
        """Grant the EXECUTE privileges among these."""
        _, signature, _ = self._present()
        function = sql.SQL("function {}").format(trusted(signature, escaped=False))
        _grant(self._connection, function, [g for g in grants if g.privilege == "EXECUTE"])

    def _present(self) -> tuple[str, str, str | None]:
        """The schema of the extension, the name of the function with the types of its arguments,
        and the body of the present one."""
        row: tuple[str, str, str | None] = only(
            self._connection.execute(
                """
                select extension, signature, prosrc
                from (
                    select n.nspname as extension,
                        format('%%I.%%I(%%I.vector, int)', %s::text, %s::text, n.nspname)
                            as signature
                    from pg_extension e join pg_namespace n on n.oid = e.extnamespace
                    where e.extname = 'vector'
                ) as named left join pg_proc on oid = to_regprocedure(signature)
                """,
                (self._schema, f"search_{self._entity}"),
            )
        )
        return row

    def _definition(
        self, live: VectorSet, columns: Sequence[str], extension: str, body: str
    ) -> sql.Composed:
        settings: sql.Composable = sql.SQL("")
        if kind := live.searched_index:
            settings = sql.SQL(
                # `set_config` in the body changes the effort, and the clause restores it. The
                # planner underestimates the cost of reading a vector from TOAST; and compiling
                # the branch that compares all would take longer than the search
                "set {effort} = {value} set {iterative} = relaxed_order"
                " set enable_seqscan = off set jit = off"
            ).format(
                effort=sql.SQL(EFFORT_SETTINGS[kind]),
                value=sql.Literal(live.ef_search),
                iterative=sql.SQL(_ITERATIVE_SCAN[kind]),
            )
        return sql.SQL(
            "create or replace function {name} (query {vector}, k int default 10)"
            " returns table ({columns}, distance double precision, similarity double precision)"
            " language plpgsql stable strict security invoker"
            " set search_path = pg_catalog, pg_temp {settings} as {body};"
            " comment on function {name} ({vector}, int) is {comment}"
        ).format(
            name=self.name,
            vector=Identifier(extension, "vector"),
            columns=sql.SQL(", ").join(
                sql.SQL("{} {}%type").format(
                    Identifier(_returned(column)),
                    Identifier(self._schema, f"{self._entity}_embeddings", column),
                )
                for column in columns
            ),
            settings=settings,
            body=sql.Literal(body),
            comment=sql.Literal(
                f"The k chunks of {self._entity} whose vectors are nearest to the query, best first"
            ),
        )

    def _body(self, live: VectorSet, columns: Sequence[str], extension: str) -> str:
        vector = Identifier(extension, "vector")
        of_view = self._search(live, columns, extension, self._view, vector)
        searched = sql.SQL("return query {};").format(of_view)
        if live.storage == "halfvec" and live.searched_index:
            # the view casts the vectors, and no index matches the cast
            table = Identifier(self._schema, live.table_name)
            halfvec = Identifier(extension, "halfvec")
            searched = sql.SQL(
                "if has_table_privilege({table}, 'select') then return query {of_table};"
                " else return query {of_view}; end if;"
            ).format(
                table=sql.Literal(table.as_string(self._connection)),
                of_table=self._search(live, columns, extension, table, halfvec),
                of_view=of_view,
            )
        effort: sql.Composable = sql.SQL("")
        if kind := live.searched_index:
            least = sql.SQL("least($2, {})").format(sql.Literal(MAX_EF_SEARCH))
            effort = sql.SQL(
                "perform set_config({setting}, greatest({effort}, {least})::text, true);"
            ).format(
                setting=sql.Literal(EFFORT_SETTINGS[kind]),
                effort=sql.Literal(live.ef_search),
                least=least if kind == "hnsw" else sql.Literal(1),
            )
        body = sql.SQL(
            """
#variable_conflict use_column
begin
    {effort}
    {searched}
end
"""
        )
        return body.format(effort=effort, searched=searched).as_string(self._connection)

    def _search(
        self,
        live: VectorSet,
        columns: Sequence[str],
        extension: str,
        source: Identifier,
        kind: Identifier,
    ) -> sql.Composable:
        """The query for the k nearest chunks. Where the index finds fewer, all are compared."""
        return sql.SQL(
            """
            with by_index as materialized (
                select * from (
                    select {columns}, {distance} as distance from {source} v
                    order by {distance} limit $2
                -- the cosine of a zero vector is undefined
                ) n where n.distance < 'infinity'
            ),
            compared as (
                select {columns}, {distance} as distance from {source} v
                where (select count(*) from by_index) < $2 and {distance} < 'infinity'
                -- an index does not match the sum
                order by ({distance}) + 0 limit $2
            )
            select n.*, {similarity} from (
                select * from by_index where (select count(*) from by_index) >= $2
                union all select * from compared
            ) n
            order by n.distance, n.{id}, n.chunk
            """
        ).format(
            columns=sql.SQL(", ").join(
                sql.SQL("v.{} as {}").format(Identifier(column), Identifier(_returned(column)))
                for column in columns
            ),
            # the pinned search path has no operators of the extension
            distance=sql.SQL("v.embedding operator({}.{}) $1::{}").format(
                Identifier(extension), sql.SQL(OPERATORS[live.metric]), kind
            ),
            source=source,
            similarity=sql.SQL(SIMILARITY[live.metric]),
            id=Identifier(_returned(columns[0])),
        )


def _returned(column: str) -> str:
    """The name of a column of the view in the answer of the function."""
    return f"{column}_" if column in _FUNCTION_NAMES else column


def _grant(connection: Connection[Row], on: sql.Composable, grants: Sequence[Grant]) -> None:
    for role, privilege, grantable in grants:
        connection.execute(
            sql.SQL("grant {} on {} to {}{}").format(
                trusted(privilege, escaped=False),
                on,
                Identifier(role) if role else sql.SQL("public"),
                sql.SQL(" with grant option" if grantable else ""),
            )
        )


def replace_coverage(connection: Connection[Row], schema: str) -> None:
    """Create `entity_coverage` again, with a row for every entity that has texts, of its live set
    or else of the one that is built.

    Call it in a transaction: it holds a lock until the transaction ends.
    """
    connection.execute(
        "select pg_advisory_xact_lock(hashtextextended(%s, 0))", (f"coverage/{schema}",)
    )
    rows = connection.execute(
        sql.SQL(
            "select e.entity, e.definition->>'id' from {entities} e"
            # an entity whose tables were dropped is left out
            " where to_regclass(format('%I.%I', {schema}::text, e.entity || '_texts')) is not null"
            " order by 1"
        ).format(
            schema=sql.Literal(schema),
            entities=Identifier(schema, "entities"),
        )
    ).fetchall()
    if not rows:
        connection.execute(
            sql.SQL("drop view if exists {}").format(Identifier(schema, "entity_coverage"))
        )
        return
    shown = vector_sets.served_sets(connection, schema)
    selects = [_coverage_of(schema, entity, key, shown.get(entity)) for entity, key in rows]
    connection.execute(
        sql.SQL("create or replace view {} as {}").format(
            Identifier(schema, "entity_coverage"), sql.SQL(" union all ").join(selects)
        )
    )


def _coverage_of(
    schema: str, entity: str, id_column: str, shown: VectorSet | None
) -> sql.Composable:
    """The query of one row of the coverage view. Without a set every text is pending."""
    key = Identifier(id_column)
    without_set = sql.SQL(
        "(select {key}, true as missing, false as outdated, false as quarantined, true as pending,"
        " coalesce(source_changed_at, serialised_at) as changed_at from {texts}"
        " where text_hash is not null)"
    ).format(key=key, texts=Identifier(schema, f"{entity}_texts"))
    return sql.SQL(
        """
        select
            {entity}::text as entity,
            count(*) as rows,
            count(*) filter (where missing = 0) as rows_with_vectors,
            -- 100 only where nothing is missing
            coalesce(trunc(100.0 * count(*) filter (where missing = 0) / nullif(count(*), 0), 2),
                100) as coverage_percent,
            coalesce(sum(pending), 0)::bigint as pending,
            coalesce(sum(quarantined), 0)::bigint
                + (select count(*) from {quarantine} where entity = {entity}) as quarantined,
            extract(epoch from now() - min(pending_since))::bigint as oldest_pending_seconds,
            {recent} as vectors_last_24h
        from (
            select
                s.{key},
                count(*) filter (where s.missing) as missing,
                count(*) filter (where s.pending) as pending,
                count(*) filter (where s.quarantined and (s.missing or s.outdated)) as quarantined,
                min(s.changed_at) filter (where s.pending) as pending_since
            from {states} s
            group by s.{key}
        ) as by_row
        """
    ).format(
        entity=sql.Literal(entity),
        key=key,
        states=Identifier(schema, shown.states_view) if shown else without_set,
        quarantine=Identifier(schema, "quarantine"),
        recent=sql.SQL(
            "(select count(*) from {} where updated_at > now() - interval '24 hours')"
        ).format(Identifier(schema, shown.table_name))
        if shown
        else sql.SQL("0::bigint"),
    )
