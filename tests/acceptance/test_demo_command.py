"""`demo`: the whole system in one go, wherever and whatever is around it."""

from __future__ import annotations

import asyncio
import json
import shutil
import sys
from pathlib import Path

import pytest
import pytest_asyncio

from tests import pdfs
from tests.acceptance.commands import ROOT, Finished, plain_environment, run

pytestmark = pytest.mark.asyncio(loop_scope="session")

HOSTILE = {
    "REDIS_URL": "redis://:secret@127.0.0.1:1/7",
    "REDIS_QUEUE_NAME": "elsewhere",
    "REDIS_PASSWORD": "secret",
    "GRPC_AUTH_TOKEN": "token",
    "GRPC_BIND": "0.0.0.0",
    "GRPC_TLS_CERT": "/no.pem",
    "GRPC_SERVER_PORT": "1",
    "GO_GRPC_INGEST_ADDR": "127.0.0.1:1",
    "EMBEDDING_PROVIDER": "openai",
    "MAX_FILE_BYTES": "1",
    "MAX_PAGES": "1",
    "API_KEY_TIMEOUT_SECONDS": "-1",
    "LOG_LEVEL": "LOUD",
    "TEMP_DIR": "/proc/nowhere",
}
PROXIES = dict.fromkeys(("http_proxy", "https_proxy", "HTTP_PROXY"), "http://127.0.0.1:1")
NAMES = ("a b.pdf", "ünïcödé 文書.pdf", "50% off #1?.pdf", "one/same.pdf", "two/same.pdf")


class Demos:
    """Demonstrations in one folder: they run side by side, since each waits a lot."""

    def __init__(self, folder: Path, documents: Path) -> None:
        self.folder = folder
        self.report = documents / "report.pdf"

    async def run(self) -> None:
        (
            self.at_first,
            self.amid_settings,
            self.amid_garbage,
            self.amid_proxies,
            self.of_many,
        ) = await asyncio.gather(
            self._at_first(),
            run("demo", str(self.report), directory=self._beside("MAX_ATTEMPTS=no\n"), **HOSTILE),
            run("demo", str(self.report), directory=self._beside("\udcff\udcfe\0binary")),
            run("demo", str(self.report), **PROXIES),
            self._of_many(),
        )

    async def _at_first(self) -> Finished:
        """As a person starts it: a fresh interpreter, not the tests' launcher; an empty home."""
        home = self.folder / "home"
        home.mkdir()
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            str(ROOT / "main.py"),
            "demo",
            "--out",
            str(self.folder / "sample.jsonl"),
            cwd=home,
            env=plain_environment(HOME=str(home)),
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        stdout, stderr = await process.communicate()
        assert process.returncode is not None
        return Finished(process.returncode, stdout.decode(), stderr.decode())

    async def _of_many(self) -> Finished:
        for name in NAMES:
            (self.folder / name).parent.mkdir(exist_ok=True)
            shutil.copy(self.report, self.folder / name)
        pdfs.write_truncated(self.folder / "broken.pdf")
        sources = [str(self.folder / name) for name in (*NAMES, "broken.pdf")]
        return await run("demo", *sources, "--out", str(self.folder / "many.jsonl"))

    def _beside(self, dot_env: str) -> Path:
        """A working directory with this `.env`."""
        folder = self.folder / f"cwd-{len(dot_env)}"
        folder.mkdir()
        (folder / ".env").write_bytes(dot_env.encode(errors="surrogateescape"))
        return folder

    def written(self, name: str) -> list[dict[str, object]]:
        """What `--out` holds."""
        return [json.loads(line) for line in (self.folder / name).read_text().splitlines()]


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def demos(tmp_path_factory: pytest.TempPathFactory, documents: Path) -> Demos:
    shown = Demos(tmp_path_factory.mktemp("demos"), documents)
    await shown.run()
    return shown


async def test_it_shows_progress_sections_and_what_arrived(demos: Demos) -> None:
    ended, arrived = demos.at_first, demos.written("sample.jsonl")

    assert ended.code == 0, ended.stderr
    assert "sample.pdf: processing" in ended.stderr
    assert "sample.pdf: succeeded" in ended.stderr
    assert "6 Where the Journey Ends" in ended.stdout
    assert f"Arrived at the ingest server: {len(arrived)} chunks of 6 pages" in ended.stdout


async def test_it_says_loudly_that_its_vectors_are_no_language_models(demos: Demos) -> None:
    assert "NOT a language model" in " ".join(demos.at_first.stdout.split())
    assert "hashing" in demos.at_first.stdout


async def test_it_writes_every_chunk_with_its_vector(demos: Demos) -> None:
    arrived = demos.written("sample.jsonl")

    assert [chunk["index"] for chunk in arrived] == list(range(len(arrived)))
    assert {len(chunk["embeddings"]) for chunk in arrived} == {256}


async def test_it_leaves_nothing_in_the_home(demos: Demos) -> None:
    assert not list((demos.folder / "home").iterdir())


async def test_its_lines_are_those_of_process(demos: Demos) -> None:
    ended = await run("process", str(demos.report), "--provider", "hashing")

    expected = ended.json_lines()
    arrived = [chunk for chunk in demos.written("many.jsonl") if chunk["doc_id"] == "demo-1"]
    assert [chunk["content"] for chunk in arrived] == [chunk["content"] for chunk in expected]
    assert [_types(chunk) for chunk in arrived] == [_types(chunk) for chunk in expected]


def _types(chunk: dict[str, object]) -> dict[str, type]:
    return {name: type(value) for name, value in chunk.items()}


async def test_what_is_set_around_it_stays_outside(demos: Demos) -> None:
    assert_shown(demos.amid_settings)


async def test_a_dot_env_that_is_no_text_stays_outside(demos: Demos) -> None:
    assert_shown(demos.amid_garbage)


async def test_a_proxy_for_the_world_is_not_asked_for_this_machine(demos: Demos) -> None:
    assert_shown(demos.amid_proxies)


async def test_any_names_will_do_also_the_same_twice(demos: Demos) -> None:
    lines = demos.of_many.stdout.splitlines()

    titles = [line.partition(": ")[0] for line in lines if line.endswith(": Annual report")]

    assert sorted(titles) == sorted(Path(name).name for name in NAMES)
    assert len({chunk["doc_id"] for chunk in demos.written("many.jsonl")}) == len(NAMES)


async def test_what_fails_is_said_and_does_not_hide_the_rest(demos: Demos) -> None:
    assert demos.of_many.code == 1
    assert "broken.pdf: PDF_CORRUPT: " in demos.of_many.stderr


@pytest.mark.parametrize(
    "arguments",
    [("/no/such.pdf",), ("--provider", "nobody"), ("--out", "/nowhere/at/all.jsonl")],
    ids=" ".join,
)
async def test_what_cannot_work_is_said_before_anything_starts(arguments: tuple[str, ...]) -> None:
    ended = await run("demo", *arguments)

    assert ended.code in {1, 2}
    assert "embedded Valkey" not in ended.stdout
    assert "Traceback" not in ended.stderr
    assert ended.stderr


def assert_shown(ended: Finished) -> None:
    assert ended.code == 0, ended.stderr
    assert "report.pdf: Annual report" in ended.stdout
    assert pdfs.section_title(3) in ended.stdout
    assert "report.pdf: succeeded" in ended.stderr
