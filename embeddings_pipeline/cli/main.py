"""The command line: imports a command when it is called, and turns errors into exit codes."""

from __future__ import annotations

import gc
import logging
import os
import sys
from importlib import import_module
from io import TextIOWrapper
from traceback import format_exception
from typing import TYPE_CHECKING, Annotated

import typer
from typer.core import TyperGroup

from embeddings_pipeline.cli.terminal import LogFormatter, json_line, logs_json, printable

if TYPE_CHECKING:
    from collections.abc import Mapping
    from types import TracebackType

    from typer import _click as click

FAILED, WRONG = 1, 2
_PACKAGE = "embeddings_pipeline.cli.commands"
# the extra that installs a module; those of a single feature are named where it is used
_EXTRAS = {
    "dagster": "dagster",
    "dagster_dbt": "dagster",
    "dagster_postgres": "dagster",
    "fastapi": "search",
    "matplotlib": "dagster",
    "mcp": "mcp",
    "mcp_types": "mcp",
    "prometheus_client": "search",
    "pyrate_limiter": "search",
    "starlette": "search",
    "uvicorn": "search",
}
# module and short help of each command; the help is the first sentence of its docstring
COMMANDS: Mapping[str, tuple[str, str]] = {
    "init": (
        "init",
        "Write a project to start from: a dbt project with one table, and its Dagster location.",
    ),
    "demo": ("demo", "Seed the example tables, embed five entities and search them."),
    "dev": ("dev", "Start the Dagster UI, and the daemon that runs the schedules."),
    "plan": ("plan", "Say what the next run would do, why, and what it would cost."),
    "run": ("run", "Bring vectors up to date, once and now."),
    "status": ("status", "Show rows, vectors, coverage, pending chunks and cost of each entity."),
    "explain": ("explain", "Show a row's text and vectors, and what the next run does with it."),
    "search": ("search", "Find the rows of an entity that answer a query, a text or an image."),
    "evaluate": (
        "search",
        "Measure each search mode on judged queries, exactly and through the index.",
    ),
    "serve": ("serve", "Serve searches over HTTP, with a page."),
    "mcp": (
        "mcp",
        "Give an agent tools to search, by the Model Context Protocol on standard input and"
        " output.",
    ),
    "models": ("models", "List the known models, and those that entities declare."),
    "publish": (
        "publish",
        "Publish the vector set that was built beside the live one, if it is complete.",
    ),
    "rollback": ("publish", "Publish the vector set that was live before."),
    "doctor": (
        "doctor",
        "Check settings, servers, privileges, models, dbt and Dagster, and say what to do.",
    ),
    "index": ("index", "Build the vector indexes that are missing or out of date."),
    "export": ("export", "Write the published vectors and rows to a FAISS snapshot."),
    "retry": ("erase", "Let the next run try everything in quarantine again."),
    "erase": ("erase", "Remove every trace of rows at once, and skip them until lifted."),
    "adopt": ("erase", "Take over the vectors that a table has for the same model and texts."),
    "cache": ("cache", "The query vectors in Redis."),
    "db": ("db", "The embedded Postgres, used where no database is configured, and the tables."),
}


class _LazyGroup(TyperGroup):
    """Lists its commands without importing them."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        module = import_module(f"{_PACKAGE}.{COMMANDS[cmd_name][0]}")
        if hasattr(module, "app"):
            # a group of commands
            return typer.main.get_group(module.app)
        holder = typer.Typer(
            add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None
        )
        holder.command(cmd_name)(getattr(module, cmd_name))
        return typer.main.get_command(holder)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in COMMANDS.items()])


app = typer.Typer(
    cls=_LazyGroup,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    # plain help starts faster
    rich_markup_mode=None,
    help="Keeps pgvector in step with dbt models.",
)


def _print_version(requested: bool) -> None:
    if requested:
        from importlib.metadata import version

        typer.echo(version("embeddings-pipeline"))
        raise typer.Exit


@app.callback()
def options(
    debug: Annotated[bool, typer.Option(help="Show tracebacks and the logs of libraries.")] = False,
    version: Annotated[
        bool,
        typer.Option(
            "--version", help="Print the version.", callback=_print_version, is_eager=True
        ),
    ] = False,
) -> None:
    """Keeps pgvector in step with dbt models."""
    # the progress bars of libraries would mix with those of a run
    os.environ.setdefault("TQDM_DISABLE", "1")
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(LogFormatter(logging.BASIC_FORMAT))
    logging.basicConfig(level=logging.INFO if debug else logging.ERROR, handlers=[handler])
    logging.captureWarnings(not debug)


def main() -> None:
    """Run a command. Exit code 1: the work failed; 2: the call or the configuration is wrong."""
    sys.excepthook = _print_traceback
    # what the imports make stays to the end: a tenth of a short command went into looking at it
    gc.set_threshold(100_000)
    # a locale like de_DE.ISO-8859-1 has not all characters; Python sets the same for standard error
    if isinstance(sys.stdout, TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        app()
    except (Exception, KeyboardInterrupt) as error:
        code = _exit_code(error)
        if code is None or "--debug" in sys.argv:
            raise
        message = _message(error)
        as_json = logs_json()
        line = json_line(message, level="ERROR") if as_json else printable(f"error: {message}")
        typer.echo(line, err=True)
        sys.exit(code)


def _print_traceback(
    kind: type[BaseException], error: BaseException, traceback: TracebackType | None
) -> None:
    lines = "".join(format_exception(kind, error, traceback))
    if logs_json():
        message = f"{kind.__name__}: {error}"
        typer.echo(json_line(message, level="CRITICAL", traceback=lines.rstrip()), err=True)
    else:
        typer.echo(printable(lines), err=True, nl=False)


def _message(error: BaseException) -> str:
    if extra := _missing_extra(error):
        return f"this command needs more: pip install 'embeddings-pipeline[{extra}]'"
    return str(error).strip() or type(error).__name__


def _missing_extra(error: BaseException) -> str | None:
    """The extra that would install the module that is missing."""
    if isinstance(error, ModuleNotFoundError) and error.name:
        return _EXTRAS.get(error.name.partition(".")[0])
    return None


def _exit_code(error: BaseException) -> int | None:
    """The exit code of an expected error; None for a fault, which needs its traceback."""
    import psycopg

    from embeddings_pipeline.errors import ConfigurationError, EmbeddingsError

    if isinstance(error, ConfigurationError) or _missing_extra(error):
        return WRONG
    expected = isinstance(error, EmbeddingsError | psycopg.Error | KeyboardInterrupt)
    return FAILED if expected else None
