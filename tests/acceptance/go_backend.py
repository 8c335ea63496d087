"""The Go example backend as a process, and a whole system with it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from aiohttp import web

from tests.acceptance.daemon import Daemon, running_daemon
from tests.fake_providers import FakeProviders
from tests.http_server import FileServer

KEY = "sk-a-tenants-own-key"
SIGNATURE = "what-opens-a-presigned-url"
PATIENCE_SECONDS = 30
"""How long to wait for an event before saying what came instead."""

Event = dict[str, Any]


class GoProcess:
    """A command of the Go backend that runs; every event that it printed is in `events`."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.events: list[Event] = []
        self._process = process
        self._said = ""
        self._silent = False
        self._changed = asyncio.Condition()
        self._reading = asyncio.create_task(self._read_both())

    async def _read_both(self) -> None:
        assert self._process.stderr is not None
        _, said = await asyncio.gather(self._read_events(), self._process.stderr.read())
        async with self._changed:
            self._said = said.decode()
            self._silent = True
            self._changed.notify_all()

    async def _read_events(self) -> None:
        assert self._process.stdout is not None
        async for line in self._process.stdout:
            async with self._changed:
                self.events.append(json.loads(line))
                self._changed.notify_all()

    async def event(self, name: str, **fields: Any) -> Event:
        """Wait for an event of this name with these fields."""
        wanted = {"event": name, **fields}
        return await self.first(lambda event: wanted.items() <= event.items())

    async def first(self, matches: Callable[[Event], bool]) -> Event:
        """Wait for an event."""
        try:
            async with asyncio.timeout(PATIENCE_SECONDS), self._changed:
                while not (found := next(filter(matches, self.events), None)):
                    if self._silent:
                        raise AssertionError(f"it ended before: {self.events} {self._said!r}")
                    await self._changed.wait()
                return found
        except TimeoutError:
            raise AssertionError(f"it never came: {self.events}") from None

    async def ended(self) -> tuple[int, str]:
        """Wait for the end; the exit code, and what it said on stderr."""
        try:
            async with asyncio.timeout(PATIENCE_SECONDS):
                await asyncio.shield(self._reading)
                return await self._process.wait(), self._said
        except TimeoutError:
            raise AssertionError(f"it did not end: {self.events}") from None

    async def stopped(self) -> int:
        """Ask it to stop, and wait for the end: no event comes after it."""
        self._process.terminate()
        return (await self.ended())[0]

    async def killed(self) -> None:
        """End it, if it has not ended."""
        if self._process.returncode is None:
            self._process.kill()
        await self._reading
        await self._process.wait()


@asynccontextmanager
async def running_go(
    binary: Path, directory: Path, *arguments: str, **environment: str
) -> AsyncIterator[GoProcess]:
    """Start a command of the Go backend, with nothing of this machine's environment."""
    process = await asyncio.create_subprocess_exec(
        binary,
        *arguments,
        cwd=directory,
        env=environment,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    go = GoProcess(process)
    try:
        yield go
    finally:
        await go.killed()


class ReluctantProviders(FakeProviders):
    """Providers that can be told to answer only the request with the first words."""

    def __init__(self) -> None:
        super().__init__(api_key=KEY)
        self._first_words = ""
        self._willing = asyncio.Event()
        self._willing.set()

    def hold_back_all_but(self, first_words: str) -> None:
        """Answer only what begins with these words."""
        self._first_words = first_words
        self._willing.clear()

    def answer_all(self) -> None:
        """Answer what was held back, too."""
        self._willing.set()

    async def _answer(
        self, request: web.Request, body: dict[str, Any], call: Any
    ) -> web.StreamResponse:
        if not call.texts[0].startswith(self._first_words):
            await self._willing.wait()
        return await super()._answer(request, body, call)


class GoSystem:
    """All that a Go developer runs: the receiving Go backend, the daemon, and what they need.

    `start` starts the daemon with further settings; documents arrive in `received`.
    """

    def __init__(self, binary: Path, directory: Path, redis_url: str) -> None:
        self.received = directory / "received"
        self._binary = binary
        self._directory = directory
        self._redis_url = redis_url

    async def __aenter__(self) -> Self:
        async with AsyncExitStack() as stack:
            self.files = await stack.enter_async_context(FileServer())
            self.providers = await stack.enter_async_context(ReluctantProviders())
            self._stack = stack.pop_all()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self._stack.aclose()

    async def start(self, **settings: str) -> None:
        """Start the receiver and the daemon."""
        self.receiver = await self._start_go(
            "serve", "-listen", "127.0.0.1:0", "-out", str(self.received), "-verbose"
        )
        self._settings = {
            "REDIS_URL": self._redis_url,
            "GO_GRPC_INGEST_ADDR": (await self.receiver.event("listening"))["address"],
            "ALLOWED_DOWNLOAD_HOSTS": self.files.authority,
            "OPENAI_BASE_URL": self.providers.openai_url,
            "GEMINI_BASE_URL": self.providers.gemini_url,
            "TEMP_DIR": str(self._directory / "downloads"),
        } | settings
        self.daemon = await self._start_daemon()

    async def start_daemon_again(self) -> None:
        """Start another daemon, at the port where Go looks for it."""
        port = (await self.daemon.listening())["keys"]
        self.daemon = await self._start_daemon(GRPC_SERVER_PORT=str(port))

    async def go(self, command: str, *arguments: str, **environment: str) -> GoProcess:
        """Start a command of the Go backend that finds everything that is running."""
        ports = await self.daemon.listening()
        addresses = {
            "PROCESSOR_ADDR": f"127.0.0.1:{ports['keys']}",
            "EMBEDDING_ADDR": f"127.0.0.1:{ports['embedding']}",
            "REDIS_URL": self._redis_url,
        }
        return await self._start_go(command, *arguments, **addresses | environment)

    async def submit(
        self, document: Path, *arguments: str, command: str = "submit", **environment: str
    ) -> GoProcess:
        """Serve a PDF and let Go push a task for it."""
        return await self.go(command, "-url", self._presigned(document), *arguments, **environment)

    def kept(self, doc_id: str = "") -> list[dict[str, Any]]:
        """Read what Go keeps of a document, or of the only one: its chunks."""
        [path] = self.received.glob(f"{doc_id or '*'}.jsonl")
        return [json.loads(line) for line in path.read_text().splitlines()]

    def _presigned(self, document: Path) -> str:
        self.files.files["/document.pdf"] = document.read_bytes()
        return self.files.url(f"/document.pdf?signature={SIGNATURE}")

    async def _start_go(self, *arguments: str, **environment: str) -> GoProcess:
        go = running_go(self._binary, self._directory, *arguments, **environment)
        return await self._stack.enter_async_context(go)

    async def _start_daemon(self, **settings: str) -> Daemon:
        return await self._stack.enter_async_context(running_daemon(**self._settings | settings))
