"""How asyncio tasks are ended for sure."""

from __future__ import annotations

import asyncio
from typing import Any

CANCEL_AGAIN_SECONDS = 0.5


async def end(*jobs: asyncio.Task[Any]) -> None:
    """Cancel what still runs, and wait until it has ended.

    Cancelled again until it works: `asyncio.wait_for` of Python 3.11, under every command
    of redis-py, now and then swallows a cancellation (cpython#86296).
    """
    while running := {job for job in jobs if not job.done()}:
        for job in running:
            job.cancel()
        await asyncio.wait(running, timeout=CANCEL_AGAIN_SECONDS)
    await asyncio.gather(*jobs, return_exceptions=True)
