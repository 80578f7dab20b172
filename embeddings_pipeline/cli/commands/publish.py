"""`embeddings-pipeline publish` and `rollback`: which vector set the published view shows."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from embeddings_pipeline.cli.output import print_json, print_line, print_message, print_table
from embeddings_pipeline.cli.selection import AsJson, EntityName, session_on
from embeddings_pipeline.errors import ConfigurationError, EmbeddingsError
from embeddings_pipeline.sync import publish as publication
from embeddings_pipeline.sync.quality.compare import Comparison
from embeddings_pipeline.sync.quality.compare import compare as compare_sets


def publish(
    entity: EntityName,
    compare: Annotated[bool, typer.Option(help="Only compare the two sets.")] = False,
    queries: Annotated[Path | None, typer.Option(help="BEIR's queries.jsonl.")] = None,
    qrels: Annotated[Path | None, typer.Option(help="BEIR's or TREC's qrels.")] = None,
    as_json: AsJson = False,
) -> None:
    """Publish the vector set that was built beside the live one, if it is complete."""
    if compare:
        _compare(entity, queries, qrels, as_json=as_json)
        return
    if queries or qrels or as_json:
        raise ConfigurationError("--queries, --qrels and --json go with --compare")
    with session_on(entity) as (pipeline, names):
        golden = pipeline.golden_queries(names)
        result = publication.publish(pipeline.vectors, names, explicit=True, golden=golden)
    print_line(result.summary)
    if result.reasons:
        raise EmbeddingsError(f"{entity}: not published")


def rollback(entity: EntityName) -> None:
    """Publish the vector set that was live before. Nothing flips until the next `publish`."""
    with session_on(entity) as (pipeline, names):
        result, behind = publication.rollback(pipeline.vectors, names)
    print_line(result.summary)
    print_line(f"no run publishes another set until `embeddings-pipeline publish {entity}`")
    if behind:
        print_line(f"it lacks {behind:,} chunks: `embeddings-pipeline run {entity}` adds them")


def _compare(entity: str, queries: Path | None, qrels: Path | None, *, as_json: bool) -> None:
    if (queries is None) != (qrels is None):
        raise ConfigurationError("--queries and --qrels go together")
    judged = None
    if queries and qrels:
        from embeddings_pipeline.sync.quality.qrels import read_qrels

        judged = read_qrels(queries, qrels)
    with session_on(entity) as (pipeline, names):
        golden = pipeline.golden_queries(names)
        if golden and judged is None:
            try:
                judged, _ = golden.qrels()
            except ConfigurationError as error:
                print_message(f"compared without golden queries: {error}")
        result = compare_sets(pipeline.vectors, names, pipeline.encoders, judged)
    if as_json:
        print_json(result)
    else:
        _show(result)


def _show(result: Comparison) -> None:
    print_line(
        f"set {result.other} agrees with the live set {result.live} on {result.overlap_at_10:.1%}"
        f" of the 10 nearest neighbours of {result.sample} chunks"
    )
    if result.quality:
        print_table(
            ("set", "model", "nDCG@10", "95 %", "recall@10", "recall@100"),
            [
                (
                    *(q.number, q.model, q.ndcg_at_10),
                    f"{q.ndcg_at_10_low:.3f} to {q.ndcg_at_10_high:.3f}",
                    *(q.recall_at_10, q.recall_at_100),
                )
                for q in result.quality
            ],
        )
