"""The task queue in Redis: a task that was pushed is done, dead, or still there."""

from __future__ import annotations

import asyncio
import secrets
import socket
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from enum import StrEnum
from typing import cast
from weakref import WeakSet

import structlog
from redis.asyncio import Redis

from pdf_processor.errors import InvalidTask
from pdf_processor.outage import Outage
from pdf_processor.queue import protocol
from pdf_processor.queue.connection import (
    BLOCK_SECONDS,
    QueueUnavailable,
    Scripts,
    translated,
)
from pdf_processor.queue.dead_letter import DeadLetter
from pdf_processor.queue.lease import Lease, Retried, Terms, warn_of_dropped_letters
from pdf_processor.queue.letters import Letters
from pdf_processor.queue.lost_workers import LostWorkers
from pdf_processor.queue.protocol import QueueKeys
from pdf_processor.task import Task

__all__ = [
    "CancelAnswer",
    "Lease",
    "NotStarted",
    "QueueCounts",
    "QueueUnavailable",
    "Retried",
    "TaskQueue",
]

log = structlog.get_logger()

FORWARD_BATCH = 500
CANCEL_SECONDS = 86_400


class CancelAnswer(StrEnum):
    """What a wish to cancel will do."""

    RUNS = "runs"
    """Its lease will hear of it."""
    WAITS = "waits"
    """It will not start."""
    ENDED = "ended"
    """Nothing: it is over."""


class NotStarted(StrEnum):
    """Why there is nothing to do for a task that was taken; all that has been dealt with."""

    DONE = "done"
    """It succeeded lately."""
    RUNNING = "running"
    """A live worker has it."""
    PARKED = "parked"
    """A live worker has it, and this copy is forced: it comes back when that has ended."""
    CANCELLED = "cancelled"
    LOST = "lost"
    """It went to another worker."""


@dataclass(frozen=True, slots=True)
class QueueCounts:
    """How many tasks, and how many workers whose lease stands."""

    waiting: int
    in_flight: int
    delayed: int
    dead: int
    invalid: int
    workers: int


def new_worker_id(pod_name: str = "") -> str:
    """Return an id for this boot: `<POD_NAME or host>:<start time, ms>:<nonce>`."""
    start_ms = time.time_ns() // 1_000_000
    return f"{pod_name or socket.gethostname()}:{start_ms}:{secrets.token_hex(4)}"


