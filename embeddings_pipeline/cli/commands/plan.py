"""`embeddings-pipeline plan`: what the next run would do and cost."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from embeddings_pipeline import dbt_command
from embeddings_pipeline.cli.dbt_models import build_staging, is_built, left_as_built
from embeddings_pipeline.cli.output import print_json, print_line, print_message, print_table
from embeddings_pipeline.cli.selection import AsJson, BuildsDbt, EntityNames, session
from embeddings_pipeline.entities.entity import Entity
from embeddings_pipeline.errors import Failures
from embeddings_pipeline.pipeline import Pipeline, Results
from embeddings_pipeline.settings import Settings
from embeddings_pipeline.sync.plan import Plan, SetPlan

_COLUMNS = (
    *("entity", "new", "changed", "deleted", "moved", "unchanged"),
    *("reuse", "encode", "tokens", "seconds", "USD"),
)


@dataclass
class Planned:
    """The plans of entities. Those `not_built` have no staging model yet. `as_last_built` have one
    that is no view, which shows its sources as they were when dbt built it last. `upstream` has
    remarks on what their models read."""

    plans: Results[Plan]
    not_built: Sequence[Entity]
    as_last_built: Sequence[Entity]
    upstream: Mapping[str, str]


def plan(
    entities: EntityNames = None,
    dbt: BuildsDbt = None,
    as_json: AsJson = False,
) -> None:
    """Say what the next run would do, why, and what it would cost. Writes nothing, but what dbt
    builds with --dbt."""
    settings = Settings.load()
    names = entities or []
    failures = Failures()
    manifest: Mapping[str, Any] | None = None
    if dbt:
        with session(settings) as before:
            built = build_staging(settings, before.staging, before.manifest, names)
        manifest, failures = built.manifest, built.failures
    elif dbt is None and settings.dbt_manifest is None:
        manifest = dbt_command.parse(settings)
    with session(settings, manifest) as pipeline:
        found = planned(pipeline, names, {}, failures)
    if dbt:
        found.as_last_built = ()
    show(found, as_json=as_json)


def planned(
    pipeline: Pipeline,
    names: Sequence[str],
    options: Mapping[str, Any],
    failures: Failures | None = None,
) -> Planned:
    """The plans of these entities, or of all, except of those that have failed already. `options`
    are the arguments of `Pipeline.plan`."""
    chosen, wrong = pipeline.chosen(names)
    failures = Failures({**wrong, **(failures or {})})
    chosen = [entity for entity in chosen if entity.name not in failures]
    missing = [e for e in chosen if not is_built(pipeline.staging, e.db_schema, e.table)]
    ready = [entity for entity in chosen if entity not in missing]
    plans: Results[Plan] = Results()
    if ready:
        plans = pipeline.plan(*(e.name for e in ready), **options, raise_errors=False)
    plans.failures.update(failures)
    models = pipeline.declared.models
    return Planned(
        plans,
        missing,
        [e for e in ready if models[e.name]["config"]["materialized"] != "view"],
        left_as_built(pipeline.manifest, [entity.name for entity in ready]),
    )


def show(found: Planned, *, as_json: bool, max_cost_usd: float | None = None) -> None:
    """Print plans as a table, or as one JSON document; warn where they exceed the cost limit.

    Raises the errors of entities that have no plan.
    """
    plans = found.plans
    cost = sum(planned.cost_usd for planned in plans)
    if max_cost_usd is not None and cost > max_cost_usd:
        print_message(
            f"this costs ${cost:.4f}, more than --max-cost or EMBEDDING_MAX_COST_USD"
            f" (${max_cost_usd:.4f}): the run will stop there"
        )
    for entity in found.not_built:
        print_message(
            f"{entity.name}: dbt has not built {entity.db_schema}.{entity.table} yet: `plan --dbt`"
            " builds it first, and so does `run`"
        )
    for entity in found.as_last_built:
        print_message(
            f"{entity.name}: {entity.db_schema}.{entity.table} is a table, and shows its sources as"
            " they were when dbt built it last: `plan --dbt` builds it first, as `run` does"
        )
    for name, remark in found.upstream.items():
        print_message(f"{name}: {remark}")
    if as_json:
        print_json(
            {
                "entities": plans,
                "failed": plans.failures.messages(),
                "not_built": [entity.name for entity in found.not_built],
                "as_last_built": [entity.name for entity in found.as_last_built],
            }
        )
    elif plans:
        print_table(_COLUMNS, [*map(_row, plans)])
        for planned in plans:
            for remark in _remarks(planned):
                print_line(f"{planned.entity}: {remark}")
    plans.failures.raise_any()


def _row(planned: Plan) -> tuple[object, ...]:
    row = planned.row()
    estimate = "~" if planned.tokens_estimated else ""
    shown = {
        "tokens": f"{estimate}{row['tokens']:,}",
        "seconds": "unknown" if planned.seconds is None else planned.seconds,
        "usd": f"{planned.cost_usd:.4f}",
    }
    return tuple((row | shown)[column.lower()] for column in _COLUMNS)


def _set_summary(part: SetPlan) -> str:
    if part.frozen:
        return f"frozen, nothing is encoded for it: {part.frozen}"
    return f"{part.encode:,} texts to encode"


def _remarks(planned: Plan) -> list[str]:
    remarks = [
        f"set {s.number or 'new'} of {s.model}: {_set_summary(s)}"
        for s in planned.sets
        if len(planned.sets) > 1
    ]
    if planned.why:
        remarks.append(f"because of {planned.row()['why']}")
    if planned.deletes_refused:
        remarks.append("the deletes exceed max_delete_share: the run needs --allow-deletes")
    return remarks
