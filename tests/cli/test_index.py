"""`index`, `export` and `search --snapshot`, with the packaged model."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from embeddings_pipeline.errors import ConfigurationError, EmbeddingsError
from tests.support import CHECKOUT
from tests.support.commands import command, document
from tests.support.notes import Notes, notes

__all__ = ["notes"]

# dbt and Dagster warn of themselves
pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture(scope="module")
def embedded(notes: Notes) -> Notes:
    """Notes and events that all have vectors and indexes."""
    assert command("run", "--all").exit_code == 0
    return notes


def test_index_shows_what_each_index_is_and_how_well_it_finds(embedded: Notes) -> None:
    event, note = document("index")["indexes"]
    assert (event["entity"], note["entity"]) == ("event", "note")
    assert (note["set"], note["state"], note["action"]) == (1, "live", "kept")
    assert (note["type"], note["rows"], note["recall_at_10"]) == ("hnsw", 8, 1)
    assert note["settings"] == {"metric": "cosine", "m": 16, "ef_construction": 64}
    assert note["size_bytes"] > 0
    assert note["ef_search"] == 1000
    assert note["levels"][0]["share"] == 1
    (line,) = [line for line in command("index", "note").stdout.splitlines() if " note " in line]
    assert "hnsw m 16, ef_construction 64" in line


def test_index_is_built_again_on_request_and_says_so(embedded: Notes) -> None:
    assert (
        "note, set 1: built, a rebuild was requested"
        in command("index", "note", "--rebuild").stdout
    )


def test_index_fails_where_rows_are_pending(embedded: Notes) -> None:
    embedded.sql("update analytics_features.note_texts set text_hash = gen_random_uuid()")
    embedded.sql("drop index analytics_features.note_vectors_1_index")
    waiting = command("index", "note")
    embedded.sql(
        "update analytics_features.note_texts t set text_hash = v.text_hash"
        " from analytics_features.note_vectors_1 v where v.note_id = t.note_id"
    )
    assert isinstance(waiting.exception, EmbeddingsError)
    assert "rows are pending in note, set 1" in str(waiting.exception)
    assert command("index", "note").exception is None


def test_an_exported_entity_is_searched_without_a_database(embedded: Notes, tmp_path: Path) -> None:
    folder = str(tmp_path / "notes")
    written = document("export", "note", "--to", folder, "--type", "hnsw")
    assert (written["entity"], written["count"], written["kind"]) == ("note", 8, "hnsw")
    assert "note: 8 vectors of " in command("export", "note", "--to", folder).stdout
    wanted = document("search", "note", "what to buy", "--exact")["results"]
    # as in a program of its own, in which torch and FAISS meet: both bring OpenMP
    found = subprocess.run(
        [
            *(sys.executable, "-c", "from embeddings_pipeline.cli.main import main; main()"),
            *("search", "note", "what to buy", "--snapshot", folder, "--json"),
        ],
        env={
            **{name: value for name, value in os.environ.items() if "URL" not in name},
            **{"STAGING_DB_HOST": "nowhere.invalid", "PGVECTOR_HOST": "nowhere.invalid"},
            **{"PYTHONPATH": str(CHECKOUT), "OMP_NUM_THREADS": "2"},
        },
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert found.returncode == 0, found.stderr
    results = json.loads(found.stdout)["results"]
    assert [hit["id"] for hit in results] == [hit["id"] for hit in wanted]
    assert [hit["score"] for hit in results] == pytest.approx(
        [h["score"] for h in wanted], abs=1e-3
    )
    assert [hit["fields"] for hit in results] == [hit["fields"] for hit in wanted]


def test_a_folder_without_a_snapshot_is_a_wrong_call(embedded: Notes, tmp_path: Path) -> None:
    result = command("search", "note", "what to buy", "--snapshot", str(tmp_path))
    assert isinstance(result.exception, ConfigurationError)


def test_the_job_exports_as_the_command_does(embedded: Notes, tmp_path: Path) -> None:
    result = embedded.execute(
        "embeddings_export",
        run_config={
            "ops": {
                "embeddings__export": {
                    "config": {"entity": "note", "folder": str(tmp_path), "type": "ivf"}
                }
            }
        },
    )
    assert result.success
    assert json.loads((tmp_path / "manifest.json").read_text())["kind"] == "ivf"
