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
def image_world(world: World, clip: Path, root: Path) -> Iterator[World]:
    """A world whose model is a small CLIP, and which may read the images of `root`."""
    world.encoders = encoders(clip, embedding_image_root=root)
    yield world
    world.encoders.cleanup()


def encoders(clip: Path, **settings: Any) -> Encoders:
    return Encoders(
        Settings(
            _env_file=None,
            embedding_model="some/clip",
            embedding_model_path=clip / "plain",
            embedding_device="cpu",
            **settings,
        )
    )


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


def test_images_become_vectors_and_equal_ones_are_encoded_once(image_world: World) -> None:
    item = declared(image_world)
    image_world.insert((1, "red.png"), (2, "blue.png"), (3, "copy.png"), (4, None))
    counts = image_world.run(item)
    assert (counts["encoded"], counts["reused"], counts["tokens"]) == (2, 1, 0)
    assert image_world.view() == {("1", 0): "red.png", ("2", 0): "blue.png", ("3", 0): "copy.png"}
    found = embeddings(image_world)
    np.testing.assert_array_equal(found[1], found[3])
    assert not np.allclose(found[1], found[2])
    query = image_world.encoders.for_entity(item).encode_query(["a red disc"]).vectors[0]
    assert query.shape == found[1].shape == (DIMENSION,)
    assert image_world.run(item)["encoded"] == 0


def test_an_image_finds_its_likes(image_world: World) -> None:
    item = declared(image_world)
    image_world.insert((1, "red.png"), (2, "blue.png"))
    image_world.run(item)
    query = image_world.encoders.for_entity(item).encode_documents(["copy.png"]).vectors[0]
    nearest = f"select id from {SCHEMA}.item_embeddings order by embedding <=> %s::vector limit 1"
    assert image_world.sql(nearest, str(query.tolist())) == [(1,)]


def test_bytes_in_a_column_are_images_of_which_the_text_is_a_data_uri(image_world: World) -> None:
    item = declared(image_world, "bytea")
    jpeg = file_of(picture(), "JPEG")
    junk, large = b"junk", RED + bytes(MAX_IMAGE_BYTES)
    image_world.insert((1, RED), (2, jpeg), (3, RED), (4, junk), (5, large), (6, b""))
    counts = image_world.run(item)
    assert (counts["encoded"], counts["reused"], counts["quarantined"]) == (2, 1, 2)
    view = image_world.view()
    assert view["1", 0].startswith("data:image/png;base64,")
    assert view["2", 0].startswith("data:image/jpeg;base64,")
    failed = quarantined(image_world)
    assert failed["4"] == (
        "render",
        "the image is damaged or has another format than JPEG, PNG, WEBP, GIF, BMP",
    )
    assert failed["5"][1].startswith(f"the image has more than {MAX_IMAGE_BYTES:,} bytes")
    read = image_world.encoders.images.read(view["1", 0])
    assert read == RED


def test_the_largest_image_of_a_column_is_taken_whole(image_world: World) -> None:
    item = declared(image_world, "bytea")
    # what follows the end of a PNG is no part of the image
    image_world.insert((1, RED + bytes(MAX_IMAGE_BYTES - len(RED))))
    assert image_world.run(item)["encoded"] == 1


def test_what_cannot_be_read_is_in_quarantine_and_read_when_it_comes(
    image_world: World, root: Path
) -> None:
    item = declared(image_world)
    image_world.insert((1, "red.png"), (2, "late.png"), (3, "/etc/passwd"), (4, "broken.png"))
    counts = image_world.run(item)
    assert (counts["encoded"], counts["quarantined"]) == (1, 3)
    failed = quarantined(image_world)
    assert failed["2"] == ("render", "image 'late.png': No such file or directory")
    outside = "image '/etc/passwd': the file is not below EMBEDDING_IMAGE_ROOT"
    assert failed["3"][1].startswith(outside)
    assert failed["4"][0] == "encode"
    results = check(image_world.postgres, image_world.names_of(item))
    assert not results["without_text"].passed
    assert results["truncated"].passed
    (root / "late.png").write_bytes(BLUE)
    assert image_world.run(item)["encoded"] == 1
    assert sorted(quarantined(image_world)) == ["3", "4"]
    assert {row_id for row_id, _ in image_world.view()} == {"1", "2"}


def test_a_replaced_image_is_seen_by_force_alone(image_world: World, root: Path) -> None:
    item = declared(image_world)
    image_world.insert((1, "red.png"), (2, "blue.png"))
    image_world.run(item)
    before = embeddings(image_world)
    (root / "red.png").write_bytes(GREEN)
    assert image_world.run(item)["read"] == 0
    assert image_world.texts(item, force=True).read == 2
    assert image_world.vectors(item).counts.encoded == 1
    after = embeddings(image_world)
    np.testing.assert_array_equal(before[2], after[2])
    assert not np.allclose(before[1], after[1])


def test_an_image_replaced_before_it_is_encoded_gets_no_vector_of_the_other(
    image_world: World, root: Path
) -> None:
    item = declared(image_world)
    image_world.insert((1, "red.png"), (2, "blue.png"))
    image_world.texts(item)
    (root / "red.png").write_bytes(GREEN)
    assert image_world.vectors(item).counts.encoded == 1
    assert "has changed since its row was read" in quarantined(image_world)["1"][1]
    image_world.texts(item, force=True)
    assert image_world.vectors(item).counts.encoded == 1
    assert not quarantined(image_world)


