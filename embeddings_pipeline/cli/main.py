"""The command line: what each error means for who typed the command."""

from __future__ import annotations

import logging
import os
import sys
from typing import Annotated

import psycopg
import typer

from embeddings_pipeline.cli import (
    cache,
    db,
    demo,
    dev,
    erase,
    explain,
    models,
    output,
    plan,
    publish,
    run,
    search,
    serve,
    status,
)
from embeddings_pipeline.errors import ConfigurationError, EmbeddingsError

FAILED, WRONG = 1, 2

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
    help="Keeps pgvector in step with dbt models, through Dagster.",
)
app.command()(demo.demo)
app.command()(dev.dev)
for command in (
    plan.plan,
    run.run,
    status.status,
    explain.explain,
    search.search,
    search.evaluate,
    serve.serve,
    models.models,
    publish.publish,
    publish.rollback,
    erase.retry,
    erase.erase,
    erase.adopt,
):
    app.command()(command)
app.add_typer(cache.app, name="cache")
app.add_typer(db.app, name="db")


@app.callback()
def options(
    debug: Annotated[bool, typer.Option(help="Show tracebacks and what libraries log.")] = False,
) -> None:
    """Keeps pgvector in step with dbt models, through Dagster."""
    # the bars of libraries say nothing of this work
    os.environ.setdefault("TQDM_DISABLE", "1")
    logging.basicConfig(level=logging.INFO if debug else logging.ERROR, stream=sys.stderr)
    logging.captureWarnings(not debug)


def main() -> None:
    """Run a command. Exit code 1: the work failed; 2: the call or the configuration is wrong."""
    try:
        app()
    except (EmbeddingsError, psycopg.Error, KeyboardInterrupt) as error:
        if "--debug" in sys.argv:
            raise
        output.say(f"error: {str(error).strip() or type(error).__name__}")
        sys.exit(WRONG if isinstance(error, ConfigurationError) else FAILED)
