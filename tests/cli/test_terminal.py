"""No control character of data reaches a terminal or a log."""

from __future__ import annotations

import ast
import json
import logging
import os
import subprocess
import sys
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from typer.testing import Result

from embeddings_pipeline import cli
from embeddings_pipeline.cli import main, output
from embeddings_pipeline.cli.terminal import LogFormatter, printable
from embeddings_pipeline.encoders.registry import Encoders
from embeddings_pipeline.errors import EmbeddingsError
from embeddings_pipeline.settings import DEFAULT_MODEL, Settings
from embeddings_pipeline.store.texts import quarantine
from embeddings_pipeline.store.texts.quarantine import Failure
from tests.support.commands import command
from tests.support.environment import only_settings
from tests.support.hostile import CONTROLS, HOSTILE
from tests.support.world import SCHEMA, World

ESCAPED = r"\x1b]0;X\x07\x1b[2J \x9b31m \x08\x08 \rfine \u202etxt.exe \u2066 \u200f \u2028 \x7f end"
# what writing needs: joiners of emoji and of Persian, a soft hyphen, a combining mark
WRITTEN = "👩\u200d🔬 \u0645\u06cc\u200c\u062e so\xadft e\u0301 [red]"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        (HOSTILE, ESCAPED),
        ("two\nlines", "two\nlines"),
        ("a\tb\0", r"a\tb\x00"),
        ("\udcff \ud800", r"\udcff \ud800"),
        (WRITTEN, WRITTEN),
        (r"\x1b is no escape", r"\x1b is no escape"),
    ],
)
def test_a_text_is_shown_with_its_controls_escaped(text: str, shown: str) -> None:
    assert printable(text) == shown


def test_lines_messages_and_tables_are_printable(capsys: pytest.CaptureFixture[str]) -> None:
    output.print_line(f"line {HOSTILE}")
    output.print_message(f"message {HOSTILE}")
    output.print_table((HOSTILE, "[b]n[/b]"), [("\x1b[1m[red]", None)], HOSTILE)
    printed = capsys.readouterr()
    assert not CONTROLS.search(printed.out + printed.err)
    assert f"line {ESCAPED}" in printed.out
    assert f"message {ESCAPED}" in printed.err
    assert r"\x1b[1m[red]" in printed.out
    assert "[b]n[/b]" in printed.out


def test_a_table_breaks_an_id_that_is_wider_than_its_column(
    capsys: pytest.CaptureFixture[str],
) -> None:
    row_id = "8a8bb7cd-343a-a2ad-99b7-d762030857a2"
    output.print_table(("id", "a", "b", "c", "d"), [(row_id, *["some words " * 9] * 4)])
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("│")]
    assert "".join(line.split("│")[1].strip() for line in lines) == row_id


def test_json_is_exact_and_printable(capsys: pytest.CaptureFixture[str]) -> None:
    document = {HOSTILE: [f"{HOSTILE}\n\t\0", "ä日\U0001f600", "\ud800"]}
    output.print_json(document)
    printed = capsys.readouterr().out
    assert not CONTROLS.search(printed)
    assert json.loads(printed) == document
    assert "ä日\U0001f600" in printed
    assert printed.count("\n") == 1


@pytest.mark.parametrize("error", [EmbeddingsError(HOSTILE), ValueError(HOSTILE)])
def test_an_error_is_printable(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], error: Exception
) -> None:
    def fail() -> None:
        raise error

    monkeypatch.setattr(main, "app", fail)
    monkeypatch.setattr(sys, "excepthook", sys.excepthook)
    try:
        main.main()
    except SystemExit:
        pass
    except ValueError as fault:
        sys.excepthook(type(fault), fault, fault.__traceback__)
    printed = capsys.readouterr().err
    assert not CONTROLS.search(printed)
    assert ESCAPED in printed


def test_a_log_record_is_one_printable_line_and_a_printable_traceback() -> None:
    stream = StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(LogFormatter(logging.BASIC_FORMAT))
    log = logging.Logger("shop")
    log.addHandler(handler)
    log.warning("row %s failed\nERROR:root:all is lost", HOSTILE)
    try:
        raise ValueError(HOSTILE)
    except ValueError:
        log.exception("%s", HOSTILE)
    written = stream.getvalue()
    assert not CONTROLS.search(written)
    first, *rest = written.splitlines()
    assert first == rf"WARNING:shop:row {ESCAPED} failed\nERROR:root:all is lost"
    assert rest[0] == f"ERROR:shop:{ESCAPED}"
    assert rest[-1] == f"ValueError: {ESCAPED}"


