"""A place in work: at most `MAX_CONCURRENT_TASKS` documents hold one."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Self


class Slot:
    """One task's claim on the semaphore of places.

    Made holding its place, unless told otherwise. `lent()` gives the place away while the
    task only waits (for its key); leaving the context queues for a place again. `close()`
    gives it back for good.
    """

    def __init__(self, places: asyncio.Semaphore, *, held: bool = True) -> None:
        self._places = places
        self.held = held

    @classmethod
    async def acquire(cls, places: asyncio.Semaphore) -> Self:
        """Wait for a place."""
        await places.acquire()
        return cls(places)

    @asynccontextmanager
    async def lent(self) -> AsyncIterator[None]:
        """Let others have the place meanwhile; no place is held if the body raises."""
        self.close()
        yield
        await self._places.acquire()
        self.held = True

    def close(self) -> None:
        """Give the place back; again is harmless."""
        if self.held:
            self.held = False
            self._places.release()
