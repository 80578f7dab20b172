"""`embeddings-pipeline demo`: from an empty folder to search results."""

from __future__ import annotations

import textwrap

import typer

from embeddings_pipeline.cli import output
from embeddings_pipeline.cli.run import Runner, print_runs
from embeddings_pipeline.pipeline import Pipeline
from embeddings_pipeline.settings import Settings

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
    with output.progress() as report, Runner(settings, report) as runner:
        runs = runner.run((), {}, dbt=True, marts=True, seeds=True)
        print_runs(runs)
        runs.failures.raise_any()
        if not any(run.counts["encoded"] for run in runs):
            typer.echo("0 encoded: nothing changed")
        for entity, query in _SEARCHES:
            if entity in runner.pipeline.entities:
                _search(runner.pipeline, entity, query)


def _search(pipeline: Pipeline, entity: str, query: str) -> None:
    answer = pipeline.search(entity, query, top_k=_HITS)
    typer.echo(f"\n{entity}: {query}")
    for hit in answer.results:
        typer.echo(f"  {hit.score:.3f}  {textwrap.shorten(hit.text, _WIDTH, placeholder=' …')}")
