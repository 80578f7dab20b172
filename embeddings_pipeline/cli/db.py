"""`embeddings-pipeline db`: the embedded Postgres, and the tables."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from embeddings_pipeline.cli.output import print_message, print_table
from embeddings_pipeline.errors import ConfigurationError
from embeddings_pipeline.pipeline import Pipeline
from embeddings_pipeline.settings import Settings
from embeddings_pipeline.store import migrations
from embeddings_pipeline.store.embedded import server as embedded

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


def _data_dir() -> Path:
    settings = Settings.load()
    if settings.staging_database or settings.vectors_database:
        raise ConfigurationError(
            "a database is configured (STAGING_DB_*/PGVECTOR_*): the embedded server is not used;"
            " unset them to use it"
        )
    return settings.embedded_data_dir
