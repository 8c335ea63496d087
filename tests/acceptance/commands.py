"""Commands of `main.py`, each a process of its own."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

ROOT = Path(__file__).resolve().parents[2]
PATIENCE_SECONDS = 10
"""How long to wait for what should come soon, before failing."""

SCRIPT = Path(__file__).with_name("launcher.py")


class Launcher:
    """The process that all commands are forked from, while it is entered."""

    def __enter__(self) -> Self:
        self._folder = tempfile.TemporaryDirectory()
        self._address = str(Path(self._folder.name) / "launcher")
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(self._address)
            listener.listen()
            self._process = subprocess.Popen(
                [sys.executable, str(SCRIPT), str(listener.fileno())],
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                pass_fds=[listener.fileno()],
            )
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()
        self._folder.cleanup()

    async def start(
        self, *arguments: str, environment: dict[str, str], directory: Path
    ) -> RunningCommand:
        """Start a command."""
        request = {
            "arguments": arguments,
            "environment": environment,
            "directory": str(directory),
        }
        (out, out_end), (err, err_end) = os.pipe(), os.pipe()
        connection = socket.socket(socket.AF_UNIX)
        connection.connect(self._address)
        socket.send_fds(connection, [json.dumps(request).encode()], [out_end, err_end])
        os.close(out_end)
        os.close(err_end)
        news, line = await asyncio.open_unix_connection(sock=connection)
        pid = int(await news.readline())
        return RunningCommand(pid, news, line, await _reader(out), await _reader(err))


async def _reader(descriptor: int) -> asyncio.StreamReader:
    reader = asyncio.StreamReader(limit=16 * 1024 * 1024)
    await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(reader), os.fdopen(descriptor, "rb")
    )
    return reader


@dataclass
class RunningCommand:
    """A process: its streams, and the line on which its exit code comes."""

    pid: int
    _news: asyncio.StreamReader
    _line: asyncio.StreamWriter
    stdout: asyncio.StreamReader
    stderr: asyncio.StreamReader
    _code: int | None = None

    def signal(self, number: signal.Signals) -> None:
        if self._code is None:
            with suppress(ProcessLookupError):
                os.kill(self.pid, number)

    async def ended(self) -> int:
        """Wait for the end; the exit code, or the signal's number below zero."""
        if self._code is None:
            self._code = int(await self._news.readline())
            self._line.close()
            await self._line.wait_closed()
        return self._code


@dataclass(frozen=True)
class Finished:
    """What a command that has ended left behind."""

    code: int
    stdout: str
    stderr: str

    @property
    def text(self) -> str:
        return self.stdout + self.stderr

    def json_lines(self) -> list[Any]:
        return [json.loads(line) for line in self.stdout.splitlines()]


def plain_environment(**changes: str) -> dict[str, str]:
    """The least a process needs, without any setting of this machine."""
    kept = ("PATH", "HOME", "TMPDIR")
    return {name: os.environ[name] for name in kept if name in os.environ} | changes


_launcher = Launcher()


def launcher() -> Launcher:
    """The launcher of this test run; `conftest.py` enters it."""
    return _launcher


@asynccontextmanager
async def started(
    *arguments: str, directory: Path = ROOT, **environment: str
) -> AsyncIterator[RunningCommand]:
    """Have a command running; it is killed at the end whatever happened."""
    command = await _launcher.start(
        *arguments, environment=plain_environment(**environment), directory=directory
    )
    try:
        yield command
    finally:
        command.signal(signal.SIGKILL)
        await command.ended()


async def run(*arguments: str, directory: Path = ROOT, **environment: str) -> Finished:
    """Run a command to its end; one that does not end soon is killed."""
    async with started(*arguments, directory=directory, **environment) as command:
        loop = asyncio.get_running_loop()
        giving_up = loop.call_later(PATIENCE_SECONDS, command.signal, signal.SIGKILL)
        stdout, stderr = await asyncio.gather(command.stdout.read(), command.stderr.read())
        giving_up.cancel()
        return Finished(await command.ended(), stdout.decode(), stderr.decode())


async def run_together(
    commands: Mapping[str, tuple[Sequence[str], Mapping[str, str]]],
) -> dict[str, Finished]:
    """Run commands (name → arguments, environment) side by side."""
    ended = await asyncio.gather(
        *(run(*arguments, **environment) for arguments, environment in commands.values())
    )
    return dict(zip(commands, ended, strict=True))
