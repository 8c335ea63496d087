"""What goes on beside the tasks: the worker's own lease, due retries, dead neighbours, outages."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from pdf_processor.embedded.valkey import EmbeddedValkey
from pdf_processor.queue.connection import connect
from pdf_processor.queue.lease import Lease
from pdf_processor.queue.protocol import QueueKeys
from pdf_processor.queue.task_queue import TaskQueue, new_worker_id
from pdf_processor.recoverer import Recoverer
from pdf_processor.task import Task

NewQueue = Callable[..., TaskQueue]
KEYS = QueueKeys("queue:upload_tasks")
PAYLOAD = b'{"task_id":"t-1","URL":"https://host/a.pdf"}'
LEASE_SECONDS = 0.5


@asynccontextmanager
async def running(queue: TaskQueue, lease_seconds: float = LEASE_SECONDS) -> AsyncIterator[None]:
    stop = asyncio.Event()
    async with asyncio.TaskGroup() as group:
        group.create_task(Recoverer(queue, lease_seconds=lease_seconds).run(stop))
        yield
        stop.set()


async def until(condition: Callable[[], object]) -> None:
    """Wait for what is only counted, and told to nobody."""
    while not condition():  # noqa: ASYNC110
        await asyncio.sleep(0.01)


async def take(queue: TaskQueue) -> bytes:
    while (payload := await queue.take()) is None:
        pass
    return payload


async def begin(queue: TaskQueue) -> Lease:
    payload = await take(queue)
    lease = await queue.start(payload, Task.parse(payload))
    assert lease is not None
    return lease


@pytest.fixture
def queue(new_queue: NewQueue) -> TaskQueue:
    return new_queue(lease_seconds=LEASE_SECONDS)


async def test_it_registers_the_worker_and_unregisters_it(redis: Any, queue: TaskQueue) -> None:
    await queue.push(PAYLOAD)
    async with running(queue):
        lease = await begin(queue)
        await lease.ack()
    assert await redis.zcard(KEYS.workers) == 0


async def test_it_renews_the_lease(redis: Any, queue: TaskQueue) -> None:
    async with running(queue):
        await queue.push(PAYLOAD)
        await take(queue)
        first = await redis.zscore(KEYS.workers, queue.worker)
        while await redis.zscore(KEYS.workers, queue.worker) <= first + 1000 * LEASE_SECONDS:
            pass


async def test_a_worker_that_still_holds_something_stays_registered(
    redis: Any, queue: TaskQueue
) -> None:
    await queue.push(PAYLOAD)
    async with running(queue):
        await begin(queue)
    assert await redis.zrange(KEYS.workers, 0, -1) == [queue.worker.encode()]
    assert await redis.lrange(KEYS.taken(queue.worker), 0, -1) == [PAYLOAD]


async def test_it_brings_back_what_is_due(redis: Any, queue: TaskQueue) -> None:
    await redis.zadd(KEYS.delayed, {b"t-1\n" + PAYLOAD: 1})
    async with running(queue):
        assert await take(queue) == PAYLOAD


async def test_it_brings_back_what_a_dead_worker_held(
    redis: Any, queue: TaskQueue, new_queue: NewQueue
) -> None:
    dead = new_queue(worker=new_worker_id("dead"), lease_seconds=LEASE_SECONDS)
    await dead.register()
    await dead.push(PAYLOAD)
    await begin(dead)
    async with running(queue):
        lease = await begin(queue)
        assert lease.attempt == 2
        await lease.ack()
    assert await redis.zcard(KEYS.workers) == 0


async def test_a_worker_that_was_taken_for_dead_begins_anew(redis: Any, queue: TaskQueue) -> None:
    await queue.push(PAYLOAD)
    async with running(queue):
        lease = await begin(queue)
        before = queue.worker
        await redis.zrem(KEYS.workers, before)
        await redis.rpoplpush(KEYS.taken(before), KEYS.waiting)
        await lease.lost.wait()
        again = await begin(queue)
        assert again.worker == queue.worker != before
        assert not await lease.ack()
        assert await again.ack()
    assert await redis.zcard(KEYS.workers) == 0


def queue_of(clients: tuple[Any, Any]) -> TaskQueue:
    return TaskQueue(
        *clients,
        name="queue:upload_tasks",
        worker=new_worker_id(),
        lease_seconds=5,
        max_attempts=5,
        retry_base_seconds=1,
        retry_max_seconds=1,
        done_ttl_seconds=60,
    )


async def test_a_restart_of_the_server_is_waited_out_and_said_once(tmp_path: Path) -> None:
    with capture_logs() as logs, EmbeddedValkey(directory=tmp_path) as server:
        async with connect(server.url) as clients:
            queue = queue_of(clients)
            async with running(queue):
                failures = queue.outage._failures
                await queue.push(PAYLOAD)
                lease = await begin(queue)
                server.__exit__(None, None, None)
                ack = asyncio.create_task(lease.ack())
                taking = asyncio.create_task(take(queue))
                await until(lambda: failures.keys() >= {"_beat", "_recover", "settle", "take"})
                with EmbeddedValkey(port=server.port, directory=tmp_path):
                    assert await ack
                    await queue.push(b"next")
                    assert await taking == b"next"
                    await until(lambda: not failures)
    events = [entry["event"] for entry in logs]
    assert events.count("peer is away") == 1
    assert events.count("peer is back") == 1


async def test_it_stops_while_the_server_is_away() -> None:
    with EmbeddedValkey() as server:
        async with connect(server.url) as clients:
            queue = queue_of(clients)
            async with running(queue):
                server.__exit__(None, None, None)
                await until(lambda: queue.outage._failures)
