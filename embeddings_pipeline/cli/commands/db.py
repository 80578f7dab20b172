"""`embeddings-pipeline db`: the embedded Postgres, and the tables."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated

import typer

from embeddings_pipeline.cli.output import print_json, print_line, print_message, print_table
from embeddings_pipeline.cli.selection import AsJson, EntityName, session
from embeddings_pipeline.database import Database
from embeddings_pipeline.errors import ConfigurationError
from embeddings_pipeline.pipeline import Pipeline
from embeddings_pipeline.settings import Settings
from embeddings_pipeline.store import declarations, migrations, removal
from embeddings_pipeline.store.embedded import server as embedded
from embeddings_pipeline.store.tables import open_tables
from embeddings_pipeline.sync import erase

app = typer.Typer(
    no_args_is_help=True,
    help="The embedded Postgres, used where no database is configured, and the tables.",
)


@app.command()
def start() -> None:
    """Start the server, unless it runs, and print its address."""
    typer.echo(embedded.start(_data_dir()))


@app.command()
def stop() -> None:
    """Stop the server; the data stays."""
    typer.echo("stopped" if embedded.stop(_data_dir()) else "was not running")


@app.command()
def url() -> None:
    """Print the server's URL with the password: psql "$(… db url)". Starts it if needed."""
    typer.echo(embedded.start(_data_dir()).url)


@app.command()
def env(as_json: AsJson = False) -> None:
    """Print the variables that a dbt profile and other tools need, for a shell: eval "$(… db env)".
    The passwords are among them. Starts the embedded server where no database is configured."""
    settings = Settings.load()
    staging, vectors = settings.staging_database, settings.vectors_database
    if staging is None or vectors is None:
        staging = vectors = embedded.start(settings.embedded_data_dir)
    variables = {
        **_variables("STAGING_DB_", "NAME", staging),
        **_variables("PGVECTOR_", "DATABASE", vectors),
        "PGVECTOR_SCHEMA": settings.pgvector_schema,
    }
    if as_json:
        print_json(variables)
    else:
        for name, value in variables.items():
            typer.echo(f"export {name}={shlex.quote(value)}")


def _variables(prefix: str, name: str, database: Database) -> dict[str, str]:
    return {
        f"{prefix}HOST": database.host,
        f"{prefix}PORT": str(database.port),
        f"{prefix}{name}": database.name,
        f"{prefix}USER": database.user,
        f"{prefix}PASSWORD": database.password.get_secret_value(),
    }


@app.command()
def migrate(
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only show the changes.")] = False,
) -> None:
    """Bring tables of an earlier version up to this one, as the next run would. Nothing is encoded
    again."""
    with Pipeline.open() as pipeline:
        planned = pipeline.planned_migration()
        if planned:
            print_table(("table", "rows", "change"), [(m.table, m.rows, m.what) for m in planned])
        else:
            print_message("the tables are of this version")
        if dry_run:
            return
        keep = pipeline.settings.embedding_cache_keep
        for model, done in migrations.seed_caches(pipeline.vectors, pipeline.schema, keep=keep):
            print_message(f"cache of {model}: {done} of {migrations.WINDOWS} parts")


@app.command()
def drop(
    entity: EntityName,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only show what it drops.")] = False,
) -> None:
    """Drop the tables of an entity that no model declares any more, once it is empty."""
    with session() as pipeline:
        if entity in pipeline.declared.models:
            raise ConfigurationError(
                f"entity {entity!r} is declared: take its declaration away first"
            )
        with pipeline.vectors.connection() as connection:
            stored = declarations.stored_entity(connection, pipeline.schema, entity)
        names = declarations.as_stored(pipeline.schema, stored)
        with open_tables(pipeline.vectors, names) as tables:
            found = ", ".join(removal.objects(tables))
        if not dry_run:
            erase.drop(pipeline.vectors, names, pipeline.encoders.cache.evict)
        print_line(f"{'would drop' if dry_run else 'dropped'} {found}")


def _data_dir() -> Path:
    settings = Settings.load()
    # `db env` configures the embedded server itself
    if settings.vectors_database not in (None, embedded.running(settings.embedded_data_dir)):
        raise ConfigurationError(
            "a database is configured (STAGING_DB_*/PGVECTOR_*): the embedded server is not used;"
            " unset them to use it"
        )
    return settings.embedded_data_dir
