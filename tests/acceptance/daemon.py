"""The daemon as its own process, watched through its JSON log."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]


class Daemon:
    """A running `main.py serve`; every line it wrote is in `output`."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process
        self.output: list[str] = []
        self.events: list[dict[str, Any]] = []
        self._changed = asyncio.Condition()
        self._reader = asyncio.create_task(self._read())

    async def _read(self) -> None:
        assert self.process.stderr is not None
        async for raw in self.process.stderr:
            line = raw.decode()
            async with self._changed:
                self.output.append(line)
                self.events.append(_parsed(line))
                self._changed.notify_all()
        async with self._changed:
            self._changed.notify_all()

    async def event(self, name: str, **fields: Any) -> dict[str, Any]:
        """Wait for a log line with this event and these fields."""
        async with self._changed:
            while True:
                for event in self.events:
                    if event.get("event") == name and fields.items() <= event.items():
                        return event
                if self._reader.done():
                    raise AssertionError(f"the daemon ended without {name!r}:\n{self.text}")
                await self._changed.wait()

    @property
    def text(self) -> str:
        return "".join(self.output)

    async def listening(self) -> dict[str, int]:
        """Wait until it is ready; service name → port."""
        await self.event("ready")
        return {e["server"]: e["port"] for e in self.events if e.get("event") == "listening"}

    def signal(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    async def ended(self) -> int:
        """Wait for the end; the exit code."""
        await self._reader
        return await self.process.wait()


def _parsed(line: str) -> dict[str, Any]:
    try:
        value = json.loads(line)
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}


@asynccontextmanager
async def running_daemon(*arguments: str, **environment: str):
    """Start the daemon with these settings; kill it at the end whatever happened."""
    base = {name: os.environ[name] for name in ("PATH", "HOME", "TMPDIR") if name in os.environ}
    defaults = {
        "LOG_FORMAT": "json",
        "LOG_LEVEL": "DEBUG",
        "GRPC_SERVER_PORT": "0",
        "GRPC_EMBEDDING_PORT": "0",
        "PARSER_PROCESSES": "1",
        "RETRY_BASE_SECONDS": "0.05",
        "LEASE_SECONDS": "2",
    }
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        str(ROOT / "main.py"),
        "serve",
        *arguments,
        cwd=environment.pop("cwd", str(ROOT)),
        env=base | defaults | environment,
        stdin=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.PIPE,
        limit=16 * 1024 * 1024,
    )
    daemon = Daemon(process)
    try:
        yield daemon
    finally:
        if process.returncode is None:
            process.kill()
        await daemon.ended()
