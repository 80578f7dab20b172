"""`embeddings-pipeline models`: the models that can encode."""

from __future__ import annotations

from embeddings_pipeline.cli import output
from embeddings_pipeline.cli.selection import AsJson, session
from embeddings_pipeline.encoders.catalogue import KnownModel, known_models


def models(as_json: AsJson = False) -> None:
    """List the known models, and those that entities declare. Shows dimension, limit, price and
    whether each can be used now."""
    with session() as pipeline:
        declared = [entity.model for entity in pipeline.entities.values() if entity.model]
        found = known_models(pipeline.settings, declared)
    if as_json:
        output.print_json({"models": found})
        return
    columns = ("model", "provider", "dimension", "max tokens", "USD per 1M tokens", "at hand")
    output.print_table(columns, [_row(model) for model in found])
    for model in found:
        output.print_message(f"{model.model}: {model.where}")


def _row(model: KnownModel) -> tuple[object, ...]:
    price = model.usd_per_million_tokens
    return (
        model.model,
        model.provider,
        model.dimension,
        model.max_tokens,
        "unknown" if price is None else f"{price:.4g}",
        "yes" if model.at_hand else "no",
    )
