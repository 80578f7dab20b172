"""What an entity's `run` says, in the tags by which Dagster's launchers and executors place runs
and steps. Each reads its own tag and leaves the others."""

from __future__ import annotations

import json
from typing import Any

from embeddings_pipeline.entities.entity import Placement

# an ECS task of Amazon has 1,024 units for a core, and memory in MiB
_ECS_UNITS = 1024
_MIB = {"Mi": 1, "Gi": 1024}


def run_tags(run: Placement) -> dict[str, str]:
    """The tags of an entity's job, which its runs have: read by `K8sRunLauncher`, `EcsRunLauncher`,
    `CeleryRunLauncher` and `RayRunLauncher`."""
    found = {name: json.dumps(value) for name, value in _requested(run).items()}
    resources = run.resources
    if resources.cpu:
        found["ecs/cpu"] = str(round(resources.cpu * _ECS_UNITS))
    if resources.memory:
        found["ecs/memory"] = str(_mebibytes(resources.memory))
    if run.queue:
        found["dagster-celery/queue"] = run.queue
    return found | run.tags


def op_tags(run: Placement) -> dict[str, Any]:
    """The tags of an entity's ops: read by executors that start something for each step."""
    queue = {"dagster-celery/queue": run.queue} if run.queue else {}
    return {**_requested(run), **queue, **run.op_tags}


def _requested(run: Placement) -> dict[str, Any]:
    resources = run.resources
    # pods are scheduled by requests; a GPU is requested by its limit alone, and memory has both, so
    # that a pod that takes too much is the one that ends
    requests = {"cpu": f"{resources.cpu:g}" if resources.cpu else None, "memory": resources.memory}
    limits = {"memory": resources.memory, "nvidia.com/gpu": resources.gpu}
    wanted = {"requests": _given(requests), "limits": _given(limits)}
    ray = {
        "num_cpus": resources.cpu,
        "num_gpus": resources.gpu,
        "memory": _mebibytes(resources.memory) << 20 if resources.memory else None,
    }
    if not any(wanted.values()):
        return {}
    return {
        "dagster-k8s/config": {"container_config": {"resources": _given(wanted)}},
        "dagster-ray/config": _given(ray),
    }


def _given(values: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value}


def _mebibytes(memory: str) -> int:
    return int(memory[:-2]) * _MIB[memory[-2:]]
