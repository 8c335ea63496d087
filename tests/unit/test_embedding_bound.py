"""An embedder retries what is temporary and lets only sound vectors through."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest
from pydantic import SecretStr

from pdf_processor.embedding.batching import embed_texts
from pdf_processor.embedding.bound import MAX_TRIES, BoundEmbedder
from pdf_processor.embedding.provider import Provider
from pdf_processor.errors import (
    EmbeddingAuth,
    EmbeddingInvalid,
    EmbeddingRateLimited,
    EmbeddingRejected,
    EmbeddingUnavailable,
    ProcessorError,
)

KEY = SecretStr("sk-canary-key")


class Scripted(Provider):
    """A provider of one method, as a third party writes it: raises or returns in turn."""

    def __init__(self, *outcomes: Any, dimension: int = 0) -> None:
        self.outcomes = list(outcomes)
        self.dimension = dimension
        self.calls: list[tuple[list[str], str, str]] = []

    async def embed_batch(
        self, texts: Sequence[str], *, model: str, api_key: SecretStr | None
    ) -> Sequence[Sequence[float]]:
        self.calls.append((list(texts), model, api_key.get_secret_value() if api_key else ""))
        outcome = self.outcomes.pop(0)
        if isinstance(outcome, Exception):
            raise outcome
        vectors: Sequence[Sequence[float]] = outcome
        return vectors


class Pauses:
    """Stands in for sleeping, and remembers for how long."""

    def __init__(self) -> None:
        self.seconds: list[float] = []

    async def __call__(self, seconds: float) -> None:
        self.seconds.append(seconds)


def embedder(provider: Provider, pauses: Pauses | None = None) -> BoundEmbedder:
    return BoundEmbedder(provider, name="mine", model="m-1", api_key=KEY, sleep=pauses or Pauses())


async def test_texts_go_out_in_one_call_with_model_and_key() -> None:
    provider = Scripted([[1.0, 2.0], [3.0, 4.0]])
    vectors = await embedder(provider).embed(["a", "b"])
    assert vectors == [(1.0, 2.0), (3.0, 4.0)]
    assert provider.calls == [(["a", "b"], "m-1", "sk-canary-key")]


async def test_no_texts_are_no_call() -> None:
    provider = Scripted()
    assert await embedder(provider).embed([]) == []


@pytest.mark.parametrize(
    "failure", [EmbeddingUnavailable(), EmbeddingRateLimited(), ConnectionResetError()]
)
async def test_temporary_failures_are_tried_again(failure: Exception) -> None:
    provider, pauses = Scripted(failure, failure, [[1.0]]), Pauses()
    assert await embedder(provider, pauses).embed(["a"]) == [(1.0,)]
    assert len(pauses.seconds) == 2


async def test_pauses_grow() -> None:
    pauses = Pauses()
    with pytest.raises(EmbeddingUnavailable):
        await embedder(Scripted(*[EmbeddingUnavailable()] * MAX_TRIES), pauses).embed(["a"])
    assert len(pauses.seconds) == MAX_TRIES - 1
    assert all(
        0.5 * usual <= pause <= 1.5 * usual
        for pause, usual in zip(pauses.seconds, (0.5, 1, 2), strict=True)
    )


async def test_the_pause_the_provider_asks_for_is_kept() -> None:
    provider = Scripted(EmbeddingRateLimited(retry_after_seconds=20), [[1.0]])
    pauses = Pauses()
    await embedder(provider, pauses).embed(["a"])
    assert 20 <= pauses.seconds[0] <= 22


async def test_a_pause_that_is_too_long_is_left_to_the_next_attempt() -> None:
    provider, pauses = Scripted(EmbeddingRateLimited(retry_after_seconds=31)), Pauses()
    with pytest.raises(EmbeddingRateLimited) as caught:
        await embedder(provider, pauses).embed(["a"])
    assert caught.value.retry_after_seconds == 31
    assert pauses.seconds == []


@pytest.mark.parametrize("failure", [EmbeddingAuth(), EmbeddingRejected(), EmbeddingInvalid()])
async def test_other_failures_are_raised_at_once(failure: ProcessorError) -> None:
    provider = Scripted(failure)
    with pytest.raises(type(failure)):
        await embedder(provider).embed(["a"])
    assert len(provider.calls) == 1


@pytest.mark.parametrize(
    "vectors",
    [
        [],
        [[1.0, 2.0]],
        [[1.0, 2.0]] * 3,
        [[], []],
        [[1.0, 2.0], [1.0]],
        [[1.0, 2.0], [1.0, float("nan")]],
        [[1.0, 2.0], [float("inf"), -float("inf")]],
        [[1.0, 2.0], [1.0, None]],
    ],
)
async def test_unsound_vectors_are_refused(vectors: Any) -> None:
    with pytest.raises(EmbeddingInvalid):
        await embedder(Scripted(vectors)).embed(["a", "b"])


async def test_huge_but_finite_values_are_let_through() -> None:
    vectors = [[1.7e308, 1.7e308]]
    assert await embedder(Scripted(vectors)).embed(["a"]) == [(1.7e308, 1.7e308)]


async def test_the_configured_dimension_must_be_met() -> None:
    assert await embedder(Scripted([[1.0, 2.0]], dimension=2)).embed(["a"]) == [(1.0, 2.0)]
    with pytest.raises(EmbeddingInvalid, match=r"Vectors of 2 values .* 3 is expected"):
        await embedder(Scripted([[1.0, 2.0]], dimension=3)).embed(["a"])


async def test_the_key_is_in_no_exception_chain_and_no_repr() -> None:
    failure = RuntimeError(f"bad key {KEY.get_secret_value()}")
    bound = embedder(Scripted(*[failure] * MAX_TRIES))
    with pytest.raises(EmbeddingUnavailable) as caught:
        await bound.embed(["a"])
    assert caught.value.__cause__ is None
    assert caught.value.__context__ is None
    assert KEY.get_secret_value() not in f"{caught.value!r} {bound!r} {vars(bound)!r}"


async def test_a_cancelled_call_is_not_tried_again() -> None:
    class Endless(Scripted):
        async def embed_batch(self, *_: Any, **__: Any) -> Sequence[Sequence[float]]:
            self.calls.append(([], "", ""))
            await asyncio.Event().wait()
            return []

    provider = Endless()
    async with asyncio.TaskGroup() as group:
        task = group.create_task(embedder(provider).embed(["a"]))
        await asyncio.sleep(0)
        task.cancel()
    assert task.cancelled()
    assert len(provider.calls) == 1


async def test_a_thread_can_wait_for_vectors() -> None:
    loop = asyncio.get_running_loop()
    bound = embedder(Scripted([[1.0]]))

    def in_thread() -> list[tuple[float, ...]]:
        return asyncio.run_coroutine_threadsafe(bound.embed(["a"]), loop).result(5)

    assert await asyncio.to_thread(in_thread) == [(1.0,)]


async def test_a_text_of_megabytes_is_refused_before_its_tokens_are_counted() -> None:
    class Counting(Scripted):
        def count_tokens(self, text: str) -> int:
            raise AssertionError(text[:9])

    with pytest.raises(EmbeddingRejected, match="too long"):
        await embed_texts(["word " * 1_000_000], embedder(Counting()))
