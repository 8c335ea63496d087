"""Writes how far tasks are, and shows it: to Go, to the command line, to the dashboard."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Iterable
from contextlib import suppress
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Literal, Self, Unpack, cast

import orjson
import structlog
from redis.asyncio import Redis
from redis.asyncio.client import PubSub

from pdf_processor.ending import end
from pdf_processor.errors import ProcessorError
from pdf_processor.outage import Outage
from pdf_processor.queue import protocol
from pdf_processor.queue.connection import QueueUnavailable, Scripts, translated
from pdf_processor.queue.protocol import QueueKeys
from pdf_processor.task_state import (
    HASH_FIELDS,
    Progress,
    State,
    TaskStatus,
    advanced,
    begun,
    entered,
)

__all__ = ["State", "StatusBoard", "TaskReport", "TaskStatus"]

log = structlog.get_logger()

WRITE_SECONDS = 0.2
"""At most five writes a second, each with whatever changed meanwhile."""

LAST_WRITE_SECONDS = 1.0
LOOK_SECONDS = 1.0
BATCH = 100

Mode = Literal["begin", "change", "queue", "cancel"]


@dataclass(slots=True)
class _Entry:
    """A status to be written; newer progress may replace it until it is `sent`."""

    mode: Mode
    status: TaskStatus
    sent: bool = False


class StatusBoard:
    """Where the status of every task stands.

    1. `begin` gives out the report of one delivery; what is reported there is written in
       the background, for all tasks together, at most five times a second;
    2. keeps every change of state, and the newest progress, until Redis takes it: status
       never fails or delays a task;
    3. lets nobody overwrite what is settled, or what another worker has begun;
    4. shows the status of a task: `read` once, `watch` until it is final.

    Reading needs no `async with`; reports are only written inside it.
    """

    def __init__(self, redis: Redis, *, name: str, ttl_seconds: int) -> None:
        self._redis = redis
        self._keys = QueueKeys(name)
        self._ttl_seconds = ttl_seconds
        self._outage = Outage("Redis, for status")
        self._scripts = Scripts(redis, self._outage)
        self._outbox: list[_Entry] = []
        self._wanted = asyncio.Event()

    async def __aenter__(self) -> Self:
        """Begin to write."""
        self._writer = asyncio.create_task(self._write_on(), name="status board")
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Write what is left, for at most a second."""
        await end(self._writer)
        with suppress(TimeoutError):
            await asyncio.wait_for(self._write(), LAST_WRITE_SECONDS)

    # ----------------------------------------------------------------------- writing

    async def begin(self, task_id: str, *, doc_id: str, attempt: int, worker: str) -> TaskReport:
        """Return the report of a new delivery. Written with its first state."""
        before = TaskStatus(task_id)
        if attempt > 1:
            with suppress(QueueUnavailable):
                before = await self.read(task_id)
        return TaskReport(self, begun(before, doc_id=doc_id, attempt=attempt, worker=worker))

    async def queued(self, task_id: str, *, doc_id: str) -> None:
        """Say that a task was submitted, unless somebody works on it already."""
        status = entered(TaskStatus(task_id, doc_id=doc_id), State.QUEUED)
        with suppress(QueueUnavailable):
            await self._send([_Entry("queue", status)])

    async def rejected(self, task_id: str, error: ProcessorError) -> None:
        """Say that what was pushed under this id is no task, unless another is in work."""
        status = entered(TaskStatus(task_id), State.DEAD, error)
        with suppress(QueueUnavailable):
            await self._send([_Entry("queue", status)])

    async def cancelled(self, task_id: str) -> None:
        """Say that a task was cancelled, unless somebody works on it or it has ended."""
        with suppress(QueueUnavailable):
            before = await self.read(task_id)
            await self._send([_Entry("cancel", entered(before, State.CANCELLED))])

    def ending(self, status: TaskStatus) -> bytes:
        """Return a status as the scripts that settle a lease take it; for reports."""
        return orjson.dumps(
            {
                "ttl": self._ttl_seconds,
                "channel": self._keys.events,
                "event": status.to_event().decode(),
                "fields": dict(zip(HASH_FIELDS, status.to_hash(), strict=True)),
            }
        )

    def put(self, mode: Mode, status: TaskStatus) -> _Entry:
        """Have a status written soon; for reports."""
        entry = _Entry(mode, status)
        self._outbox.append(entry)
        self._wanted.set()
        return entry

    async def _write_on(self) -> None:
        while True:
            await self._wanted.wait()
            self._wanted.clear()
            await asyncio.sleep(await self._write())

    async def flush(self) -> None:
        """Write at once what is in the outbox; what cannot be written now stays in it."""
        await self._write()

    async def _write(self) -> float:
        """Write what is in the outbox; return the seconds to pause."""
        batch, self._outbox = self._outbox, []
        try:
            while batch:
                await self._send(batch[:BATCH])
                del batch[:BATCH]
        except QueueUnavailable as error:
            self._wanted.set()
            return self._outage.failed("write", error)
        finally:
            self._outbox = _newest(batch) + self._outbox
        self._outage.passed("write")
        return WRITE_SECONDS

    async def _send(self, batch: list[_Entry]) -> None:
        args: list[Any] = [self._ttl_seconds, self._keys.events, orjson.dumps(HASH_FIELDS)]
        for entry in batch:
            entry.sent = True
            status = entry.status
            args += [entry.mode, status.worker, status.task_id]
            args += [status.to_event(), orjson.dumps(status.to_hash())]
        keys = [self._keys.status(entry.status.task_id) for entry in batch] + [self._keys.running]
        await self._scripts.once(protocol.WRITE_STATUS, keys, args)

    # ----------------------------------------------------------------------- reading

    async def read(self, task_id: str) -> TaskStatus:
        """Return the status of a task, `UNKNOWN` where nobody has reported any.

        Raises:
            QueueUnavailable: Redis cannot be used.
        """
        with translated():
            values = await self._redis.hgetall(self._keys.status(task_id))
        return TaskStatus.from_hash(task_id, cast("dict[bytes, bytes]", values))

    async def watch(self, task_id: str) -> AsyncGenerator[TaskStatus]:
        """Yield the status now, and every change; end after a final state.

        A task that nobody took yet is waited for. Outages of Redis are waited out.
        """
        last: TaskStatus | None = None
        async with self._redis.pubsub(ignore_subscribe_messages=True) as events:
            while last is None or not last.state.is_final:
                try:
                    with translated():
                        status = await self._next(events, task_id, last)
                except QueueUnavailable as error:
                    await asyncio.sleep(self._outage.failed("watch", error))
                    continue
                self._outage.passed("watch")
                if status != last:
                    last = status
                    yield status

    async def _next(self, events: PubSub, task_id: str, last: TaskStatus | None) -> TaskStatus:
        """Return what is heard within a second, or else seen: an event is only a hint."""
        if not events.subscribed:
            await events.subscribe(self._keys.events)
        heard = await self._hear(events, task_id, last.updated_at_ms) if last else None
        return heard or await self.read(task_id)

    async def _hear(self, events: PubSub, task_id: str, after_ms: int) -> TaskStatus | None:
        loop = asyncio.get_running_loop()
        deadline = loop.time() + LOOK_SECONDS
        while (left := deadline - loop.time()) > 0:
            message = await events.get_message(timeout=left)
            with suppress(ValueError):
                status = TaskStatus.from_event(message["data"]) if message else None
                if status and status.task_id == task_id and status.updated_at_ms > after_ms:
                    return status
        return None


