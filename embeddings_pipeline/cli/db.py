"""`embeddings-pipeline db`: the embedded Postgres, by hand."""

from __future__ import annotations

from pathlib import Path

import typer

from embeddings_pipeline.errors import ConfigurationError
from embeddings_pipeline.settings import Settings
from embeddings_pipeline.store import embedded

app = typer.Typer(
    no_args_is_help=True, help="The embedded Postgres, used where no database is configured."
)


@app.command()
def start() -> None:
    """Start it, unless it runs, and say where it is."""
    typer.echo(embedded.start(_data_dir()))


@app.command()
def stop() -> None:
    """Stop it; the data stays."""
    typer.echo("stopped" if embedded.stop(_data_dir()) else "was not running")


@app.command()
def url() -> None:
    """Print its URL with the password, starting it if needed: psql "$(… db url)"."""
    typer.echo(embedded.start(_data_dir()).url)


def _data_dir() -> Path:
    settings = Settings.load()
    if settings.staging_database or settings.vectors_database:
        raise ConfigurationError(
            "a database is configured (STAGING_DB_*/PGVECTOR_*): the embedded server is not used;"
            " unset them to use it"
        )
    return settings.embedded_data_dir
