"""Fixtures that every test may use: a real Postgres, and a fresh database in it."""

from __future__ import annotations

import gc
import os
import shutil
import signal
import tempfile
from collections.abc import Callable, Iterator
from contextlib import closing
from functools import cache
from pathlib import Path

import psycopg
import pytest
from hypothesis import HealthCheck, settings
from psycopg.sql import SQL, Identifier, Literal
from pydantic import SecretStr

from embeddings_pipeline.database import Database
from embeddings_pipeline.store.embedded import server as embedded
from tests.support.clip import save_packed, save_plain
from tests.support.databases import Templates, begun, copy_of, needs_superuser
from tests.support.gallery import encoders_of, publish_gallery
from tests.support.published_shop import publish_shop
from tests.support.redis_server import RedisServer
from tests.support.remembering import close_all
from tests.support.warm_dbt import warm_dbt
from tests.support.wheel import Installed, build_wheel
from tests.support.world import World

# a busy machine is no counterexample, and a database may be shared by examples that only read
settings.register_profile(
    "here", deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
settings.load_profile("here")

# a shell has what it runs in the background ignore SIGINT, Dagster makes SIGTERM like it, and what
# a test starts would ignore both
signal.signal(signal.SIGINT, signal.default_int_handler)

MEMORY = Path("/dev/shm")


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Run the slow tests first, with more time on a busy machine. The others keep the random order
    of the plugin."""
    for item in items:
        if item.get_closest_marker("long") and not item.get_closest_marker("timeout"):
            item.add_marker(pytest.mark.timeout(900))
    items.sort(key=lambda item: item.get_closest_marker("long") is None)


@pytest.hookimpl(trylast=True)
def pytest_collection_finish() -> None:
    """Leave what the imports made out of the searches for cycles that follow: with it, each of the
    longest takes half a second."""
    gc.freeze()


def new_data_dir() -> Path:
    """A folder for an embedded server, which its system user can reach where tests run as root. It
    is in memory where there is enough: most of making and dropping a database is work on files."""
    folder = Path(tempfile.mkdtemp(prefix="ep-", dir=MEMORY if is_roomy(MEMORY) else None))
    folder.chmod(0o755)
    return folder


def is_roomy(folder: Path) -> bool:
    """Whether servers can work in this folder, and processes be started from it."""
    if not folder.is_dir() or os.statvfs(folder).f_flag & os.ST_NOEXEC:
        return False
    return shutil.disk_usage(folder).free > 4 << 30


def remove_data_dir(folder: Path) -> None:
    embedded.stop(folder)
    shutil.rmtree(folder)


@pytest.fixture
def data_dir() -> Iterator[Path]:
    """An empty folder for an embedded server of the test's own."""
    folder = new_data_dir()
    yield folder
    remove_data_dir(folder)


@pytest.fixture(scope="session")
def server() -> Iterator[Database]:
    """The database whose copies the tests work in: TEST_DATABASE_URL, or one of an embedded server
    for the whole session. Use `database` for one to write to."""
    if url := os.environ.get("TEST_DATABASE_URL"):
        yield Database.from_url("TEST_DATABASE_URL", SecretStr(url))
        return
    folder = new_data_dir()
    try:
        server = embedded.start(folder)
        with closing(psycopg.connect(server.url, autocommit=True)) as connection:
            # nothing here needs to survive the machine
            connection.execute("alter system set fsync = off")
            connection.execute("alter system set full_page_writes = off")
            connection.execute("alter system set synchronous_commit = off")
            connection.execute("select pg_reload_conf()")
            # a third of what it takes to connect is the hash of the password, again and again
            connection.execute("set scram_iterations = 1")
            password = Literal(server.password.get_secret_value())
            role = Identifier(server.user)
            connection.execute(SQL("alter role {} password {}").format(role, password))
        yield server
    finally:
        remove_data_dir(folder)


@pytest.fixture(scope="session")
def templates(server: Database) -> Iterator[Templates]:
    templates = Templates(server)
    yield templates
    templates.drop()


@pytest.fixture
def database(templates: Templates, request: pytest.FixtureRequest) -> Iterator[Database]:
    """A fresh database with the vector extension, dropped after the test. It has the tables of a
    world where the test asks for a world, too."""
    asked = "world" in request.fixturenames
    template = templates.prepared(begun) if asked else templates.empty
    with copy_of(template) as database:
        yield database


@pytest.fixture
def superuser(database: Database) -> Database:
    """The test's database as a superuser, for tests that make roles or extensions."""
    needs_superuser(database)
    return database


@pytest.fixture
def world(database: Database) -> Iterator[World]:
    """A staging schema and the steps of a run, in a database of the test's own."""
    with closing(World(database)) as world:
        yield world


@pytest.fixture
def redis() -> Iterator[RedisServer]:
    """A Redis of the test's own; its folder is short, since a socket's name must be."""
    folder = Path(tempfile.mkdtemp(prefix="ep-redis-"))
    server = RedisServer(folder)
    server.start()
    yield server
    close_all()
    server.close()
    shutil.rmtree(folder)


@pytest.fixture(scope="session")
def dbt() -> Iterator[Path]:
    """A dbt command that starts at once."""
    with warm_dbt() as command:
        yield command


@pytest.fixture(scope="session")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One random model of images and texts in two layouts: `plain` and `packed` in the folder."""
    folder = tmp_path_factory.mktemp("clip")
    save_plain(folder / "plain")
    save_packed(folder / "plain", folder / "packed")
    return folder


@pytest.fixture
def gallery(world: World, templates: Templates, clip: Path) -> Iterator[World]:
    """Three pictures of the entity `photo`, published; `clip_settings(clip)` are the settings."""
    templates.restore(world, publish_gallery, clip)
    world.encoders = encoders_of(clip)
    yield world
    world.encoders.cleanup()


@pytest.fixture(scope="session")
def installed(tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> Callable[..., Installed]:
    """Environments of the wheel, by their extras; each is made once for a process of the tests, and
    the wheel once for all of them."""
    folder = tmp_path_factory.getbasetemp()
    wheel = build_wheel((folder if worker_id == "master" else folder.parent) / "dist")
    return cache(lambda *extras: Installed(folder / "-".join(("venv", *extras)), wheel, *extras))


@pytest.fixture
def shop(world: World, templates: Templates) -> World:
    """Five items, published."""
    templates.restore(world, publish_shop)
    return world
