"""The commands of docs/runbook.md, as they stand, on a Postgres with roles of their own and a
provider on this machine."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import psycopg
import pytest
from pydantic import SecretStr

from embeddings_pipeline.database import Database
from embeddings_pipeline.store.embedded import host
from embeddings_pipeline.store.schema import VERSION
from tests.data.make_tables_before_schema_version import DUMP
from tests.support import CHECKOUT, foreign
from tests.support.databases import Templates, copy_of, needs_superuser
from tests.support.declared import manifest_of
from tests.support.environment import VARIABLES
from tests.support.pgbouncer import pgbouncer
from tests.support.provider import BROKEN, KEY, Provider, serving
from tests.support.serving import served
from tests.support.standby import free_port, stop

pytestmark = [pytest.mark.long]

PAGE = CHECKOUT / "docs" / "runbook.md"
# a comment of a command begins with a small letter
SECTIONS = re.split(r"^##? (?=[A-Z])", PAGE.read_text(), flags=re.MULTILINE)[1:]
ROWS = 60
IS_EMBEDDED = "TEST_DATABASE_URL" not in os.environ


def blocks(heading: str) -> list[str]:
    """The commands below this heading of the page."""
    (section,) = (text for text in SECTIONS if text.startswith(f"{heading}\n"))
    return re.findall(r"^```bash\n(.*?)^```", section, re.MULTILINE | re.DOTALL)


@dataclass
class Shop:
    """A database with a staging table of products, the two roles, and the shell of who is on
    call."""

    database: Database
    folder: Path
    provider: Provider
    environment: dict[str, str]

    def of(self, role: str, password: str) -> Database:
        return replace(self.database, user=role, password=SecretStr(password))

    @property
    def runs(self) -> Database:
        return self.of("embeddings", "of runs")

    def declare(self, model: str) -> None:
        """Change the model in the dbt project."""
        manifest = manifest_of("product", id="product_id", model=model)
        (self.folder / "manifest.json").write_text(json.dumps(manifest))

    def follow(
        self,
        heading: str,
        *numbers: int,
        after: str = "",
        fails: bool = False,
        account: dict[str, Any] | None = None,
        **variables: str,
    ) -> str:
        """Run the commands of a section, or some of its blocks, and return what they print.

        `after` is run in the same shell, and `account` is the system user."""
        chosen = [text for n, text in enumerate(blocks(heading)) if n in numbers or not numbers]
        return self.bash("\n".join([*chosen, after]), fails, account, **variables)

    def bash(
        self,
        commands: str,
        fails: bool = False,
        account: dict[str, Any] | None = None,
        **variables: str,
    ) -> str:
        """Run commands, and return what they print."""
        done: subprocess.CompletedProcess[str] = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", commands],
            cwd=self.folder,
            env=self.environment | variables,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            **(account or {}),
        )
        assert (done.returncode != 0) == fails, done.stdout + done.stderr
        return done.stdout + done.stderr

    def sql(self, query: str, database: Database | None = None) -> list[tuple[Any, ...]]:
        with psycopg.connect((database or self.database).url, autocommit=True) as connection:
            cursor = connection.execute(query)
            return cursor.fetchall() if cursor.description else []


@contextmanager
def of_database(database: Database, folder: Path, provider: Provider) -> Iterator[Shop]:
    inherited = {n: v for n, v in os.environ.items() if n.upper() not in VARIABLES}
    shop = Shop(database, folder, provider, {})
    urls = {
        "ADMIN_URL": database.url,
        "STAGING_DB_URL": shop.runs.url,
        "PGVECTOR_URL": shop.runs.url,
        "SEARCH_URL": shop.of("search_reader", "of searches").url,
    }
    # psql and the others are of the server's version
    programs = [host.programs()] if IS_EMBEDDED else []
    shop.environment = {
        **inherited,
        **urls,
        "PATH": os.pathsep.join(map(str, [foreign.BIN, *programs, os.environ["PATH"]])),
        "RUNS_PASSWORD": "of runs",
        "READS_PASSWORD": "of searches",
        "DBT_MANIFEST": str(folder / "manifest.json"),
        "OPENAI_BASE_URL": provider.url,
        "OPENAI_API_KEY": KEY,
        "EMBEDDED_DATA_DIR": str(folder / "data"),
    }
    shop.declare("openai:one")
    yield shop


@pytest.fixture(scope="module")
def provider() -> Iterator[Provider]:
    with serving(dimension=32) as provider:
        yield provider


@pytest.fixture(scope="module")
def followed(
    templates: Templates, provider: Provider, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Database, str]]:
    """A database on which the section on roles was followed, and what it printed."""
    with copy_of(templates.empty) as database:
        needs_superuser(database)
        folder = tmp_path_factory.mktemp("roles")
        with of_database(database, folder, provider) as shop:
            shop.sql(
                "create schema staging; create table staging.stg_product as"
                " select n as product_id, 'garden hose ' || n as name, 'garden' as category"
                f" from generate_series(1, {ROWS}) n"
            )
            printed = shop.follow("Roles")
        yield database, printed
        # both at once fails for a default privilege that they share
        for role in ("embeddings", "search_reader"):
            shop.sql(f"drop owned by {role} cascade")
            shop.sql(f"drop role {role}")


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder that the system users of Postgres and PgBouncer may enter."""
    folder = Path(tempfile.mkdtemp(prefix="ep-runbook-"))
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)


