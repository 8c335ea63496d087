"""Takes tasks while there is room, and brings them all to an end when stopped."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Iterable
from typing import Any

import structlog

from pdf_processor.delivery import Delivery, Desk
from pdf_processor.ending import end
from pdf_processor.errors import ServiceCredentialsRejected
from pdf_processor.ingest.client import Receipt
from pdf_processor.logs import log_bug
from pdf_processor.queue.task_queue import TaskQueue
from pdf_processor.queue.task_status import StatusBoard, TaskReport
from pdf_processor.slot import Slot
from pdf_processor.task import Task

log = structlog.get_logger()

MAX_WAITING_FOR_KEYS = 1000
"""Tasks that may be held without a place in work, while they wait for their keys."""

CREDENTIALS_PAUSE_SECONDS = 30.0
"""How long intake rests after the service's own credentials were refused."""

SETTLE_SECONDS = 5.0
"""How long releasing may take at shutdown; with Redis away, leases run out instead."""


class Worker:
    """One process's share of the queue.

    Duties: take a task whenever a place in work is free; see each through as a `Delivery`;
    rest when the service's own credentials are refused; when stopped, take no more, let
    what is in work go on up to the grace, and release the rest. Leaves the work itself to
    `run`, the lease's life to the recoverer.
    """

    def __init__(
        self,
        *,
        queue: TaskQueue,
        board: StatusBoard,
        run: Callable[[Task, int, Slot, TaskReport], Awaitable[Receipt]],
        forget_key: Callable[[str], Awaitable[None]],
        max_concurrent_tasks: int,
        grace_seconds: float,
        credentials_pause_seconds: float = CREDENTIALS_PAUSE_SECONDS,
    ) -> None:
        self._queue = queue
        self._grace_seconds = grace_seconds
        self._credentials_pause_seconds = credentials_pause_seconds
        self._places = asyncio.Semaphore(max_concurrent_tasks)
        self._holdable = asyncio.Semaphore(max_concurrent_tasks + MAX_WAITING_FOR_KEYS)
        self._desk = Desk(queue, board, run, forget_key, self._rest)
        self._deliveries: dict[asyncio.Task[None], Delivery] = {}
        self._rested = asyncio.Event()
        self._rested.set()

    async def run(self, stop: asyncio.Event) -> None:
        """Work until `stop` is set, and then until everything that was taken is settled."""
        try:
            while not stop.is_set():
                if await _unless(stop, self._room()):
                    await self._take_one()
            await self._drain()
        finally:
            await end(*self._deliveries)

    async def _room(self) -> bool:
        """Wait until a place in work is free, not too many tasks are held, and intake is on."""
        async with self._holdable, self._places:
            pass
        return await self._rested.wait()

    async def _take_one(self) -> None:
        payload = await self._queue.take()
        if payload is None:
            return
        await self._holdable.acquire()
        delivery = Delivery(self._desk, payload, await Slot.acquire(self._places))
        if not self._rested.is_set():  # this take was under way when intake was paused
            delivery.give_up()
        job = asyncio.create_task(delivery.complete())
        self._deliveries[job] = delivery
        job.add_done_callback(self._put_down)

    def _put_down(self, job: asyncio.Task[None]) -> None:
        self._deliveries.pop(job).slot.close()
        self._holdable.release()
        if not job.cancelled() and (error := job.exception()):
            log_bug("task left to the recoverer", error)

    def _rest(self, error: ServiceCredentialsRejected) -> None:
        """Stop intake for a while: every task would fail alike."""
        log.error(
            "intake paused, the service's own credentials were refused",
            error=error.message,
            seconds=self._credentials_pause_seconds,
        )
        self._rested.clear()
        loop = asyncio.get_running_loop()
        loop.call_later(self._credentials_pause_seconds, self._rested.set)

    async def _drain(self) -> None:
        """Let what is in work go on up to the grace; release what waits, and then the rest."""
        log.info("draining", tasks=len(self._deliveries), grace_seconds=self._grace_seconds)
        held = self._deliveries.values()
        self._give_up(delivery for delivery in held if not delivery.slot.held)
        await self._ended(timeout=self._grace_seconds)
        self._give_up(held)
        await self._ended(timeout=SETTLE_SECONDS)

    def _give_up(self, deliveries: Iterable[Delivery]) -> None:
        for delivery in deliveries:
            delivery.give_up()

    async def _ended(self, *, timeout: float) -> None:  # noqa: ASYNC109 - as asyncio.wait
        if self._deliveries:
            await asyncio.wait(set(self._deliveries), timeout=timeout)


async def _unless(stop: asyncio.Event, step: Coroutine[Any, Any, bool]) -> bool:
    """Do a step, or give it up when `stop` is set; False: it was not done."""
    doing = asyncio.create_task(step)
    stopping = asyncio.create_task(stop.wait())
    await asyncio.wait({doing, stopping}, return_when=asyncio.FIRST_COMPLETED)
    await end(doing, stopping)
    return not doing.cancelled() and doing.result()
