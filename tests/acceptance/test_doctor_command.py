"""`doctor`: all fine, and each thing broken, with its mend."""

from __future__ import annotations

import pytest
import pytest_asyncio

from tests.acceptance.commands import Finished, run_together
from tests.acceptance.system import API_KEY, System
from tests.http_server import Answer, FileServer

pytestmark = pytest.mark.asyncio(loop_scope="session")

PARTS = ("Redis", "ingest server", "bucket", "embedder", "parser children", "TEMP_DIR")

BUCKET = {
    "BUCKET_NAME": "documents",
    "BUCKET_ACCESS_ID": "id",
    "BUCKET_ACCESS_KEY": "canary",
}
WELL = {
    "as it is": {},
    "with a provider": {"EMBEDDING_PROVIDER": "openai", "OPENAI_API_KEY": API_KEY},
}
BROKEN = {
    "Redis away": ("Redis", "REDIS_URL", {"REDIS_URL": "redis://:canary@127.0.0.1:1/0"}),
    "Go away": ("ingest server", "GO_GRPC_INGEST_ADDR", {"GO_GRPC_INGEST_ADDR": "127.0.0.1:1"}),
    "bucket away": (
        "bucket",
        "BUCKET_ENDPOINT",
        BUCKET | {"BUCKET_ENDPOINT": "http://127.0.0.1:1"},
    ),
    "bucket refuses": ("bucket", "BUCKET_ACCESS", BUCKET),
    "wrong key": (
        "embedder",
        "OPENAI_API_KEY",
        {"EMBEDDING_PROVIDER": "openai", "OPENAI_API_KEY": "sk-canary-wrong-key"},
    ),
    "no local model": (
        "embedder",
        "LOCAL_EMBEDDING_MODEL",
        {"EMBEDDING_PROVIDER": "local", "LOCAL_EMBEDDING_MODEL": "/no/model/here"},
    ),
    "no place for files": ("TEMP_DIR", "TEMP_DIR", {"TEMP_DIR": "/proc/nowhere"}),
}


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def diagnoses(system: System) -> dict[str, Finished]:
    """What doctor says where all is well, and where one thing is broken."""
    refusal = b'<?xml version="1.0"?><Error><Code>SignatureDoesNotMatch</Code></Error>'
    changes = WELL | {name: settings for name, (_, _, settings) in BROKEN.items()}
    async with FileServer() as store:
        for path in ("/documents", "/documents/"):
            store.script(path, *[Answer(status=403, body=refusal)] * 5)
        base = system.settings | {"PARSER_PROCESSES": "1", "BUCKET_ENDPOINT": store.url("")}
        return await run_together(
            {name: (("doctor",), base | settings) for name, settings in changes.items()}
        )


def lines(ended: Finished) -> dict[str, str]:
    """What it says of each part: part → the line."""
    said = ended.stdout.splitlines()
    return {part: line for line in said for part in PARTS if f" {part}: " in line}


async def test_where_all_is_fine_each_part_is_ok(diagnoses: dict[str, Finished]) -> None:
    ended = diagnoses["as it is"]

    assert ended.code == 0
    assert tuple(lines(ended)) == PARTS
    assert all(line.startswith("ok ") for line in lines(ended).values())


async def test_a_working_provider_is_named_with_its_model(diagnoses: dict[str, Finished]) -> None:
    ended = diagnoses["with a provider"]

    assert ended.code == 0
    assert "text-embedding-3-small" in lines(ended)["embedder"]


@pytest.mark.parametrize("case", BROKEN)
async def test_what_is_broken_is_named_with_its_mend(
    diagnoses: dict[str, Finished], case: str
) -> None:
    ended, (part, mend, _) = diagnoses[case], BROKEN[case]

    assert "Traceback" not in ended.stderr
    assert ended.code == 1
    assert [name for name, line in lines(ended).items() if not line.startswith("ok ")] == [part]
    assert mend in lines(ended)[part]
    assert "canary" not in ended.text