@pytest.fixture
def shop(followed: tuple[Database, str], provider: Provider, folder: Path) -> Iterator[Shop]:
    """A copy of that database, with a run behind it."""
    template, _ = followed
    with (
        copy_of(template) as copy,
        of_database(copy, folder, provider) as shop,
    ):
        yield shop


def test_the_commands_of_each_section_are_run() -> None:
    tests = Path(__file__).read_text()
    headings = [section.partition("\n")[0] for section in SECTIONS if "```bash" in section]
    assert [heading for heading in headings if f'"{heading}"' not in tests] == []


def test_first_look(shop: Shop) -> None:
    printed = shop.follow("Runbook")
    assert "wrong" not in printed
    assert re.search(rf"product\D+{ROWS}", printed)


def test_roles(followed: tuple[Database, str], shop: Shop) -> None:
    _, printed = followed
    assert "garden hose" in printed
    reader = shop.of("search_reader", "of searches")
    for table in ("analytics_features.product_texts", "staging.stg_product"):
        shop.sql(f"select 1 from {table}", reader)
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            shop.sql(f"delete from {table}", reader)
    # a table that dbt makes again is readable by both
    shop.sql(
        "create table staging.new as table staging.stg_product;"
        " drop table staging.stg_product; alter table staging.new rename to stg_product"
    )
    assert shop.sql("select count(*) from staging.stg_product", reader) == [(ROWS,)]


def test_tls(shop: Shop) -> None:
    shop.follow("TLS", 0, DB_HOST="localhost")
    # PgBouncer is another user than who made the key
    (shop.folder / "server.key").chmod(0o644)
    options = f"""client_tls_sslmode = require
        client_tls_cert_file = {shop.folder}/server.crt
        client_tls_key_file = {shop.folder}/server.key"""
    with pgbouncer(shop.runs, "session", options) as pooled:
        url = replace(pooled, host="localhost").url
        assert "product" in shop.follow("TLS", 1, STAGING_DB_URL=url, PGVECTOR_URL=url)
        # the certificate is not that of the server any more
        shop.follow("TLS", 0, DB_HOST="localhost")
        said = shop.follow("TLS", 1, fails=True, STAGING_DB_URL=url, PGVECTOR_URL=url)
        assert "certificate verify failed" in said