class TaskQueue:
    """The queue as one worker sees it, and as the command line does.

    1. keeps this worker's own lease: `register`, `heartbeat`, `unregister`;
    2. takes tasks, and starts each under a `Lease` or deals with it otherwise;
    3. brings back what is due, and what dead workers held;
    4. counts, and looks after the dead letters.

    When to do which is left to the worker and the recoverer. `worker` comes from
    `new_worker_id`; where `pod_name` is set, an older boot of the same pod is known to be
    dead, so two processes that take tasks in one pod need names of their own.

    `take` waits while Redis is away. `start` and `reject` do too, and raise
    `QueueUnavailable` when Redis refuses for a reason that does not pass by itself; every
    other method raises it at once.
    """

    def __init__(
        self,
        redis: Redis,
        blocking: Redis,
        *,
        name: str,
        worker: str,
        lease_seconds: float,
        max_attempts: int,
        retry_base_seconds: float,
        retry_max_seconds: float,
        done_ttl_seconds: int,
        pod_name: str = "",
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.keys = QueueKeys(name)
        self.worker = worker
        self.outage = Outage("Redis")
        self._redis = redis
        self._blocking = blocking
        self._scripts = Scripts(redis, self.outage)
        self._lease_seconds = lease_seconds
        self._terms = Terms(max_attempts, retry_base_seconds, retry_max_seconds, done_ttl_seconds)
        self._clock = clock
        self._fresh_until = clock()
        self._renewed = asyncio.Event()
        self._leases: WeakSet[Lease] = WeakSet()
        self._letters = Letters(redis, self._scripts, self.keys)
        self._lost_workers = LostWorkers(
            redis,
            self._scripts,
            self.keys,
            lease_seconds=lease_seconds,
            pod_name=pod_name,
            clock=clock,
        )

    # ------------------------------------------------------- this worker's own lease

    async def register(self) -> None:
        """Begin this worker's lease; only then does `take` take anything."""
        now = self._clock()
        args = [self.worker, self._lease_ms]
        await self._scripts.once(protocol.REGISTER, [self.keys.workers], args)
        self._stands_since(now)

    async def heartbeat(self) -> bool:
        """Renew this worker's lease.

        False: it was taken for dead and its tasks have gone to others. All leases are lost
        now, and `register` begins anew under another id.
        """
        now = self._clock()
        args = [self.worker, self._lease_ms]
        if await self._scripts.once(protocol.HEARTBEAT, [self.keys.workers], args):
            self._stands_since(now)
            return True
        self._fresh_until = now
        self.worker = new_worker_id(self.worker.rsplit(":", 2)[0])
        for lease in self._leases:
            lease.lose()
        return False

    async def unregister(self) -> bool:
        """End this worker's lease. False: it still holds something; the lease must run out."""
        self._fresh_until = self._clock()
        keys = [self.keys.workers, self.keys.taken(self.worker)]
        return bool(await self._scripts.once(protocol.UNREGISTER, keys, [self.worker]))

    def _stands_since(self, now: float) -> None:
        self._fresh_until = now + self._lease_seconds
        self._renewed.set()

    @property
    def _lease_ms(self) -> int:
        return round(self._lease_seconds * 1000)

    # -------------------------------------------------------------------- deliveries

    async def take(self) -> bytes | None:
        """Take the next payload, or None after a second without one.

        Never cancel this: the move may have happened, and the payload would lie in this
        worker's list until the worker ends. Waits out an outage of Redis in steps of at
        most the same second.
        """
        if not await self._lease_stands():
            return None
        worker = self.worker
        try:
            with translated():
                payload = await cast(
                    "Awaitable[bytes | None]",
                    self._blocking.blmove(
                        self.keys.waiting, self.keys.taken(worker), BLOCK_SECONDS, "LEFT", "RIGHT"
                    ),
                )
        except QueueUnavailable as error:
            await asyncio.sleep(self.outage.failed("take", error))
            return None
        self.outage.passed("take")
        return payload if worker == self.worker else None

    async def _lease_stands(self) -> bool:
        if self._clock() >= self._fresh_until:
            self._renewed.clear()
            with suppress(TimeoutError):
                await asyncio.wait_for(self._renewed.wait(), BLOCK_SECONDS)
        return self._clock() < self._fresh_until

    async def start(self, payload: bytes, task: Task) -> Lease | NotStarted:
        """Begin to work on what was taken."""
        worker, nonce = self.worker, secrets.token_hex(8)
        outcome, started, failed = await self._ask_to_start(payload, task, worker, nonce)
        if outcome != b"started":
            return NotStarted(outcome.decode())
        lease = Lease(
            self._scripts,
            self.keys,
            self._terms,
            task=task,
            payload=payload,
            worker=worker,
            nonce=nonce,
            started=started,
            failed=failed,
        )
        self._leases.add(lease)
        if worker != self.worker:
            lease.lose()
        return lease

    async def _ask_to_start(
        self, payload: bytes, task: Task, worker: str, nonce: str
    ) -> tuple[bytes, int, int]:
        keys, task_id = self.keys, task.task_id
        answer: tuple[bytes, int, int] = await self._scripts.until_answered(
            protocol.START,
            [
                keys.taken(worker),
                keys.workers,
                keys.running,
                keys.attempts,
                keys.done(task_id),
                keys.cancel(task_id),
                keys.delayed,
                keys.settled(nonce),
            ],
            [
                payload,
                task_id,
                nonce,
                worker,
                int(task.force),
                self._lease_ms,
                protocol.REMEMBER_SECONDS,
            ],
        )
        return answer

    async def reject(self, payload: bytes, error: InvalidTask) -> None:
        """Put what was taken, and is no task, into the invalid list."""
        letter = DeadLetter.of_garbage(payload, error, worker=self.worker)
        settled = self.keys.settled(secrets.token_hex(8))
        answer = await self._scripts.until_answered(
            protocol.REJECT,
            [self.keys.taken(self.worker), self.keys.invalid, settled],
            [payload, letter.to_json(), protocol.LETTERS_KEPT, protocol.REMEMBER_SECONDS],
        )
        warn_of_dropped_letters(answer - 1, "invalid")

    # ----------------------------------------------------------------- bringing back

    async def forward_due(self) -> int:
        """Put the delayed tasks that are due back into the queue; return how many."""
        forwarded, keys = 0, [self.keys.delayed, self.keys.waiting]
        while True:
            moved: int = await self._scripts.once(protocol.FORWARD, keys, [FORWARD_BATCH])
            forwarded += moved
            if moved < FORWARD_BATCH:
                return forwarded

    async def recover(self) -> int:
        """Put back what workers held that are gone; return how many tasks."""
        return await self._lost_workers.put_back(self.worker)

    # ------------------------------------------------------------ for people and tools

    async def push(self, payload: bytes) -> None:
        """Push a task as Go does."""
        with translated():
            await self._redis.rpush(self.keys.waiting, payload)

    async def cancel(self, task_id: str) -> CancelAnswer:
        """Wish a task cancelled, within a day from now; what has ended stays as it is."""
        keys = [self.keys.running, self.keys.status(task_id), self.keys.cancel(task_id)]
        keys += [self.keys.delayed, self.keys.attempts]
        answer: bytes = await self._scripts.once(protocol.CANCEL, keys, [task_id, CANCEL_SECONDS])
        return CancelAnswer(answer.decode())

    async def look_for_cancelled(self) -> None:
        """Tell the leases of this worker whose tasks are wished cancelled."""
        leases = list(self._leases)
        if not leases:
            return
        with translated():
            keys = [self.keys.cancel(lease.task.task_id) for lease in leases]
            wishes = await self._redis.mget(keys)
        for lease, wish in zip(leases, wishes, strict=True):
            if wish is not None:
                lease.cancelled.set()

    async def counts(self) -> QueueCounts:
        """Count what is where."""
        now_ms, expiries = await self._lost_workers.workers()
        with translated():
            async with self._redis.pipeline(transaction=False) as pipeline:
                pipeline.llen(self.keys.waiting)
                pipeline.zcard(self.keys.delayed)
                pipeline.llen(self.keys.dead)
                pipeline.llen(self.keys.invalid)
                for worker in expiries:
                    pipeline.llen(self.keys.taken(worker))
                waiting, delayed, dead, invalid, *taken = await pipeline.execute()
        alive = sum(expiry_ms >= now_ms for expiry_ms in expiries.values())
        return QueueCounts(waiting, sum(taken), delayed, dead, invalid, alive)

    async def dead_letters(
        self, *, limit: int = protocol.LETTERS_KEPT, invalid: bool = False
    ) -> list[DeadLetter]:
        """Return dead letters, newest first; or those of payloads that were no task."""
        return await self._letters.newest(limit, invalid=invalid)

    async def retry_dead(self, task_id: str) -> bool:
        """Send a dead task back to the queue with all its attempts. False: it is not there."""
        return await self._letters.retry(task_id)

    async def drop_dead(self, task_id: str) -> bool:
        """Forget a dead task. False: it is not there."""
        return await self._letters.drop(task_id)
