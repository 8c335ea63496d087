"""The whole system with the Go example as its backend: Redis, the daemon, the Go binary."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import socket
import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests import pdfs
from tests.acceptance.daemon import Daemon, running_daemon
from tests.fake_providers import GEMINI_DIMENSION, OPENAI_DIMENSION, FakeProviders, vector_of
from tests.http_server import FileServer

# The first test waits for the Go compiler, which takes its time on a new machine.
pytestmark = pytest.mark.timeout(600)

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "go-backend"
KEY = "sk-a-tenants-own-key"
SIGNATURE = "what-opens-a-presigned-url"
HANGS_AFTER_SECONDS = 60

Event = dict[str, Any]


async def test_document_arrives_whole_with_its_vectors(start: Start, documents: Path):
    system = await start()

    submit = await system.submit(
        documents / "report.pdf", "-doc-id", "first", EMBEDDING_API_KEY=KEY
    )

    assert await submit.ended() == (0, "")
    chunks = system.kept("first")
    assert [chunk["index"] for chunk in chunks] == list(range(len(chunks)))
    assert {chunk["doc_id"] for chunk in chunks} == {"first"}
    text = "\n".join(chunk["content"] for chunk in chunks)
    assert [text.count(pdfs.marker(page)) for page in (1, 2, 3)] == [2, 2, 2]
    for chunk in chunks:
        assert chunk["embeddings"] == pytest.approx(vector_of(chunk["content"], OPENAI_DIMENSION))


async def test_status_is_followed_to_its_end(start: Start, documents: Path):
    system = await start()

    submit = await system.submit(documents / "report.pdf", EMBEDDING_API_KEY=KEY)

    assert await submit.ended() == (0, "")
    last = submit.events[-1]
    assert (last["event"], last["state"]) == ("status", "SUCCEEDED")
    assert (last["pages_done"], last["pages_total"]) == (3, 3)
    assert last["chunks_sent"] == (await system.receiver.event("document"))["chunks"]


async def test_neither_key_nor_signed_query_is_printed(start: Start, documents: Path):
    system = await start()

    submit = await system.submit(documents / "report.pdf", EMBEDDING_API_KEY=KEY)

    assert await submit.ended() == (0, "")
    await system.daemon.event("task succeeded")
    printed = f"{submit.events} {system.receiver.events} {system.daemon.text}"
    assert KEY not in printed
    assert SIGNATURE not in printed


async def test_embedding_comes_through_the_processor(start: Start):
    system = await start()

    embed = await system.go("embed", "-text", "hello", EMBEDDING_API_KEY=KEY)

    assert await embed.ended() == (0, "")
    event = await embed.event("embedding")
    assert event["dimension"] == OPENAI_DIMENSION
    assert event["first"] == pytest.approx(vector_of("hello", OPENAI_DIMENSION)[:5])


async def test_refused_key_is_explained_without_being_repeated(start: Start):
    system = await start()

    embed = await system.go("embed", "-text", "hello", EMBEDDING_API_KEY="sk-mistyped-at-midnight")

    code, said = await embed.ended()
    assert code == 1
    assert "refused the API key" in said
    assert "mistyped" not in said + system.daemon.text


async def test_vector_without_a_local_model_says_what_to_do(start: Start):
    system = await start(LOCAL_EMBEDDING_MODEL="nobody/has-it", HF_HUB_OFFLINE="1")

    embed = await system.go("embed", "-text", "hello", "-vector")

    code, said = await embed.ended()
    assert code == 1
    assert "LOCAL_EMBEDDING_MODEL" in said


async def test_chunks_arrive_before_the_last_page_is_read(start: Start, documents: Path):
    """While the provider keeps back all vectors but the first, not all pages can be read."""
    system = await start()
    system.providers.gate.clear()
    submit = await system.submit(
        documents / "pages-300.pdf", "-provider=gemini", EMBEDDING_API_KEY=KEY
    )
    await system.providers.came(1)
    system.let_waiting_requests_pass()

    chunk = await system.receiver.event("chunk", index=0)
    status = await submit.first(lambda event: event.get("chunks_sent", 0) > 0)

    assert chunk["page"] == 1
    assert status["pages_done"] < status["pages_total"] == 300
    system.providers.gate.set()
    assert await submit.ended() == (0, "")
    assert submit.events[-1]["pages_done"] == 300
    assert {len(chunk["embeddings"]) for chunk in system.kept()} == {GEMINI_DIMENSION}


async def test_document_that_fails_at_page_200_leaves_nothing(start: Start, documents: Path):
    system = await start(EMBEDDING_PROVIDER="none")

    submit = await system.submit(documents / "page-missing.pdf")

    code, said = await submit.ended()
    assert code == 1
    assert said.startswith("DEAD PDF_CORRUPT: Page 200 of 300 is missing")
    await system.receiver.event("stream_cancelled")
    assert await system.receiver.stopped() == 0
    assert [event for event in system.receiver.events if event["event"] == "document"] == []
    assert list(system.received.iterdir()) == []


async def test_wrong_token_is_refused_in_words(start: Start, documents: Path):
    system = await start(GRPC_AUTH_TOKEN="the right token")

    submit = await system.submit(
        documents / "report.pdf", EMBEDDING_API_KEY=KEY, GRPC_AUTH_TOKEN="another token"
    )

    code, said = await submit.ended()
    assert code == 1
    assert "Unauthenticated" in said
    assert "GRPC_AUTH_TOKEN" in said


async def test_one_command_with_the_right_tokens_does_it_all(start: Start, documents: Path):
    """`run` of the README, with a token for either direction."""
    address = f"127.0.0.1:{free_port()}"
    tokens = {"GRPC_AUTH_TOKEN": "token of the processor", "INGEST_AUTH_TOKEN": "token of Go"}
    system = await start(GO_GRPC_INGEST_ADDR=address, **tokens)

    run = await system.submit(
        documents / "report.pdf",
        *("-listen", address, "-out", "received-by-run"),
        command="run",
        EMBEDDING_API_KEY=KEY,
        **tokens,
    )

    assert await run.ended() == (0, "")
    arrived = await run.event("arrived", last_page=3, dimension=OPENAI_DIMENSION)
    assert arrived["chapters"] == [
        title(page) for page in (1, 2, 3) for title in (pdfs.chapter_title, pdfs.section_title)
    ]
    await run.event("document", chunks=arrived["chunks"])


async def test_document_arrives_once_though_the_daemon_is_killed_amid_it(
    start: Start, documents: Path
):
    """The new daemon has no key either: Go hands it over again."""
    system = await start(POD_NAME="pod-0")
    system.providers.gate.clear()
    submit = await system.submit(documents / "report.pdf", EMBEDDING_API_KEY=KEY)
    await system.providers.came(1)
    system.let_waiting_requests_pass()
    await system.receiver.event("chunk", index=0)

    system.daemon.signal(signal.SIGKILL)
    await system.receiver.event("stream_cancelled")
    system.providers.gate.set()
    await system.restart_daemon()

    assert await submit.ended() == (0, "")
    assert await system.receiver.stopped() == 0
    arrived = [event for event in system.receiver.events if event["event"] == "document"]
    assert [document["chunks"] for document in arrived] == [len(system.kept())]
    text = "\n".join(chunk["content"] for chunk in system.kept())
    assert [text.count(pdfs.marker(page)) for page in (1, 2, 3)] == [2, 2, 2]


# ------------------------------------------------------------------------ the system


class GoProcess:
    """A command of the Go backend that runs; every event that it printed is in `events`."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.events: list[Event] = []
        self._process = process
        self._said = b""
        self._changed = asyncio.Condition()
        self._reading = asyncio.gather(self._read_events(), self._read_errors())

    async def _read_events(self) -> None:
        assert self._process.stdout is not None
        async for line in self._process.stdout:
            async with self._changed:
                self.events.append(json.loads(line))
                self._changed.notify_all()

    async def _read_errors(self) -> None:
        assert self._process.stderr is not None
        self._said = await self._process.stderr.read()
        async with self._changed:
            self._changed.notify_all()

    async def event(self, name: str, **fields: Any) -> Event:
        """Wait for an event of this name with these fields."""
        wanted = {"event": name, **fields}
        return await self.first(lambda event: wanted.items() <= event.items())

    async def first(self, matches: Callable[[Event], bool]) -> Event:
        """Wait for an event."""
        async with asyncio.timeout(HANGS_AFTER_SECONDS), self._changed:
            while True:
                for event in self.events:
                    if matches(event):
                        return event
                if self._reading.done():
                    raise AssertionError(f"Go ended without it: {self.events} {self._said!r}")
                await self._changed.wait()

    async def ended(self) -> tuple[int, str]:
        """Wait for the end; the exit code, and what it said on stderr."""
        async with asyncio.timeout(HANGS_AFTER_SECONDS):
            await asyncio.shield(self._reading)
            return await self._process.wait(), self._said.decode()

    async def stopped(self) -> int:
        """Ask it to stop and wait for the end: after it no event comes."""
        self._process.terminate()
        return (await self.ended())[0]

    async def killed(self) -> None:
        if self._process.returncode is None:
            self._process.kill()
        await self._reading
        await self._process.wait()


