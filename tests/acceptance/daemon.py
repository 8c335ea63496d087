"""The daemon as its own process, watched through its JSON log."""

from __future__ import annotations

import asyncio
import json
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from tests.acceptance.commands import PATIENCE_SECONDS, ROOT, RunningCommand, started

DEFAULTS = {
    "LOG_FORMAT": "json",
    "LOG_LEVEL": "DEBUG",
    "GRPC_SERVER_PORT": "0",
    "GRPC_EMBEDDING_PORT": "0",
    "PARSER_PROCESSES": "1",
    "RETRY_BASE_SECONDS": "0.05",
    "LEASE_SECONDS": "2",
}


class Daemon:
    """A running `main.py serve`; every line it wrote is in `output`."""

    def __init__(self, command: RunningCommand) -> None:
        self.output: list[str] = []
        self.events: list[dict[str, Any]] = []
        self._command = command
        self._changed = asyncio.Condition()
        self._silent = False
        self._reading = asyncio.create_task(self._read_both())

    async def _read_both(self) -> None:
        await asyncio.gather(self._read(self._command.stdout), self._read(self._command.stderr))
        async with self._changed:
            self._silent = True
            self._changed.notify_all()

    async def _read(self, stream: asyncio.StreamReader) -> None:
        async for raw in stream:
            line = raw.decode()
            async with self._changed:
                self.output.append(line)
                self.events.append(_parsed(line))
                self._changed.notify_all()

    async def event(self, name: str, **fields: Any) -> dict[str, Any]:
        """Wait for a log line with this event and these fields."""
        try:
            async with asyncio.timeout(PATIENCE_SECONDS), self._changed:
                while not (found := self._found(name, fields)):
                    if self._silent:
                        raise AssertionError(f"the daemon ended without {name!r}:\n{self.text}")
                    await self._changed.wait()
                return found
        except TimeoutError:
            raise AssertionError(f"the daemon never said {name!r}:\n{self.text}") from None

    def _found(self, name: str, fields: dict[str, Any]) -> dict[str, Any] | None:
        for event in self.events:
            if event.get("event") == name and fields.items() <= event.items():
                return event
        return None

    @property
    def text(self) -> str:
        return "".join(self.output)

    @property
    def pid(self) -> int:
        return self._command.pid

    async def listening(self) -> dict[str, int]:
        """Wait until it is ready; service name → port."""
        await self.event("ready")
        return {e["server"]: e["port"] for e in self.events if e.get("event") == "listening"}

    def signal(self, number: signal.Signals) -> None:
        self._command.signal(number)

    async def ended(self) -> int:
        """Wait for the end; the exit code."""
        try:
            async with asyncio.timeout(PATIENCE_SECONDS):
                await asyncio.shield(self._reading)
                return await self._command.ended()
        except TimeoutError:
            raise AssertionError(f"the daemon did not end:\n{self.text}") from None


def _parsed(line: str) -> dict[str, Any]:
    try:
        value = json.loads(line)
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}


@asynccontextmanager
async def running_daemon(
    *arguments: str, cwd: str = str(ROOT), **environment: str
) -> AsyncIterator[Daemon]:
    """Start the daemon with these settings; kill it at the end whatever happened."""
    settings = DEFAULTS | environment
    async with started("serve", *arguments, directory=Path(cwd), **settings) as command:
        daemon = Daemon(command)
        try:
            yield daemon
        finally:
            daemon.signal(signal.SIGKILL)
            await daemon.ended()
