"""Reads the bytes of images, within the sources and sizes that the settings allow.

URIs come from table rows and are untrusted: files are read only below one folder, and hosts are
contacted only where they are named.
"""

from __future__ import annotations

import os
import re
import stat
from base64 import b64decode
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote, unquote_to_bytes, urlsplit

from embeddings_pipeline.entities.rendering import content_hash
from embeddings_pipeline.errors import RowError
from embeddings_pipeline.settings import Settings

if TYPE_CHECKING:
    from embeddings_pipeline.encoders.images.remote import HttpImages

# pinned by the hash of its content, as https://pip.pypa.io/en/stable/topics/secure-installs has it
_PIN = re.compile(r"#sha256=([0-9a-f]{32})\Z")
_SCHEME = re.compile(r"([a-z][a-z0-9+.-]*):", re.IGNORECASE)
_SHOWN = 200


class ImageFiles:
    """Reads images within EMBEDDING_IMAGE_MAX_BYTES, _HOSTS and _ROOT. Thread-safe."""

    def __init__(self, settings: Settings) -> None:
        self._max_bytes = settings.embedding_image_max_bytes
        self._hosts = frozenset(
            host.strip().lower() for host in settings.embedding_image_hosts.split(",")
        ) - {""}
        self._root = settings.embedding_image_root

    def read(self, uri: str) -> bytes:
        """Return the bytes at a path or a data, file, http, https or s3 URI.

        Raises RowError for an image that is missing, too large, not allowed, or whose content
        differs from the hash that `pinned` added.
        """
        bare = _PIN.sub("", uri)
        try:
            data = self.within_limit(self._read(bare))
        # for example a path that is too long, contains a null or does not exist
        except (RowError, OSError, ValueError) as error:
            why = error.strerror if isinstance(error, OSError) else error
            raise RowError(f"image {_shown(bare)}: {why}") from None
        pin = _PIN.search(uri)
        if pin and content_hash(data).hex() != pin[1]:
            raise RowError(
                f"image {_shown(bare)} has changed since its row was read: `run --force` encodes"
                " the new image"
            )
        return data

    def within_limit(self, data: bytes) -> bytes:
        """Return `data`. Raises RowError where it exceeds EMBEDDING_IMAGE_MAX_BYTES."""
        if len(data) > self._max_bytes:
            raise RowError(
                f"the image has more than {self._max_bytes:,} bytes, the limit of"
                " EMBEDDING_IMAGE_MAX_BYTES"
            )
        return data

    def close(self) -> None:
        """Close open connections."""
        if "_http" in self.__dict__:
            self._http.close()
            del self._http

    def _read(self, uri: str) -> bytes:
        scheme = _SCHEME.match(uri)
        match scheme[1].lower() if scheme else None:
            case None:
                return self._from_file(uri)
            case "file":
                parts = urlsplit(uri)
                if parts.netloc not in ("", "localhost"):
                    raise RowError(f"a file URI cannot name another machine ({parts.netloc})")
                return self._from_file(unquote(parts.path))
            case "data":
                return _from_data(uri)
            case "http" | "https":
                return self._http.read(uri)
            case "s3":
                from embeddings_pipeline.encoders.images.remote import read_s3

                return read_s3(uri, hosts=self._hosts, max_bytes=self._max_bytes)
            case other:
                raise RowError(
                    f"scheme {other!r} is not supported: use a path, or a file, http, https, s3 or"
                    " data URI"
                )

    @cached_property
    def _http(self) -> HttpImages:
        from embeddings_pipeline.encoders.images.remote import HttpImages

        return HttpImages(hosts=self._hosts, max_bytes=self._max_bytes)

    def _from_file(self, name: str) -> bytes:
        if self._root is None:
            raise RowError("set EMBEDDING_IMAGE_ROOT to the folder below which files may be read")
        root = Path(os.path.realpath(self._root.expanduser()))
        # a relative path starts at the folder; links are resolved before the check
        path = Path(os.path.realpath(root / name))
        if not path.is_relative_to(root):
            raise RowError(f"the file is not below EMBEDDING_IMAGE_ROOT {str(root)!r}")
        with open(path, "rb", opener=_open) as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                raise RowError("not a regular file")
            return file.read(self._max_bytes + 1)


def pinned(uri: str, content: bytes) -> str:
    """Return the URI with a content hash: `ImageFiles.read` then accepts only that content."""
    return f"{uri}#sha256={content.hex()}"


# an image of one pixel, which every image model accepts
PROBE = (
    "data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAAAAAA6fptVAAAACklEQVR4nGNgAAAAAgABSK+k"
    "cQAAAABJRU5ErkJggg=="
)


def _shown(uri: str) -> str:
    """Return a URI for an error message: without passwords and signatures, and shortened."""
    bare = re.sub(r"//[^/]*@", "//", uri.partition("?")[0]) if "://" in uri else uri
    return repr(bare if len(bare) <= _SHOWN else f"{bare[:_SHOWN]}…")


def _open(path: str, flags: int) -> int:
    # no link created after the check, and no wait for the writer of a pipe
    return os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK)


def _from_data(uri: str) -> bytes:
    head, comma, body = uri.partition(",")
    if not comma:
        raise RowError("a data URI needs a comma before its data")
    data = unquote_to_bytes(body)
    return b64decode(data, validate=True) if head.endswith(";base64") else data
