"""A backfill that `RayRunLauncher` launches on a Ray cluster.

To be run as a module, in namespaces of its own for network and processes: Ray may listen on every
address, and what this starts ends with the namespace. The first argument is a folder whose name is
short, since sockets lie below it. Prints how the runs and the jobs of Ray ended, and how many
vectors there are, as JSON in the last line.
"""

from __future__ import annotations

import json
import subprocess
import sys
import warnings
from collections import Counter
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import psycopg

from embeddings_pipeline.store.embedded import server as embedded
from tests.support import foreign
from tests.support.cluster import Launcher, cluster
from tests.support.declared import manifest_of
from tests.support.waiting import until

PARTITIONS, ROWS = 2, 1_000
ADDRESS = "http://127.0.0.1:8265"
# what a run needs of the daemon's environment
VARIABLES = [
    *("STAGING_DB_URL", "PGVECTOR_URL", "DAGSTER_POSTGRES_URL", "DAGSTER_HOME", "PYTHONPATH"),
    *("PATH", "OMP_NUM_THREADS"),
]


def main(folder: Path) -> None:
    from ray.job_submission import JobSubmissionClient

    warnings.simplefilter("ignore")
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    start = ("start", "--head", "--node-ip-address=127.0.0.1", "--num-cpus=2")
    subprocess.run(
        [foreign.BIN / "ray", *start, f"--temp-dir={folder}", "--disable-usage-stats"],
        check=True,
        stdout=sys.stderr,
    )
    vectors = embedded.start(folder / "data")
    runs = replace(vectors, name="runs")
    with closing(psycopg.connect(vectors.url, autocommit=True)) as connection:
        connection.execute("create database runs")
    config = {"address": ADDRESS, "env_vars": VARIABLES, "num_cpus": 1}
    launcher = {"module": "dagster_ray", "class": "RayRunLauncher", "config": {"ray": config}}
    with cluster(
        folder,
        vectors=vectors,
        runs=runs,
        launcher=Launcher(launcher, {}),
        manifest=manifest_of("doc", id="id", partitions={"count": PARTITIONS}),
        rows=ROWS,
    ) as started:

        def ended() -> Counter[str]:
            return Counter(run.status.value for run in started.runs() if run.is_finished)

        try:
            until(lambda: ended().total() >= PARTITIONS, seconds=600)
        finally:
            sys.stderr.write(started.log("daemon"))
        ((vectors_stored,),) = started.sql(
            "select count(*) from analytics_features.embedding_cache_1"
        )
    jobs = Counter(job.status.value for job in JobSubmissionClient(ADDRESS).list_jobs())
    # after what Dagster prints
    found = {"runs": ended(), "jobs": jobs, "vectors": vectors_stored}
    sys.stdout.write(f"\n{json.dumps(found)}")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