@dataclass
class System:
    """What is running, and the means to start more of it."""

    files: FileServer
    providers: FakeProviders
    receiver: GoProcess
    received: Path
    daemon: Daemon
    environment: dict[str, str]
    start_go: Callable[..., Awaitable[GoProcess]]
    start_daemon: Callable[..., Awaitable[Daemon]]

    async def go(self, command: str, *arguments: str, **environment: str) -> GoProcess:
        """Start a command of the Go backend that finds everything that is running."""
        ports = await self.daemon.listening()
        addresses = {
            "PROCESSOR_ADDR": f"127.0.0.1:{ports['keys']}",
            "EMBEDDING_ADDR": f"127.0.0.1:{ports['embedding']}",
            "REDIS_URL": self.environment["REDIS_URL"],
        }
        return await self.start_go(command, *arguments, **addresses | environment)

    async def submit(
        self, document: Path, *arguments: str, command: str = "submit", **environment: str
    ) -> GoProcess:
        """Serve a PDF and let Go push a task for it."""
        return await self.go(command, "-url", self.presigned(document), *arguments, **environment)

    def presigned(self, document: Path) -> str:
        """Put a PDF where the daemon may download it; its URL."""
        self.files.files["/document.pdf"] = document.read_bytes()
        return self.files.url(f"/document.pdf?signature={SIGNATURE}")

    def let_waiting_requests_pass(self) -> None:
        """Let the provider answer what has come; what comes next waits."""
        self.providers.gate.set()
        self.providers.gate.clear()

    async def restart_daemon(self) -> None:
        """Start the daemon again, at the port where Go looks for it."""
        port = (await self.daemon.listening())["keys"]
        self.daemon = await self.start_daemon(**self.environment, GRPC_SERVER_PORT=str(port))

    def kept(self, doc_id: str = "") -> list[Event]:
        """Read what Go keeps of a document, or of the only one: its chunks."""
        [path] = self.received.glob(f"{doc_id or '*'}.jsonl")
        return [json.loads(line) for line in path.read_text().splitlines()]


