"""Runs dbt in this process, and gives Dagster dbt's result for each model and test.

`DbtCliResource` starts dbt twice, once for its version, and makes an adapter of its own to read
columns: five seconds a build, four of them overhead. Here dbt is imported once a process, and the
same `dagster_dbt` code turns its events into Dagster's.
"""

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import dagster as dg

from embeddings_pipeline.entities.manifest import load_manifest
from embeddings_pipeline.pipeline import Pipeline
from embeddings_pipeline.resources.dbt_project import FLAGS, environment, options, scratch
from embeddings_pipeline.store.connection import columns_of

DbtEvent = (
    dg.Output[Any]
    | dg.AssetMaterialization
    | dg.AssetObservation
    | dg.AssetCheckResult
    | dg.AssetCheckEvaluation
)
_RESULTS = {"LogModelResult", "LogSeedResult", "LogSnapshotResult", "LogTestResult"}


def build(
    context: dg.AssetExecutionContext, pipeline: Pipeline, selected: str
) -> Iterator[DbtEvent]:
    """Build a dbt selection, with its tests; unit tests run with their models.

    Raises Failure with dbt's own message where a model or a seed cannot be built. A failing test is
    a failing check: where its severity is error, Dagster does not run the assets downstream.
    """
    from dbt.cli.main import dbtRunner

    messages: list[Any] = []

    def listen(message: Any) -> None:
        if message.info.name in _RESULTS:
            context.log.info(message.info.msg)
            messages.append(message)

    settings = pipeline.settings
    # a test that also reads a model outside of the selection runs where it is selected itself
    command = ["build", "--indirect-selection", "cautious", "--select", selected]
    with (
        scratch(settings) as folder,
        _environment(environment(settings, pipeline.staging.database)),
    ):
        invocation = dbtRunner(callbacks=[listen]).invoke(
            [*FLAGS, "--log-level", "none", *command, *options(settings, folder)]
        )
        yield from _events(context, pipeline, messages, folder)
    _raise_unless_built(invocation)


def _events(
    context: dg.AssetExecutionContext,
    pipeline: Pipeline,
    messages: list[Any],
    folder: Path,
) -> Iterator[DbtEvent]:
    from dagster_dbt.core.dbt_cli_event import DbtCoreCliEventMessage
    from dbt_common.events.functions import msg_to_dict

    if not messages:
        return
    # this manifest names relations by the database that was built, as the compiled SQL does
    manifest = load_manifest(folder / "manifest.json")
    columns = _Columns(pipeline, manifest)
    for message in map(msg_to_dict, messages):
        unique_id = message["data"]["node_info"]["unique_id"]
        event = DbtCoreCliEventMessage(
            message, event_history_metadata=columns.of_lineage(unique_id)
        )
        yield from event.to_default_asset_events(
            manifest=manifest, context=context, target_path=folder
        )


class _Columns:
    """The columns of relations, in the form from which `dagster_dbt` derives lineage."""

    def __init__(self, pipeline: Pipeline, manifest: Mapping[str, Any]) -> None:
        self._pipeline = pipeline
        self._nodes = {**manifest["nodes"], **manifest["sources"]}
        self._parents = manifest["parent_map"]
        self._known: dict[str, dict[str, Any]] = {}

    def of_lineage(self, unique_id: str) -> dict[str, Any]:
        """Columns of a model and of the models that it reads; nothing for a test."""
        if self._nodes.get(unique_id, {}).get("resource_type") not in ("model", "seed", "snapshot"):
            return {}
        return {
            "columns": self._of(unique_id),
            "parents": {
                self._nodes[parent]["relation_name"]: {"columns": self._of(parent)}
                for parent in self._parents[unique_id]
                if parent in self._nodes
            },
        }

    def _of(self, unique_id: str) -> dict[str, Any]:
        if unique_id not in self._known:
            node = self._nodes[unique_id]
            relation = node.get("identifier") or node["alias"]
            with self._pipeline.staging.connection() as connection:
                found = columns_of(connection, node["schema"], relation)
            self._known[unique_id] = {
                name: {**node["columns"].get(name, {}), "data_type": kind}
                for name, kind in found.items()
            }
        return self._known[unique_id]


def _raise_unless_built(invocation: Any) -> None:
    results = invocation.result.results if hasattr(invocation.result, "results") else []
    errors = [
        f"{result.node.name}: {_shortened(result.message or 'failed')}"
        for result in results
        if result.status == "error" or _is_failed_unit_test(result)
    ]
    if errors or invocation.exception:
        raise dg.Failure("dbt: " + "\n".join(errors or [str(invocation.exception)]))


def _shortened(message: str) -> str:
    """Without the query that a database quotes, and the path of a deleted scratch file."""
    lines = message.partition("\n  QUERY:")[0].strip().splitlines()
    return "\n".join(line for line in lines if "compiled code at" not in line)


def _is_failed_unit_test(result: Any) -> bool:
    return bool(result.status == "fail" and result.node.resource_type == "unit_test")


@contextmanager
def _environment(variables: Mapping[str, str]) -> Iterator[None]:
    """Set variables for a block: dbt reads its profile's variables from the environment."""
    former = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in former.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value
