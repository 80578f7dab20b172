"""Runs dbt in this process, and gives Dagster what dbt says of each model and test.

`DbtCliResource` starts dbt twice, once to ask for its version, and makes an adapter of its own to
read columns: five seconds a build, of which dbt works for one. Here dbt is imported once a
process, and its events become Dagster's by the same `dagster_dbt` code.
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
    """Build what a dbt selection names, with its tests; unit tests come with their models.

    Raises Failure with dbt's own words where a model or a seed cannot be built. A test that fails
    is a check that fails: Dagster goes no further downstream where its severity is error.
    """
    from dbt.cli.main import dbtRunner

    said: list[Any] = []

    def listen(message: Any) -> None:
        if message.info.name in _RESULTS:
            context.log.info(message.info.msg)
            said.append(message)

    settings = pipeline.settings
    # tests that also read what is not built now are run where they are selected themselves
    command = ["build", "--indirect-selection", "cautious", "--select", selected]
    with (
        scratch(settings) as folder,
        _environment(environment(settings, pipeline.staging.database)),
    ):
        done = dbtRunner(callbacks=[listen]).invoke(
            [*FLAGS, "--log-level", "none", *command, *options(settings, folder)]
        )
        yield from _events(context, pipeline, said, folder)
    _raise_unless_built(done)


def _events(
    context: dg.AssetExecutionContext,
    pipeline: Pipeline,
    said: list[Any],
    folder: Path,
) -> Iterator[DbtEvent]:
    from dagster_dbt.core.dbt_cli_event import DbtCoreCliEventMessage
    from dbt_common.events.functions import msg_to_dict

    if not said:
        return
    # this one names relations as the compiled SQL does, by the database that was built
    manifest = load_manifest(folder / "manifest.json")
    columns = _Columns(pipeline, manifest)
    for message in map(msg_to_dict, said):
        unique_id = message["data"]["node_info"]["unique_id"]
        event = DbtCoreCliEventMessage(message, event_history_metadata=columns.around(unique_id))
        yield from event.to_default_asset_events(
            manifest=manifest, context=context, target_path=folder
        )


class _Columns:
    """The columns that relations have, in the form from which `dagster_dbt` makes lineage."""

    def __init__(self, pipeline: Pipeline, manifest: Mapping[str, Any]) -> None:
        self._pipeline = pipeline
        self._nodes = {**manifest["nodes"], **manifest["sources"]}
        self._parents = manifest["parent_map"]
        self._known: dict[str, dict[str, Any]] = {}

    def around(self, unique_id: str) -> dict[str, Any]:
        """Columns of a model and of those that it reads; nothing for a test."""
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


def _raise_unless_built(done: Any) -> None:
    results = done.result.results if hasattr(done.result, "results") else []
    errors = [
        f"{result.node.name}: {_shortened(result.message or 'failed')}"
        for result in results
        if result.status == "error" or _is_failed_unit_test(result)
    ]
    if errors or done.exception:
        raise dg.Failure("dbt: " + "\n".join(errors or [str(done.exception)]))


def _shortened(message: str) -> str:
    """Without the query that a database quotes, and the file that is gone by now."""
    lines = message.partition("\n  QUERY:")[0].strip().splitlines()
    return "\n".join(line for line in lines if "compiled code at" not in line)


def _is_failed_unit_test(result: Any) -> bool:
    return bool(result.status == "fail" and result.node.resource_type == "unit_test")


@contextmanager
def _environment(variables: Mapping[str, str]) -> Iterator[None]:
    """dbt reads its profile's variables from this process; they must not stay in it."""
    former = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in former.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value
