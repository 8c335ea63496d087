"""Takes tasks while there is room, and brings them all to an end when stopped."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Iterable
from typing import Any, TypeVar

import structlog

from pdf_processor.delivery import Delivery, Desk
from pdf_processor.ending import end
from pdf_processor.errors import ProcessorError
from pdf_processor.ingest.client import Receipt
from pdf_processor.logs import log_bug
from pdf_processor.queue.task_queue import TaskQueue
from pdf_processor.queue.task_status import StatusBoard, TaskReport
from pdf_processor.slot import Slot
from pdf_processor.task import Task

log = structlog.get_logger()
T = TypeVar("T")

MAX_WAITING_FOR_KEYS = 1000
"""Tasks that may be held without a place in work, while they wait for their keys."""

PAUSE_SECONDS = 30.0
"""How long intake rests when no task is to blame: the service's credentials, a full disk."""

SETTLE_SECONDS = 5.0
"""How long releasing may take at shutdown; with Redis away, leases run out instead."""


class Worker:
    """One process's share of the queue.

    Duties: take a task whenever a place in work is free; see each through as a `Delivery`;
    rest when the service itself is in trouble; when stopped, take no more, let
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
        pause_seconds: float = PAUSE_SECONDS,
    ) -> None:
        self._queue = queue
        self._grace_seconds = grace_seconds
        self._pause_seconds = pause_seconds
        self._places = asyncio.Semaphore(max_concurrent_tasks)
        self._holdable = asyncio.Semaphore(max_concurrent_tasks + MAX_WAITING_FOR_KEYS)
        self._desk = Desk(queue, board, run, forget_key, self._rest)
        self._deliveries: dict[asyncio.Task[None], Delivery] = {}
        self._rested = asyncio.Event()
        self._rested.set()
        self._rest_timer: asyncio.TimerHandle | None = None

    async def run(self, stop: asyncio.Event) -> None:
        """Work until `stop` is set, and then until everything that was taken is settled."""
        try:
            while not stop.is_set():
                if await _unless(stop, self._room()):
                    await self._take_one(stop)
            await self._drain()
        finally:
            await end(*self._deliveries)

    async def _room(self) -> bool:
        """Wait until a place in work is free, not too many tasks are held, and intake is on."""
        async with self._holdable, self._places:
            pass
        return await self._rested.wait()

    async def _take_one(self, stop: asyncio.Event) -> None:
        payload = await self._queue.take()
        if payload is None:
            return
        await self._holdable.acquire()
        slot = await _unless(stop, Slot.acquire(self._places))
        delivery = Delivery(self._desk, payload, slot or Slot(self._places, held=False))
        if stop.is_set() or not self._rested.is_set():  # the take was under way
            delivery.give_up()
        job = asyncio.create_task(delivery.complete())
        self._deliveries[job] = delivery
        job.add_done_callback(self._put_down)

    def _put_down(self, job: asyncio.Task[None]) -> None:
        self._deliveries.pop(job).slot.close()
        self._holdable.release()
        if not job.cancelled() and (error := job.exception()):
            log_bug("task stays in flight until this worker ends", error)

    def _rest(self, error: ProcessorError) -> None:
        """Stop intake for a while: every task would fail alike."""
        if self._rested.is_set():
            log.error(
                "intake paused",
                error_code=error.code,
                error=error.message,
                seconds=self._pause_seconds,
            )
        self._rested.clear()
        if self._rest_timer:
            self._rest_timer.cancel()
        loop = asyncio.get_running_loop()
        self._rest_timer = loop.call_later(self._pause_seconds, self._rested.set)

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


async def _unless(stop: asyncio.Event, step: Coroutine[Any, Any, T]) -> T | None:
    """Do a step, or give it up when `stop` is set; None: it was not done."""
    doing = asyncio.create_task(step)
    stopping = asyncio.create_task(stop.wait())
    try:
        await asyncio.wait({doing, stopping}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        await end(doing, stopping)
    return None if doing.cancelled() else doing.result()
