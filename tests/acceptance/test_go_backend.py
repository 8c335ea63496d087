"""The whole system with the Go example as its backend: Redis, the daemon, the Go binary."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from tests import pdfs
from tests.acceptance.go_backend import KEY, SIGNATURE, GoSystem
from tests.fake_providers import OPENAI_DIMENSION, vector_of

# The first test waits for the Go compiler, which takes its time on a new machine.
pytestmark = pytest.mark.timeout(600)

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "go-backend"
FIRST_WORDS = "1.1 Findings"


async def test_document_arrives_whole_with_its_vectors(system: GoSystem, documents: Path):
    await system.start()

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


async def test_status_is_followed_to_its_end(system: GoSystem, documents: Path):
    await system.start()

    submit = await system.submit(documents / "report.pdf", EMBEDDING_API_KEY=KEY)

    assert await submit.ended() == (0, "")
    last = submit.events[-1]
    assert (last["event"], last["state"]) == ("status", "SUCCEEDED")
    assert (last["pages_done"], last["pages_total"]) == (3, 3)
    assert last["chunks_sent"] == (await system.receiver.event("document"))["chunks"]


async def test_neither_key_nor_signed_query_is_printed(system: GoSystem, documents: Path):
    await system.start()

    submit = await system.submit(documents / "report.pdf", EMBEDDING_API_KEY=KEY)

    assert await submit.ended() == (0, "")
    await system.daemon.event("task succeeded")
    printed = f"{submit.events} {system.receiver.events} {system.daemon.text}"
    assert KEY not in printed
    assert SIGNATURE not in printed


async def test_embedding_comes_through_the_processor(system: GoSystem):
    await system.start()

    embed = await system.go("embed", "-text", "hello", EMBEDDING_API_KEY=KEY)

    assert await embed.ended() == (0, "")
    event = await embed.event("embedding")
    assert event["dimension"] == OPENAI_DIMENSION
    assert event["first"] == pytest.approx(vector_of("hello", OPENAI_DIMENSION)[:5])


async def test_refused_key_is_explained_without_being_repeated(system: GoSystem):
    await system.start()

    embed = await system.go("embed", "-text", "hello", EMBEDDING_API_KEY="sk-mistyped-at-midnight")

    code, said = await embed.ended()
    assert code == 1
    assert "refused the API key" in said
    assert "mistyped" not in said + system.daemon.text


async def test_vector_without_a_local_model_says_what_to_do(system: GoSystem):
    await system.start(LOCAL_EMBEDDING_MODEL="nobody/has-it", HF_HUB_OFFLINE="1")

    embed = await system.go("embed", "-text", "hello", "-vector")

    code, said = await embed.ended()
    assert code == 1
    assert "LOCAL_EMBEDDING_MODEL" in said


async def test_chunks_arrive_before_the_last_page_is_read(system: GoSystem, many_sections: Path):
    """While most vectors are held back, the reading of so many chunks cannot end."""
    await system.start(EMBEDDING_DIMENSION="8")
    system.providers.hold_back_all_but(FIRST_WORDS)

    submit = await system.submit(many_sections, "-provider=gemini", EMBEDDING_API_KEY=KEY)

    await system.receiver.event("chunk", index=0)
    status = await submit.first(lambda event: event.get("chunks_sent", 0) > 0)
    assert status["pages_done"] < status["pages_total"] == 300
    system.providers.answer_all()
    assert await submit.ended() == (0, "")
    assert submit.events[-1]["pages_done"] == 300


async def test_document_that_fails_at_page_200_leaves_nothing(system: GoSystem, documents: Path):
    await system.start(EMBEDDING_PROVIDER="none")

    submit = await system.submit(documents / "page-missing.pdf")

    code, said = await submit.ended()
    assert code == 1
    assert said.startswith("DEAD PDF_CORRUPT: Page 200 of 300 is missing")
    await system.receiver.event("stream_cancelled")
    assert await system.receiver.stopped() == 0
    assert [event for event in system.receiver.events if event["event"] == "document"] == []
    assert list(system.received.iterdir()) == []


async def test_wrong_token_is_refused_in_words(system: GoSystem, documents: Path):
    await system.start(GRPC_AUTH_TOKEN="the right token")

    submit = await system.submit(
        documents / "report.pdf", EMBEDDING_API_KEY=KEY, GRPC_AUTH_TOKEN="another token"
    )

    code, said = await submit.ended()
    assert code == 1
    assert "Unauthenticated" in said
    assert "GRPC_AUTH_TOKEN" in said


async def test_one_command_with_the_right_tokens_does_it_all(system: GoSystem, documents: Path):
    """`run` of the README, with a token for either direction."""
    address = f"127.0.0.1:{free_port()}"
    tokens = {"GRPC_AUTH_TOKEN": "token of the processor", "INGEST_AUTH_TOKEN": "token of Go"}
    await system.start(GO_GRPC_INGEST_ADDR=address, **tokens)

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
    system: GoSystem, many_sections: Path
):
    """The new daemon has no key either: Go hands it over again."""
    await system.start(EMBEDDING_DIMENSION="8", POD_NAME="pod-0")
    system.providers.hold_back_all_but(FIRST_WORDS)
    submit = await system.submit(many_sections, "-provider=gemini", EMBEDDING_API_KEY=KEY)
    await system.receiver.event("chunk", index=0)

    system.daemon.signal(signal.SIGKILL)
    await system.receiver.event("stream_cancelled")
    system.providers.answer_all()
    await system.start_daemon_again()

    assert await submit.ended() == (0, "")
    assert await system.receiver.stopped() == 0
    assert [chunk["chapter"] for chunk in system.kept()] == list(all_headings())
    documents = [event for event in system.receiver.events if event["event"] == "document"]
    assert [document["chunks"] for document in documents] == [1200]


# --------------------------------------------------------------------------- fixtures


@pytest.fixture
async def system(redis_url: str, go_binary: Path, tmp_path: Path) -> AsyncIterator[GoSystem]:
    """A system of the test's own; it starts with the settings that the test gives."""
    async with GoSystem(go_binary, tmp_path, redis_url) as around:
        yield around


@pytest.fixture(scope="module")
def many_sections(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """300 pages of four sections each: more chunks than may be under way, 100 a request."""
    headings = list(all_headings())
    pages = [headings[at : at + 4] for at in range(0, len(headings), 4)]
    return pdfs.write_lines(
        tmp_path_factory.mktemp("many") / "sections.pdf",
        [
            [line for at, heading in enumerate(page) for line in _section(at, heading)]
            for page in pages
        ],
    )


def all_headings() -> Iterator[str]:
    for page in range(1, 301):
        for section in range(1, 5):
            yield f"{page}.{section} Findings"


def _section(at: int, heading: str) -> Iterator[tuple[float, float, str, float, str]]:
    top = 100 + 150 * at
    yield pdfs.MARGIN, top, pdfs.BOLD_FONT, 14, heading
    yield pdfs.MARGIN, top + 30, pdfs.BODY_FONT, 11, f"There is little to say about {heading}."


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
