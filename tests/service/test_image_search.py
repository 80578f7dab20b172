"""Searches by an image over HTTP, also with damaged or oversized images."""

from __future__ import annotations

import json
import re
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from embeddings_pipeline.errors import ConfigurationError
from embeddings_pipeline.search.query_vectors import query_encoder
from embeddings_pipeline.search.requests import Answer, ImageRequest
from embeddings_pipeline.search.snapshot import Snapshot
from embeddings_pipeline.service.middleware import MAX_BODY_BYTES
from embeddings_pipeline.settings import Settings
from embeddings_pipeline.sync.snapshot import export
from tests.support.answers import assert_problem
from tests.support.databases import Templates, copy_of
from tests.support.gallery import BLUE, GREEN, RED, clip_settings, publish_gallery
from tests.support.keys import KEYS, READ, bearer
from tests.support.pictures import bomb, file_of, picture
from tests.support.published_shop import publish_shop
from tests.support.serving import served
from tests.support.world import SCHEMA, World

PHOTOS = "/search/photo/image"
# what follows the end of a PNG is no part of the image
LARGE = RED + bytes(2 * MAX_BODY_BYTES - len(RED))


def ask(
    client: httpx.Client, data: bytes, kind: str = "image/png", path: str = PHOTOS, **params: Any
) -> httpx.Response:
    return client.post(path, content=data, headers={"Content-Type": kind}, params=params)


def found(answer: httpx.Response) -> list[str]:
    assert answer.status_code == 200, answer.text
    return [hit["id"] for hit in answer.json()["results"]]


@pytest.fixture(scope="module")
def photos(templates: Templates, clip: Path) -> Iterator[httpx.Client]:
    """A client of one service over the three pictures, which is only read."""
    with (
        copy_of(templates.prepared(publish_gallery, clip)) as database,
        served(database, **clip_settings(clip)) as client,
    ):
        yield client


@pytest.mark.parametrize(("row_id", "data"), [("1", RED), ("2", BLUE), ("3", GREEN)])
def test_a_stored_image_finds_itself_first(photos: httpx.Client, row_id: str, data: bytes) -> None:
    answer = ask(photos, data)
    assert found(answer)[0] == row_id
    document = answer.json()
    assert document["results"][0]["score"] == pytest.approx(1, abs=1e-5)
    assert document["results"][1]["score"] < 0.9999
    assert (document["mode"], document["model"], document["shortfall"]) == ("dense", "some/clip", 7)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "GIF", "BMP"])
def test_every_kind_of_image_is_taken(photos: httpx.Client, kind: str) -> None:
    data = file_of(picture("blue"), kind)
    assert found(ask(photos, data, f"image/{kind.lower()}; charset=binary"))[0] == "2"


def test_it_is_narrowed_as_other_searches_are(photos: httpx.Client) -> None:
    assert len(found(ask(photos, RED, top_k=2))) == 2
    others = {"colour": ["blue", "green"]}
    assert set(found(ask(photos, RED, filters=json.dumps(others)))) == {"2", "3"}
    assert found(ask(photos, RED, min_similarity=0.9999, exact=True)) == ["1"]
    assert found(ask(photos, RED, max_distance=0.0001)) == ["1"]
    (hit,) = ask(photos, RED, top_k=1, columns="colour").json()["results"]
    assert hit["fields"] == {"colour": "red"}
    assert "filters" in assert_problem(ask(photos, RED, filters="["), 422)
    assert "top_k" in assert_problem(ask(photos, RED, top_k=0), 422)
    assert "photo" in assert_problem(ask(photos, RED, path="/search/none/image"), 404)


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"", "another format than JPEG, PNG, WEBP, GIF, BMP"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "another format than JPEG"),
        (file_of(picture(), "TIFF"), "another format than JPEG"),
        (RED[:60], "cannot be decoded"),
        (bomb(11_000, 11_000), "pixels"),
        (bomb(60_000, 60_000), "pixels"),
    ],
    ids=["empty", "svg", "tiff", "truncated", "bomb", "huge bomb"],
)
@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_what_is_no_good_image_is_the_callers_mistake(
    photos: httpx.Client, data: bytes, said: str
) -> None:
    assert said in assert_problem(ask(photos, data), 422)
    assert found(ask(photos, RED))[0] == "1"


@pytest.mark.parametrize("kind", ["", "text/plain", "application/json", "image/tiff"])
def test_a_body_that_does_not_say_it_is_an_image_is_refused(
    photos: httpx.Client, kind: str
) -> None:
    assert "image/jpeg, image/png" in assert_problem(ask(photos, RED, kind), 415)


def test_an_image_may_be_larger_than_other_bodies_but_not_without_end(
    gallery: World, clip: Path
) -> None:
    settings = clip_settings(clip) | {"embedding_image_max_bytes": len(LARGE)}
    with served(gallery.database, **settings) as client:
        assert found(ask(client, LARGE))[0] == "1"
        assert f"{len(LARGE):,} bytes" in assert_problem(ask(client, LARGE + b"\0"), 413)
        assert_problem(client.post("/search", content=LARGE), 413)


