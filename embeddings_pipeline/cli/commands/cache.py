"""`embeddings-pipeline cache`: the query vectors in Redis."""

from __future__ import annotations

from typing import Annotated

import typer

from embeddings_pipeline.cli.output import print_json, print_line
from embeddings_pipeline.cli.selection import AsJson
from embeddings_pipeline.encoders.cache.encoder import CacheStats
from embeddings_pipeline.pipeline import Pipeline

app = typer.Typer(no_args_is_help=True, help="The query vectors in Redis.")


@app.command()
def clear(
    pattern: Annotated[
        str,
        typer.Argument(metavar="[PATTERN]", help="Models, like 'text-embedding-*'."),
    ] = "*",
) -> None:
    """Remove the query vectors of the models that match, or of all models."""
    with Pipeline.open() as pipeline:
        removed = pipeline.encoders.cache.clear(pattern)
    print_line(f"{removed:,} vectors removed")


@app.command()
def status(as_json: AsJson = False) -> None:
    """Show the keys and memory of Redis, and the share of look-ups that found a vector."""
    with Pipeline.open() as pipeline:
        stats = pipeline.encoders.cache.stats()
    if as_json:
        print_json(stats)
    else:
        print_line(redis_summary(stats))


def redis_summary(stats: CacheStats) -> str:
    """A line on the Redis that all processes share, since its server started."""
    if stats.server is None:
        return f"cache: Redis is {stats.redis}; each process has its own cache"
    lookups = stats.server.hits + stats.server.misses
    rate = f"{stats.server.hits / lookups:.1%} of look-ups found" if lookups else "no look-ups yet"
    return (
        f"cache: Redis has {stats.server.keys:,} keys and"
        f" {stats.server.memory_bytes / (1 << 20):,.1f} MiB; {rate} since it started"
    )