class TaskReport:
    """What one delivery of a task says about itself. Every call returns at once.

    After `ending` nothing is reported any more, however late progress comes.
    """

    def __init__(self, board: StatusBoard, begin: TaskStatus) -> None:
        self._board = board
        self._begin = begin
        self._status = begin
        self._entry: _Entry | None = None
        self._settled = False

    async def state(self, state: State) -> None:
        """Say what happens now."""
        if not self._settled:
            self._enter(entered(self._status, state))

    def progress(self, **progress: Unpack[Progress]) -> None:
        """Say how far this attempt is: totals of the attempt, not increments."""
        if self._settled or self._entry is None:
            return
        self._status = advanced(self._begin, self._status, progress)
        if self._entry.sent:
            self._entry = self._board.put("change", self._status)
        else:
            self._entry.status = self._status

    def ending(self, state: State, error: ProcessorError | None = None) -> bytes:
        """Return how this delivery ends, for the script that settles its lease to write.

        A final state, `RETRYING`, or `QUEUED` if released. Written with the fact itself, it
        is never told too early, nor lost with the worker.
        """
        self._settled = True
        return self._board.ending(entered(self._status, state, error))

    def _enter(self, status: TaskStatus) -> None:
        mode: Mode = "begin" if self._entry is None else "change"
        self._status = status
        self._entry = self._board.put(mode, status)


def _newest(entries: Iterable[_Entry]) -> list[_Entry]:
    """Keep the newest status of each task, with leave to begin where an older one had it."""
    kept: dict[tuple[str, str], _Entry] = {}
    for entry in entries:
        whose = (entry.status.task_id, entry.status.worker)
        older = kept.pop(whose, entry)
        mode: Mode = "begin" if "begin" in {older.mode, entry.mode} else entry.mode
        kept[whose] = _Entry(mode, entry.status, sent=True)
    return list(kept.values())
