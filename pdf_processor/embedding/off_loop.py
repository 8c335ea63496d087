"""Slow things that are made once, off the event loop."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")


class OffLoop(Generic[T]):
    """A value made in a thread when it is first asked for: an imported SDK, a loaded model.

    Importing an SDK takes up to a second, loading a model longer; the loop goes on. Who
    asks meanwhile gets the same value, also when the first who asked was cancelled. If
    making it fails, the next who asks tries again.
    """

    def __init__(self, make: Callable[[], T]) -> None:
        self._make = make
        self._making: asyncio.Task[T] | None = None

    async def get(self) -> T:
        """Return the value, making it if need be; raises what making it raises."""
        if self._making is None or _failed(self._making):
            self._making = asyncio.create_task(asyncio.to_thread(self._make))
            self._making.add_done_callback(_failed)
        return await asyncio.shield(self._making)

    @property
    def made(self) -> T | None:
        """The value, or None while there is none."""
        task = self._making
        return task.result() if task and task.done() and not _failed(task) else None


def _failed(task: asyncio.Task[T]) -> bool:
    """Whether it ended without a value. Looking at its error keeps asyncio from warning."""
    return task.done() and (task.cancelled() or task.exception() is not None)