def test_a_restored_backup_encodes_nothing_and_lacks_what_was_erased_after_it(
    shop: Shop, server: Database
) -> None:
    shop.follow("Back up", after="cp embeddings.dump before.dump")
    shop.bash("embeddings-pipeline erase product 7")
    shop.follow("Back up", after="mv before.dump embeddings.dump")
    restored = replace(shop.runs, name="restored")
    billed = shop.provider.billed.total()
    try:
        shop.follow(
            "Restore",
            RESTORED_URL=restored.url,
            RESTORED_ADMIN_URL=replace(server, name="restored").url,
        )
        assert shop.provider.billed.total() == billed
        shown = shop.sql("select product_id from analytics_features.product_embeddings", restored)
        assert {row_id for (row_id,) in shown} == {*range(1, ROWS + 1)} - {7}
        cached = shop.sql("select count(*) from analytics_features.embedding_cache_1", restored)
        assert cached == [(ROWS - 1,)]
    finally:
        shop.sql("drop database if exists restored with (force)")


def test_a_replica_answers_searches_and_takes_over(shop: Shop, server: Database) -> None:
    where = shop.folder / "replica"
    where.mkdir()
    host.hand_over(where)
    port = free_port()
    promoted, of_runs = (
        replace(database, host="127.0.0.1", port=port) for database in (shop.database, shop.runs)
    )
    try:
        shop.follow(
            "Add a replica",
            0,
            account=host.account(),
            REPLICATION_URL=server.url,
            REPLICA_DATA=str(where / "postgres"),
            REPLICA_OPTIONS=f"-p {port} -c listen_addresses=127.0.0.1"
            f" -c unix_socket_directories={where}",
        )
        printed = shop.follow("Add a replica", 1, PGVECTOR_REPLICA_URL=of_runs.url)
        assert re.search(r"^ t +\|", printed, re.MULTILINE)
        assert "garden hose" in printed
        shop.follow(
            "Fail over",
            REPLICA_ADMIN_URL=promoted.url,
            PROMOTED_URL=of_runs.url,
            PGVECTOR_REPLICA_URL=of_runs.url,
        )
        assert shop.sql("select pg_is_in_recovery()", promoted) == [(False,)]
        runs = shop.sql("select count(*) from analytics_features.run_ledger", promoted)
        assert runs == [(2,)]
    finally:
        stop(where)


def test_tables_of_an_earlier_version_are_migrated(shop: Shop, templates: Templates) -> None:
    with copy_of(templates.empty) as before:
        shop.sql(DUMP.read_text(), before)
        shop.sql(
            "create schema if not exists staging;"
            " create table staging.stg_product (product_id bigint, name text)",
            before,
        )
        shown = "select id::text, chunk, text from analytics_features.item_embeddings order by 1, 2"
        rows = shop.sql(shown, before)
        printed = shop.follow("Upgrade", STAGING_DB_URL=before.url, PGVECTOR_URL=before.url)
        assert "item_texts" in printed
        assert shop.sql("select version from analytics_features.schema_version", before) == [
            (VERSION,)
        ]
        assert shop.sql(shown, before) == rows


def test_both_keys_of_a_client_are_valid_while_it_changes_over(shop: Shop) -> None:
    section, old = "Rotate a key of the search service", "old-key"
    before = f"page:read:{sha256(old.encode()).hexdigest()}"
    printed = shop.follow(section, 0, after='echo "$KEY $SEARCH_API_KEYS"', SEARCH_API_KEYS=before)
    new, both = printed.split()
    printed = shop.follow(section, 1, after='echo "$SEARCH_API_KEYS"', SEARCH_API_KEYS=both)
    for value, allowed in ((both, [old, new]), (printed.strip(), [new])):
        with served(shop.database, search_api_keys=SecretStr(value)) as client:
            answers = {
                key: client.get("/stats", headers={"X-API-Key": key}).status_code
                for key in (old, new)
            }
        assert answers == {key: 200 if key in allowed else 401 for key in (old, new)}


def test_a_password_is_changed(shop: Shop) -> None:
    try:
        shop.follow("Rotate a password or a provider's key", NEW_PASSWORD="it's new")
        shop.sql("select 1", shop.of("embeddings", "it's new"))
        with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
            shop.sql("select 1", shop.runs)
    finally:
        shop.sql("alter role embeddings password 'of runs'")


