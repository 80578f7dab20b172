"""`embeddings-pipeline erase`, `retry` and `adopt`: rows removed, tried again, taken over."""

from __future__ import annotations

from typing import Annotated
from uuid import uuid4

import typer

from embeddings_pipeline.cli.output import print_line, print_message
from embeddings_pipeline.cli.selection import EntityName, session_on
from embeddings_pipeline.errors import ConfigurationError
from embeddings_pipeline.store.vectors.adoption import Foreign
from embeddings_pipeline.sync import erase as erasure
from embeddings_pipeline.sync.adopt import adopt as adopt_table


def erase(
    entity: EntityName,
    ids: Annotated[
        list[str],
        typer.Argument(metavar="ID…", help="The rows; -- goes before an id that begins with -."),
    ],
    lift: Annotated[bool, typer.Option(help="Let the next run embed these ids again.")] = False,
) -> None:
    """Remove every trace of rows at once, and skip them until lifted."""
    with session_on(entity) as (pipeline, names):
        if lift:
            count = erasure.lift(pipeline.vectors, names, ids)
            print_line(f"{count} of {len(ids)} ids were erased; the next run embeds them again")
        else:
            erased = erasure.erase(pipeline.vectors, names, ids, pipeline.encoders.cache.evict)
            print_line(f"{len(ids)} ids erased; {erased.rows} of them had texts or vectors")
            if erased.left_in_cache:
                print_message(
                    f"Redis (EMBEDDING_REDIS_URL) cannot be reached: vectors of"
                    f" {erased.left_in_cache} texts may be left in it until the next run"
                )


def retry(entity: EntityName) -> None:
    """Let the next run try everything in quarantine again."""
    with session_on(entity) as (pipeline, names):
        count = erasure.retry(pipeline.vectors, names)
    print_line(f"the next run tries {count} entries again")


def adopt(
    entity: EntityName,
    table: Annotated[str, typer.Option(help="SCHEMA.TABLE in the database of the vectors.")],
    id_column: Annotated[str, typer.Option("--id", help="The column of the ids.")],
    embedding: Annotated[str, typer.Option(help="The column of the vectors.")],
    text: Annotated[str, typer.Option(help="The column of the texts.")],
) -> None:
    """Take over the vectors that a table has for the same model and texts."""
    schema, dot, name = table.rpartition(".")
    if not name:
        raise ConfigurationError(f"--table {table!r} is not SCHEMA.TABLE")
    foreign = Foreign(schema if dot else "public", name, id_column, text, embedding)
    with session_on(entity) as (pipeline, names):
        adopted = adopt_table(pipeline.vectors, names, pipeline.encoders, foreign, str(uuid4()))
    print_line(
        f"{adopted.fitted:,} of {adopted.rows:,} rows were taken over; the others have another"
        " text, no row, a vector already, or a vector that the model cannot produce"
    )
