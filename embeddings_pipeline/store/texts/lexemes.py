"""The lexemes of each text and their frequencies, for full-text search.

The lexemes are a generated column of `<entity>_texts`, so that they are always those of the text.
They are the same for every model.
"""

from __future__ import annotations

from typing import LiteralString

from psycopg import Connection, sql
from psycopg.sql import Identifier, Literal

from embeddings_pipeline.entities.entity import Entity
from embeddings_pipeline.store.connection import Row
from embeddings_pipeline.store.tables import EntityTables

# characters of a text that full-text search reads: the lexemes of one text may take 1 MiB
READ = 100_000

# BM25 (Robertson and Zaragoza, The Probabilistic Relevance Framework, 2009) with Anserini's
# constants (Lin et al., Pyserini, SIGIR 2021)
K1, B = 0.9, 0.4

# A lexeme that occurs f times in a text weighs f / (f + length) there, and the text also gets the
# lexeme with each of these levels that its weight reaches (`pump 70`), so that the index finds
# texts in which it weighs much. No language produces a lexeme with a space. A lexeme that occurs
# once reaches no level, so that most texts store few
LEVELS = (0.65, 0.7, 0.75, 0.8, 0.85, 0.9)
# the average length in tokens for which the levels are computed. That of an entity changes, and a
# stored column cannot depend on it: searches allow for the difference
REFERENCE_TOKENS = 200

# an expression for the column `lexeme` as a word of a tsquery
QUOTED: LiteralString = "'''' || replace(replace(lexeme, '\\', '\\\\'), '''', '''''') || ''''"

# lexemes in fewer texts are counted by each search. A word of few rows is thus stored only in their
# texts, and is deleted with them
FREQUENT = 100

# counts are refreshed when this share of the texts is new, changed or gone
_COUNT_AGAIN = 0.1


def create_function(connection: Connection[Row], schema: str) -> None:
    """Create the function `with_levels`, which adds the lexemes of `LEVELS` to a tsvector."""
    name = sql.SQL("{}(tsvector, int)").format(Identifier(schema, "with_levels"))
    (known,) = connection.execute(
        "select to_regprocedure(%s)", (name.as_string(connection),)
    ).fetchone() or (None,)
    if known is None:
        connection.execute(
            sql.SQL(
                """
                create function {name} returns tsvector language plpgsql
                immutable strict parallel safe as $body$
                declare
                    length float8 := {k1} * (1 - {b} + {b} * $2 / {reference});
                begin
                    -- two positions have a comma between them
                    if $1::text not like '%,%' then return $1; end if;
                    return $1 || coalesce((
                        select array_to_tsvector(array_agg(lexeme || ' ' || level))
                        from unnest($1) cross join unnest({levels}) as level
                        where cardinality(positions) * (100 - level) >= length * level
                    ), ''::tsvector);
                end $body$
                """
            ).format(
                name=name,
                k1=Literal(K1),
                b=Literal(B),
                reference=Literal(float(REFERENCE_TOKENS)),
                levels=Literal([round(100 * level) for level in LEVELS]),
            )
        )


def tsvector(entity: Entity, text: sql.Composable) -> sql.Composable:
    """The tsvector of a text of the entity, or of a query."""
    # Postgres parses `<script` as a tag, and drops all words up to the end of the tag
    return sql.SQL("to_tsvector({}::regconfig, translate({}, '<>', '  '))").format(
        Literal(f"pg_catalog.{entity.language}"), text
    )


def ensure(connection: Connection[Row], schema: str, entity: Entity) -> None:
    """Create the column and the table of frequencies, again when the language changes."""
    table = f"{entity.name}_texts"
    names = {
        "table": Identifier(schema, table),
        "frequencies": Identifier(schema, f"{entity.name}_lexemes"),
        "entities": Identifier(schema, "entities"),
        "entity": Literal(entity.name),
        "lexemes": sql.SQL("{}({}, tokens)").format(
            Identifier(schema, "with_levels"),
            tsvector(entity, sql.SQL("left(text, {})").format(Literal(READ))),
        ),
    }
    if _language(connection, schema, table) == entity.language:
        return
    for statement in (
        "alter table {table} drop column if exists lexemes",
        "alter table {table} add column lexemes tsvector generated always as ({lexemes}) stored",
        "create table if not exists {frequencies}"
        " (lexeme text primary key, documents bigint not null)",
        "update {entities} set counted_at = null where entity = {entity}",
    ):
        connection.execute(sql.SQL(statement).format(**names))


def refresh_counts(tables: EntityTables) -> bool:
    """Count lexemes and lengths again where enough texts have changed; returns whether it did."""
    documents, average, due = tables.one(
        """
        select t.documents, t.average_tokens, e.counted_at is null
            or t.fresh + abs(t.documents - e.documents) > {share} * t.documents
        from {entities} e cross join lateral (
            select count(*) as documents, coalesce(avg(tokens), 1)::float8 as average_tokens,
                count(*) filter (where serialised_at > e.counted_at) as fresh
            from {texts} where text_hash is not null
        ) t
        where e.entity = {entity}
        """,
        share=Literal(_COUNT_AGAIN),
    )
    if not due:
        return False
    with tables.connection.transaction():
        # this update comes first, so that concurrent calls take turns
        tables.execute(
            "update {entities} set documents = %s, average_tokens = %s, counted_at = now()"
            " where entity = {entity}",
            (documents, average),
        )
        tables.execute("delete from {lexemes}")
        tables.execute(
            "insert into {lexemes} select word, ndoc from ts_stat({every})"
            " where ndoc >= {few} and position(' ' in word) = 0",
            every=Literal(tables.fill("select lexemes from {texts}").as_string(tables.connection)),
            few=Literal(FREQUENT),
        )
    return True


def _language(connection: Connection[Row], schema: str, table: str) -> str | None:
    """The language of the existing column; None where it is missing, or of an earlier version."""
    row = connection.execute(
        """
        select substring(
            pg_get_expr(d.adbin, d.adrelid)
            from 'with_levels\\(.*''(?:pg_catalog\\.)?(\\w+)''::regconfig, translate'
        )
        from pg_attrdef d join pg_attribute a on a.attrelid = d.adrelid and a.attnum = d.adnum
        where d.adrelid = to_regclass(format('%%I.%%I', %s::text, %s::text))
            and a.attname = 'lexemes'
        """,
        (schema, table),
    ).fetchone()
    return row[0] if row else None
