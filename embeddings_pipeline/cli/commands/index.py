"""`embeddings-pipeline index`: the vector index of each set."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from embeddings_pipeline.cli import output
from embeddings_pipeline.cli.selection import AsJson, EntityNames, session
from embeddings_pipeline.errors import EmbeddingsError
from embeddings_pipeline.sync.index import IndexResult, sync_index


def index(
    entities: EntityNames = None,
    rebuild: Annotated[bool, typer.Option("--rebuild", help="Build every index again.")] = False,
    as_json: AsJson = False,
) -> None:
    """Build the vector indexes that are missing or out of date. Shows size, recall and speed of
    each."""
    with session() as pipeline, output.progress() as report:
        chosen, failures = pipeline.chosen(entities or [])
        results: list[IndexResult] = []
        for entity in chosen:
            with failures.of(entity.name):
                names = pipeline.names_of(entity)
                results += sync_index(pipeline.vectors, names, rebuild=rebuild, report=report)
    for result in results:
        if result.action == "waiting":
            failures.setdefault(
                result.vector_set.entity,
                EmbeddingsError(
                    f"rows are pending in {_name(result)}: `embeddings-pipeline run` encodes them,"
                    " then builds the index"
                ),
            )
    if as_json:
        documents = [_document(result) for result in results]
        output.print_json({"indexes": documents, "failed": failures.messages()})
    elif results:
        output.print_table(
            ("entity", "set", "index", "rows", "MiB", "recall@10", "p50 ms", "p95 ms", "effort"),
            [_row(result) for result in results],
        )
        for result in results:
            if result.why:
                output.print_line(f"{_name(result)}: {result.action}, {result.why}")
    failures.raise_any()


def _document(result: IndexResult) -> dict[str, Any]:
    vector_set = result.vector_set
    settings = _settings(result)
    return {
        "entity": vector_set.entity,
        "set": vector_set.number,
        "state": vector_set.state,
        "storage": vector_set.storage,
        "action": result.action,
        "why": result.why,
        "type": settings.pop("type", None),
        "settings": settings,
        "rows": result.rows,
        "size_bytes": result.size_bytes,
        "recall_at_10": vector_set.recall,
        "ef_search": vector_set.ef_search,
        "levels": _levels(result),
    }


def _row(result: IndexResult) -> tuple[object, ...]:
    vector_set, settings = result.vector_set, _settings(result)
    kind = settings.pop("type", "-")
    chosen_settings = ", ".join(f"{k} {v}" for k, v in settings.items() if k != "metric")
    unfiltered = next(iter(_levels(result)), {})
    return (
        vector_set.entity,
        f"{vector_set.number} {vector_set.state}",
        f"{kind} {chosen_settings}".strip(),
        result.rows,
        None if result.size_bytes is None else result.size_bytes / (1 << 20),
        *(
            None if value is None else f"{value:.3f}"
            for value in (vector_set.recall, unfiltered.get("p50_ms"), unfiltered.get("p95_ms"))
        ),
        vector_set.ef_search,
    )


def _settings(result: IndexResult) -> dict[str, Any]:
    settings = result.vector_set.index_settings or {}
    return {key: value for key, value in settings.items() if key != "declared"}


def _levels(result: IndexResult) -> list[dict[str, Any]]:
    levels: list[dict[str, Any]] = (result.vector_set.recall_check or {}).get("levels", [])
    return levels


def _name(result: IndexResult) -> str:
    return f"{result.vector_set.entity}, set {result.vector_set.number}"
