"""Takes tasks, runs them, judges how they ended, and settles their leases."""

from __future__ import annotations

import asyncio
import traceback
from collections.abc import Awaitable, Callable, Coroutine, Iterable
from typing import Any

import structlog

from pdf_processor.errors import (
    InternalError,
    InvalidTask,
    ProcessorError,
    ServiceCredentialsRejected,
    WorkerCrashed,
)
from pdf_processor.ingest import Receipt
from pdf_processor.outcome import Cancelled, Dead, Done, Lost, Outcome, Released, Retry, judge
from pdf_processor.slot import Slot
from pdf_processor.task import Task
from pdf_processor.task_queue import Exhausted, Lease, NotStarted, Retried, TaskQueue
from pdf_processor.task_status import State, StatusBoard, TaskReport

log = structlog.get_logger()

MAX_WAITING_FOR_KEYS = 1000
"""Tasks that may be held without a place in work, while they wait for their keys."""

CREDENTIALS_PAUSE_SECONDS = 30.0
"""How long intake rests after the service's own credentials were refused."""

Run = Callable[[Task, int, Slot, TaskReport], Awaitable[Receipt]]
Forget = Callable[[str], Awaitable[None]]


class Worker:
    """One process's share of the queue.

    Duties: take a task whenever a place in work is free; run it; judge how it ended; settle
    its lease; when stopped, take no more, let what runs go on up to the grace, and release
    the rest. Leaves the work itself to `run`, the lease's life to the recoverer.
    """

    def __init__(
        self,
        *,
        queue: TaskQueue,
        board: StatusBoard,
        run: Run,
        forget_key: Forget,
        max_concurrent_tasks: int,
        grace_seconds: float,
        credentials_pause_seconds: float = CREDENTIALS_PAUSE_SECONDS,
    ) -> None:
        self._queue = queue
        self._board = board
        self._run_pipeline = run
        self._forget_key = forget_key
        self._grace_seconds = grace_seconds
        self._credentials_pause_seconds = credentials_pause_seconds
        self._places = asyncio.Semaphore(max_concurrent_tasks)
        self._holdable = asyncio.Semaphore(max_concurrent_tasks + MAX_WAITING_FOR_KEYS)
        self._held: dict[asyncio.Task[None], _Held] = {}
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
            await _end(*self._held)

    # ------------------------------------------------------------------------- intake

    async def _room(self) -> bool:
        """Wait until a place in work is free, and not too many tasks are held."""
        await self._rested.wait()
        async with self._holdable, self._places:
            return True

    async def _take_one(self) -> None:
        payload = await self._queue.take()
        if payload is None:
            return
        await self._holdable.acquire()
        held = _Held()
        job = asyncio.create_task(self._work(payload, held))
        self._held[job] = held
        job.add_done_callback(self._put_down)

    def _put_down(self, job: asyncio.Task[None]) -> None:
        del self._held[job]
        self._holdable.release()
        if not job.cancelled() and (error := job.exception()):
            _log_bug("task left to the recoverer", error)

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

    # ------------------------------------------------------------------ one task's life

    async def _work(self, payload: bytes, held: _Held) -> None:
        try:
            task = Task.parse(payload)
        except InvalidTask as error:
            log.warning("payload rejected", error_code=error.code, error=error.message)
            await self._queue.reject(payload, error)
            return
        lease = await self._queue.start(payload, task)
        if isinstance(lease, NotStarted):
            await self._pass_over(task, lease)
            return
        structlog.contextvars.bind_contextvars(task_id=task.task_id, attempt=lease.attempt)
        log.info("task started", doc_id=task.document_id)
        report = await self._board.begin(
            task.task_id, doc_id=task.document_id, attempt=lease.attempt, worker=lease.worker
        )
        outcome = await self._outcome(lease, held, report)
        await self._settle(lease, report, outcome)

    async def _pass_over(self, task: Task, reason: NotStarted) -> None:
        log.info("task not started", task_id=task.task_id, reason=str(reason))
        if reason is NotStarted.CANCELLED:
            await self._board.cancelled(task.task_id)
            await self._forget_key(task.task_id)

    async def _outcome(self, lease: Lease, held: _Held, report: TaskReport) -> Outcome:
        """Run the task until it ends, or something else ends it."""
        if lease.worn_out:
            return Dead(WorkerCrashed())
        running = asyncio.create_task(self._run(lease, held, report))
        endings: dict[asyncio.Task[Any], Outcome] = {
            asyncio.create_task(lease.lost.wait()): Lost(),
            asyncio.create_task(lease.cancelled.wait()): Cancelled(),
            asyncio.create_task(held.given_up.wait()): Released("shutdown"),
        }
        try:
            await asyncio.wait({running, *endings}, return_when=asyncio.FIRST_COMPLETED)
            if running.done():
                return await running
            return next(outcome for ending, outcome in endings.items() if ending.done())
        finally:
            await _end(running, *endings)

    async def _run(self, lease: Lease, held: _Held, report: TaskReport) -> Outcome:
        """Run the task in a place of work, and judge how it ended."""
        held.slot = slot = await Slot.acquire(self._places)
        try:
            receipt = await self._run_pipeline(lease.task, lease.attempt, slot, report)
        except ServiceCredentialsRejected as error:
            self._rest(error)
            return Released(error.message)
        except ProcessorError as error:
            return judge(error)
        except Exception as error:  # noqa: BLE001 - a bug costs an attempt, not the daemon
            _log_bug("unexpected failure", error)
            return Retry(InternalError(f"Unexpected {type(error).__name__}: see the log."))
        finally:
            slot.close()
        return Done(receipt.chunks)

    # ----------------------------------------------------------------------- settling

    async def _settle(self, lease: Lease, report: TaskReport, outcome: Outcome) -> None:
        """End the lease; say so only if it still stood."""
        match outcome:
            case Done(chunks):
                if await lease.ack():
                    log.info("task succeeded", chunks=chunks)
                    await self._ended(lease, report, State.SUCCEEDED)
            case Retry(error):
                await self._retry(lease, report, error)
            case Dead(error):
                if await lease.dead_letter(error):
                    await self._died(lease, report, error)
            case Released(reason):
                if await lease.release():
                    log.info("task released", reason=reason)
                    await report.settled(State.QUEUED)
            case Cancelled():
                if await lease.drop():
                    log.info("task cancelled")
                    await self._ended(lease, report, State.CANCELLED)
            case Lost():
                pass

    async def _retry(self, lease: Lease, report: TaskReport, error: ProcessorError) -> None:
        match await lease.retry(error):
            case Retried(seconds):
                log.warning(
                    "task failed, will retry",
                    error_code=error.code,
                    error=error.message,
                    in_seconds=round(seconds, 1),
                )
                await report.settled(State.RETRYING, error)
            case Exhausted():
                await self._died(lease, report, error)

    async def _died(self, lease: Lease, report: TaskReport, error: ProcessorError) -> None:
        log.error("task died", error_code=error.code, error=error.message)
        await self._ended(lease, report, State.DEAD, error)

    async def _ended(
        self, lease: Lease, report: TaskReport, state: State, error: ProcessorError | None = None
    ) -> None:
        await report.settled(state, error)
        await self._forget_key(lease.task.task_id)

    # ----------------------------------------------------------------------- stopping

    async def _drain(self) -> None:
        """Let what is in work go on up to the grace; release what waits, and then the rest."""
        log.info("draining", tasks=len(self._held), grace_seconds=self._grace_seconds)
        self._give_up(held for held in self._held.values() if held.waits)
        if self._held:
            await asyncio.wait(set(self._held), timeout=self._grace_seconds)
        self._give_up(self._held.values())
        if self._held:
            await asyncio.wait(set(self._held))

    def _give_up(self, tasks: Iterable[_Held]) -> None:
        for held in tasks:
            held.given_up.set()


class _Held:
    """A task in this worker's hands: its place in work, and the wish to give it up."""

    def __init__(self) -> None:
        self.slot: Slot | None = None
        self.given_up = asyncio.Event()

    @property
    def waits(self) -> bool:
        """It is not in work: it waits for a place, or for its key."""
        return self.slot is None or not self.slot.held


async def _unless(stop: asyncio.Event, step: Coroutine[Any, Any, bool]) -> bool:
    """Do a step, or give it up when `stop` is set; False: it was not done."""
    doing = asyncio.create_task(step)
    stopping = asyncio.create_task(stop.wait())
    await asyncio.wait({doing, stopping}, return_when=asyncio.FIRST_COMPLETED)
    await _end(doing, stopping)
    return not doing.cancelled() and doing.result()


def _log_bug(event: str, error: BaseException) -> None:
    """Log where it happened. Not what it said: a foreign exception's text may hold a key."""
    where = "".join(traceback.format_tb(error.__traceback__))
    log.error(event, kind=type(error).__name__, where=where)


async def _end(*tasks: asyncio.Task[Any]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
