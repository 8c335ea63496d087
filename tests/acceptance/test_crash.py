"""The daemon is killed in the middle of a document, and started again."""

from __future__ import annotations

import asyncio
import json
import os
import select
import signal
import subprocess
from pathlib import Path

import pytest

from tests.acceptance.daemon import running_daemon
from tests.acceptance.go_side import CANCELLED, WHOLE
from tests.acceptance.system import Around

pytestmark = pytest.mark.asyncio(loop_scope="session")


@pytest.mark.parametrize("pod_name", ["", "processor-0"])
async def test_a_killed_daemons_document_arrives_whole_once_it_is_back(
    documents: Path, pod_name: str
) -> None:
    async with Around(documents) as around:
        settings = around.settings | {"POD_NAME": pod_name, "LEASE_SECONDS": "1"}
        hold = around.go.hold("crash", after=3)
        async with running_daemon(**settings) as first:
            task_id = await around.push("long.pdf", DocID="crash", provider="hashing")
            await hold.reached.wait()
            first.signal(signal.SIGKILL)
            assert await first.ended() == -signal.SIGKILL

        async with running_daemon(**settings) as second:
            event = await around.reached(task_id, "SUCCEEDED")
            await second.event("worker recovered", tasks=1)

        cut, whole = around.go.of("crash")
        assert (cut.ending, whole.ending) == (CANCELLED, WHOLE)
        assert whole.ids[: len(cut.ids)] == cut.ids
        assert len(set(whole.ids)) == len(whole.ids) == event["chunks_sent"]
        assert whole.metadata.attempt == event["attempt"] == 2
        assert not await around.taken()
        assert not list(around.temp_dir.iterdir())


async def test_another_replica_takes_over_what_a_killed_one_held(documents: Path) -> None:
    async with Around(documents) as around:
        settings = around.settings | {"LEASE_SECONDS": "1", "MAX_CONCURRENT_TASKS": "1"}
        hold = around.go.hold("taken-over", after=3)
        async with running_daemon(**settings) as first:
            task_id = await around.push("long.pdf", DocID="taken-over")
            await hold.reached.wait()
            async with running_daemon(**settings) as second:
                await second.event("ready")
                first.signal(signal.SIGKILL)

                await around.reached(task_id, "SUCCEEDED")

        assert [stream.ending for stream in around.go.of("taken-over")] == [CANCELLED, WHOLE]


async def test_a_task_that_kills_its_worker_each_time_dies_in_the_end(documents: Path) -> None:
    async with Around(documents) as around:
        settings = around.settings | {"POD_NAME": "pod", "MAX_ATTEMPTS": "2"}
        await around.push("long.pdf", task_id="killer")
        for _ in range(2):
            hold = around.go.hold("killer", after=1)
            async with running_daemon(**settings) as daemon:
                await hold.reached.wait()
                daemon.signal(signal.SIGKILL)
                await daemon.ended()

        async with running_daemon(**settings):
            event = await around.reached("killer", "DEAD")

        letter = await around.dead("killer")
        assert event["error_code"] == letter["error_code"] == "WORKER_CRASHED"
        assert letter["attempts"] == 2
        assert len(around.go.of("killer")) == 2


async def test_a_killed_daemon_leaves_no_child_behind(documents: Path) -> None:
    async with Around(documents) as around, running_daemon(**around.settings) as daemon:
        await daemon.event("ready")
        children = [os.pidfd_open(pid) for pid in _children_of(daemon.pid)]
        daemon.signal(signal.SIGKILL)

        assert children
        for child in children:
            ended, _, _ = await asyncio.to_thread(select.select, [child], [], [], 10)
            assert ended
            os.close(child)


def _children_of(parent: int) -> list[int]:
    listed = subprocess.run(
        ["ps", "-o", "pid=", "--ppid", str(parent)], capture_output=True, check=True
    )
    return [int(pid) for pid in listed.stdout.split()]


async def test_a_task_taken_but_not_started_is_not_lost(documents: Path) -> None:
    async with Around(documents) as around:
        task = {"task_id": "limbo", "URL": around.files.url("/report.pdf"), "provider": "none"}
        await around.redis.rpush("{queue:upload_tasks}:proc:dead-worker:1:00", json.dumps(task))

        async with running_daemon(**around.settings):
            event = await around.reached("limbo", "SUCCEEDED")

        assert event["attempt"] == 1
