"""An entity of images: from files, hosts and bytes in the database to vectors that texts find."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from embeddings_pipeline.encoders.local.sentence_transformers import SentenceTransformersModel
from embeddings_pipeline.encoders.registry import Encoders
from embeddings_pipeline.entities.entity import Entity
from embeddings_pipeline.entities.rendering import MAX_IMAGE_BYTES
from embeddings_pipeline.settings import Settings
from embeddings_pipeline.sync import texts
from embeddings_pipeline.sync.checks import check
from embeddings_pipeline.sync.explain import explain
from tests.support.clip import DIMENSION
from tests.support.image_hosts import hosting
from tests.support.pictures import file_of, picture
from tests.support.world import SCHEMA, World

RED, BLUE, GREEN = (file_of(picture(colour)) for colour in ("red", "blue", "green"))


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for name, data in {"red": RED, "blue": BLUE, "copy": RED, "broken": RED[:60]}.items():
        (tmp_path / f"{name}.png").write_bytes(data)
    return tmp_path


@pytest.fixture
def seeing(world: World, clip: Path, root: Path) -> Iterator[World]:
    """A world whose model is a small CLIP, and which may read the images of `root`."""
    world.encoders = encoders(clip, embedding_image_root=root)
    yield world
    world.encoders.cleanup()


def encoders(clip: Path, **settings: Any) -> Encoders:
    model = {"embedding_model": "some/clip", "embedding_model_path": clip / "plain"}
    return Encoders(Settings(_env_file=None, embedding_device="cpu", **model, **settings))


def declared(world: World, kind: str = "text", **keys: Any) -> Entity:
    world.table(f"id bigint, image {kind}")
    return world.declare(image="image", index="none", **keys)


def embeddings(world: World) -> dict[int, np.ndarray[Any, Any]]:
    rows = world.sql(f"select id, embedding::text from {SCHEMA}.item_embeddings")
    return {row_id: np.array([*map(float, text.strip("[]").split(","))]) for row_id, text in rows}


def quarantined(world: World) -> dict[str, tuple[str, str]]:
    """Stage and error of each row that could not be read, or on whose image the model failed."""
    rows = world.sql(
        f"select id, stage, error from {SCHEMA}.quarantine where id is not null union all"
        f" select t.id::text, stage, error from {SCHEMA}.quarantine q"
        f" join {SCHEMA}.item_texts t using (text_hash)"
    )
    return {row_id: (stage, error) for row_id, stage, error in rows}


def test_images_become_vectors_and_equal_ones_are_encoded_once(seeing: World) -> None:
    item = declared(seeing)
    seeing.insert((1, "red.png"), (2, "blue.png"), (3, "copy.png"), (4, None))
    counts = seeing.run(item)
    assert (counts["encoded"], counts["reused"], counts["tokens"]) == (2, 1, 0)
    assert seeing.view() == {("1", 0): "red.png", ("2", 0): "blue.png", ("3", 0): "copy.png"}
    found = embeddings(seeing)
    np.testing.assert_array_equal(found[1], found[3])
    assert not np.allclose(found[1], found[2])
    query = seeing.encoders.for_entity(item).encode_query(["a red disc"]).vectors[0]
    assert query.shape == found[1].shape == (DIMENSION,)
    assert seeing.run(item)["encoded"] == 0


def test_an_image_finds_its_likes(seeing: World) -> None:
    item = declared(seeing)
    seeing.insert((1, "red.png"), (2, "blue.png"))
    seeing.run(item)
    query = seeing.encoders.for_entity(item).encode_documents(["copy.png"]).vectors[0]
    nearest = f"select id from {SCHEMA}.item_embeddings order by embedding <=> %s::vector limit 1"
    assert seeing.sql(nearest, str(query.tolist())) == [(1,)]


def test_bytes_in_a_column_are_images_of_which_the_text_is_a_data_uri(seeing: World) -> None:
    item = declared(seeing, "bytea")
    jpeg = file_of(picture(), "JPEG")
    junk, large = b"junk", RED + bytes(MAX_IMAGE_BYTES)
    seeing.insert((1, RED), (2, jpeg), (3, RED), (4, junk), (5, large), (6, b""))
    counts = seeing.run(item)
    assert (counts["encoded"], counts["reused"], counts["quarantined"]) == (2, 1, 2)
    view = seeing.view()
    assert view["1", 0].startswith("data:image/png;base64,")
    assert view["2", 0].startswith("data:image/jpeg;base64,")
    failed = quarantined(seeing)
    assert failed["4"] == (
        "render",
        "the image is damaged or has another format than JPEG, PNG, WEBP, GIF, BMP",
    )
    assert failed["5"][1].startswith(f"the image has more than {MAX_IMAGE_BYTES:,} bytes")
    read = seeing.encoders.images.read(view["1", 0])
    assert read == RED


def test_the_largest_image_of_a_column_is_taken_whole(seeing: World) -> None:
    item = declared(seeing, "bytea")
    # what follows the end of a PNG is no part of the image
    seeing.insert((1, RED + bytes(MAX_IMAGE_BYTES - len(RED))))
    assert seeing.run(item)["encoded"] == 1


def test_what_cannot_be_read_is_in_quarantine_and_read_when_it_comes(
    seeing: World, root: Path
) -> None:
    item = declared(seeing)
    seeing.insert((1, "red.png"), (2, "late.png"), (3, "/etc/passwd"), (4, "broken.png"))
    counts = seeing.run(item)
    assert (counts["encoded"], counts["quarantined"]) == (1, 3)
    failed = quarantined(seeing)
    assert failed["2"] == ("render", "image 'late.png': No such file or directory")
    outside = "image '/etc/passwd': the file is not below EMBEDDING_IMAGE_ROOT"
    assert failed["3"][1].startswith(outside)
    assert failed["4"][0] == "encode"
    verdicts = check(seeing.postgres, seeing.names_of(item))
    assert not verdicts["without_text"].passed
    assert verdicts["truncated"].passed
    (root / "late.png").write_bytes(BLUE)
    assert seeing.run(item)["encoded"] == 1
    assert sorted(quarantined(seeing)) == ["3", "4"]
    assert {row_id for row_id, _ in seeing.view()} == {"1", "2"}


def test_a_replaced_image_is_seen_by_force_alone(seeing: World, root: Path) -> None:
    item = declared(seeing)
    seeing.insert((1, "red.png"), (2, "blue.png"))
    seeing.run(item)
    before = embeddings(seeing)
    (root / "red.png").write_bytes(GREEN)
    assert seeing.run(item)["read"] == 0
    assert seeing.texts(item, force=True).read == 2
    assert seeing.vectors(item).counts.encoded == 1
    after = embeddings(seeing)
    np.testing.assert_array_equal(before[2], after[2])
    assert not np.allclose(before[1], after[1])


def test_an_image_replaced_before_it_is_encoded_gets_no_vector_of_the_other(
    seeing: World, root: Path
) -> None:
    item = declared(seeing)
    seeing.insert((1, "red.png"), (2, "blue.png"))
    seeing.texts(item)
    (root / "red.png").write_bytes(GREEN)
    assert seeing.vectors(item).counts.encoded == 1
    assert "has changed since its row was read" in quarantined(seeing)["1"][1]
    seeing.texts(item, force=True)
    assert seeing.vectors(item).counts.encoded == 1
    assert not quarantined(seeing)


def test_force_leaves_the_texts_of_other_entities_alone(world: World) -> None:
    world.table("id bigint, name text")
    world.insert((1, "a"), (2, "b"))
    item = world.declare()
    world.run(item)
    assert world.texts(item, force=True).read == 0


def test_another_uri_of_the_same_image_is_not_encoded_again(seeing: World) -> None:
    item = declared(seeing)
    seeing.insert((1, "red.png"))
    seeing.run(item)
    seeing.sql("update staging.stg_item set image = 'copy.png'")
    counts = seeing.run(item)
    assert (counts["read"], counts["encoded"]) == (1, 0)
    assert seeing.sql(f"select text from {SCHEMA}.item_texts") == [("copy.png",)]


def test_a_plan_counts_images_without_reading_any(seeing: World, clip: Path) -> None:
    item = declared(seeing)
    with hosting({"/red.png": RED}) as host:
        seeing.encoders.cleanup()
        seeing.encoders = encoders(clip, embedding_image_hosts=host.name)
        seeing.insert((1, f"{host.url}/red.png"), (2, f"{host.url}/red.png"), (3, None))
        first = seeing.plan(item)
        assert not host.asked
        (part,) = first.sets
        assert (first.new, part.pending, part.encode, part.tokens) == (3, 2, 1, 0)
        assert part.seconds is None
        assert seeing.run(item)["encoded"] == 1
        assert (seeing.plan(item).changed, seeing.plan(item).unchanged) == (0, 3)


def test_an_image_is_explained(seeing: World) -> None:
    item = declared(seeing)
    seeing.insert((1, "red.png"), (2, "missing.png"))
    seeing.run(item)
    names = seeing.names_of(item)
    red = explain(seeing.postgres, seeing.postgres, names, seeing.encoders, "1")
    (chunk,) = red.chunks
    assert (chunk.text, chunk.tokens, chunk.truncated) == ("red.png", 0, False)
    assert chunk.sets[0].next == "keep it: it is up to date"
    missing = explain(seeing.postgres, seeing.postgres, names, seeing.encoders, "2")
    assert missing.next == "fail on it: image 'missing.png': No such file or directory"


def test_no_read_of_staging_is_open_while_images_are_fetched(
    seeing: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    item = declared(seeing)
    seeing.insert((1, "red.png"), (2, "blue.png"))
    open_reads: list[int] = []
    whole = texts.render_image

    def looking(*given: Any) -> Any:
        ((count,),) = seeing.sql(
            "select count(*) from pg_stat_activity where datname = current_database()"
            " and xact_start is not null and query like '%staged_rows%'"
            " and pid <> pg_backend_pid()"
        )
        open_reads.append(count)
        return whole(*given)

    monkeypatch.setattr(texts, "render_image", looking)
    # the first is rendered while another is to come
    monkeypatch.setattr(texts, "_WINDOW_ROWS", 1)
    seeing.texts(item)
    assert open_reads == [0, 0]


def test_a_model_that_fails_on_every_image_stops_the_run(
    seeing: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*given: Any, **more: Any) -> Any:
        raise RuntimeError("the device is gone")

    item = declared(seeing)
    seeing.insert((1, "red.png"), (2, "blue.png"))
    seeing.texts(item)
    monkeypatch.setattr(SentenceTransformersModel, "encode", fails)
    with pytest.raises(RuntimeError, match="the device is gone"):
        seeing.vectors(item)
    assert not quarantined(seeing)


@pytest.mark.parametrize("force", [False, True])
def test_a_host_that_is_away_takes_no_vector_with_it(
    seeing: World, clip: Path, force: bool
) -> None:
    seeing.table("id bigint, image text, shelf int")
    item = seeing.declare(image="image", index="none", filters=["shelf"])
    with hosting({"/red.png": RED, "/blue.png": BLUE}) as host:
        seeing.encoders.cleanup()
        seeing.encoders = encoders(clip, embedding_image_hosts=host.name)
        seeing.insert((1, f"{host.url}/red.png", 1), (2, f"{host.url}/blue.png", 1))
        seeing.run(item)
        before = seeing.view()
        host.files.clear()
        seeing.sql("update staging.stg_item set shelf = 2")
        assert seeing.texts(item, force=force).quarantined == 2
        assert seeing.vectors(item).counts.encoded == 0
        assert seeing.view() == before
        assert seeing.sql(f"select distinct shelf from {SCHEMA}.item_embeddings") == [(2,)]
        assert "answers 404" in quarantined(seeing)["1"][1]
        host.files["/red.png"] = GREEN
        assert seeing.texts(item).quarantined == 1
        assert seeing.vectors(item).counts.encoded == 1
        assert [*quarantined(seeing)] == ["2"]


def test_an_image_that_cannot_be_read_behind_another_uri_has_no_vector(seeing: World) -> None:
    item = declared(seeing)
    seeing.insert((1, "red.png"), (2, "blue.png"))
    seeing.run(item)
    seeing.sql("update staging.stg_item set image = 'missing.png' where id = 1")
    seeing.run(item)
    assert seeing.view() == {("2", 0): "blue.png"}
