"""`demo`: the whole system in one go, wherever and whatever is around it."""

from __future__ import annotations

import asyncio
import json
import shutil
import sys
from pathlib import Path

import pytest

from tests import pdfs
from tests.acceptance.commands import ROOT, Finished, plain_environment, run

pytestmark = pytest.mark.asyncio(loop_scope="session")


async def test_in_an_empty_home_it_shows_what_arrived(tmp_path: Path) -> None:
    """As a person starts it: a fresh interpreter, not the tests' launcher."""
    home, out = tmp_path / "home", tmp_path / "out.jsonl"
    home.mkdir()
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        str(ROOT / "main.py"),
        "demo",
        "--out",
        str(out),
        cwd=tmp_path,
        env=plain_environment(HOME=str(home)),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    stdout, stderr = (said.decode() for said in await process.communicate())

    assert process.returncode == 0, stderr
    assert "sample.pdf: processing" in stderr
    assert "sample.pdf: succeeded" in stderr
    assert "6 Where the Journey Ends" in stdout
    assert "NOT a language model" in " ".join(stdout.split())
    chunks = [json.loads(line) for line in out.read_text().splitlines()]
    assert f"Arrived at the ingest server: {len(chunks)} chunks of 6 pages" in stdout
    assert [chunk["index"] for chunk in chunks] == list(range(len(chunks)))
    assert {len(chunk["embeddings"]) for chunk in chunks} == {256}
    assert not list(home.iterdir())


async def test_its_lines_are_those_of_process(tmp_path: Path, documents: Path) -> None:
    source, out = str(documents / "report.pdf"), tmp_path / "out.jsonl"

    await run("demo", source, "--out", str(out))
    processed = await run("process", source, "--provider", "hashing")

    arrived = [json.loads(line) for line in out.read_text().splitlines()]
    expected = processed.json_lines()
    assert [chunk["content"] for chunk in arrived] == [chunk["content"] for chunk in expected]
    assert {frozenset(chunk) for chunk in arrived} == {frozenset(expected[0])}
    assert {
        type(chunk[name]) for chunk in arrived for name in ("page", "index", "token_count")
    } == {int}


async def test_what_is_set_around_it_stays_outside(tmp_path: Path, documents: Path) -> None:
    (tmp_path / ".env").write_text("MAX_ATTEMPTS=never\nREDIS_URL=nonsense\n")
    hostile = {
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

    ended = await run("demo", str(documents / "report.pdf"), directory=tmp_path, **hostile)

    assert_shown(ended, "report.pdf")


async def test_a_proxy_for_the_world_is_not_asked_for_this_machine(documents: Path) -> None:
    proxy = dict.fromkeys(("http_proxy", "https_proxy", "HTTP_PROXY"), "http://127.0.0.1:1")

    ended = await run("demo", str(documents / "report.pdf"), **proxy)

    assert_shown(ended, "report.pdf")


async def test_a_dot_env_that_is_no_text_stays_outside(tmp_path: Path, documents: Path) -> None:
    (tmp_path / ".env").write_bytes(b"\xff\xfe\x00binary")

    ended = await run("demo", str(documents / "report.pdf"), directory=tmp_path)

    assert_shown(ended, "report.pdf")


async def test_any_names_will_do_twice_and_what_fails_does_not_hide_the_rest(
    documents: Path, tmp_path: Path
) -> None:
    names = ["a b.pdf", "ünïcödé – 文書.pdf", "50% off #1?.pdf", "one/same.pdf", "two/same.pdf"]
    for name in names:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        shutil.copy(documents / "report.pdf", tmp_path / name)
    pdfs.write_truncated(tmp_path / "broken.pdf")
    out = tmp_path / "out.jsonl"

    sources = [str(tmp_path / name) for name in [*names, "broken.pdf"]]
    ended = await run("demo", *sources, "--out", str(out))

    assert ended.code == 1
    assert "broken.pdf: PDF_CORRUPT: " in ended.stderr
    titles = [line for line in ended.stdout.splitlines() if line.endswith(": Annual report")]
    assert sorted(line.partition(": ")[0] for line in titles) == sorted(
        Path(name).name for name in names
    )
    assert len({json.loads(line)["doc_id"] for line in out.read_text().splitlines()}) == len(names)


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


def assert_shown(ended: Finished, name: str) -> None:
    assert ended.code == 0, ended.stderr
    assert f"{name}: Annual report" in ended.stdout
    assert pdfs.section_title(3) in ended.stdout
    assert f"{name}: succeeded" in ended.stderr
