"""A real Redis for every test that asks: the PATH's own server, else the embedded one."""

from __future__ import annotations

import os
import shutil
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from redis.asyncio import Redis

from pdf_processor.embedded.valkey import EmbeddedValkey, ValkeyNotStarted
from pdf_processor.queue.connection import connect
from pdf_processor.queue.task_queue import TaskQueue, new_worker_id


@pytest.fixture(scope="session")
def redis_server() -> Iterator[EmbeddedValkey]:
    """The server that the tests of this run share; ends with the run, however it ends."""
    installed = shutil.which("redis-server") or shutil.which("valkey-server")
    try:
        server = EmbeddedValkey(binary=Path(installed) if installed else None)
        with server:
            yield server
    except ValkeyNotStarted as error:
        if os.environ.get("CI"):
            raise
        pytest.skip(str(error))


@pytest.fixture
async def redis_url(redis_server: EmbeddedValkey) -> AsyncIterator[str]:
    """The URL of an empty server, without clients that an earlier test left behind."""
    async with Redis.from_url(redis_server.url) as redis:
        await redis.client_kill_filter(_type="normal", skipme=True)
        await redis.client_kill_filter(_type="pubsub", skipme=True)
        await redis.flushall()
        yield redis_server.url


@pytest.fixture
async def redis(redis_url: str) -> AsyncIterator[Redis]:
    """A plain client of the empty server, for looking and for pushing as Go does."""
    async with Redis.from_url(redis_url) as client:
        yield client


NewQueue = Callable[..., TaskQueue]


@pytest.fixture
async def new_queue(redis_url: str) -> AsyncIterator[NewQueue]:
    """Make task queues, each a worker of its own on the empty server."""
    async with connect(redis_url) as (shared, blocking):

        def make(**changes: Any) -> TaskQueue:
            settings: dict[str, Any] = {
                "name": "queue:upload_tasks",
                "worker": new_worker_id("pod"),
                "lease_seconds": 15.0,
                "max_attempts": 5,
                "retry_base_seconds": 2.0,
                "retry_max_seconds": 300.0,
                "done_ttl_seconds": 86_400,
            }
            return TaskQueue(shared, blocking, **settings | changes)

        yield make