def test_searches_by_words_go_on_while_a_provider_is_down(shop: Shop) -> None:
    shop.sql("insert into staging.stg_product values (1000, 'lawn mower', 'garden')")
    shop.provider.always = BROKEN
    try:
        assert "garden hose" in shop.follow("A provider is down", 0)
        assert "500" in shop.follow("A provider is down", 1, fails=True, MODEL="one")
    finally:
        shop.provider.always = None
    shop.follow("A provider is down", 1, MODEL="one")
    shop.follow("A provider is down", 2)
    assert shop.provider.billed["name: lawn mower. category: garden"] == 1


@contextmanager
def small_disk(folder: Path, size: int) -> Iterator[None]:
    """A disk of this many bytes, for the server's system user."""
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)]
    if subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("this user may not mount a small disk")
    try:
        host.hand_over(folder)
        yield
    finally:
        subprocess.run(["umount", str(folder)], check=True)


@pytest.mark.skipif(not IS_EMBEDDED, reason="takes folders of the server's system user")
def test_a_run_goes_on_once_a_full_disk_is_larger(shop: Shop) -> None:
    roomy = shop.folder / "roomy"
    roomy.mkdir()
    host.hand_over(roomy)
    ((size,),) = shop.sql("select pg_database_size(current_database())")
    name = shop.database.name
    maintenance = replace(shop.database, name="postgres")
    with small_disk(shop.folder / "small", size + (4 << 20)):
        try:
            shop.sql(f"create tablespace small location '{shop.folder}/small'")
            shop.sql(f"alter database {name} set tablespace small", maintenance)
            shop.sql(
                "insert into staging.stg_product select n, 'lamp ' || n, 'light'"
                " from generate_series(1000, 8999) n"
            )
            failed = shop.bash("embeddings-pipeline run --all --no-dbt", fails=True)
            assert "No space left on device" in failed
            assert "garden hose" in shop.bash('embeddings-pipeline search product "garden hose"')
            assert "product_texts" in shop.follow("The disk is full", 0)
            shop.follow("The disk is full", 1, ROOMY=str(roomy), FULL_DATABASE=name)
            shown = shop.sql("select count(*) from analytics_features.product_embeddings")
            assert shown == [(ROWS + 8_000,)]
        finally:
            shop.sql(f"alter database {name} set tablespace pg_default", maintenance)
            shop.sql("drop tablespace if exists small", maintenance)
            shop.sql("drop tablespace if exists roomy", maintenance)


def test_a_wrong_model_is_taken_back(shop: Shop) -> None:
    def live() -> str:
        ((model,),) = shop.sql(
            "select model from analytics_features.vector_sets s"
            " join analytics_features.model_identities i on i.number = s.identity"
            " where s.state = 'live'"
        )
        return str(model)

    shop.declare("openai:wrong")
    shop.bash("embeddings-pipeline run product --no-dbt")
    assert live() == "openai:wrong"
    assert "garden hose" in shop.follow("A wrong model was published", 0)
    assert live() == "openai:one"
    shop.bash("embeddings-pipeline run product --no-dbt")
    assert live() == "openai:one"
    shop.declare("openai:right")
    shop.follow("A wrong model was published", 1)
    assert live() == "openai:right"


def test_an_erasure_request(shop: Shop) -> None:
    texts = "select count(*) from analytics_features.embedding_cache_1"
    printed = shop.follow("An erasure request", 0, ID="7")
    before, after = printed.split("erased", 1)
    assert "garden hose 7" in before
    assert "garden hose 7" not in after
    assert re.search(r"left *\n-+\n +0\n", after)
    shop.bash("embeddings-pipeline run --all --no-dbt")
    assert shop.sql(texts) == [(ROWS - 1,)]
    shop.follow("An erasure request", 1, ID="7")
    assert shop.sql(texts) == [(ROWS,)]
