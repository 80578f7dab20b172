"""Where the words of a query stand in texts."""

from __future__ import annotations

from collections.abc import Sequence

from psycopg import sql
from psycopg.sql import Literal, Placeholder

from embeddings_pipeline.store.tables import EntityTables
from embeddings_pipeline.store.texts import lexemes

# put around each word, in a text that has none of its own
_START, _STOP = "\x02", "\x03"


def places(tables: EntityTables, query: str, texts: Sequence[str]) -> list[list[tuple[int, int]]]:
    """For each text, where the query's words stand, in any form that the entity's language has:
    pairs of the first character and the one after the last, counted in code points from 0."""
    entity = tables.source.entity
    rows = tables.execute(
        """
        select ts_headline({language}::regconfig, {text}, q.query,
            'HighlightAll=true, StartSel=' || chr(2) || ', StopSel=' || chr(3))
        from (
            select string_agg({word}, ' | ')::tsquery as query
            from unnest(tsvector_to_array({tsvector})) as lexeme
        ) as q, unnest(%(texts)s::text[]) with ordinality as t (text, place)
        order by place
        """,
        {"query": query, "texts": list(texts)},
        language=Literal(f"pg_catalog.{entity.language}"),
        text=sql.SQL("translate(left(t.text, {}), '<>' || chr(2) || chr(3), '    ')").format(
            Literal(lexemes.READ)
        ),
        word=sql.SQL(lexemes.QUOTED),
        tsvector=lexemes.tsvector(entity, Placeholder("query")),
    )
    return [_places(marked) for (marked,) in rows]


def _places(marked: str | None) -> list[tuple[int, int]]:
    found = []
    place = start = 0
    # null where the query has no word
    for character in marked or "":
        if character == _START:
            start = place
        elif character == _STOP:
            found.append((start, place))
        else:
            place += 1
    return found
