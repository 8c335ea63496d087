"""What an outcome means for the lease."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import structlog

from pdf_processor.errors import ProcessorError
from pdf_processor.outcome import Cancelled, Dead, Done, Outcome, Released, Retry
from pdf_processor.queue.task_queue import Lease

log = structlog.get_logger()


class Settlement:
    """Ends a lease by an outcome; what follows happens only if the lease still stood."""

    def __init__(self, lease: Lease, forget_key: Callable[[str], Awaitable[None]]) -> None:
        self._lease = lease
        self._forget_key = forget_key

    async def settle(self, outcome: Outcome) -> None:
        """End the lease; write nothing if it was lost."""
        if self._lease.lost.is_set():
            return
        match outcome:
            case Done(chunks):
                await self._done(chunks)
            case Retry(error) if not self._lease.last:
                await self._retry(error)
            case Retry(error) | Dead(error):
                await self._dead(error)
            case Released(reason):
                await self._release(reason)
            case Cancelled():
                await self._drop()

    async def _done(self, chunks: int) -> None:
        if await self._lease.ack():
            log.info("task succeeded", chunks=chunks)
            await self._forget()

    async def _retry(self, error: ProcessorError) -> None:
        if retried := await self._lease.retry(error):
            log.warning(
                "task failed, will retry",
                error_code=error.code,
                error=error.message,
                in_seconds=round(retried.in_seconds, 1),
            )

    async def _dead(self, error: ProcessorError) -> None:
        if await self._lease.dead_letter(error):
            log.error("task died", error_code=error.code, error=error.message)
            await self._forget()

    async def _release(self, reason: str) -> None:
        if await self._lease.release():
            log.info("task released", reason=reason)

    async def _drop(self) -> None:
        if await self._lease.drop():
            log.info("task cancelled")
            await self._forget()

    async def _forget(self) -> None:
        """Let go of the key: the task will not run again by itself."""
        await self._forget_key(self._lease.task.task_id)
