"""`embeddings-pipeline demo`: everything, from nothing to search results."""

from __future__ import annotations

import textwrap

import typer

from embeddings_pipeline.cli import output
from embeddings_pipeline.cli.jobs import Options, opened
from embeddings_pipeline.cli.run import print_outcomes, run_all
from embeddings_pipeline.search.requests import SearchRequest
from embeddings_pipeline.search.searcher import Searcher
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
    with output.progress() as report, opened(settings, report) as jobs:
        chosen, failures = jobs.engine.chosen()
        names = [entity.name for entity in chosen]
        outcomes = run_all(*(jobs, names, Options(), failures), dbt=True, marts=True, seeds=True)
        print_outcomes(outcomes)
        failures.raise_any()
        if not any(outcome.counts["encoded"] for outcome in outcomes):
            typer.echo("0 encoded: nothing changed")
        with Searcher(jobs.engine) as searcher:
            for entity, query in _SEARCHES:
                if entity in names:
                    _search(searcher, entity, query)


def _search(searcher: Searcher, entity: str, query: str) -> None:
    answer = searcher.search(SearchRequest(entity=entity, query=query, top_k=_HITS))
    typer.echo(f"\n{entity}: {query}")
    for hit in answer.results:
        typer.echo(f"  {hit.score:.3f}  {textwrap.shorten(hit.text, _WIDTH, placeholder=' …')}")
