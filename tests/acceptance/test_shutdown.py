"""SIGTERM: what runs may end within the grace, the rest goes back; a second signal forces."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from tests.acceptance.go_side import CANCELLED, WHOLE
from tests.acceptance.system import key, running_system, server

pytestmark = pytest.mark.asyncio(loop_scope="session")


async def test_what_runs_is_finished_within_the_grace(documents: Path) -> None:
    async with running_system(documents) as system:
        hold = system.go.hold("drained", after=3)
        task_id = await system.push("long.pdf", DocID="drained")
        await hold.reached.wait()

        system.daemon.signal(signal.SIGTERM)
        await system.daemon.event("draining", tasks=1)
        left = await system.push()
        hold.released.set()

        assert await system.daemon.ended() == 0
        await system.reached(task_id, "SUCCEEDED")
        assert system.go.of("drained")[0].ending == WHOLE
        assert not await system.taken()
        assert [task["task_id"] for task in await system.waiting()] == [left]


async def test_an_idle_daemon_ends_with_zero_at_either_signal(documents: Path) -> None:
    async with running_system(documents) as system, system.another_daemon() as other:
        await other.event("ready")

        system.daemon.signal(signal.SIGTERM)
        other.signal(signal.SIGINT)

        assert (await system.daemon.ended(), await other.ended()) == (0, 0)
        assert not await system.redis.zcard(key("workers"))


async def test_what_outlasts_the_grace_goes_back_uncounted(documents: Path) -> None:
    async with running_system(documents, SHUTDOWN_GRACE_SECONDS="0.1") as system:
        hold = system.go.hold("too-long", after=3)
        task_id = await system.push("long.pdf", DocID="too-long")
        await hold.reached.wait()

        system.daemon.signal(signal.SIGTERM)
        await system.daemon.event("draining", tasks=1)
        await system.push(task_id="behind")

        assert await system.daemon.ended() == 0
        assert (await system.go.ended("too-long")).ending == CANCELLED
        assert [task["task_id"] for task in await system.waiting()] == [task_id, "behind"]
        assert not await system.taken()
        assert (await system.status(task_id)).items() >= {"state": "QUEUED", "attempt": "0"}.items()

        async with system.another_daemon():
            event = await system.reached(task_id, "SUCCEEDED")
            assert event["attempt"] == 1


async def test_a_task_that_waits_for_its_key_is_released_at_once(documents: Path) -> None:
    async with running_system(documents, SHUTDOWN_GRACE_SECONDS="3600") as system:
        task_id = await system.push(provider="openai")
        await system.reached(task_id, "WAITING_FOR_KEY")

        system.daemon.signal(signal.SIGTERM)

        assert await system.daemon.ended() == 0
        assert [task["task_id"] for task in await system.waiting()] == [task_id]
        assert (await system.status(task_id))["state"] == "QUEUED"


async def test_a_second_signal_ends_it_now_and_loses_nothing(documents: Path) -> None:
    settings = {"SHUTDOWN_GRACE_SECONDS": "3600", "LEASE_SECONDS": "1"}
    async with running_system(documents, **settings) as system:
        hold = system.go.hold("forced", after=3)
        task_id = await system.push("long.pdf", DocID="forced")
        await hold.reached.wait()
        system.daemon.signal(signal.SIGTERM)
        await system.daemon.event("draining", tasks=1)

        system.daemon.signal(signal.SIGTERM)

        assert await system.daemon.ended() == 1
        assert "Traceback" not in system.daemon.text
        assert (await system.go.ended("forced")).ending == CANCELLED
        async with system.another_daemon(LEASE_SECONDS="1"):
            await system.reached(task_id, "SUCCEEDED")


async def test_it_ends_in_time_although_redis_is_gone(documents: Path) -> None:
    with server() as valkey:
        async with running_system(
            documents, redis_url=valkey.url, SHUTDOWN_GRACE_SECONDS="0.1"
        ) as system:
            hold = system.go.hold("alone", after=3)
            await system.push("long.pdf", DocID="alone")
            await hold.reached.wait()
            valkey.__exit__(None, None, None)

            system.daemon.signal(signal.SIGTERM)

            assert await system.daemon.ended() == 0
