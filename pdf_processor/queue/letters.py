"""The two lists of what failed for good: dead tasks, and payloads that were no task."""

from __future__ import annotations

from typing import Any, cast

from redis.asyncio import Redis

from pdf_processor.queue import protocol
from pdf_processor.queue.connection import Scripts, translated
from pdf_processor.queue.dead_letter import DeadLetter
from pdf_processor.queue.protocol import QueueKeys


class Letters:
    """Shows dead letters, sends them back to the queue, and forgets them.

    Writing them is left to the lease. Every method raises `QueueUnavailable` when Redis
    cannot be used.
    """

    def __init__(self, redis: Redis, scripts: Scripts, keys: QueueKeys) -> None:
        self._redis = redis
        self._scripts = scripts
        self._keys = keys

    async def newest(self, limit: int, *, invalid: bool) -> list[DeadLetter]:
        """Return dead letters, newest first; or those of payloads that were no task."""
        entries = await self._entries(self._keys.invalid if invalid else self._keys.dead, limit)
        return [DeadLetter.from_json(entry) for entry in entries]

    async def retry(self, task_id: str) -> bool:
        """Send the newest letter of a task back to the queue. False: there is none."""
        for entry in await self._of_task(task_id):
            keys = [self._keys.dead, self._keys.waiting, self._keys.attempts]
            marks = [self._keys.done(task_id), self._keys.cancel(task_id)]
            args: list[Any] = [entry, DeadLetter.from_json(entry).payload, task_id]
            if await self._scripts.once(protocol.REVIVE, [*keys, *marks], args):
                return True
        return False

    async def drop(self, task_id: str) -> bool:
        """Forget all letters of a task. False: there is none."""
        dropped = 0
        for entry in await self._of_task(task_id):
            with translated():
                dropped += await self._redis.lrem(self._keys.dead, 1, entry)  # type: ignore[arg-type]
        return dropped > 0

    async def _of_task(self, task_id: str) -> list[bytes]:
        entries = await self._entries(self._keys.dead, protocol.LETTERS_KEPT)
        return [entry for entry in entries if DeadLetter.from_json(entry).task_id == task_id]

    async def _entries(self, key: str, limit: int) -> list[bytes]:
        with translated():
            entries = await self._redis.lrange(key, 0, limit - 1)
        return cast("list[bytes]", entries)
