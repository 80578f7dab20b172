"""Checks of an entity, as Dagster's; what they find is decided in `sync.checks`."""

from collections.abc import Iterator

import dagster as dg

from embeddings_pipeline.assets import metadata
from embeddings_pipeline.entities.entity import Entity
from embeddings_pipeline.resources.engine import Running
from embeddings_pipeline.sync.checks import QUESTIONS, check
from embeddings_pipeline.sync.verdict import Verdict

# the asset that each check is about
_ABOUT = {
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


def entity_checks(entity: Entity) -> dg.AssetChecksDefinition:
    """All checks of an entity, in one step: they read the same state."""
    specs = [
        dg.AssetCheckSpec(name, asset=[entity.name, asset], description=QUESTIONS[name])
        for name, asset in _ABOUT.items()
    ]

    @dg.multi_asset_check(name=f"{entity.name}_checks", specs=specs, can_subset=True)
    def checks(
        context: dg.AssetCheckExecutionContext, engine: dg.ResourceParam[Running]
    ) -> Iterator[dg.AssetCheckResult]:
        verdicts = check(engine.vectors, engine.on(entity))
        for key in sorted(context.selected_asset_check_keys):
            yield _result(key, verdicts[key.name])

    return checks


def _result(key: dg.AssetCheckKey, verdict: Verdict) -> dg.AssetCheckResult:
    return dg.AssetCheckResult(
        passed=verdict.passed,
        asset_key=key.asset_key,
        check_name=key.name,
        severity=_SEVERITY[verdict.severity],
        description=verdict.description,
        metadata=metadata.plain(verdict.metadata),
    )
