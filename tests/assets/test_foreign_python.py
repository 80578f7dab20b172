"""`build_embedding_defs` in the Python definitions of a team, whose executor starts a process for
each step. The package comes from the wheel."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from tests.support import foreign
from tests.support.databases import Templates
from tests.support.wheel import Installed

pytestmark = pytest.mark.long

DEFINITIONS = {
    "acme_defs.py": """
        import os
        import sys
        from multiprocessing.util import Finalize
        from pathlib import Path

        import dagster as dg
        from dagster_dbt import DagsterDbtTranslator, DbtCliResource, DbtProject, dbt_assets

        import embeddings_pipeline
        from embeddings_pipeline import build_embedding_defs

        with open(os.environ["IMPORTED"], "a") as file:
            file.write(f"{embeddings_pipeline.__file__}\\n")


        def note_loaded_models(path):
            if "torch" in sys.modules:
                with open(path, "a") as file:
                    file.write(f"{os.getpid()}\\n")


        # at the end of each process, that of a step too
        if path := os.environ.get("LOADED_MODELS"):
            Finalize(None, note_loaded_models, (path,), exitpriority=1)


        class Translator(DagsterDbtTranslator):
            def get_asset_key(self, dbt_resource_props):
                return super().get_asset_key(dbt_resource_props).with_prefix("warehouse")


        # each step is a process of its own, which has the imports behind it
        imported = ["dagster_dbt", "embeddings_pipeline.assets.factory"]
        forking = {"forkserver": {"preload_modules": imported}}
        project = DbtProject(Path(__file__).parent / "dbt")


        @dbt_assets(
            manifest=project.manifest_path,
            project=project,
            dagster_dbt_translator=Translator(),
            name="models_of_acme",
        )
        def models(context, dbt: DbtCliResource):
            yield from dbt.cli(["build"], context=context).stream()


        defs = dg.Definitions.merge(
            dg.Definitions(
                assets=[models],
                resources={"dbt": DbtCliResource(project), "engine": "the engine of the team"},
                executor=dg.multiprocess_executor.configured({"start_method": forking}),
            ),
            build_embedding_defs(
                project,
                translator=Translator(),
                key_prefix="warehouse",
                select="package:acme",
                executor="default",
            ),
        )
    """
}


@pytest.fixture(scope="module")
def project(
    templates: Templates,
    dbt: Path,
    installed: Callable[..., Installed],
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[foreign.Project]:
    folder = tmp_path_factory.mktemp("acme_python")
    with foreign.project(folder, DEFINITIONS, installed("all"), templates.empty, dbt) as project:
        yield project


@pytest.fixture(scope="module")
def description(project: foreign.Project) -> dict[str, Any]:
    with closing(foreign.Location(project, "acme_defs")) as location:
        return location.describe()


def test_the_definitions_of_both_are_one_code_location(description: dict[str, Any]) -> None:
    parents = description["parents"]
    assert "warehouse/stg_ticket_v2" in parents
    assert parents["warehouse/ticket/texts"] == ["warehouse/stg_ticket_v2"]
    assert {"embeddings", "engine", "dbt"} <= {*description["resources"]}


def test_a_dbt_selection_leaves_the_entities_of_other_models_out(
    description: dict[str, Any],
) -> None:
    assert "ticket_embeddings" in description["executors"]
    assert "person_embeddings" not in description["executors"]


def test_the_model_is_loaded_in_one_process_of_a_run_with_a_process_for_each_step(
    project: foreign.Project, description: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert description["executors"]["ticket_embeddings"] == "multiprocess"
    tags = {
        "dagster/asset_partition_range_start": "00",
        "dagster/asset_partition_range_end": "01",
    }
    monkeypatch.setenv("LOADED_MODELS", str(project.folder / "loaded.txt"))
    printed = project.run(
        *("dagster", "job", "execute", "-m", "acme_defs", "-j", "ticket_embeddings"),
        *("--tags", json.dumps(tags)),
    )
    assert "RUN_SUCCESS" in printed
    assert len({*(project.folder / "loaded.txt").read_text().split()}) == 1
    project.assert_only_the_wheel_was_imported()
