"""Keeps this worker's lease, brings due retries forward and expired leases back."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress

import structlog

from pdf_processor.queue.task_queue import QueueUnavailable, TaskQueue

log = structlog.get_logger()

BEATS_PER_LEASE = 5
FORWARD_SECONDS = 1.0


class Recoverer:
    """What goes on beside the tasks, for as long as this worker may hold any.

    1. registers the worker, renews its lease five times a lease, and begins anew under
       another id when the worker was taken for dead (its leases know then: `Lease.lost`);
    2. puts delayed tasks that are due back into the queue, every second, and looks for
       tasks in work that somebody wants cancelled;
    3. puts back what dead workers held, at the start and at every beat;
    4. at the end unregisters the worker, or lets its lease run out if it still holds tasks.

    An outage of Redis is said once and waited out. `stop` is to be set only after the last
    task was settled or released: without heartbeats others take the tasks over.
    """

    def __init__(self, queue: TaskQueue, *, lease_seconds: float) -> None:
        self._queue = queue
        self._beat_seconds = lease_seconds / BEATS_PER_LEASE
        self._registered = False

    async def run(self, stop: asyncio.Event) -> None:
        """Go on until `stop` is set."""
        async with asyncio.TaskGroup() as group:
            for seconds, step in (
                (self._beat_seconds, self._beat),
                (FORWARD_SECONDS, self._forward),
                (self._beat_seconds, self._recover),
            ):
                group.create_task(self._every(seconds, step, stop))
        with suppress(QueueUnavailable):
            await self._queue.unregister()

    async def _every(
        self, seconds: float, step: Callable[[], Awaitable[None]], stop: asyncio.Event
    ) -> None:
        outage, part = self._queue.outage, step.__name__
        while not stop.is_set():
            try:
                await step()
            except QueueUnavailable as error:
                pause = outage.failed(part, error)
            else:
                outage.passed(part)
                pause = seconds
            with suppress(TimeoutError):
                await asyncio.wait_for(stop.wait(), pause)

    async def _beat(self) -> None:
        if self._registered and await self._queue.heartbeat():
            return
        if self._registered:
            log.warning("this worker was taken for dead", new_worker=self._queue.worker)
        self._registered = False
        await self._queue.register()
        self._registered = True

    async def _forward(self) -> None:
        await self._queue.look_for_cancelled()
        await self._queue.forward_due()

    async def _recover(self) -> None:
        await self._queue.recover()
