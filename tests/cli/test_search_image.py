"""`search --image` on a database alone, with a small model of images and texts."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from embeddings_pipeline.cli.main import app
from embeddings_pipeline.errors import ConfigurationError
from tests.support.environment import only_settings
from tests.support.gallery import BLUE, clip_settings
from tests.support.world import World


@pytest.fixture
def photos(gallery: World, clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    """The three pictures; the environment names their database, and a picture lies in a file."""
    url = gallery.database.url
    settings = {"staging_db_url": url, "pgvector_url": url, **clip_settings(clip)}
    only_settings(monkeypatch, **{name.upper(): str(value) for name, value in settings.items()})
    monkeypatch.chdir(tmp_path)
    (tmp_path / "blue.png").write_bytes(BLUE)
    return gallery


def command(*arguments: str) -> Result:
    return CliRunner().invoke(app, ["search", *arguments])


def test_an_image_finds_itself_first(photos: World) -> None:
    result = command("photo", "--image", "blue.png", "--top-k", "2", "--json")
    assert result.exception is None, result.exception
    document = json.loads(result.stdout)
    assert (document["mode"], len(document["results"])) == ("dense", 2)
    best = document["results"][0]
    assert (best["id"], best["fields"]) == ("2", {"colour": "blue"})
    assert best["score"] == pytest.approx(1, abs=1e-5)


def test_a_person_sees_the_table_of_other_searches(photos: World) -> None:
    result = command("photo", "--image", "blue.png", "--filter", "colour=blue")
    assert result.exception is None, result.exception
    assert "photo, dense, some/clip" in result.stdout
    assert "1.000" in result.stdout
    assert "9 rows fewer than requested" in result.stderr


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ([], "give either QUERY or --image FILE"),
        (["a disc", "--image", "blue.png"], "give either QUERY or --image FILE"),
        (["--image", "blue.png", "--mode", "hybrid"], "mode dense"),
        (["--image", "blue.png", "--rerank", "some/model"], "without --rerank"),
        (["--image", "junk.png"], "another format than JPEG, PNG, WEBP, GIF, BMP"),
    ],
)
def test_a_wrong_call_is_told_what_is_wrong(
    photos: World, tmp_path: Path, given: list[str], message: str
) -> None:
    (tmp_path / "junk.png").write_bytes(b"junk")
    result = command("photo", *given)
    # main() makes it exit code 2
    assert isinstance(result.exception, ConfigurationError)
    assert message in str(result.exception)


@pytest.mark.parametrize("name", ["missing.png", "."])
def test_a_file_that_cannot_be_read_is_named(photos: World, name: str) -> None:
    result = command("photo", "--image", name)
    assert result.exit_code == 2
    assert "--image" in result.stderr