def test_commands_log_through_the_formatter() -> None:
    program = (
        "import logging; from embeddings_pipeline.cli import main; main.options(False, False);"
        " logging.getLogger('uvicorn.error').error('\\x1b[2J\\nnext')"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stderr == "ERROR:uvicorn.error:\\x1b[2J\\nnext\n"


def test_what_a_locale_has_no_character_for_is_escaped() -> None:
    program = (
        "from embeddings_pipeline.cli import main, output;"
        " show = lambda: (output.print_line('schön…'),"
        " output.print_table(['Größe'], [['日本']]), output.print_json({'größe': '…'}));"
        " main.app = show; main.main()"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        env=os.environ | {"PYTHONIOENCODING": "iso-8859-1", "PYTHONUTF8": "0"},
        capture_output=True,
        timeout=60,
        check=True,
    )
    line, *table, document = done.stdout.decode("iso-8859-1").splitlines()
    assert line == r"schön\u2026"
    assert "Größe" in table[1]
    assert r"\u65e5\u672c" in table[3]
    assert document == r'{"gr\u00f6\u00dfe": "\u2026"}'


def test_commands_print_through_output_alone() -> None:
    elsewhere = []
    for file in Path(cli.__file__).parent.rglob("*.py"):
        for call in ast.walk(ast.parse(file.read_text())):
            if isinstance(call, ast.Call) and ast.unparse(call.func) in ("print", "typer.echo"):
                elsewhere.append(file.name)
    # db prints addresses and commands for a shell, main the version and errors
    assert set(elsewhere) == {"db.py", "main.py", "output.py"}


@pytest.fixture
def hostile(world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    """Rows whose ids, texts and filters have control characters, published."""
    keys = {"id": "id", "entity": "item", "include": ["name"], "filters": ["kind"]}
    node = {
        **{"resource_type": "model", "name": "stg_item", "schema": "staging"},
        **{"alias": "stg_item", "original_file_path": "models/stg_item.yml"},
        **{"config": {"meta": {"embedding": keys}, "materialized": "view", "enabled": True}},
        **{"unique_id": "model.shop.stg_item", "depends_on": {"nodes": []}, "columns": {}},
    }
    manifest = tmp_path / "manifest.json"
    manifest.write_text(json.dumps({"nodes": {"model.shop.stg_item": node}, "sources": {}}))
    only_settings(
        monkeypatch,
        STAGING_DB_URL=world.database.url,
        PGVECTOR_URL=world.database.url,
        DBT_PROJECT_DIR=str(tmp_path / "nowhere"),
        DBT_MANIFEST=str(manifest),
        EMBEDDING_DEVICE="cpu",
    )
    monkeypatch.chdir(tmp_path)
    world.encoders = Encoders(Settings(_env_file=None, embedding_device="cpu"))
    world.table("id text, name text, kind text")
    world.insert(
        (f"a\nb{HOSTILE}", f"Pump {HOSTILE}\nsecond line", HOSTILE),
        ("c", f"Pump {HOSTILE}\nsecond line", HOSTILE),
    )
    item = world.declare(**{key: keys[key] for key in ("include", "filters")}, model=DEFAULT_MODEL)
    world.run(item)
    return world


def printed(result: Result) -> str:
    text = result.stdout + result.stderr
    assert not CONTROLS.search(text), text
    return text


def test_stored_text_is_escaped_by_the_commands_that_show_it(hostile: World) -> None:
    shown = printed(command("search", "item", "pump"))
    assert r"\x1b]0;X\x07" in shown
    assert r"\u202etxt" in shown

    row_id = f"a\nb{HOSTILE}"
    shown = printed(command("explain", "item", row_id))
    lines = shown.splitlines()
    assert lines[0].startswith(rf"item a\nb{ESCAPED}, partition ")
    assert f"  name: Pump {ESCAPED}" in lines
    assert "  second line" in lines
    shown = printed(command("explain", "item", "c"))
    assert rf"the same text as a\nb{ESCAPED}" in shown

    answer: dict[str, Any] = json.loads(printed(command("search", "item", "pump", "--json")))
    assert {hit["fields"]["kind"] for hit in answer["results"]} == {HOSTILE}
    assert {hit["id"] for hit in answer["results"]} == {row_id, "c"}
    document = json.loads(printed(command("explain", "item", row_id, "--json")))
    assert document["id"] == row_id

    with hostile.postgres.connection() as connection:
        tables = hostile.tables(connection, hostile.declare(include=["name"], filters=["kind"]))
        connection.execute("create temporary table incoming_texts as select 'z' as id")
        quarantine.note_rows(tables, [Failure("c", "render", f"\n{HOSTILE}")])
    assert rf"(render, 1 attempt): \n{ESCAPED}" in printed(command("explain", "item", "c"))
    for arguments in (("status",), ("plan",), ("status", "--json"), ("plan", "--json")):
        printed(command(*arguments))


def test_a_hostile_argument_is_escaped_in_the_error(hostile: World) -> None:
    for arguments in (
        ("explain", "item", f"no row{HOSTILE}"),
        ("search", "item", "pump", "--filter", f"{HOSTILE}=1"),
        ("search", "item", "pump", "--filter", HOSTILE),
        ("search", HOSTILE, "pump"),
    ):
        result = command(*arguments)
        assert result.exception is not None
        assert not CONTROLS.search(printable(str(result.exception)))
    assert hostile.sql(f"select count(*) from {SCHEMA}.item_embeddings") == [(2,)]