def test_an_entity_of_texts_has_no_image_to_compare(client: httpx.Client) -> None:
    said = assert_problem(ask(client, RED, path="/search/item/image"), 422)
    assert "'fake/words' reads only text" in said


def test_a_key_that_reads_is_needed_before_the_body_is_read(gallery: World, clip: Path) -> None:
    settings = clip_settings(clip) | {"embedding_image_max_bytes": MAX_BODY_BYTES}
    with served(gallery.database, search_api_keys=KEYS, **settings) as client:
        assert_problem(ask(client, LARGE), 401)
        client.headers = httpx.Headers(bearer(READ))
        assert found(ask(client, RED))[0] == "1"


def test_who_goes_away_in_the_middle_of_an_upload_is_no_failure(
    photos: httpx.Client, caplog: pytest.LogCaptureFixture
) -> None:
    url = photos.base_url
    assert url.port is not None
    with socket.create_connection((url.host, url.port)) as connection:
        head = f"POST {PHOTOS} HTTP/1.1\r\nHost: {url.host}\r\nContent-Type: image/png\r\n"
        connection.sendall(f"{head}Content-Length: {len(RED)}\r\n\r\n".encode() + RED[:60])
        connection.shutdown(socket.SHUT_WR)
        # until the service has hung up, too
        while connection.recv(65_536):
            pass
    assert found(ask(photos, RED))[0] == "1"
    assert not [record for record in caplog.records if record.levelname == "ERROR"]


def test_a_model_that_is_gone_is_nothing_that_who_asks_could_put_right(gallery: World) -> None:
    with served(gallery.database, embedding_model="another/model") as client:
        assert_problem(ask(client, RED), 503)


def test_it_is_counted_and_nothing_of_it_is_remembered(gallery: World, clip: Path) -> None:
    with served(gallery.database, **clip_settings(clip)) as client:
        for _ in range(2):
            found(ask(client, RED))
        said = client.get("/metrics").text
    figures = dict(re.findall(r"^(\S+) (\S+)$", said, re.MULTILINE))
    assert figures['search_seconds_count{entity="photo",mode="image"}'] == "2.0"
    assert figures['search_results_sum{entity="photo",mode="image"}'] == "6.0"
    assert figures['embedding_cache_misses_total{model="some/clip"}'] == "2.0"
    assert 'kind="query",model="some/clip"' in said


def test_the_document_says_what_is_taken_and_answered(photos: httpx.Client) -> None:
    document = photos.get("/openapi.json").json()
    call = document["paths"]["/search/{entity}/image"]["post"]
    assert list(call["requestBody"]["content"]) == [
        *(f"image/{kind}" for kind in ("jpeg", "png", "webp", "gif", "bmp"))
    ]
    assert {one["name"] for one in call["parameters"]} >= {"entity", "top_k", "filters", "exact"}
    example = call["responses"]["200"]["content"]["application/json"]["example"]
    # FastAPI leaves nulls out of the document
    answer = ask(photos, RED).json()
    assert example.keys() == {name for name, value in answer.items() if value is not None}
    assert {"400", "401", "413", "415", "422", "503"} <= call["responses"].keys()


def test_entities_tell_which_of_them_have_images(gallery: World, clip: Path) -> None:
    gallery.encoders.add(gallery.encoder)
    publish_shop(gallery, model=gallery.encoder.identity.model)
    with served(gallery.database, gallery.encoder, **clip_settings(clip)) as client:
        entities = client.get("/entities").json()["entities"]
    assert {one["entity"]: one["images"] for one in entities} == {"item": False, "photo": True}


def by_image(snapshot: Snapshot, entity: str, data: bytes) -> Answer:
    return snapshot.by_image(ImageRequest.of(entity=entity, image=data))


def test_a_snapshot_answers_as_the_database_does(gallery: World, tmp_path: Path) -> None:
    export(gallery.postgres, SCHEMA, "photo", tmp_path / "photos", "flat")
    with Snapshot(
        tmp_path / "photos", Settings(_env_file=None), query_encoder(gallery.encoders)
    ) as snapshot:
        answer = by_image(snapshot, "photo", GREEN)
        assert answer.results[0].id == "3"
        assert answer.results[0].score == pytest.approx(1, abs=1e-5)
        with pytest.raises(ConfigurationError, match="another format than JPEG"):
            by_image(snapshot, "photo", b"junk")


def test_a_snapshot_of_texts_has_no_image_to_compare(shop: World, tmp_path: Path) -> None:
    export(shop.postgres, SCHEMA, "item", tmp_path / "items", "flat")
    with (
        Snapshot(
            tmp_path / "items", Settings(_env_file=None), query_encoder(shop.encoders)
        ) as snapshot,
        pytest.raises(ConfigurationError, match="'fake/words' reads only text"),
    ):
        by_image(snapshot, "item", RED)
