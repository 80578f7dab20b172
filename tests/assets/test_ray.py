"""A backfill on Ray, by dagster-ray."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys

import pytest

from tests.conftest import new_data_dir
from tests.support import CHECKOUT
from tests.support.ray_backfill import PARTITIONS, ROWS

pytestmark = [pytest.mark.filterwarnings("ignore"), pytest.mark.long]

# Ray's processes see nothing but this machine, and end with the first process of the namespace
NAMESPACE = ("unshare", "--net", "--pid", "--fork", "--mount-proc", "--kill-child")


def test_runs_of_a_backfill_are_jobs_of_ray() -> None:
    pytest.importorskip("dagster_ray", reason="dagster-ray is not installed")
    if subprocess.run([*NAMESPACE, "true"], capture_output=True).returncode:
        pytest.skip("this user may not make a namespace")
    folder = new_data_dir()
    try:
        done = subprocess.run(
            [*NAMESPACE, sys.executable, "-m", "tests.support.ray_backfill", str(folder)],
            cwd=CHECKOUT,
            capture_output=True,
            text=True,
        )
    finally:
        shutil.rmtree(folder)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1]) == {
        "runs": {"SUCCESS": PARTITIONS},
        "jobs": {"SUCCEEDED": PARTITIONS},
        "vectors": ROWS,
    }
