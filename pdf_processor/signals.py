"""What SIGTERM and SIGINT mean: once, stop in good order; twice, stop now."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Iterator
from contextlib import contextmanager

import structlog

log = structlog.get_logger()

STOPPING = (signal.SIGTERM, signal.SIGINT)


@contextmanager
def stop_on_signals() -> Iterator[asyncio.Event]:
    """Yield an event that the first signal sets; the second cancels the current task."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    main = asyncio.current_task()
    assert main is not None  # noqa: S101 - for mypy: a coroutine runs in a task

    def on_signal(number: signal.Signals) -> None:
        if stop.is_set():
            log.warning("stopping now", signal=number.name)
            main.cancel()
        else:
            log.info("stopping", signal=number.name)
            stop.set()

    for number in STOPPING:
        loop.add_signal_handler(number, on_signal, number)
    try:
        yield stop
    finally:
        for number in STOPPING:
            loop.remove_signal_handler(number)
