"""Texts to vectors: batches that fill as chunks come, several under way, in order."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from typing import Generic, TypeVar

from pdf_processor.document import Chunk, EmbeddedChunk
from pdf_processor.embedding.embedder import BatchLimits, Embedder, Vector

T = TypeVar("T")


async def embed_chunks(
    chunks: AsyncIterator[Chunk], embedder: Embedder, *, max_in_flight: int = 4
) -> AsyncGenerator[EmbeddedChunk]:
    """Yield each chunk with its vector, in the chunks' order.

    The first chunk goes out at once, and so does whatever waits when no call is under
    way; else a batch is filled up to the embedder's limits. At most one batch is read
    ahead of `max_in_flight` calls, so a slow consumer slows the source down. Close the
    generator (`aclosing`), and the source, when leaving early: every call is cancelled
    then, and nothing goes on.

    Raises:
        ProcessorError: whatever the embedder or the source raised, as it is and at once.
    """
    stream = _Stream(chunks, embedder, max_in_flight)
    try:
        while True:
            finished = stream.take_finished()
            stream.send()
            for embedded in finished:
                yield embedded
            if stream.exhausted:
                return
            if not finished:
                await stream.change()
    finally:
        await stream.stop()


async def embed_texts(texts: Sequence[str], embedder: Embedder) -> list[Vector]:
    """Return one vector for each text, in as many calls as the embedder's limits ask for.

    Raises:
        ProcessorError: as `Embedder.embed` does.
    """
    vectors: list[Vector] = []
    batch = _Batch[str](embedder.limits)
    for text in texts:
        tokens = embedder.count_tokens(text)
        if not batch.fits(tokens):
            vectors += await embedder.embed(batch.items)
            batch = _Batch[str](embedder.limits)
        batch.add(text, tokens)
    return vectors + await embedder.embed(batch.items)


class _Batch(Generic[T]):
    """What goes into one provider call."""

    def __init__(self, limits: BatchLimits) -> None:
        self.items: list[T] = []
        self._limits = limits
        self._tokens = 0

    @property
    def has_room(self) -> bool:
        return len(self.items) < self._limits.max_texts and self._tokens < self._limits.max_tokens

    def fits(self, tokens: int) -> bool:
        """Whether a text of so many tokens may come along; into an empty batch always."""
        within = self._tokens + tokens <= self._limits.max_tokens
        return not self.items or (self.has_room and within)

    def add(self, item: T, tokens: int) -> None:
        self.items.append(item)
        self._tokens += tokens


class _Stream:
    """A batch that fills, and those under way.

    Duties: read chunks into the filling batch; send it; hand back what came of the oldest;
    stop everything. Each step is decided on the state alone; `change` waits for the next.
    """

    def __init__(
        self, chunks: AsyncIterator[Chunk], embedder: Embedder, max_in_flight: int
    ) -> None:
        self._embedder = embedder
        self._max_in_flight = max_in_flight
        self._filling = _Batch[Chunk](embedder.limits)
        self._full = False
        self._in_flight: deque[tuple[list[Chunk], asyncio.Task[list[Vector]]]] = deque()
        self._changed = asyncio.Event()
        self._room = asyncio.Event()
        self._reader = asyncio.create_task(self._read(chunks))
        self._reader.add_done_callback(self._note_change)

    async def _read(self, chunks: AsyncIterator[Chunk]) -> None:
        async for chunk in chunks:
            while not self._filling.fits(chunk.token_count):
                await self._make_room()
            self._filling.add(chunk, chunk.token_count)
            self._changed.set()
            if not self._filling.has_room:
                await self._make_room()

    async def _make_room(self) -> None:
        self._full = True
        self._changed.set()
        self._room.clear()
        await self._room.wait()

    def take_finished(self) -> list[EmbeddedChunk]:
        """Return what came of the oldest batch, if it is back; raise if any part failed."""
        for task in (self._reader, *(task for _, task in self._in_flight)):
            if task.done():
                task.result()
        if not self._in_flight or not self._in_flight[0][1].done():
            return []
        chunks, task = self._in_flight.popleft()
        return [EmbeddedChunk(*pair) for pair in zip(chunks, task.result(), strict=True)]

    def send(self) -> None:
        """Send the filling batch if it is time and there is a free slot."""
        due = self._full or self._reader.done() or not self._in_flight
        if not self._filling.items or not due or len(self._in_flight) >= self._max_in_flight:
            return
        chunks = self._filling.items
        task = asyncio.create_task(self._embedder.embed([chunk.content for chunk in chunks]))
        task.add_done_callback(self._note_change)
        self._in_flight.append((chunks, task))
        self._filling = _Batch[Chunk](self._embedder.limits)
        self._full = False
        self._room.set()

    @property
    def exhausted(self) -> bool:
        """Whether every chunk was read, sent and handed back."""
        return self._reader.done() and not self._filling.items and not self._in_flight

    async def change(self) -> None:
        """Wait until a chunk was read or a call came back."""
        await self._changed.wait()
        self._changed.clear()

    def _note_change(self, _task: object) -> None:
        self._changed.set()

    async def stop(self) -> None:
        """Cancel whatever is under way, and wait until it has ended."""
        tasks = (self._reader, *(task for _, task in self._in_flight))
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
