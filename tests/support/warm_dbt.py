"""A dbt command that starts at once: most of what a dbt command takes is its imports.

One process imports dbt, and forks for each call. So a call is a process of its own, with the
arguments, the environment, the folder, the streams and the exit code of a dbt command. The commands
of an installation are tested by tests/test_wheel.py and tests/cli/test_dbt_by_hand.py.
"""

from __future__ import annotations

import json
import os
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from embeddings_pipeline.dbt_command import FLAGS
from tests.support import CHECKOUT

_PROJECT = Path(__file__).with_name("notes_project")
# it imports little, since that is what each call takes
_COMMAND = """#!{python} -IS
import json, os, signal, socket, sys

with socket.socket(socket.AF_UNIX) as connection:
    connection.connect({address!r})
    socket.send_fds(connection, [b"."], [0, 1, 2])
    with connection.makefile("rw") as file:
        call = {{"arguments": sys.argv, "environment": {{**os.environ}}, "folder": os.getcwd()}}
        file.write(json.dumps(call) + "\\n")
        file.flush()
        process = int(file.readline())
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda number, frame: os.kill(process, number))
        sys.exit(int(file.readline()))
"""


@contextmanager
def warm_dbt() -> Iterator[Path]:
    """The path of the command, for as long as the block takes."""
    # the address of a socket must be short
    folder = Path(tempfile.mkdtemp(prefix="ep-dbt-"))
    address = folder / "socket"
    command = folder / "dbt"
    command.write_text(_COMMAND.format(python=sys.executable, address=str(address)))
    command.chmod(0o755)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(address))
        # calls wait until dbt is imported
        listener.listen()
        process = subprocess.Popen(
            [sys.executable, "-m", __name__, str(listener.fileno()), str(folder)],
            cwd=CHECKOUT,
            env={**os.environ, "PYTHONPATH": str(CHECKOUT), "PYTHONUNBUFFERED": "1"},
            pass_fds=[listener.fileno()],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
    try:
        yield command
    finally:
        process.communicate(timeout=30)
        shutil.rmtree(folder)


def _serve(listener: socket.socket, folder: Path) -> None:
    from dbt.cli.main import dbtRunner

    # a first call imports and makes the rest of what each call takes
    where = ("--project-dir", str(_PROJECT), "--profiles-dir", str(_PROJECT))
    outputs = ("--target-path", str(folder), "--log-path", str(folder))
    # the static parser has threads, which a fork would lose
    alone = ("--quiet", "--no-static-parser")
    dbtRunner().invoke([*FLAGS, *alone, "parse", *where, *outputs])
    signal.signal(signal.SIGCHLD, lambda number, frame: os.waitpid(-1, os.WNOHANG))
    # ends with the process of the tests, however that ends
    while sys.stdin not in select.select([listener, sys.stdin], [], [])[0]:
        connection, _ = listener.accept()
        if os.fork() == 0:
            listener.close()
            _answer(connection)
        connection.close()


def _answer(connection: socket.socket) -> None:
    """Be the process of a call, and tell the caller the exit code."""
    from dbt.cli.main import cli

    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    _, descriptors, _, _ = socket.recv_fds(connection, 1, 3)
    for number, descriptor in enumerate(descriptors):
        os.dup2(descriptor, number)
        os.close(descriptor)
    with connection.makefile("rw") as file:
        call = json.loads(file.readline())
        os.chdir(call["folder"])
        os.environ.clear()
        os.environ.update(call["environment"])
        sys.argv = call["arguments"]
        file.write(f"{os.getpid()}\n")
        file.flush()
        code = 1
        try:
            cli(prog_name="dbt")
        except SystemExit as ended:
            code = int(ended.code or 0)
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            file.write(f"{code}\n")
            file.flush()
            os._exit(code)


if __name__ == "__main__":
    _serve(socket.socket(fileno=int(sys.argv[1])), Path(sys.argv[2]))
