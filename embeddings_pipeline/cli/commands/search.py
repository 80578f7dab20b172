"""`embeddings-pipeline search` and `evaluate`: the rows for a query, and their quality."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from embeddings_pipeline.cli import output
from embeddings_pipeline.cli.selection import AsJson, EntityName
from embeddings_pipeline.errors import ConfigurationError
from embeddings_pipeline.pipeline import Pipeline
from embeddings_pipeline.search.evaluation import Tuning, published_rows
from embeddings_pipeline.search.evaluation import evaluate as evaluate_entity
from embeddings_pipeline.search.query_vectors import query_encoder
from embeddings_pipeline.search.requests import Answer, ImageRequest, Mode, SearchRequest
from embeddings_pipeline.search.searcher import Searcher
from embeddings_pipeline.sync.quality.qrels import Qrels, read_golden, read_qrels

if TYPE_CHECKING:
    from embeddings_pipeline.search.snapshot import Snapshot

_WIDTH = 100


def search(
    entity: EntityName,
    query: Annotated[str | None, typer.Argument(metavar="QUERY", show_default=False)] = None,
    image: Annotated[
        Path | None,
        typer.Option(
            help="An image in place of QUERY.", metavar="FILE", exists=True, dir_okay=False
        ),
    ] = None,
    mode: Annotated[Mode, typer.Option(help="By vector, by words, or by both.")] = "dense",
    top_k: Annotated[int | None, typer.Option(help="Rows to show.")] = None,
    filters: Annotated[
        list[str] | None,
        typer.Option("--filter", help='column=value, or JSON like {"price": {"lt": 5}}.'),
    ] = None,
    columns: Annotated[
        list[str] | None, typer.Option("--column", help="A column of the staging model to show.")
    ] = None,
    min_similarity: Annotated[float | None, typer.Option(help="The least similarity.")] = None,
    max_distance: Annotated[float | None, typer.Option(help="The greatest distance.")] = None,
    exact: Annotated[bool, typer.Option("--exact", help="Compare every vector.")] = False,
    rerank: Annotated[str | None, typer.Option(help="A cross-encoder for the best.")] = None,
    snapshot: Annotated[
        Path | None, typer.Option(help="A folder that `export` wrote, searched without a database.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Find the rows of an entity that answer a query, a text or an image. Needs no dbt project."""
    if (query is None) == (image is None):
        raise ConfigurationError("search: give either QUERY or --image FILE")
    restrictions = {
        "entity": entity,
        "top_k": top_k,
        "filters": _filters(filters or []),
        "columns": tuple(columns or ()),
        "min_similarity": min_similarity,
        "max_distance": max_distance,
        "exact": exact,
    }
    request = (
        SearchRequest.of(query=query, mode=mode, rerank=rerank, **restrictions)
        if image is None
        else _by_image(image, mode, rerank, restrictions)
    )
    with Pipeline.open() as pipeline, _searcher(pipeline, snapshot) as searcher:
        if isinstance(request, ImageRequest):
            answer = searcher.by_image(request)
        else:
            answer = searcher.search(request)
    if as_json:
        document = asdict(answer)
        del document["vector_set"]
        output.print_json(document)
    else:
        _show(answer)


def _by_image(
    file: Path, mode: Mode, rerank: str | None, restrictions: Mapping[str, Any]
) -> ImageRequest:
    if mode != "dense" or rerank:
        raise ConfigurationError("--image finds rows by vector: mode dense, without --rerank")
    return ImageRequest.of(image=file.read_bytes(), **restrictions)


def _searcher(pipeline: Pipeline, folder: Path | None) -> Searcher | Snapshot:
    if folder is None:
        return Searcher(pipeline)
    # FAISS is an extra
    from embeddings_pipeline.search.snapshot import Snapshot

    return Snapshot(folder, pipeline.settings, query_encoder(pipeline.encoders))


