"""`build_embedding_defs` in the Python definitions of a team, whose executor starts a process for
each step."""

from __future__ import annotations

import importlib
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import psycopg
import pytest

from embeddings_pipeline.database import Database
from embeddings_pipeline.settings import Settings
from tests.support import foreign
from tests.support.notes import scratch_database

# dbt and Dagster warn of themselves
pytestmark = [pytest.mark.filterwarnings("ignore"), pytest.mark.long]

DEFINITIONS = {
    "acme_defs.py": """
        import os
        import sys
        from multiprocessing.util import Finalize
        from pathlib import Path

        import dagster as dg
        from dagster_dbt import DagsterDbtTranslator, DbtCliResource, DbtProject, dbt_assets

        from embeddings_pipeline import build_embedding_defs


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
                executor=dg.multiprocess_executor,
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
def folder(server: Database, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The project of the team; the environment names its database."""
    folder = tmp_path_factory.mktemp("acme_python")
    foreign.write(folder / "dbt", foreign.DBT_PROJECT)
    foreign.write(folder, DEFINITIONS)
    with pytest.MonkeyPatch.context() as patch, scratch_database(server, folder.name) as database:
        for field in Settings.model_fields:
            patch.delenv(field.upper(), raising=False)
        for name, value in foreign.environment(database).items():
            patch.setenv(name, value)
        foreign.write(folder / "home", {"dagster.yaml": "telemetry: {enabled: false}"})
        patch.setenv("DAGSTER_HOME", str(folder / "home"))
        patch.setenv("PATH", str(foreign.BIN), prepend=os.pathsep)
        patch.chdir(folder)
        patch.syspath_prepend(str(folder))
        foreign.dbt("deps", cwd=folder / "dbt")
        foreign.dbt("parse", cwd=folder / "dbt")
        with psycopg.connect(database.url, autocommit=True) as connection:
            connection.execute(foreign.RAW)
        yield folder
        sys.modules.pop("acme_defs", None)


@pytest.fixture
def defs(folder: Path) -> dg.Definitions:
    return importlib.import_module("acme_defs").defs


def test_the_definitions_of_both_are_one_code_location(defs: dg.Definitions) -> None:
    graph = defs.resolve_asset_graph()
    keys = {key.to_user_string() for key in graph.get_all_asset_keys()}
    assert {"warehouse/stg_ticket_v2", "warehouse/ticket/texts"} <= keys
    texts = graph.get(dg.AssetKey(["warehouse", "ticket", "texts"]))
    assert texts.parent_keys == {dg.AssetKey(["warehouse", "stg_ticket_v2"])}
    assert {"embeddings", "engine", "dbt"} <= {*(defs.resources or {})}


def test_a_dbt_selection_leaves_the_entities_of_other_models_out(defs: dg.Definitions) -> None:
    names = {job.name for job in defs.resolve_all_job_defs()}
    assert "ticket_embeddings" in names
    assert "person_embeddings" not in names


def test_the_model_is_loaded_in_one_process_of_a_run_with_a_process_for_each_step(
    folder: Path, defs: dg.Definitions, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert defs.resolve_job_def("ticket_embeddings").executor_def.name == "multiprocess"
    tags = {
        "dagster/asset_partition_range_start": "00",
        "dagster/asset_partition_range_end": "01",
    }
    monkeypatch.setenv("LOADED_MODELS", str(folder / "loaded.txt"))
    done = foreign.command(
        *("dagster", "job", "execute", "-m", "acme_defs", "-j", "ticket_embeddings"),
        *("--tags", json.dumps(tags)),
        cwd=folder,
    )
    assert done.returncode == 0, done.stdout
    assert "RUN_SUCCESS" in done.stdout
    assert len({*(folder / "loaded.txt").read_text().split()}) == 1
