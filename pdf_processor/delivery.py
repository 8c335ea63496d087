"""What becomes of one payload that was taken: run, judged, and handed to its settlement."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import structlog

from pdf_processor.ending import end
from pdf_processor.errors import (
    InternalError,
    InvalidTask,
    ProcessorError,
    ServiceCredentialsRejected,
    StorageFull,
    WorkerCrashed,
)
from pdf_processor.ingest.client import Receipt
from pdf_processor.logs import log_bug
from pdf_processor.outcome import Cancelled, Dead, Done, Lost, Outcome, Released, Retry, judge
from pdf_processor.queue.task_queue import Lease, NotStarted, TaskQueue
from pdf_processor.queue.task_status import StatusBoard, TaskReport
from pdf_processor.settlement import Settlement
from pdf_processor.slot import Slot
from pdf_processor.task import Task

log = structlog.get_logger()


@dataclass(frozen=True)
class Desk:
    """What every delivery of a worker has at hand."""

    queue: TaskQueue
    board: StatusBoard
    run: Callable[[Task, int, Slot, TaskReport], Awaitable[Receipt]]
    forget_key: Callable[[str], Awaitable[None]]
    rest: Callable[[ProcessorError], None]


class Delivery:
    """One payload in this worker's hands.

    Duties: reject what is no task; start the task under a lease; run it until it ends, is
    cancelled, lost or given up; judge how it ended; settle the lease and report it. Leaves
    it to the worker when to give up, and to give the slot back at the end.
    """

    def __init__(self, desk: Desk, payload: bytes, slot: Slot) -> None:
        self.slot = slot
        self._desk = desk
        self._payload = payload
        self._given_up = asyncio.Event()

    def give_up(self) -> None:
        """Release the task, unless it has just ended."""
        self._given_up.set()

    async def complete(self) -> None:
        """See the payload through to its end."""
        try:
            task = Task.parse(self._payload)
        except InvalidTask as error:
            log.warning("payload rejected", error_code=error.code, error=error.message)
            await self._desk.queue.reject(self._payload, error)
            if task_id := Task.id_of(self._payload):
                await self._desk.board.rejected(task_id, error)
            return
        structlog.contextvars.bind_contextvars(task_id=task.task_id)
        lease = await self._desk.queue.start(self._payload, task)
        if isinstance(lease, NotStarted):
            await self._pass_over(task, lease)
        else:
            await self._under(lease)

    async def _pass_over(self, task: Task, reason: NotStarted) -> None:
        log.info("task not started", reason=str(reason))
        if reason is NotStarted.CANCELLED:
            await self._desk.board.cancelled(task.task_id)
            await self._desk.forget_key(task.task_id)

    async def _under(self, lease: Lease) -> None:
        structlog.contextvars.bind_contextvars(attempt=lease.attempt)
        log.info("task started", doc_id=lease.task.document_id)
        report = await self._desk.board.begin(
            lease.task.task_id,
            doc_id=lease.task.document_id,
            attempt=lease.attempt,
            worker=lease.worker,
        )
        lease.report = report
        outcome = self._verdict_beforehand(lease) or await self._run(lease, report)
        await self._desk.board.flush()  # so that what happened is told before how it ended
        await Settlement(lease, self._desk.forget_key).settle(outcome)

    def _verdict_beforehand(self, lease: Lease) -> Outcome | None:
        """Judge what is not to be run at all."""
        if lease.worn_out:
            return Dead(WorkerCrashed())
        return Released("given up") if self._given_up.is_set() else None

    async def _run(self, lease: Lease, report: TaskReport) -> Outcome:
        """Run the task until it ends, or something else ends it."""
        running = asyncio.create_task(self._attempt(lease, report))
        endings: dict[asyncio.Task[Any], Outcome] = {
            asyncio.create_task(lease.lost.wait()): Lost(),
            asyncio.create_task(lease.cancelled.wait()): Cancelled(),
            asyncio.create_task(self._given_up.wait()): Released("shutdown"),
        }
        try:
            await asyncio.wait({running, *endings}, return_when=asyncio.FIRST_COMPLETED)
            if running.done():
                return await running
            return next(outcome for ending, outcome in endings.items() if ending.done())
        finally:
            await end(running, *endings)

    async def _attempt(self, lease: Lease, report: TaskReport) -> Outcome:
        """Run the pipeline, and judge how it ended."""
        try:
            receipt = await self._desk.run(lease.task, lease.attempt, self.slot, report)
        except ServiceCredentialsRejected as error:
            self._desk.rest(error)
            return Released(error.message)
        except StorageFull as error:  # this machine's trouble: let others have the tasks
            self._desk.rest(error)
            return Retry(error)
        except ProcessorError as error:
            return judge(error)
        except Exception as error:  # noqa: BLE001 - a bug costs an attempt, not the daemon
            log_bug("unexpected failure", error)
            return Retry(InternalError(f"Unexpected {type(error).__name__}: see the log."))
        return Done(receipt.chunks)
