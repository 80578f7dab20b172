"""`embeddings-pipeline explain`: one row, from its text to its vectors."""

from __future__ import annotations

from typing import Annotated

import typer

from embeddings_pipeline.cli.output import print_json, print_line
from embeddings_pipeline.cli.selection import AsJson, EntityName, session_on
from embeddings_pipeline.cli.terminal import on_one_line
from embeddings_pipeline.store.texts.quarantine import Entry
from embeddings_pipeline.sync.explain import ChunkInSet, Explanation
from embeddings_pipeline.sync.explain import explain as explain_row

# characters of a data URI that are shown
_DATA_URI = 60


def explain(
    entity: EntityName,
    row_id: Annotated[
        str, typer.Argument(metavar="ID", help="The row; -- goes before an id that begins with -.")
    ],
    as_json: AsJson = False,
) -> None:
    """Show a row's text and vectors, and what the next run does with it."""
    with session_on(entity) as (pipeline, names):
        explained = explain_row(
            pipeline.staging, pipeline.vectors, names, pipeline.encoders, row_id
        )
    if as_json:
        print_json(explained)
    else:
        _show(explained)


def _show(explained: Explanation) -> None:
    where = f", partition {explained.partition}" if explained.partition else ""
    print_line(f"{explained.entity} {on_one_line(explained.id)}{where}")
    print_line(f"the next run will {on_one_line(explained.next)}")
    for chunk in explained.chunks:
        cut = ", truncated by the model" if chunk.truncated else ""
        print_line(f"\nchunk {chunk.chunk}: {chunk.tokens} tokens{cut}, hash {chunk.text_hash}")
        # a line of the text cannot be taken for one of ours
        print_line("  " + _short(chunk.text).replace("\n", "\n  "))
        if chunk.equal:
            print_line(f"  the same text as {on_one_line(', '.join(chunk.equal))}")
        for in_set in chunk.sets:
            print_line(f"  {_vector(in_set)}")
    for failure in explained.quarantine:
        print_line(f"\n{on_one_line(_failure(failure))}")


def _failure(failure: Entry) -> str:
    stage = f"{failure.stage}, {_times(failure.attempts)}"
    if failure.model is not None:
        stage += f", model {failure.model}"
    return f"in quarantine since {failure.first_seen:%Y-%m-%d %H:%M} ({stage}): {failure.error}"


def _times(attempts: int) -> str:
    return "1 attempt" if attempts == 1 else f"{attempts} attempts"


def _short(text: str) -> str:
    # the bytes of an image are not readable
    return f"{text[:_DATA_URI]}…" if text.startswith("data:") else text


def _vector(in_set: ChunkInSet) -> str:
    of_model = f"{in_set.model}@{in_set.revision[:12]}"
    if in_set.set_number is None:
        return f"a new set ({of_model}): the next run will {in_set.next}"
    name = f"set {in_set.set_number} ({in_set.state}, {of_model})"
    if in_set.vector is None:
        return f"{name}: no vector; the next run will {in_set.next}"
    when = f"{in_set.vector.updated_at:%Y-%m-%d %H:%M}"
    return (
        f"{name}: a vector since {when}, encoded by run {in_set.vector.run_id}; the next run will"
        f" {in_set.next}"
    )
