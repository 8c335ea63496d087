"""From a gRPC thread to the event loop and back."""

from __future__ import annotations

import asyncio
import queue
import threading
from collections.abc import AsyncGenerator, AsyncIterator, Coroutine, Iterator
from concurrent.futures import CancelledError, Future
from contextlib import contextmanager
from typing import Any, TypeVar

import grpc

from pdf_processor.rpc.answering import Refused

T = TypeVar("T")

WATCH_AHEAD = 16
"""How many values a watched iterator may be ahead of its slow reader."""


class Bridge:
    """Runs coroutines on the event loop for RPCs in threads.

    A coroutine is cancelled as soon as its RPC ends: by its answer, its deadline, its
    client or the server's stop.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop

    def wait(self, coroutine: Coroutine[Any, Any, T], context: grpc.ServicerContext) -> T:
        """Run a coroutine to its end and return what it returns.

        Raises:
            Refused: the RPC ended first, or the loop is closed.
            Exception: what the coroutine raised.
        """
        future = self._submit(coroutine, context)
        try:
            return future.result()
        except CancelledError:
            raise Refused(grpc.StatusCode.CANCELLED, "The call ended") from None

    def iterate(self, values: AsyncIterator[T], context: grpc.ServicerContext) -> Iterator[T]:
        """Yield what an asynchronous iterator yields; it runs in one task of the loop.

        Raises:
            Refused, Exception: as `wait`.
        """
        handed_over: queue.SimpleQueue[T | _End] = queue.SimpleQueue()
        room = asyncio.Semaphore(WATCH_AHEAD)
        pumping = self._submit(_pump(values, handed_over, room), context)
        pumping.add_done_callback(lambda _future: handed_over.put(_END))
        while not isinstance(value := handed_over.get(), _End):
            self._loop.call_soon_threadsafe(room.release)
            yield value
        try:
            pumping.result()
        except CancelledError:
            raise Refused(grpc.StatusCode.CANCELLED, "The call ended") from None

    def _submit(
        self, coroutine: Coroutine[Any, Any, T], context: grpc.ServicerContext
    ) -> Future[T]:
        try:
            future = asyncio.run_coroutine_threadsafe(coroutine, self._loop)
        except RuntimeError:  # the loop is closed
            coroutine.close()
            raise Refused(grpc.StatusCode.UNAVAILABLE, "The processor is stopping") from None
        if not context.add_callback(lambda: _cancel(future)):
            _cancel(future)
        return future


def _cancel(future: Future[Any]) -> None:
    future.cancel()


class _End:
    """Nothing more comes."""


_END = _End()


async def _pump(
    values: AsyncIterator[T],
    handed_over: queue.SimpleQueue[T | _End],
    room: asyncio.Semaphore,
) -> None:
    try:
        async for value in values:
            await room.acquire()
            handed_over.put(value)
    finally:
        if isinstance(values, AsyncGenerator):
            await values.aclose()


class LongCalls:
    """Limits how many threads of a server long calls may hold, so that short ones find one."""

    def __init__(self, *, limit: int) -> None:
        self._free = threading.Semaphore(limit)
        self._limit = limit

    @contextmanager
    def one(self) -> Iterator[None]:
        """Count as a long call while the body runs. Raises `Refused` where there are enough."""
        if not self._free.acquire(blocking=False):
            message = f"{self._limit} long calls are running already: try again"
            raise Refused(grpc.StatusCode.RESOURCE_EXHAUSTED, message)
        try:
            yield
        finally:
            self._free.release()
