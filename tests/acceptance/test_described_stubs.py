"""A backend that knows only what the system's description says gets on with the processor."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from redis.asyncio import Redis

from tests import pdfs
from tests.acceptance.daemon import running_daemon
from tests.fake_providers import OPENAI_DIMENSION, FakeProviders, vector_of
from tests.http_server import FileServer

DESCRIBED = Path(__file__).resolve().parents[1] / "described"
KEY = "sk-a-tenants-own-key"
HANGS_AFTER_SECONDS = 60


async def test_described_task_arrives_at_described_stubs(
    redis: Redis, redis_url: str, stubs: Path, tmp_path: Path
):
    pdf = pdfs.write_report(tmp_path / "report.pdf").read_bytes()
    async with (
        FileServer() as files,
        FakeProviders(api_key=KEY) as openai,
        backend(stubs, "ingest") as says,
        running_daemon(
            REDIS_URL=redis_url,
            GO_GRPC_INGEST_ADDR=(await says())["address"],
            ALLOWED_DOWNLOAD_HOSTS=files.authority,
            OPENAI_BASE_URL=openai.openai_url,
            TEMP_DIR=str(tmp_path / "downloads"),
        ) as daemon,
    ):
        files.files["/report.pdf"] = pdf
        keys = f"127.0.0.1:{(await daemon.listening())['keys']}"
        task = {
            "DocID": "document-7",
            "UserID": "user-3",
            "FileName": "Report.pdf",
            "URL": files.url("/report.pdf"),
            "FileSize": len(pdf),
            "task_id": "task-1",
        }
        await redis.rpush("queue:upload_tasks", json.dumps(task))
        async with backend(stubs, "provide", keys, "task-1", KEY, "openai") as answers:
            answer = await answers()
        document = await says()

    assert answer["success"] is True
    assert document["metadata"] == {
        "doc_id": "document-7",
        "user_id": "user-3",
        "file_name": "Report.pdf",
    }
    chunks = document["chunks"]
    assert [(chunk["chapter"], chunk["page"]) for chunk in chunks] == [
        (title(page), page)
        for page in (1, 2, 3)
        for title in (pdfs.chapter_title, pdfs.section_title)
    ]
    for chunk in chunks:
        assert pdfs.marker(chunk["page"]) in chunk["content"]
        assert chunk["embeddings"] == pytest.approx(vector_of(chunk["content"], OPENAI_DIMENSION))


@pytest.fixture
def stubs(tmp_path: Path) -> Path:
    """Generate stubs of the described fields."""
    options = [f"-I{DESCRIBED}", f"--python_out={tmp_path}", f"--grpc_python_out={tmp_path}"]
    command = [sys.executable, "-m", "grpc_tools.protoc", *options, "cognicore_described.proto"]
    subprocess.run(command, check=True)
    return tmp_path


Says = Callable[[], Awaitable[dict[str, Any]]]


@asynccontextmanager
async def backend(stubs: Path, *arguments: str) -> AsyncIterator[Says]:
    """Run the described backend in a process of its own; wait for what it says, in order."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        DESCRIBED / "backend.py",
        *arguments,
        env={"PYTHONPATH": str(stubs)},
        stdout=asyncio.subprocess.PIPE,
        limit=16 * 1024 * 1024,
    )
    assert process.stdout is not None
    lines = process.stdout

    async def says() -> dict[str, Any]:
        line = await asyncio.wait_for(lines.readline(), HANGS_AFTER_SECONDS)
        said: dict[str, Any] = json.loads(line)
        return said

    try:
        yield says
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()
