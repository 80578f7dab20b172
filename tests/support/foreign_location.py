"""Loads a code location and runs its jobs, asked by `foreign.Location`.

It runs as text in the environment of the code location, so it imports nothing of the tests.
"""

from __future__ import annotations

import importlib
import os
import sys
from typing import Any
from unittest.mock import patch

import dagster as dg


def serve(channel: Any) -> None:
    """Answer calls of the functions below, for as long as the other process has any."""
    for function, *arguments in channel:
        channel.send(globals()[function](*arguments))


def load(module: str) -> dg.Definitions:
    package = module.partition(".")[0]
    for name in [name for name in sys.modules if name.partition(".")[0] == package]:
        del sys.modules[name]
    importlib.invalidate_caches()
    defs: dg.Definitions = importlib.import_module(module).defs
    return defs


def describe(module: str) -> dict[str, Any]:
    defs = load(module)
    graph = defs.resolve_asset_graph()
    return {
        "parents": {
            key.to_user_string(): [above.to_user_string() for above in graph.get(key).parent_keys]
            for key in graph.get_all_asset_keys()
        },
        "owners": {
            spec.key.to_user_string(): [*spec.owners] for spec in defs.resolve_all_asset_specs()
        },
        "executors": {job.name: job.executor_def.name for job in defs.resolve_all_job_defs()},
        "schedules": {
            schedule.name: schedule.default_status.value
            for schedule in defs.get_repository_def().schedule_defs
        },
        "steps": [node.name for node in defs.resolve_implicit_global_asset_job_def().graph.nodes],
        "resources": [*(defs.resources or {})],
    }


def execute(module: str, job: str, tags: dict[str, str], variables: dict[str, str]) -> list[str]:
    # loaded before the environment changes, as a code location is before its jobs run
    defs = importlib.import_module(module).defs
    with patch.dict(os.environ, variables), dg.DagsterInstance.get() as instance:
        result = defs.resolve_job_def(job).execute_in_process(instance=instance, tags=tags)
    return [event.node_name for event in result.get_step_success_events()]


def refusal(module: str) -> str:
    try:
        load(module).get_repository_def()
    except Exception as error:
        found: BaseException | None = error
    else:
        return ""
    errors = ""
    while found:
        errors, found = f"{errors}\n{found}", found.__cause__ or found.__context__
    return errors