Start = Callable[..., Awaitable[System]]


@pytest.fixture
async def start(redis_url: str, go_binary: Path, tmp_path: Path) -> AsyncIterator[Start]:
    """Start a receiving Go backend and a daemon with these settings for the keys and documents."""
    received = tmp_path / "received"
    async with AsyncExitStack() as stack:
        enter = stack.enter_async_context

        async def start_go(*arguments: str, **environment: str) -> GoProcess:
            return await enter(_running(go_binary, tmp_path, *arguments, **environment))

        async def start_daemon(**environment: str) -> Daemon:
            return await enter(running_daemon(**environment))

        async def start_system(**settings: str) -> System:
            files = await enter(FileServer())
            providers = await enter(FakeProviders(api_key=KEY))
            receiver = await start_go(
                "serve", "-listen", "127.0.0.1:0", "-out", str(received), "-verbose"
            )
            environment = {
                "REDIS_URL": redis_url,
                "GO_GRPC_INGEST_ADDR": (await receiver.event("listening"))["address"],
                "ALLOWED_DOWNLOAD_HOSTS": files.authority,
                "OPENAI_BASE_URL": providers.openai_url,
                "GEMINI_BASE_URL": providers.gemini_url,
                "TEMP_DIR": str(tmp_path / "downloads"),
            } | settings
            return System(
                files=files,
                providers=providers,
                receiver=receiver,
                received=received,
                daemon=await start_daemon(**environment),
                environment=environment,
                start_go=start_go,
                start_daemon=start_daemon,
            )

        yield start_system


@asynccontextmanager
async def _running(
    binary: Path, directory: Path, *arguments: str, **environment: str
) -> AsyncIterator[GoProcess]:
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


@pytest.fixture(scope="session")
def go_binary(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the example. Where Go or its modules are missing: skip, but fail in CI."""
    if problem := _go_problem():
        (pytest.fail if os.environ.get("CI") else pytest.skip)(problem)
    binary = tmp_path_factory.mktemp("go") / "cognicore"
    subprocess.run(["go", "build", "-o", binary, "."], cwd=EXAMPLE, check=True)
    return binary


def _go_problem() -> str:
    if not shutil.which("go"):
        return "Go is not installed: the tests with the Go backend need it"
    modules = subprocess.run(
        ["go", "mod", "download"], cwd=EXAMPLE, capture_output=True, text=True, check=False
    )
    return f"Go cannot get the example's modules: {modules.stderr}" if modules.returncode else ""


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port: int = server.getsockname()[1]
        return port
