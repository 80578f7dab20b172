"""What one run changed, by partition; and the state of all entities after it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from psycopg import Connection, sql
from psycopg.rows import dict_row
from psycopg.sql import Identifier

from embeddings_pipeline.store.connection import Row
from embeddings_pipeline.store.tables import EntityTables


def changed_rows(tables: EntityTables, run_id: str) -> dict[str, int]:
    """How many rows of each partition have a text that was written since a run began."""
    return dict(
        tables.execute(
            "select partition_key, count(distinct {id}) from {texts}"
            " where serialised_at >= (select started_at from {run_ledger}"
            " where entity = {entity} and run_id = %s) group by 1",
            (run_id,),
        ).fetchall()
    )


def encoded_texts(tables: EntityTables, set_tables: Sequence[str], run_id: str) -> dict[str, int]:
    """How many distinct texts a run encoded for these sets, by the first partition that has the
    text: the counts of all partitions add up to that of the run."""
    found: dict[str, int] = {}
    for name in set_tables:
        rows = tables.execute(
            """
            select partition_key, count(*)
            from (
                select v.text_hash, min(t.partition_key) as partition_key
                from {vectors} v join {texts} t using ({id}, chunk)
                where v.run_id = %s
                group by v.text_hash
            ) as by_text
            group by partition_key
            """,
            (run_id,),
            vectors=tables.table(name),
        )
        for key, count in rows:
            found[key] = found.get(key, 0) + count
    return found


def entity_coverage(connection: Connection[Row], schema: str) -> list[dict[str, Any]]:
    """The rows of the view `entity_coverage`, with numbers as floats and integers."""
    with connection.cursor(row_factory=dict_row) as cursor:
        rows = cursor.execute(
            sql.SQL("select * from {} order by entity").format(
                Identifier(schema, "entity_coverage")
            )
        ).fetchall()
    return [{**row, "coverage_percent": float(row["coverage_percent"])} for row in rows]
