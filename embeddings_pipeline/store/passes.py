"""What surrounds a pass over the texts: partition keys, retries, the record of its end."""

from __future__ import annotations

from psycopg import Connection, sql

from embeddings_pipeline.entities.partitions import HashPartitions
from embeddings_pipeline.store.postgres import Row
from embeddings_pipeline.store.statements import Statements

# the fingerprint of a row that is to be looked at again by the next pass, whatever it says
UNSETTLED = 0


def scheme_changed(connection: Connection[Row], on: Statements) -> bool:
    """Whether the stored partition keys are of another scheme; not so before the first pass."""
    row = connection.execute(
        on.fill("select partition_scheme from {entities} where entity = {entity}")
    ).fetchone()
    return row is not None and row[0] != on.source.entity.partitions.model_dump_json()


def is_of_last_pass(connection: Connection[Row], on: Statements) -> bool:
    """Whether all stored texts follow this declaration and these columns already."""
    row = connection.execute(
        on.fill("select definition_hash, partition_scheme from {entities} where entity = {entity}")
    ).fetchone()
    scheme = on.source.entity.partitions.model_dump_json()
    return row == (on.source.definition_hash, scheme)


def unsettle(connection: Connection[Row], on: Statements) -> None:
    """Make the next pass look at every row again."""
    connection.execute(
        on.fill("update {texts} set fingerprint = {unsettled}", unsettled=sql.Literal(UNSETTLED))
    )


def retry(connection: Connection[Row], on: Statements) -> int:
    """Make the next run try again what is in quarantine; returns how many entries there are."""
    with connection.transaction():
        connection.execute(
            on.fill(
                "update {texts} t set fingerprint = {unsettled} from {quarantine} q"
                " where q.entity = {entity} and q.stage <> 'encode' and q.id = t.{id}::text",
                unsettled=sql.Literal(UNSETTLED),
            )
        )
        return connection.execute(
            on.fill("update {quarantine} set attempts = 0 where entity = {entity}")
        ).rowcount


def finish_pass(connection: Connection[Row], on: Statements, *, analyze: bool) -> None:
    """Record the definition that all texts follow now, and refresh the statistics if asked."""
    connection.execute(
        on.fill(
            "update {entities} set definition = %s, definition_hash = %s,"
            " last_pass_at = clock_timestamp() where entity = {entity}"
        ),
        (on.source.entity.declaration(), on.source.definition_hash),
    )
    if analyze:
        connection.execute(on.fill("vacuum (analyze) {texts}"))


def rekey(connection: Connection[Row], on: Statements) -> int:
    """Recompute the partition keys where the scheme changed; returns the rows that moved.

    A scheme by day is part of the definition: there the pass itself gives each row its key.
    """
    partitions = on.source.entity.partitions
    scheme = partitions.model_dump_json()
    (stored,) = on.one(
        connection, "select partition_scheme from {entities} where entity = {entity}"
    )
    if stored == scheme:
        return 0
    moved = 0
    with connection.transaction():
        if isinstance(partitions, HashPartitions):
            (moved,) = on.one(
                connection,
                "with moved as (update {texts} set partition_key = {key}"
                " where partition_key <> {key} returning chunk)"
                " select count(*) filter (where chunk = 0) from moved",
                key=hash_key(on, partitions),
            )
        connection.execute(
            on.fill("update {entities} set partition_scheme = %s where entity = {entity}"),
            (scheme,),
        )
    return moved


def hash_key(
    on: Statements, partitions: HashPartitions, column: sql.Composable | None = None
) -> sql.Composable:
    """In SQL what `HashPartitions.key_of` is in Python, of the id or of what a column calls it."""
    return on.fill(
        "lpad(mod(('x' || left(md5({column}::text), 8))::bit(32)::bigint, {count})::text,"
        " {width}, '0')",
        column=column or on.names["id"],
        count=sql.Literal(partitions.count),
        width=sql.Literal(partitions.width),
    )
