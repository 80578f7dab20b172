"""What docs/architecture.md says of the code: the files on the path of a row, and who imports
whom."""

from __future__ import annotations

import ast
import functools
import importlib
import re
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

import embeddings_pipeline
from embeddings_pipeline.entities.entity import Retrieval
from embeddings_pipeline.sync.quality.retrieval import GoldenQueries
from tests.support.world import SCHEMA, World

PACKAGE = Path(embeddings_pipeline.__file__).parent
DOCUMENT = PACKAGE.parent / "docs" / "architecture.md"
# the folders that a row passes. The encoder of the test is not one of the package
PATH = ("entities/", "store/", "sync/")
# the layers, the highest first; a module imports from its own layer and those below
LAYERS = (
    ("cli/", "definitions.py", "component.py", "diagnosis.py"),
    ("assets/", "resources/", "service/"),
    ("pipeline.py", "dbt_command.py"),
    ("sync/", "search/"),
    ("encoders/", "store/"),
    ("entities/",),
    ("settings.py", "errors.py", "database.py", "files.py", "current_run.py", "stopping.py"),
)

# the same inside the store, the lowest first: what all rooms use, the rooms in the order of a row's
# path, and what reads or makes the tables of several rooms
STORE = (
    (
        *("embedded/", "connection.py", "retry.py", "tables.py", "locks.py", "wire.py"),
        *("vector_sets.py", "filters.py", "views.py", "declarations.py", "run_ledger.py"),
        "inspection.py",
    ),
    ("staging/",),
    ("texts/",),
    ("vectors/",),
    ("index/",),
    ("search/",),
    (*("planning.py", "removal.py", "rows.py", "schema.py", "migrations.py"),),
)


def stages() -> list[str]:
    """The files in the table of stages."""
    rows = re.findall(r"^\| [^|`]+ \| `([\w/]+\.py)` \|", DOCUMENT.read_text(), re.MULTILINE)
    return [str(row) for row in rows]


def tools() -> list[str]:
    """The files in the table of tools."""
    _, table = DOCUMENT.read_text().split("| tools for | files |\n")
    return [str(file) for file in re.findall(r"`([\w/]+\.py)`", table.split("\n\n")[0])]


def test_each_stage_of_a_row_is_one_file_that_exists() -> None:
    assert 10 <= len(stages()) <= 15
    assert [file for file in stages() if not (PACKAGE / file).is_file()] == []


@contextmanager
def executed() -> Iterator[set[str]]:
    """The files of the package whose functions are called in the block, in any thread."""
    found: set[str] = set()

    def note(frame: FrameType, event: str, argument: Any) -> None:
        file = frame.f_code.co_filename
        imported = frame.f_code.co_name == "<module>"
        if event == "call" and not imported and file.startswith(str(PACKAGE)):
            found.add(str(Path(file).relative_to(PACKAGE)))

    threading.setprofile(note)
    sys.setprofile(note)
    try:
        yield found
    finally:
        sys.setprofile(None)
        threading.setprofile(None)


def test_a_changed_row_passes_the_stages_and_their_tools_and_nothing_else(
    world: World, tmp_path: Path
) -> None:
    world.table("id bigint, name text")
    world.insert(*[(n, f"thing {n}") for n in range(20)])
    (tmp_path / "golden.csv").write_text("query,id\nthing 7,7\n")
    retrieval = Retrieval(queries="golden.csv", ndcg_at_10=0)
    item = world.declare(template="{name}")
    world.run(item)
    names = world.names_of(item)
    golden = GoldenQueries(retrieval, [tmp_path], world.encoders, world.postgres, names)
    # so long that its tokens are counted
    world.sql(
        "update staging.stg_item set name = 'another thing ' || repeat('x y ', 60) where id = 3"
    )
    # else the run would not build it
    world.sql(f"drop index {SCHEMA}.item_vectors_1_index")
    with executed() as files:
        assert world.run(item)["encoded"] == 1
        assert golden.check().passed
    named = {file for file in [*stages(), *tools()] if file.startswith(PATH)}
    assert {file for file in files if file.startswith(PATH)} == named


