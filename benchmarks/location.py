"""What our code location and our component add to loading Dagster, in processor time."""

from __future__ import annotations

import argparse
import json
import math
import resource
import subprocess
import sys

from embeddings_pipeline import dbt_command
from embeddings_pipeline.entities.manifest import MANIFEST, target_dir
from embeddings_pipeline.settings import Settings

_BARE = """
import dagster as dg
from dagster_dbt import DbtCliResource, DbtProject, dbt_assets
project = DbtProject({project!r}, target_path={target!r})
@dbt_assets(manifest=project.manifest_path, project=project)
def models(context, dbt: DbtCliResource):
    yield from dbt.cli(["build"], context=context).stream()
dbt = DbtCliResource(project, dbt_executable={dbt!r})
dg.Definitions(assets=[models], resources={{"dbt": dbt}}).get_repository_def()
"""
_OURS = """
from embeddings_pipeline.definitions import defs
defs.get_repository_def()
"""
_COMPONENT = """
from embeddings_pipeline import EmbeddingsComponent, build_embedding_defs
build_embedding_defs({manifest!r})
"""


def processor_seconds(code: str) -> float:
    """The processor time of a Python process that runs this code."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, "-W", "ignore", "-c", code], check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    settings = Settings.load()
    target = target_dir(settings).resolve()
    dbt_command.parse(settings)
    codes = {
        "dagster": "import dagster",
        "component": _COMPONENT.format(manifest=str(target / MANIFEST)),
        "bare_location": _BARE.format(
            project=str(settings.dbt_project_dir),
            target=str(target),
            dbt=dbt_command.executable(),
        ),
        "our_location": _OURS,
    }
    seconds: dict[str, float] = {}
    # in turns, and the least of each: a machine that others use changes its pace
    for _ in range(options.rounds):
        for name, code in codes.items():
            seconds[name] = min(processor_seconds(code), seconds.get(name, math.inf))
    print(
        json.dumps(
            {
                "bench": "location",
                **{f"{name}_seconds": round(value, 3) for name, value in seconds.items()},
                "ours_to_bare": round(seconds["our_location"] / seconds["bare_location"], 3),
                "ours_to_bare_target": 1.2,
                "component_adds_seconds": round(seconds["component"] - seconds["dagster"], 3),
                "component_adds_target": 0.3,
            }
        )
    )


if __name__ == "__main__":
    main()
