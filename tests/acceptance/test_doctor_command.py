"""`doctor`: all fine, and each thing broken, with its mend."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.acceptance.commands import run
from tests.acceptance.system import API_KEY, System
from tests.http_server import Answer, FileServer

pytestmark = pytest.mark.asyncio(loop_scope="session")

PARTS = ("Redis", "ingest server", "bucket", "embedder", "parser children", "TEMP_DIR")


def lines(stdout: str) -> dict[str, str]:
    """What it says of each part: part → the line."""
    return {part: line for line in stdout.splitlines() for part in PARTS if f" {part}: " in line}


async def test_where_all_is_fine_each_part_is_ok(system: System) -> None:
    ended = await run("doctor", **system.settings)

    said = lines(ended.stdout)
    assert ended.code == 0
    assert tuple(said) == PARTS
    assert all(line.startswith("ok ") for line in said.values())


async def test_a_working_provider_is_named_with_its_model(system: System) -> None:
    provider = {"EMBEDDING_PROVIDER": "openai", "OPENAI_API_KEY": API_KEY}

    ended = await run("doctor", **system.settings | provider)

    assert ended.code == 0
    assert "text-embedding-3-small" in lines(ended.stdout)["embedder"]


BROKEN = {
    "Redis away": ({"REDIS_URL": "redis://:canary@127.0.0.1:1/0"}, "Redis", "REDIS_URL"),
    "Go away": (
        {"GO_GRPC_INGEST_ADDR": "127.0.0.1:1"},
        "ingest server",
        "GO_GRPC_INGEST_ADDR",
    ),
    "bucket away": (
        {
            "BUCKET_ENDPOINT": "http://127.0.0.1:1",
            "BUCKET_NAME": "documents",
            "BUCKET_ACCESS_ID": "id",
            "BUCKET_ACCESS_KEY": "canary",
        },
        "bucket",
        "BUCKET_ENDPOINT",
    ),
    "wrong key": (
        {"EMBEDDING_PROVIDER": "openai", "OPENAI_API_KEY": "sk-canary-wrong-key"},
        "embedder",
        "key",
    ),
    "no local model": (
        {"EMBEDDING_PROVIDER": "local", "LOCAL_EMBEDDING_MODEL": "/no/model/here"},
        "embedder",
        "LOCAL_EMBEDDING_MODEL",
    ),
    "no place for files": ({"TEMP_DIR": "/proc/nowhere"}, "TEMP_DIR", "TEMP_DIR"),
}


@pytest.mark.parametrize(("changes", "part", "mend"), BROKEN.values(), ids=BROKEN.keys())
async def test_what_is_broken_is_named_with_its_mend(
    system: System, changes: dict[str, str], part: str, mend: str
) -> None:
    ended = await run("doctor", **system.settings | changes)

    said = lines(ended.stdout)
    assert "Traceback" not in ended.stderr
    assert ended.code == 1
    assert [name for name, line in said.items() if not line.startswith("ok ")] == [part]
    assert mend in said[part]
    assert "canary" not in ended.text


async def test_an_unknown_provider_is_named_with_those_that_are_known(system: System) -> None:
    ended = await run("doctor", **system.settings | {"EMBEDDING_PROVIDER": "nobody"})

    assert ended.code in {1, 2}
    assert "EMBEDDING_PROVIDER" in ended.text
    assert "openai" in ended.text


async def test_refused_bucket_credentials_are_named_with_their_mend(
    system: System, documents: Path
) -> None:
    refusal = (
        b'<?xml version="1.0"?><Error><Code>SignatureDoesNotMatch</Code>'
        b"<Message>canary</Message></Error>"
    )
    async with FileServer() as store:
        for path in ("/documents", "/documents/"):
            store.script(path, *[Answer(status=403, body=refusal)] * 5)
        bucket = {
            "BUCKET_ENDPOINT": store.url(""),
            "BUCKET_NAME": "documents",
            "BUCKET_ACCESS_ID": "id",
            "BUCKET_ACCESS_KEY": "canary",
        }
        ended = await run("doctor", **system.settings | bucket)

    assert ended.code == 1
    assert "BUCKET_ACCESS" in lines(ended.stdout)["bucket"]
    assert "canary" not in ended.text