def layer(module: str) -> int | None:
    """The layer of a file; None for the package itself."""
    for number, parts in enumerate(LAYERS):
        if module.startswith(parts):
            return number
    return None


@functools.cache
def imports(file: Path) -> list[str]:
    """The files of the package that a file imports when it is run, wherever in it."""
    tree = ast.parse(file.read_text())
    typing_only = {
        inner
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
        for inner in ast.walk(node)
    }
    found = []
    for node in ast.walk(tree):
        if not isinstance(node, ast.ImportFrom) or node in typing_only or node.level:
            continue
        if node.module and node.module.split(".")[0] == "embeddings_pipeline":
            path = "/".join(node.module.split(".")[1:])
            for name in node.names:
                inner = f"{path}/{name.name}.py".lstrip("/")
                found.append(inner if (PACKAGE / inner).is_file() else f"{path}.py")
    return found


FILES = sorted(
    str(file.relative_to(PACKAGE))
    for file in PACKAGE.rglob("*.py")
    if file.relative_to(PACKAGE) != Path("__init__.py")
)


def test_no_import_runs_upward() -> None:
    upward = [
        f"{file} -> {imported}"
        for file in FILES
        for imported in imports(PACKAGE / file)
        if (mine := layer(file)) is not None
        and (theirs := layer(imported)) is not None
        and theirs < mine
        # the pipeline offers searches, and loads them when they are first used
        and (file, imported.split("/")[0]) != ("pipeline.py", "search")
    ]
    assert upward == []


def test_rooms_of_the_store_import_no_later_room() -> None:
    def place(file: str) -> int | None:
        if not file.startswith("store/"):
            return None
        return next(n for n, parts in enumerate(STORE) if file[6:].startswith(parts))

    files = [file for file in FILES if file.startswith("store/") and file != "store/__init__.py"]
    assert [
        f"{file} -> {imported}"
        for file in files
        for imported in imports(PACKAGE / file)
        if (theirs := place(imported)) is not None and theirs > (place(file) or 0)
    ] == []


def test_the_store_imports_no_encoder() -> None:
    assert [
        f"{file} -> {imported}"
        for file in FILES
        if file.startswith("store/")
        for imported in imports(PACKAGE / file)
        if imported.startswith("encoders/")
    ] == []


@pytest.mark.parametrize(
    ("library", "places"),
    [
        (
            "dagster",
            ("assets/", "resources/", "definitions.py", "component.py", "cli/", "templates/"),
        ),
        # dbt is a command and a manifest
        ("dbt", ()),
    ],
)
def test_a_framework_is_imported_in_its_places_alone(library: str, places: tuple[str, ...]) -> None:
    pattern = re.compile(rf"^\s*(?:from|import) {library}\b", re.MULTILINE)
    found = [file for file in FILES if pattern.search((PACKAGE / file).read_text())]
    assert [file for file in found if not file.startswith(places)] == []


def test_no_test_file_imports_another() -> None:
    pattern = re.compile(r"^\s*(?:from|import) tests\.(?:\w+\.)*test_\w+", re.MULTILINE)
    tests = Path(__file__).parent
    assert [str(file) for file in tests.rglob("*.py") if pattern.search(file.read_text())] == []


def rooms() -> list[str]:
    """The rooms that have a door: a list of the modules that others may import."""
    return [
        str(file.parent.relative_to(PACKAGE))
        for file in PACKAGE.rglob("__init__.py")
        if "__all__" in file.read_text() and file.parent != PACKAGE
    ]


def test_a_room_is_entered_by_its_door() -> None:
    found = []
    for room in rooms():
        door = importlib.import_module(f"embeddings_pipeline.{room.replace('/', '.')}")
        for file in FILES:
            if file.startswith(f"{room}/"):
                continue
            found += [
                f"{file} -> {imported}"
                for imported in imports(PACKAGE / file)
                if str(Path(imported).parent) == room and Path(imported).stem not in door.__all__
            ]
    assert "store/vectors" in rooms()
    assert found == []
