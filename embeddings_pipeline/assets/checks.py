"""An entity's checks as Dagster's; `sync.checks` decides their results."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import dagster as dg

from embeddings_pipeline.assets.options import DefsOptions
from embeddings_pipeline.entities.entity import Entity
from embeddings_pipeline.resources.run_context import RunContext

if TYPE_CHECKING:
    from embeddings_pipeline.sync.checks import CheckResult

# the asset of each check of `sync.checks`, and the check's question
CHECKS = {
    "truncated": (
        "texts",
        "Is a text longer than the model reads? The rest of it is not in its vector.",
    ),
    "without_text": ("texts", "Has a row no text to embed, or one that cannot be rendered?"),
    "coverage": (
        "vectors",
        "Has every row that should have vectors got them, for its current text?",
    ),
    "orphans": ("vectors", "Has a vector lost its row?"),
    "erased": ("vectors", "Is something left of a row that was erased?"),
    "unit_norm": ("vectors", "Are the vectors of length 1, where the model makes them so?"),
    "recall": ("index", "Does the index find what an exact search finds?"),
    "data_lag": ("embeddings", "How long has the oldest change waited for its vector?"),
    "retrieval": ("embeddings", "Do golden queries find the rows that answer them?"),
}
_SEVERITY = {"warn": dg.AssetCheckSeverity.WARN, "error": dg.AssetCheckSeverity.ERROR}


def entity_checks(entity: Entity, options: DefsOptions) -> dg.AssetChecksDefinition:
    """All checks of an entity, in one step, since they read the same state."""
    specs = [
        dg.AssetCheckSpec(name, asset=options.key(entity.name, asset), description=question)
        for name, (asset, question) in CHECKS.items()
        if name != "retrieval" or entity.retrieval
    ]

    @dg.multi_asset_check(
        name=options.op(entity.name, "checks"),
        specs=specs,
        can_subset=True,
        required_resource_keys={options.name},
        op_tags=options.op_tags,
    )
    def checks(context: dg.AssetCheckExecutionContext) -> Iterator[dg.AssetCheckResult]:
        running = RunContext.of(context, options.name)
        results = running.pipeline.check(running.entity(entity, context.run))
        for key in sorted(context.selected_asset_check_keys):
            yield dg.AssetCheckResult(
                asset_key=key.asset_key, check_name=key.name, **_finding(results[key.name])
            )

    return checks


def evaluation(
    entity: str, name: str, result: "CheckResult", options: DefsOptions
) -> dg.AssetCheckEvaluation:
    """The event with a check's result, for a run outside of Dagster."""
    return dg.AssetCheckEvaluation(
        asset_key=options.key(entity, CHECKS[name][0]), check_name=name, **_finding(result)
    )


def _finding(result: "CheckResult") -> dict[str, Any]:
    from embeddings_pipeline.assets import metadata

    return {
        "passed": result.passed,
        "severity": _SEVERITY[result.severity],
        "description": result.description,
        "metadata": metadata.plain(result.metadata),
    }