def evaluate(
    entity: EntityName,
    queries: Annotated[
        Path, typer.Option(help="BEIR's queries.jsonl, or CSV; or CSV of golden queries.")
    ],
    qrels: Annotated[
        Path | None, typer.Option(help="BEIR's or TREC's qrels; without them, queries are golden.")
    ] = None,
    queries_are_rows: Annotated[
        bool,
        typer.Option(
            "--queries-are-rows", help="Query ids are row ids; a query does not find itself."
        ),
    ] = False,
    tune: Annotated[
        bool, typer.Option("--tune", help="Find and store the weight of words in hybrid search.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Measure each search mode on judged queries, exactly and through the index."""
    given = read_qrels(queries, qrels) if qrels else read_golden(queries)
    with Pipeline.open() as pipeline:
        judged, missing = published_rows(pipeline.searcher, entity, given)
        _report_left_out(entity, given, judged, missing)
        tuned = pipeline.tune(entity, judged, queries_are_rows=queries_are_rows) if tune else None
        measured = evaluate_entity(
            pipeline.searcher, entity, judged, queries_are_rows=queries_are_rows
        )
    if as_json:
        document = {"entity": entity, "queries": len(judged.queries)}
        weights = {"tuned": asdict(tuned) | {"is_better": tuned.is_better}} if tuned else {}
        results = [asdict(row) for row in measured]
        output.print_json({**document, **weights, "results": results})
        return
    if tuned:
        output.print_message(_tuning_message(tuned))
    output.print_table(
        ("mode", "through", "nDCG@10", "recall@100", "MRR"),
        [
            (
                row.mode,
                "exact" if row.exact else "index",
                *(f"{value:.4f}" for value in (row.ndcg_at_10, row.recall_at_100, row.mrr)),
            )
            for row in measured
        ],
        f"{entity}: {len(judged.queries)} queries",
    )


def _report_left_out(entity: str, given: Qrels, judged: Qrels, missing: Sequence[str]) -> None:
    if given.unknown:
        output.print_message(
            f"{len(given.unknown):,} judged queries without a text, such as {given.unknown[0]!r},"
            " are left out"
        )
    if missing:
        gone = len(given.queries) - len(judged.queries)
        output.print_message(
            f"{len(missing):,} relevant ids without a published row of {entity}, such as"
            f" {missing[0]!r}, are left out, and {gone:,} queries that have no other"
        )


def _tuning_message(tuned: Tuning) -> str:
    gain = f"nDCG@10 {tuned.ndcg_at_10:.4f}, before {tuned.untuned:.4f}"
    on = "on queries that did not choose it"
    if tuned.is_better:
        return f"the weight of words in hybrid search is now {tuned.text_weight} ({gain}, {on})"
    return f"the weight of words stays as it was: no other is better {on} ({gain})"


def _show(answer: Answer) -> None:
    """Print the answer as a table, and warn of missing rows and vectors."""
    output.print_table(
        ("id", "score", "text", *_shown_fields(answer)),
        [
            (
                hit.id,
                f"{hit.score:.3f}",
                textwrap.shorten(hit.text, _WIDTH, placeholder=" …"),
                *(str(hit.fields.get(name)) for name in _shown_fields(answer)),
            )
            for hit in answer.results
        ],
        f"{answer.entity}, {answer.mode}, {answer.model}",
    )
    if answer.words and not any(answer.words.values()) and answer.best_similarity is not None:
        output.print_message(
            "no row has a word of the query: the nearest vector has the similarity"
            f" {answer.best_similarity:.3f}"
        )
    if answer.shortfall:
        output.print_message(f"{answer.shortfall} rows fewer than requested: no more match")
    if answer.coverage is not None and answer.coverage < 100:
        output.print_message(
            f"{output.percent(answer.coverage)} of the rows have vectors; the oldest change has"
            f" waited {answer.data_lag_seconds:,.0f} s"
        )


def _shown_fields(answer: Answer) -> Sequence[str]:
    return list(answer.results[0].fields) if answer.results else []


def _filters(given: Sequence[str]) -> dict[str, Any]:
    filters: dict[str, Any] = {}
    for text in given:
        column, equals, value = text.partition("=")
        if text.lstrip().startswith("{"):
            filters |= _json(text)
        elif equals:
            filters[column] = value
        else:
            raise ConfigurationError(f"--filter {text!r} is neither column=value nor JSON")
    return filters


def _json(text: str) -> dict[str, Any]:
    try:
        return dict(json.loads(text))
    except (ValueError, RecursionError) as error:
        raise ConfigurationError(f"--filter {text!r} is not JSON: {error}") from None