def test_force_leaves_the_texts_of_other_entities_alone(world: World) -> None:
    world.table("id bigint, name text")
    world.insert((1, "a"), (2, "b"))
    item = world.declare()
    world.run(item)
    assert world.texts(item, force=True).read == 0


def test_another_uri_of_the_same_image_is_not_encoded_again(image_world: World) -> None:
    item = declared(image_world)
    image_world.insert((1, "red.png"))
    image_world.run(item)
    image_world.sql("update staging.stg_item set image = 'copy.png'")
    counts = image_world.run(item)
    assert (counts["read"], counts["encoded"]) == (1, 0)
    assert image_world.sql(f"select text from {SCHEMA}.item_texts") == [("copy.png",)]


def test_a_plan_counts_images_without_reading_any(image_world: World, clip: Path) -> None:
    item = declared(image_world)
    with hosting({"/red.png": RED}) as host:
        image_world.encoders.cleanup()
        image_world.encoders = encoders(clip, embedding_image_hosts=host.name)
        image_world.insert((1, f"{host.url}/red.png"), (2, f"{host.url}/red.png"), (3, None))
        first = image_world.plan(item)
        assert not host.asked
        (part,) = first.sets
        assert (first.new, part.pending, part.encode, part.tokens) == (3, 2, 1, 0)
        assert part.seconds is None
        assert image_world.run(item)["encoded"] == 1
        assert (image_world.plan(item).changed, image_world.plan(item).unchanged) == (0, 3)


def test_an_image_is_explained(image_world: World) -> None:
    item = declared(image_world)
    image_world.insert((1, "red.png"), (2, "missing.png"))
    image_world.run(item)
    names = image_world.names_of(item)
    red = explain(image_world.postgres, image_world.postgres, names, image_world.encoders, "1")
    (chunk,) = red.chunks
    assert (chunk.text, chunk.tokens, chunk.truncated) == ("red.png", 0, False)
    assert chunk.sets[0].next == "keep it: it is up to date"
    missing = explain(image_world.postgres, image_world.postgres, names, image_world.encoders, "2")
    assert missing.next == "fail on it: image 'missing.png': No such file or directory"


def test_no_read_of_staging_is_open_while_images_are_fetched(
    image_world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    item = declared(image_world)
    image_world.insert((1, "red.png"), (2, "blue.png"))
    open_reads: list[int] = []
    whole = texts.render_image

    def looking(*given: Any) -> Any:
        ((count,),) = image_world.sql(
            "select count(*) from pg_stat_activity where datname = current_database()"
            " and xact_start is not null and query like '%staged_rows%'"
            " and pid <> pg_backend_pid()"
        )
        open_reads.append(count)
        return whole(*given)

    monkeypatch.setattr(texts, "render_image", looking)
    # the first is rendered while another is to come
    monkeypatch.setattr(texts, "_WINDOW_ROWS", 1)
    image_world.texts(item)
    assert open_reads == [0, 0]


def test_a_model_that_fails_on_every_image_stops_the_run(
    image_world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*given: Any, **more: Any) -> Any:
        raise RuntimeError("the device is gone")

    item = declared(image_world)
    image_world.insert((1, "red.png"), (2, "blue.png"))
    image_world.texts(item)
    # while a model is loaded, it encodes two texts
    image_world.encoders.for_entity(item).check()
    monkeypatch.setattr(SentenceTransformersModel, "encode", fails)
    with pytest.raises(RuntimeError, match="the device is gone"):
        image_world.vectors(item)
    assert not quarantined(image_world)


@pytest.mark.parametrize("force", [False, True])
def test_a_host_that_is_away_takes_no_vector_with_it(
    image_world: World, clip: Path, force: bool
) -> None:
    image_world.table("id bigint, image text, shelf int")
    item = image_world.declare(image="image", index="none", filters=["shelf"])
    with hosting({"/red.png": RED, "/blue.png": BLUE}) as host:
        image_world.encoders.cleanup()
        image_world.encoders = encoders(clip, embedding_image_hosts=host.name)
        image_world.insert((1, f"{host.url}/red.png", 1), (2, f"{host.url}/blue.png", 1))
        image_world.run(item)
        before = image_world.view()
        host.files.clear()
        image_world.sql("update staging.stg_item set shelf = 2")
        assert image_world.texts(item, force=force).quarantined == 2
        assert image_world.vectors(item).counts.encoded == 0
        assert image_world.view() == before
        assert image_world.sql(f"select distinct shelf from {SCHEMA}.item_embeddings") == [(2,)]
        assert "answers 404" in quarantined(image_world)["1"][1]
        host.files["/red.png"] = GREEN
        assert image_world.texts(item).quarantined == 1
        assert image_world.vectors(item).counts.encoded == 1
        assert [*quarantined(image_world)] == ["2"]


def test_an_image_that_cannot_be_read_behind_another_uri_has_no_vector(image_world: World) -> None:
    item = declared(image_world)
    image_world.insert((1, "red.png"), (2, "blue.png"))
    image_world.run(item)
    image_world.sql("update staging.stg_item set image = 'missing.png' where id = 1")
    image_world.run(item)
    assert image_world.view() == {("2", 0): "blue.png"}
