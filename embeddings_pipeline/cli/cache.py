"""`embeddings-pipeline cache`: the vectors that Redis remembers."""

from __future__ import annotations

from typing import Annotated

import typer

from embeddings_pipeline.cli.output import print_json
from embeddings_pipeline.cli.selection import AsJson
from embeddings_pipeline.encoders.cache.encoder import CacheStats
from embeddings_pipeline.pipeline import Pipeline

app = typer.Typer(no_args_is_help=True, help="The vectors that Redis remembers.")


@app.command()
def clear(
    pattern: Annotated[
        str, typer.Argument(metavar="[PATTERN]", help="Models, like 'text-embedding-*'.")
    ] = "*",
) -> None:
    """Remove the remembered vectors of queries, of these models or of all."""
    with Pipeline.open() as pipeline:
        removed = pipeline.encoders.cache.clear(pattern)
    typer.echo(f"{removed:,} vectors removed")


@app.command()
def status(as_json: AsJson = False) -> None:
    """Show how much Redis holds and how often it had what was asked for."""
    with Pipeline.open() as pipeline:
        stats = pipeline.encoders.cache.stats()
    if as_json:
        print_json(stats)
    else:
        typer.echo(described(stats))


def described(stats: CacheStats) -> str:
    """A line on the Redis of all processes; a command itself has hardly asked for anything."""
    if stats.server is None:
        return f"cache: Redis is {stats.redis}; each process remembers for itself"
    asked = stats.server.hits + stats.server.misses
    rate = f"{stats.server.hits / asked:.1%} of look-ups found" if asked else "no look-ups yet"
    return (
        f"cache: Redis has {stats.server.keys:,} keys and"
        f" {stats.server.memory_bytes / (1 << 20):,.1f} MiB; {rate} since it started"
    )
