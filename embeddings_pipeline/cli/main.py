"""The command line: a command is imported when it is called, and errors become exit codes."""

from __future__ import annotations

import logging
import os
import sys
from importlib import import_module
from typing import TYPE_CHECKING, Annotated

import typer
from typer.core import TyperGroup

if TYPE_CHECKING:
    from collections.abc import Mapping

    from typer import _click as click

FAILED, WRONG = 1, 2
_PACKAGE = "embeddings_pipeline.cli"
# the module and the name of each command, and what `--help` says of it
_COMMANDS: Mapping[str, tuple[str, str, str]] = {
    "demo": ("demo", "demo", "Seed the example tables, embed five entities and search them."),
    "dev": ("dev", "dev", "Start Dagster's UI and schedules."),
    "plan": ("plan", "plan", "Say what the next run would do, why, and what it would cost."),
    "run": ("run", "run", "Bring vectors up to date, once and now."),
    "status": ("status", "status", "Show rows, vectors, coverage and cost of each entity."),
    "explain": ("explain", "explain", "Show a row's text, and why it has its vector."),
    "search": ("search", "search", "Find the rows that answer a query best."),
    "evaluate": ("search", "evaluate", "Measure searches by queries with judged answers."),
    "serve": ("serve", "serve", "Serve searches over HTTP, with a page."),
    "models": ("models", "models", "List the models that are known or declared."),
    "publish": ("publish", "publish", "Publish the vector set that is being built."),
    "rollback": ("publish", "rollback", "Publish the vector set that was live before."),
    "index": ("index", "index", "Build vector indexes where that is due."),
    "export": ("export", "export", "Write what is published to files."),
    "retry": ("erase", "retry", "Try everything in quarantine again with the next run."),
    "erase": ("erase", "erase", "Remove every trace of rows."),
    "adopt": ("erase", "adopt", "Take over vectors from a table of your own."),
    "cache": ("cache", "app", "The vectors that Redis remembers."),
    "db": ("db", "app", "The embedded Postgres and the tables."),
}


class _LazyGroup(TyperGroup):
    """Lists its commands without importing them."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _COMMANDS:
            return None
        module, name, _ = _COMMANDS[cmd_name]
        found = getattr(import_module(f"{_PACKAGE}.{module}"), name)
        if isinstance(found, typer.Typer):
            return typer.main.get_group(found)
        holder = typer.Typer(
            add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None
        )
        holder.command(cmd_name)(found)
        return typer.main.get_command(holder)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, _, text) in _COMMANDS.items()])


app = typer.Typer(
    cls=_LazyGroup,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    # plain help starts faster
    rich_markup_mode=None,
    help="Keeps pgvector in step with dbt models.",
)


def _print_version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        typer.echo(version("embeddings-pipeline"))
        raise typer.Exit


@app.callback()
def options(
    debug: Annotated[bool, typer.Option(help="Show tracebacks and what libraries log.")] = False,
    version: Annotated[
        bool,
        typer.Option(
            "--version", help="Print the version.", callback=_print_version, is_eager=True
        ),
    ] = False,
) -> None:
    """Keeps pgvector in step with dbt models."""
    # progress bars of libraries say nothing of this work
    os.environ.setdefault("TQDM_DISABLE", "1")
    logging.basicConfig(level=logging.INFO if debug else logging.ERROR, stream=sys.stderr)
    logging.captureWarnings(not debug)


def main() -> None:
    """Run a command. Exit code 1: the work failed; 2: the call or the configuration is wrong."""
    try:
        app()
    except (Exception, KeyboardInterrupt) as error:
        code = _exit_code(error)
        if code is None or "--debug" in sys.argv:
            raise
        typer.echo(f"error: {str(error).strip() or type(error).__name__}", err=True)
        sys.exit(code)


def _exit_code(error: BaseException) -> int | None:
    """The exit code of an error that is explained by its message alone; None for a fault."""
    import psycopg

    from embeddings_pipeline.errors import ConfigurationError, EmbeddingsError

    if isinstance(error, ConfigurationError):
        return WRONG
    expected = isinstance(error, EmbeddingsError | psycopg.Error | KeyboardInterrupt)
    return FAILED if expected else None
