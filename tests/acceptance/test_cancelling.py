"""CancelTask, RetryTask and WatchTask, over gRPC."""

from __future__ import annotations

import asyncio

import grpc
import pytest

from protos import cognicore_pb2 as pb
from tests.acceptance.go_side import CANCELLED
from tests.acceptance.system import System, key

pytestmark = pytest.mark.asyncio(loop_scope="session")


async def is_nowhere(system: System, task_id: str) -> bool:
    """Whether no list holds the task any more."""
    delayed = await system.redis.zrange(key("delayed"), 0, -1)
    return not (
        await system.dead(task_id)
        or [payload for payload in [*await system.taken(), *delayed] if task_id in payload]
        or [task for task in await system.waiting() if task["task_id"] == task_id]
    )


async def test_a_task_that_waits_for_its_key_can_be_cancelled(system: System) -> None:
    task_id = await system.push(provider="openai")
    await system.reached(task_id, "WAITING_FOR_KEY")

    await system.client.cancel(task_id)

    await system.reached(task_id, "CANCELLED")
    assert await is_nowhere(system, task_id)


async def test_cancelling_a_running_task_cancels_gos_stream(system: System) -> None:
    hold = system.go.hold("unwanted", after=3)
    task_id = await system.push("long.pdf", DocID="unwanted")
    await hold.reached.wait()

    await system.client.cancel(task_id)

    await system.reached(task_id, "CANCELLED")
    assert (await system.go.ended("unwanted")).ending == CANCELLED
    assert await is_nowhere(system, task_id)
    assert not list(system.temp_dir.iterdir())


async def test_a_running_task_is_called_cancelled_only_once_it_is(system: System) -> None:
    """Also right after its start, before its status has been written."""
    await system.reached(await system.push(), "SUCCEEDED")
    hold = system.go.hold("just-started", after=1)
    task_id = await system.push(DocID="just-started")
    await hold.reached.wait()

    status = await system.client.cancel(task_id)

    assert status.state != pb.TaskStatus.CANCELLED
    await system.go.ended("just-started")
    await system.reached(task_id, "CANCELLED")
    assert system.states(task_id).count("CANCELLED") == 1


async def test_a_delayed_task_can_be_cancelled(system: System) -> None:
    refused = (grpc.StatusCode.UNAVAILABLE, "not now")
    system.go.answer("delayed", refused)
    task_id = await system.push(DocID="delayed")
    await system.reached(task_id, "RETRYING")

    await system.client.cancel(task_id)

    await system.reached(task_id, "CANCELLED")
    assert await is_nowhere(system, task_id)
    assert len(system.go.of("delayed")) == 1


async def test_cancelled_while_delayed_its_next_life_is_the_one_that_was_pushed(
    system: System,
) -> None:
    system.go.answer("delayed-twice", (grpc.StatusCode.UNAVAILABLE, "not now"))
    task_id = await system.push(DocID="delayed-twice")
    await system.reached(task_id, "RETRYING")
    await system.client.cancel(task_id)
    await system.reached(task_id, "CANCELLED")

    await system.push(task_id=task_id, DocID="its-next-life")

    await system.reached(task_id, "SUCCEEDED")
    assert [stream.ending for stream in system.go.of("its-next-life")]


async def test_a_task_cancelled_before_it_is_pushed_does_not_start(system: System) -> None:
    await system.client.cancel("changed-my-mind")

    await system.push(task_id="changed-my-mind")

    await system.daemon.event("task not started", task_id="changed-my-mind", reason="cancelled")
    assert (await system.status("changed-my-mind"))["state"] == "CANCELLED"


async def test_pushed_again_after_it_was_cancelled_it_starts_a_new_life(system: System) -> None:
    task_id = await system.push(provider="openai")
    await system.reached(task_id, "WAITING_FOR_KEY")
    await system.client.cancel(task_id)
    await system.reached(task_id, "CANCELLED")

    await system.push(task_id=task_id)

    event = await system.reached(task_id, "SUCCEEDED")
    assert event["attempt"] == 1


async def test_cancelling_twice_does_not_end_the_next_life(system: System) -> None:
    """Go may repeat the call when its reply was lost."""
    task_id = await system.push(provider="openai")
    await system.reached(task_id, "WAITING_FOR_KEY")
    await system.client.cancel(task_id)
    await system.reached(task_id, "CANCELLED")
    await system.client.cancel(task_id)

    await system.push(task_id=task_id)

    await system.reached(task_id, "SUCCEEDED")


async def test_cancelling_what_has_succeeded_changes_nothing(system: System) -> None:
    task_id = await system.push()
    await system.reached(task_id, "SUCCEEDED")

    status = await system.client.cancel(task_id)

    assert status.state == pb.TaskStatus.SUCCEEDED
    await system.push(task_id=task_id, force=True)
    await system.reached(task_id, "SUCCEEDED", times=2)


async def test_cancelling_what_is_dead_does_not_end_its_next_life(system: System) -> None:
    task_id = await system.push("not-yet.pdf")
    await system.reached(task_id, "DEAD")

    status = await system.client.cancel(task_id)

    assert status.state == pb.TaskStatus.DEAD
    await system.push("report.pdf", task_id=task_id)
    await system.reached(task_id, "SUCCEEDED")


async def test_a_dead_task_gets_another_life(system: System) -> None:
    task_id = await system.push("missing-at-first.pdf")
    await system.reached(task_id, "DEAD")
    system.files.files["/missing-at-first.pdf"] = system.files.files["/report.pdf"]

    await system.client.retry(task_id)

    event = await system.reached(task_id, "SUCCEEDED")
    assert event["attempt"] == 1
    assert not await system.dead(task_id)


async def test_only_a_dead_task_can_be_retried(system: System) -> None:
    task_id = await system.push()
    await system.reached(task_id, "SUCCEEDED")

    with pytest.raises(grpc.aio.AioRpcError) as refusal:
        await system.client.retry(task_id)

    assert refusal.value.code() is grpc.StatusCode.NOT_FOUND


async def test_watching_ends_with_the_final_state(system: System) -> None:
    watching = asyncio.create_task(system.client.watch("watched"))
    await system.push(task_id="watched")

    states = await watching

    assert states[0] == "UNKNOWN" or len(states) > 1
    assert states[-1] == "SUCCEEDED"
    assert "SUCCEEDED" not in states[:-1]


async def test_watching_what_has_ended_ends_at_once(system: System) -> None:
    task_id = await system.push("nothing.pdf")
    await system.reached(task_id, "DEAD")

    assert await system.client.watch(task_id) == ["DEAD"]


async def test_watching_a_dead_task_that_is_retried_shows_its_new_life(system: System) -> None:
    task_id = await system.push("later.pdf")
    await system.reached(task_id, "DEAD")
    system.files.files["/later.pdf"] = system.files.files["/report.pdf"]

    status = await system.client.retry(task_id)
    states = await system.client.watch(task_id)

    assert status.state == pb.TaskStatus.QUEUED
    assert states[-1] == "SUCCEEDED"


async def test_watching_a_task_whose_options_are_wrong_ends(system: System) -> None:
    """Whoever pushed it has to learn that nothing will come."""
    watching = asyncio.create_task(system.client.watch("wrong-options"))
    await system.push(task_id="wrong-options", options={"max_tokens": 1})

    async with asyncio.timeout(3):
        states = await watching

    assert states[-1] == "DEAD"
