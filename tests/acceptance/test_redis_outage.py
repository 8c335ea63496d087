"""Redis stops and comes back while tasks wait and run."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Self

import pytest

from pdf_processor.embedded.valkey import EmbeddedValkey
from tests.acceptance.commands import run
from tests.acceptance.go_side import WHOLE
from tests.acceptance.system import System, running_system

pytestmark = pytest.mark.asyncio(loop_scope="session")


class Valkey:
    """A server with a memory, which can be stopped and started again."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._server = EmbeddedValkey(directory=directory)

    def __enter__(self) -> Self:
        self._server.__enter__()
        self.url = self._server.url
        return self

    def __exit__(self, *_: object) -> None:
        self._server.__exit__(None, None, None)

    def stop(self) -> None:
        self._server.__exit__(None, None, None)

    def start(self) -> None:
        self._server = EmbeddedValkey(directory=self._directory, port=self._server.port)
        self._server.__enter__()


@asynccontextmanager
async def system_over(valkey: Valkey, documents: Path, **settings: str) -> AsyncIterator[System]:
    async with running_system(documents, redis_url=valkey.url, **settings) as system:
        yield system


async def test_what_runs_and_waits_during_an_outage_is_finished(
    documents: Path, tmp_path: Path
) -> None:
    with Valkey(tmp_path) as valkey:
        async with system_over(valkey, documents, MAX_CONCURRENT_TASKS="1") as system:
            hold = system.go.hold("running", after=3)
            await system.push("long.pdf", DocID="running", task_id="running")
            await hold.reached.wait()
            await system.push(task_id="behind")

            valkey.stop()
            await system.daemon.event("peer is away")
            hold.released.set()
            assert (await system.go.ended("running")).ending == WHOLE
            valkey.start()

            assert (await system.go.ended("behind")).ending == WHOLE
            for task_id in ("running", "behind"):
                await system.daemon.event("task succeeded", task_id=task_id)
                assert (await system.client.watch(task_id))[-1] == "SUCCEEDED"
            assert len(system.go.of("running")) == 1


async def test_a_key_wait_survives_an_outage(documents: Path, tmp_path: Path) -> None:
    with Valkey(tmp_path) as valkey:
        secret = {"KEY_ENCRYPTION_SECRET": "a secret of 32 characters or more for tests"}
        async with system_over(valkey, documents, **secret) as system:
            await system.push(task_id="waits", provider="openai")
            await system.reached("waits", "WAITING_FOR_KEY")

            valkey.stop()
            await system.daemon.event("peer is away")
            valkey.start()
            await system.daemon.event("peer is back")
            await system.client.give_key("waits")

            assert (await system.go.ended("waits")).ending == WHOLE


async def test_an_outage_is_said_once_for_each_part_of_the_daemon(
    documents: Path, tmp_path: Path
) -> None:
    with Valkey(tmp_path) as valkey:
        async with system_over(valkey, documents) as system:
            valkey.stop()
            await system.daemon.event("peer is away", peer="Redis")
            valkey.start()
            await system.daemon.event("peer is back", peer="Redis")
            await system.push(task_id="after")
            await system.go.ended("after")

            said = [event for event in system.daemon.events if event.get("event") == "peer is away"]
            assert len(said) == len({event["peer"] for event in said})


async def test_without_redis_the_daemon_does_not_start_and_says_why() -> None:
    ended = await run("serve", REDIS_URL="redis://:hunter2@127.0.0.1:1/0")

    assert ended.code == 1
    assert "REDIS_URL" in ended.stderr
    assert "hunter2" not in ended.stderr
    assert "Traceback" not in ended.stderr
