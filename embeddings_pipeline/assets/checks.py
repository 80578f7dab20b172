"""An entity's checks as Dagster's; `sync.checks` decides their results."""

from collections.abc import Iterator
from typing import Any

import dagster as dg

from embeddings_pipeline.assets import metadata
from embeddings_pipeline.assets.options import DefsOptions
from embeddings_pipeline.entities.entity import Entity
from embeddings_pipeline.resources.run_context import RunContext
from embeddings_pipeline.sync.checks import QUESTIONS, CheckResult

# the asset of each check
_ASSET_OF = {
    "truncated": "texts",
    "without_text": "texts",
    "coverage": "vectors",
    "orphans": "vectors",
    "erased": "vectors",
    "unit_norm": "vectors",
    "recall": "index",
    "data_lag": "embeddings",
}
_SEVERITY = {"warn": dg.AssetCheckSeverity.WARN, "error": dg.AssetCheckSeverity.ERROR}


def entity_checks(entity: Entity, options: DefsOptions) -> dg.AssetChecksDefinition:
    """All checks of an entity, in one step, since they read the same state."""
    specs = [
        dg.AssetCheckSpec(name, asset=options.key(entity.name, asset), description=QUESTIONS[name])
        for name, asset in _ASSET_OF.items()
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
    entity: str, name: str, result: CheckResult, options: DefsOptions
) -> dg.AssetCheckEvaluation:
    """The event with a check's result, for a run outside of Dagster."""
    return dg.AssetCheckEvaluation(
        asset_key=options.key(entity, _ASSET_OF[name]), check_name=name, **_finding(result)
    )


def _finding(result: CheckResult) -> dict[str, Any]:
    return {
        "passed": result.passed,
        "severity": _SEVERITY[result.severity],
        "description": result.description,
        "metadata": metadata.plain(result.metadata),
    }
