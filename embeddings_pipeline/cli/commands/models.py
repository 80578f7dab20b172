"""`embeddings-pipeline models`: the models that can encode."""

from __future__ import annotations

from typing import Annotated

import typer

from embeddings_pipeline.cli import output
from embeddings_pipeline.cli.selection import AsJson, session
from embeddings_pipeline.encoders import speeds
from embeddings_pipeline.encoders.catalogue import KnownModel, known_models


def models(
    as_json: AsJson = False,
    time: Annotated[
        bool,
        typer.Option(
            help="Encode for three seconds with each text model that is on this machine, and"
            " remember how fast it is."
        ),
    ] = False,
) -> None:
    """List the known models, and those that entities declare. Shows dimension, limit, speed, price,
    license and whether each can be used now."""
    with session() as pipeline:
        declared = [entity.model for entity in pipeline.entities.values() if entity.model]
        found = known_models(pipeline.settings, declared)
        if time:
            for model in found:
                if model.at_hand and model.provider != "openai" and not model.reads_images:
                    speeds.measure(pipeline.encoders.get(model.model), pipeline.settings)
            found = known_models(pipeline.settings, declared)
    if as_json:
        output.print_json({"models": found})
        return
    columns = (
        *("model", "dimension", "max tokens", "tokens/s", "USD per 1M tokens", "license"),
        "at hand",
    )
    output.print_table(columns, [_row(model) for model in found])
    for model in found:
        output.print_message(f"{model.model}: {'; '.join(_details(model))}")


def _row(model: KnownModel) -> tuple[object, ...]:
    price, speed = model.usd_per_million_tokens, model.tokens_per_second
    return (
        model.model,
        model.dimension,
        "unlimited" if model.pooling == "static" else model.max_tokens,
        None if speed is None else round(speed),
        "unknown" if price is None else f"{price:.4g}",
        model.license,
        "yes" if model.at_hand else "no",
    )


def _details(model: KnownModel) -> list[str]:
    details = [model.where]
    if model.pooling:
        details.append(f"pooling {model.pooling}")
    if model.shorter:
        details.append(f"dimensions {', '.join(map(str, model.shorter))} as well")
    for kind, prompt in (("query", model.query_prompt), ("document", model.document_prompt)):
        if prompt:
            details.append(f"{kind} prompt {prompt!r}")
    return details
