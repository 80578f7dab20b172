"""The job that says what the next runs would do and cost."""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import dagster as dg

from embeddings_pipeline.assets.options import DefsOptions
from embeddings_pipeline.resources.run_context import RunContext

if TYPE_CHECKING:
    from embeddings_pipeline.sync.plan import Plan


def plan_job(entities: Sequence[str], options: DefsOptions) -> dg.JobDefinition:
    """A job of one op that materialises nothing: the plans are metadata of its output. Where an
    entity cannot be planned, the op fails afterwards with the error."""

    @dg.op(
        name=f"{options.name}__plan",
        description="What the next run of each entity would do. Writes nothing, loads no model.",
        required_resource_keys={options.name},
        out=dg.Out(dg.Nothing),
    )
    def plan_runs(context: dg.OpExecutionContext) -> Iterator[dg.Output[None]]:
        from embeddings_pipeline.assets import metadata

        pipeline = RunContext.of(context, options.name).pipeline
        planned = pipeline.plan(*entities, raise_errors=False)
        yield dg.Output(
            None,
            metadata={
                "plan": metadata.table([*map(_row, planned)]),
                "encode": sum(part.encode for p in planned for part in p.sets),
                "cost_usd": sum(p.cost_usd for p in planned),
            },
        )
        planned.failures.raise_any()

    @dg.job(
        name=f"{options.name}_plan",
        executor_def=dg.in_process_executor,
        description="Says what the next run of each entity would do and cost.",
    )
    def job() -> None:
        plan_runs()

    return job


def _row(planned: "Plan") -> dict[str, Any]:
    row = planned.row()
    seconds = "unknown" if planned.seconds is None else round(planned.seconds, 1)
    return row | {"seconds": seconds, "usd": round(planned.cost_usd, 6)}
