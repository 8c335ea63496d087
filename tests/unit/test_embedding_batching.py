"""Chunks travel in batches that hold nobody back, in order, bounded, and stop cleanly."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing
from typing import Self

import pytest

from pdf_processor.document import Chunk, Kind
from pdf_processor.embedding.batching import embed_chunks, embed_texts
from pdf_processor.embedding.embedder import BatchLimits, Embedder, Vector
from pdf_processor.errors import EmbeddingAuth, ParserCrashed


def chunk(index: int, tokens: int = 1) -> Chunk:
    return Chunk(f"id-{index}", index, "", (), 1, 1, str(index), tokens, (), Kind.TEXT)


class Source:
    """Chunks as a parser makes them: `feed` puts in, `None` ends."""

    def __init__(self, *chunks: Chunk | Exception | None) -> None:
        self.queue: asyncio.Queue[Chunk | Exception | None] = asyncio.Queue()
        self.taken = 0
        self.closed = False
        self.feed(*chunks)

    def feed(self, *chunks: Chunk | Exception | None) -> None:
        for one in chunks:
            self.queue.put_nowait(one)

    async def __aiter__(self) -> AsyncIterator[Chunk]:
        try:
            while (one := await self.queue.get()) is not None:
                if isinstance(one, Exception):
                    raise one
                self.taken += 1
                yield one
        finally:
            self.closed = True


class Held:
    """An embedder whose calls wait until the test answers them."""

    provider = "held"
    model = "m"

    def __init__(self, *, max_texts: int = 3, max_tokens: int = 100) -> None:
        self.limits = BatchLimits(max_texts, max_tokens, max_tokens)
        self.calls: list[list[str]] = []
        self.answers: list[asyncio.Future[None]] = []
        self.cancelled = 0

    def count_tokens(self, text: str) -> int:
        return len(text)

    async def embed(self, texts: Sequence[str]) -> list[Vector]:
        self.calls.append(list(texts))
        self.answers.append(asyncio.get_running_loop().create_future())
        try:
            await self.answers[-1]
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        return [(float(text),) for text in texts]

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        pass

    def answer(self, call: int) -> None:
        self.answers[call].set_result(None)


class Prompt(Held):
    """An embedder that answers at once."""

    async def embed(self, texts: Sequence[str]) -> list[Vector]:
        self.calls.append(list(texts))
        return [(float(text),) for text in texts]


class Consumer:
    """Takes what comes out, in a task of its own."""

    def __init__(self, source: Source, embedder: Embedder, *, max_in_flight: int = 2) -> None:
        self.seen: list[int] = []
        self.stream = embed_chunks(aiter(source), embedder, max_in_flight=max_in_flight)
        self.task = asyncio.create_task(self._consume())

    async def _consume(self) -> None:
        async with aclosing(self.stream):
            async for embedded in self.stream:
                assert embedded.vector == (float(embedded.chunk.content),)
                self.seen.append(embedded.chunk.index)

    async def stop(self) -> None:
        self.task.cancel()
        await asyncio.gather(self.task, return_exceptions=True)


async def settle() -> None:
    """Let every task run until all of them wait."""
    for _ in range(30):
        await asyncio.sleep(0)


@pytest.fixture(autouse=True)
async def _no_task_is_left() -> AsyncIterator[None]:
    yield
    await settle()
    assert asyncio.all_tasks() == {asyncio.current_task()}


async def test_every_chunk_comes_back_in_order_with_its_vector() -> None:
    source = Source(*map(chunk, range(20)), None)
    consumer = Consumer(source, Prompt())
    await consumer.task
    assert consumer.seen == list(range(20))


async def test_nothing_in_nothing_out() -> None:
    consumer = Consumer(Source(None), Prompt())
    await consumer.task
    assert consumer.seen == []


async def test_the_first_chunk_goes_out_at_once() -> None:
    source, embedder = Source(chunk(0)), Held()
    consumer = Consumer(source, embedder)
    await settle()
    assert embedder.calls == [["0"]]
    await consumer.stop()


async def test_chunks_wait_for_a_full_batch_while_a_call_is_under_way() -> None:
    source, embedder = Source(chunk(0)), Held(max_texts=3)
    consumer = Consumer(source, embedder)
    await settle()
    source.feed(chunk(1), chunk(2))
    await settle()
    assert embedder.calls == [["0"]]
    source.feed(chunk(3))
    await settle()
    assert embedder.calls == [["0"], ["1", "2", "3"]]
    await consumer.stop()


async def test_what_waits_goes_out_when_no_call_is_under_way_any_longer() -> None:
    source, embedder = Source(chunk(0)), Held(max_texts=3)
    consumer = Consumer(source, embedder)
    await settle()
    source.feed(chunk(1))
    await settle()
    embedder.answer(0)
    await settle()
    assert consumer.seen == [0]
    assert embedder.calls == [["0"], ["1"]]
    await consumer.stop()


async def test_the_last_chunks_do_not_wait_for_a_full_batch() -> None:
    source, embedder = Source(chunk(0)), Held(max_texts=3)
    consumer = Consumer(source, embedder)
    await settle()
    source.feed(chunk(1), None)
    await settle()
    assert embedder.calls == [["0"], ["1"]]
    await consumer.stop()


async def test_a_batch_is_full_by_tokens_too() -> None:
    source = Source(chunk(0, 60), chunk(1, 40), chunk(2, 1), chunk(3, 300), chunk(4, 1), None)
    embedder = Prompt(max_texts=10, max_tokens=100)
    await Consumer(source, embedder).task
    assert embedder.calls == [["0", "1"], ["2"], ["3"], ["4"]]


async def test_answers_out_of_order_come_out_in_order() -> None:
    source, embedder = Source(*map(chunk, range(6)), None), Held(max_texts=3)
    consumer = Consumer(source, embedder)
    await settle()
    embedder.answer(1)
    await settle()
    assert consumer.seen == []
    embedder.answer(0)
    await consumer.task
    assert consumer.seen == [0, 1, 2, 3, 4, 5]


async def test_calls_under_way_and_chunks_read_ahead_are_bounded() -> None:
    source, embedder = Source(*map(chunk, range(100))), Held(max_texts=3)
    consumer = Consumer(source, embedder, max_in_flight=2)
    await settle()
    assert len(embedder.calls) == 2
    assert source.taken <= 2 * 3 + 3 + 1
    await consumer.stop()


async def test_a_consumer_that_stops_taking_stops_the_source() -> None:
    source, embedder = Source(*map(chunk, range(100)), None), Prompt(max_texts=3)
    async with aclosing(embed_chunks(aiter(source), embedder, max_in_flight=2)) as stream:
        await anext(stream)
        await settle()
        assert source.taken <= 4 * 3 + 1
        assert [embedded.chunk.index async for embedded in stream] == list(range(1, 100))


async def test_a_failed_call_is_raised_as_it_is_and_cancels_the_others() -> None:
    source, embedder = Source(*map(chunk, range(100))), Held(max_texts=3)
    consumer = Consumer(source, embedder, max_in_flight=2)
    await settle()
    failure = EmbeddingAuth("no")
    embedder.answers[1].set_exception(failure)
    with pytest.raises(EmbeddingAuth) as caught:
        await consumer.task
    assert caught.value is failure
    assert embedder.cancelled == 1


async def test_a_failed_source_is_raised_as_it_is_and_cancels_the_calls() -> None:
    source, embedder = Source(chunk(0)), Held()
    consumer = Consumer(source, embedder)
    await settle()
    source.feed(ParserCrashed())
    with pytest.raises(ParserCrashed):
        await consumer.task
    assert embedder.cancelled == 1


async def test_cancelling_the_consumer_cancels_the_calls_and_the_source() -> None:
    source, embedder = Source(chunk(0)), Held()
    consumer = Consumer(source, embedder)
    await settle()
    await consumer.stop()
    assert embedder.cancelled == 1
    assert source.closed


async def test_leaving_early_cancels_the_calls() -> None:
    source, embedder = Source(*map(chunk, range(6))), Held(max_texts=3)
    stream = embed_chunks(aiter(source), embedder)
    first = asyncio.create_task(anext(stream))
    await settle()
    embedder.answer(0)
    await first
    await stream.aclose()
    assert embedder.cancelled == 1


async def test_any_number_of_texts_is_split_by_the_limits() -> None:
    embedder = Prompt(max_texts=3, max_tokens=5)
    texts = ["1", "2", "3", "4", "55", "666"]
    assert await embed_texts(texts, embedder) == [(float(text),) for text in texts]
    assert embedder.calls == [["1", "2", "3"], ["4", "55"], ["666"]]
