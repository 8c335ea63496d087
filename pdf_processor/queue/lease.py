"""The right to work on one task."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import structlog

from pdf_processor.errors import ProcessorError
from pdf_processor.queue import protocol
from pdf_processor.queue.connection import Scripts
from pdf_processor.queue.dead_letter import DeadLetter
from pdf_processor.queue.protocol import QueueKeys
from pdf_processor.task import Task
from pdf_processor.task_state import State

log = structlog.get_logger()

LONGEST_WISH_SECONDS = 3600
"""A peer that asks for more patience than this is not believed."""


@dataclass(frozen=True, slots=True)
class Terms:
    """What every lease of a queue has in common."""

    max_attempts: int
    retry_base_seconds: float
    retry_max_seconds: float
    done_ttl_seconds: int


@dataclass(frozen=True, slots=True)
class Retried:
    """The task waits for its next attempt."""

    in_seconds: float


class Report(Protocol):
    """Says how a delivery ends."""

    def ending(self, state: State, error: ProcessorError | None = None) -> bytes:
        """Return the status that the script which settles the lease is to write."""


class Lease:
    """The right to work on a task, ended exactly once.

    1. ends with `ack`, `retry`, `dead_letter` or `release`; each waits out an outage of
       Redis, and may be repeated: a lost reply never turns success into loss;
    2. says when the right is lost: `lost` is set when this worker was taken for dead, and
       what ends a lost lease writes nothing.

    What to do with the running task is the worker's affair.
    """

    def __init__(
        self,
        scripts: Scripts,
        keys: QueueKeys,
        terms: Terms,
        *,
        task: Task,
        payload: bytes,
        worker: str,
        nonce: str,
        started: int,
        failed: int,
    ) -> None:
        self.task = task
        self.attempt = started
        self.worker = worker
        self.report: Report | None = None
        """Where it is said how the lease ends."""
        self.lost = asyncio.Event()
        self.cancelled = asyncio.Event()
        self._ended = False
        self._crashed = started - 1 - failed
        self._failed = failed
        self._payload = payload
        self._nonce = nonce
        self._scripts = scripts
        self._keys = keys
        self._terms = terms

    @property
    def worn_out(self) -> bool:
        """The task took its whole worker down as often as it may, and at least twice."""
        return self._crashed >= max(2, self._terms.max_attempts)

    @property
    def last(self) -> bool:
        """One more failure, and the task is dead."""
        return self._failed + 1 >= self._terms.max_attempts

    async def ack(self) -> bool:
        """The task is done. False: the lease was lost, nothing was written."""
        keys = [self._keys.done(self.task.task_id), self._keys.cancel(self.task.task_id)]
        args = [self._terms.done_ttl_seconds, self._ending(State.SUCCEEDED)]
        return await self._settle(protocol.ACK, keys, args) > 0

    async def retry(self, error: ProcessorError) -> Retried | None:
        """The attempt failed, and was not the `last`. None: the lease was lost."""
        seconds = self._delay(error)
        args = [round(seconds * 1000), self._ending(State.RETRYING, error)]
        answer = await self._settle(protocol.RETRY, [self._keys.delayed], args)
        return Retried(seconds) if answer else None

    async def dead_letter(self, error: ProcessorError) -> bool:
        """The task failed for good. False: the lease was lost, nothing was written."""
        attempts = self.attempt - 1 if self.worn_out else self.attempt
        letter = DeadLetter.of_task(self._payload, error, attempts=attempts, worker=self.worker)
        keys = [self._keys.dead, self._keys.cancel(self.task.task_id)]
        args = [letter.to_json(), protocol.LETTERS_KEPT, self._ending(State.DEAD, error)]
        answer = await self._settle(protocol.DEAD, keys, args)
        warn_of_dropped_letters(answer - 1, "dead")
        return answer > 0

    async def drop(self) -> bool:
        """The task was cancelled: it is in no list any more. False: the lease was lost."""
        keys = [self._keys.cancel(self.task.task_id)]
        return await self._settle(protocol.DROP, keys, [self._ending(State.CANCELLED)]) > 0

    async def release(self) -> bool:
        """Give the task back, uncounted, to the head of the queue. False: the lease was lost."""
        args = [self._ending(State.QUEUED)]
        return await self._settle(protocol.RELEASE, [self._keys.waiting], args) > 0

    def _ending(self, state: State, error: ProcessorError | None = None) -> bytes:
        return self.report.ending(state, error) if self.report else b""

    async def _settle(self, script: str, keys: Sequence[str], args: Sequence[Any]) -> int:
        if self.lost.is_set():
            return 0
        answer: int = await self._scripts.until_answered(
            script,
            [
                self._keys.taken(self.worker),
                self._keys.running,
                self._keys.attempts,
                self._keys.settled(self._nonce),
                *keys,
                self._keys.status(self.task.task_id),
            ],
            [
                self._payload,
                self.task.task_id,
                f"{self._nonce} {self.worker}",
                protocol.REMEMBER_SECONDS,
                *args,
            ],
        )
        if answer == 0:
            self.lose()
        self._ended = True
        return answer

    def lose(self) -> None:
        """Take note that the right is lost, unless it was used."""
        if not self._ended and not self.lost.is_set():
            log.warning("lease lost", task_id=self.task.task_id, attempt=self.attempt)
            self.lost.set()

    def _delay(self, error: ProcessorError) -> float:
        """`base · 2ⁿ` up to the maximum, jittered; not before the time a peer asked for."""
        base, longest = self._terms.retry_base_seconds, self._terms.retry_max_seconds
        seconds = min(longest, base * 2.0 ** min(self._failed, 64))
        wished = min(error.retry_after_seconds or 0.0, LONGEST_WISH_SECONDS)
        return max(seconds * random.uniform(0.5, 1.5), wished)  # noqa: S311 - jitter


def warn_of_dropped_letters(dropped: int, letters: str) -> None:
    """Say that a list of letters is full, so that old ones had to go."""
    if dropped > 0:
        log.warning("old letters were dropped", letters=letters, dropped=dropped)
