"""Starts commands from a process that has imported the project already. Runs as a script.

Importing everything takes longer than most commands do, so one process imports, and each
command is a fork of it: a process of its own, with the environment, the working directory
and the standard streams it was given. What the fork then runs is `main.py`.

A connection to the socket (its descriptor is the script's argument) brings one command: a
JSON object with `arguments`, `environment` and `directory`, and two descriptors for stdout
and stderr. It is answered with a line holding the process id, and a line holding the exit
code. The launcher ends when its stdin is closed.
"""

from __future__ import annotations

import gc
import json
import os
import runpy
import select
import signal
import socket
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
MAX_REQUEST_BYTES = 100_000


def main() -> None:
    sys.path[0] = str(ROOT)
    import typer.rich_utils  # noqa: F401, PLC0415 - what typer needs for every answer

    import pdf_processor.cli  # noqa: F401, PLC0415 - what every command needs

    gc.freeze()  # so that collections in the forks leave the shared memory shared

    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    with socket.socket(fileno=int(sys.argv[1])) as listener:
        connection = _forked_for_a_command(listener)
    if connection:
        with connection:
            _keep(connection)


def _forked_for_a_command(listener: socket.socket) -> socket.socket | None:
    """Return in a fork of its own for each connection; in the launcher only at the end."""
    while listener in select.select([listener, sys.stdin], [], [])[0]:
        connection, _ = listener.accept()
        if os.fork() == 0:
            return connection
        connection.close()
    return None


def _keep(connection: socket.socket) -> None:
    """Run one command and tell how it fares."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    message, streams, _, _ = socket.recv_fds(connection, MAX_REQUEST_BYTES, 2)
    pid = os.fork()
    if pid == 0:
        connection.close()
        _become(json.loads(message), streams)
        return
    for stream in streams:
        os.close(stream)
    connection.sendall(b"%d\n" % pid)
    _, status = os.waitpid(pid, 0)
    connection.sendall(b"%d\n" % os.waitstatus_to_exitcode(status))


def _become(request: dict[str, Any], streams: list[int]) -> None:
    os.setsid()
    with Path(os.devnull).open("rb") as nothing:
        os.dup2(nothing.fileno(), 0)
    for number, stream in enumerate(streams, start=1):
        os.dup2(stream, number)
        os.close(stream)
    os.chdir(request["directory"])
    os.environ.clear()
    os.environ.update(request["environment"])
    sys.argv = [str(ROOT / "main.py"), *request["arguments"]]
    runpy.run_path(sys.argv[0], run_name="__main__")


if __name__ == "__main__":
    main()
