"""Where images are read from, and where they are not."""

from __future__ import annotations

import hashlib
import os
import socket
from base64 import b64encode
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest
from s3fs import S3FileSystem

from embeddings_pipeline.encoders.images import remote
from embeddings_pipeline.encoders.images.sources import ImageFiles, pinned
from embeddings_pipeline.errors import RowError
from embeddings_pipeline.settings import Settings
from tests.support.dripping import dripping
from tests.support.image_hosts import Host, hosting
from tests.support.waiting import until

DATA = b"not decoded here, and so no image"


@contextmanager
def files(**settings: Any) -> Iterator[ImageFiles]:
    chosen = {f"embedding_image_{name}": value for name, value in settings.items()}
    with closing(ImageFiles(Settings(_env_file=None, **chosen))) as images:
        yield images


def refusal(uri: str, **settings: Any) -> str:
    with files(**settings) as images, pytest.raises(RowError) as error:
        images.read(uri)
    return str(error.value)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A folder of images, beside which there is a secret."""
    (tmp_path / "secret.png").write_bytes(b"secret")
    root = tmp_path / "images"
    (root / "in a folder").mkdir(parents=True)
    (root / "in a folder" / "ä.png").write_bytes(DATA)
    return root


@pytest.fixture
def host() -> Iterator[Host]:
    with hosting({"/a.png": DATA}) as host:
        yield host


# --- files


def test_a_file_is_read_by_path_and_by_uri(root: Path) -> None:
    path = root / "in a folder" / "ä.png"
    with files(root=root) as images:
        for uri in (
            str(path),
            path.as_uri(),
            "in a folder/ä.png",
            "./in a folder/../in a folder/ä.png",
        ):
            assert images.read(uri) == DATA


def test_no_file_is_read_without_a_folder_for_them(root: Path) -> None:
    assert "set EMBEDDING_IMAGE_ROOT" in refusal(str(root / "in a folder" / "ä.png"))


@pytest.mark.parametrize(
    "uri",
    [
        "../secret.png",
        "in a folder/../../secret.png",
        "{root}/../secret.png",
        "file://{root}/../secret.png",
        "file://{root}/%2e%2e/secret.png",
        "/etc/passwd",
        "file:///etc/passwd",
        "link.png",
        "folder/secret.png",
        "{root}-beside/secret.png",
    ],
)
def test_nothing_outside_the_folder_is_read(root: Path, uri: str) -> None:
    beside = root.with_name("images-beside")
    beside.mkdir()
    (beside / "secret.png").write_bytes(b"secret")
    (root / "link.png").symlink_to("../secret.png")
    (root / "folder").symlink_to(root.parent)
    assert "is not below EMBEDDING_IMAGE_ROOT" in refusal(uri.format(root=root), root=root)


def test_a_link_within_the_folder_is_followed(root: Path) -> None:
    (root / "link.png").symlink_to("in a folder/ä.png")
    (root.parent / "root").symlink_to(root)
    with files(root=root.parent / "root") as images:
        assert images.read("link.png") == DATA


def test_what_is_no_file_is_refused_without_waiting_for_it(root: Path) -> None:
    os.mkfifo(root / "pipe")
    (root / "round").symlink_to("round")
    assert "not a regular file" in refusal("pipe", root=root)
    assert "Is a directory" in refusal("in a folder", root=root)
    assert "No such file" in refusal("missing.png", root=root)
    assert "too long" in refusal("a" * 300, root=root)
    assert "null" in refusal("a\0b", root=root)
    assert "symbolic links" in refusal("round", root=root)
    assert "another machine" in refusal("file://server/share/a.png", root=root)


def test_a_file_is_read_up_to_the_limit(root: Path) -> None:
    (root / "large.png").write_bytes(bytes(101))
    assert "more than 100 bytes" in refusal("large.png", root=root, max_bytes=100)
    with files(root=root, max_bytes=101) as images:
        assert len(images.read("large.png")) == 101


# --- data


def test_a_data_uri_is_its_own_image() -> None:
    with files() as images:
        assert images.read(f"data:image/png;base64,{b64encode(DATA).decode()}") == DATA
        assert images.read("data:,a%20b") == b"a b"
    assert "comma" in refusal("data:image/png;base64")
    assert "image 'data:;base64,%%%%'" in refusal("data:;base64,%%%%")
    assert "more than 2 bytes" in refusal("data:,abc", max_bytes=2)


# --- pins


def test_a_pinned_image_is_read_only_while_it_is_the_same(root: Path) -> None:
    path = root / "in a folder" / "ä.png"
    uri = pinned(str(path), hashlib.sha256(DATA).digest()[:16])
    with files(root=root) as images:
        assert images.read(uri) == DATA
    path.write_bytes(b"replaced")
    assert "ä.png' has changed since its row was read: `run --force`" in refusal(uri, root=root)


# --- hosts


def test_an_image_is_read_from_a_named_host(host: Host) -> None:
    with files(hosts=f"images.example.com, {host.name.upper()}") as images:
        assert images.read(f"{host.url}/a.png") == DATA
        assert images.read(f"{host.url}/a.png?size=1#part") == DATA
    assert host.asked == ["/a.png", "/a.png?size=1"]


@pytest.mark.parametrize(
    "uri",
    [
        "http://127.0.0.1:{port}/a.png",
        "http://localhost:{port}/a.png",
        "http://[::1]:{port}/a.png",
        "http://2130706433:{port}/a.png",
        "http://images.example.com:{port}/a.png",
        "http://images.example.com@127.0.0.1:{port}/a.png",
        "http://127.0.0.1:{port}\\@images.example.com/a.png",
    ],
)
def test_a_host_that_is_not_named_is_not_asked(host: Host, uri: str) -> None:
    refused = refusal(uri.format(port=host.server_port), hosts="images.example.com")
    assert (
        "is not in EMBEDDING_IMAGE_HOSTS (images.example.com)" in refused
        or "a user or a password" in refused
    )
    assert "EMBEDDING_IMAGE_HOSTS (none)" in refusal(f"{host.url}/a.png")
    assert not host.asked


def test_a_redirect_is_followed_among_named_hosts_alone(host: Host) -> None:
    with hosting({"/b.png": b"elsewhere"}) as other:
        host.redirects = {
            "/near": "/a.png",
            "/far": f"{other.url}/b.png",
            "/file": "file:///etc/passwd",
            "/round": "/round",
            "/metadata": "//169.254.169.254/latest",
            # too long for a URL only together with the host
            "/long": f"/{'a' * 65_530}",
            "/broken": "http://[::1/",
        }
        with files(hosts=host.name) as images:
            assert images.read(f"{host.url}/near") == DATA
        assert f"{other.url} is not in EMBEDDING_IMAGE_HOSTS" in refusal(
            f"{host.url}/far", hosts=host.name
        )
        assert not other.asked
        with files(hosts=f"{host.name},{other.name}") as images:
            assert images.read(f"{host.url}/far") == b"elsewhere"
        assert "file:// is not in EMBEDDING_IMAGE_HOSTS" in refusal(
            f"{host.url}/file", hosts=host.name
        )
        assert "169.254.169.254 is not in" in refusal(f"{host.url}/metadata", hosts=host.name)
        assert "more than 5 times" in refusal(f"{host.url}/round", hosts=host.name)
        assert "127.0.0.1: URL too long" in refusal(f"{host.url}/long", hosts=host.name)
        assert "Invalid" in refusal(f"{host.url}/broken", hosts=host.name)


def test_secrets_of_a_uri_are_in_no_error(host: Host) -> None:
    refused = refusal(f"http://user:hunter2@{host.name}/a.png?sig=hunter2", hosts=host.name)
    assert "a user or a password" in refused
    missing = refusal(f"{host.url}/missing.png?sig=hunter2", hosts=host.name)
    assert "answers 404" in missing
    assert "hunter2" not in refused + missing
    assert not any("user" in path for path in host.asked)


def test_a_body_is_read_up_to_the_limit_and_no_further(host: Host) -> None:
    host.files["/large.png"] = bytes(1001)
    host.endless = {"/endless.png"}
    for path in ("/large.png", "/endless.png"):
        refused = refusal(f"{host.url}{path}", hosts=host.name, max_bytes=1000)
        assert "more than 1,000 bytes" in refused


def test_a_packed_body_is_not_unpacked(host: Host) -> None:
    host.files["/packed.png"] = b"\x1f\x8b packed"
    host.headers = {"Content-Encoding": "gzip"}
    with files(hosts=host.name) as images:
        assert images.read(f"{host.url}/packed.png") == b"\x1f\x8b packed"


def test_a_host_that_is_silent_or_slow_is_given_up(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    host.silent = {"/silent.png"}
    host.dripping_body = {"/slow.png"}
    monkeypatch.setattr(remote, "_SILENCE_SECONDS", 0.2)
    assert "timed out" in refusal(f"{host.url}/silent.png", hosts=host.name)
    monkeypatch.setattr(remote, "_SILENCE_SECONDS", 60)
    monkeypatch.setattr(remote, "_SECONDS", 0.5)
    slow = refusal(f"{host.url}/slow.png", hosts=host.name)
    assert "incomplete after 0.5 seconds" in slow


@pytest.mark.parametrize(
    "begin",
    [
        b"HTTP/1.1 2",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1;a=",
        b"HTTP/1.1 302 Found\r\nLocation: /",
    ],
)
def test_a_host_that_drips_anywhere_in_its_answer_is_given_up(
    monkeypatch: pytest.MonkeyPatch, begin: bytes
) -> None:
    monkeypatch.setattr(remote, "_SECONDS", 0.3)
    with dripping(begin, b"x", pause=0.05) as port:
        refused = refusal(f"http://127.0.0.1:{port}/a.png", hosts=f"127.0.0.1:{port}")
    assert "incomplete after 0.3 seconds" in refused


@pytest.mark.parametrize("part", ["head", "body"])
@pytest.mark.parametrize("scheme", ["http", "s3"])
def test_a_host_that_sends_a_byte_now_and_then_is_given_up(
    host: Host, monkeypatch: pytest.MonkeyPatch, part: str, scheme: str
) -> None:
    path = "/bucket/a.png"
    (host.dripping_head if part == "head" else host.dripping_body).add(path)
    host.files["/bucket/b.png"] = DATA
    bucket_at(host, monkeypatch)
    hosts = f"{host.name},s3://bucket"
    with files(hosts=hosts) as images:
        # the first image takes the time to load the client
        assert images.read("s3://bucket/b.png") == DATA
    monkeypatch.setattr(remote, "_SECONDS", 0.3)
    uri = f"{host.url}{path}" if scheme == "http" else "s3://bucket/a.png"
    refused = refusal(uri, hosts=hosts)
    assert "the response was incomplete after 0.3 seconds" in refused
    # the connection is closed, not left to a thread that reads on
    until(lambda: host.hung_up == [path])


def test_redirects_share_the_time_of_one_image(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    host.redirects = {"/a": "/b", "/b": "/c"}
    host.dripping_body = {"/c"}
    monkeypatch.setattr(remote, "_SECONDS", 0.3)
    assert "incomplete after 0.3 seconds" in refusal(f"{host.url}/a", hosts=host.name)


def test_a_host_that_is_gone_is_a_failure_of_the_row() -> None:
    with closing(socket.socket()) as nobody:
        nobody.bind(("127.0.0.1", 0))
        name = f"127.0.0.1:{nobody.getsockname()[1]}"
        assert f"image 'http://{name}/a.png': 127.0.0.1: " in refusal(
            f"http://{name}/a.png", hosts=name
        )


@pytest.mark.parametrize("uri", ["ftp://host/a.png", "javascript:alert(1)", "gs://bucket/a.png"])
def test_other_schemes_are_refused(uri: str) -> None:
    assert "use a path, or a file, http, https, s3 or data URI" in refusal(uri)


# --- buckets


def bucket_at(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", host.url)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    remote._s3.cache_clear()
    S3FileSystem.clear_instance_cache()


def test_an_image_is_read_from_a_named_bucket(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    bucket_at(host, monkeypatch)
    host.files["/bucket/folder/a.png"] = DATA
    host.files["/bucket/large.png"] = bytes(101)
    with files(hosts="s3://bucket", max_bytes=100) as images:
        assert images.read("s3://bucket/folder/a.png") == DATA
    assert "more than 100 bytes" in refusal(
        "s3://bucket/large.png", hosts="s3://bucket", max_bytes=100
    )
    assert "s3://bucket/missing.png" in refusal("s3://bucket/missing.png", hosts="s3://bucket")
    asked = len(host.asked)
    assert "s3://other is not in EMBEDDING_IMAGE_HOSTS" in refusal(
        "s3://other/a.png", hosts="s3://bucket,other"
    )
    assert len(host.asked) == asked
