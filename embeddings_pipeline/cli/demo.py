"""`embeddings-pipeline demo`: everything, from nothing to search results."""

from __future__ import annotations

import textwrap

import typer

from embeddings_pipeline.cli import output
from embeddings_pipeline.cli.jobs import Options, opened
from embeddings_pipeline.cli.run import print_outcomes, raise_failures, run_all
from embeddings_pipeline.engine import Engine
from embeddings_pipeline.errors import ConfigurationError
from embeddings_pipeline.settings import Settings
from embeddings_pipeline.store import vector_sets
from embeddings_pipeline.store.nearest import nearest

_SEARCHES = (
    ("product", "play chess against the computer"),
    ("transcript", "how do I keep my users' data private"),
    ("instruction", "put the cup away"),
)
_HITS = 3
_WIDTH = 100


def demo() -> None:
    """Seed the example tables, embed five entities and search them."""
    settings = Settings.load()
    with output.progress() as report, opened(settings, report) as jobs:
        names = list(jobs.engine.entities)
        outcomes, failures = run_all(jobs, names, Options(), dbt=True, marts=True, seeds=True)
        print_outcomes(outcomes)
        raise_failures(failures)
        if not any(outcome.counts["encoded"] for outcome in outcomes):
            typer.echo("0 encoded: nothing changed")
        for entity, query in _SEARCHES:
            if entity in names:
                _search(jobs.engine, entity, query)


def _search(engine: Engine, name: str, query: str) -> None:
    entity = engine.entity(name)
    on = engine.on(entity)
    with engine.vectors.connection() as connection:
        live = next(iter(vector_sets.vector_sets(connection, on, ("live",))), None)
        if live is None:
            raise ConfigurationError(f"entity {name!r} has nothing published to search")
        vector = engine.encoders.get(live.model, live.dimension).encode_query([query]).vectors[0]
        hits = nearest(connection, on, live, vector, _HITS)
    typer.echo(f"\n{name}: {query}")
    for hit in hits:
        typer.echo(f"  {hit.score:.3f}  {textwrap.shorten(hit.text, _WIDTH, placeholder=' …')}")
