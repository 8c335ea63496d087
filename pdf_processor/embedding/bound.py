"""A provider bound to a key and a model: the calls, their retries, the check of answers."""

from __future__ import annotations

import asyncio
import math
import random
from collections.abc import Awaitable, Callable, Sequence
from types import TracebackType
from typing import Self

import structlog
from pydantic import SecretStr

from pdf_processor.embedding.embedder import BatchLimits, Vector
from pdf_processor.embedding.failures import judge
from pdf_processor.embedding.provider import Provider
from pdf_processor.errors import (
    EmbeddingInvalid,
    EmbeddingRateLimited,
    EmbeddingRejected,
    EmbeddingUnavailable,
    ProcessorError,
)

logger = structlog.get_logger()

Sleep = Callable[[float], Awaitable[None]]

MAX_CHARACTERS_PER_TOKEN = 32
"""No text of a language has so many on average."""

MAX_TRIES = 4
MAX_WAIT_SECONDS = 30.0
"""A provider that asks for a longer pause gets it from the task's next attempt."""

_BASE_SECONDS = 0.5
_WORTH_ANOTHER_TRY = (EmbeddingRateLimited, EmbeddingUnavailable)


class BoundEmbedder:
    """The `Embedder` that every provider gets.

    Duties: make the provider ready; call it, and again after temporary failures, with
    growing pauses or those it asks for; check what it returns. Leaves the meaning of
    failures to `judge`, and connections and models to the provider, which all embedders
    of its name share: an embedder costs nothing to make and needs no closing.
    """

    def __init__(
        self,
        provider: Provider,
        *,
        name: str,
        model: str,
        api_key: SecretStr | None,
        sleep: Sleep = asyncio.sleep,
    ) -> None:
        self._provider = provider
        self._api_key = api_key
        self._sleep = sleep
        self.provider = name
        self.model = model

    def __repr__(self) -> str:
        return f"BoundEmbedder(provider={self.provider!r}, model={self.model!r})"

    @property
    def limits(self) -> BatchLimits:
        """What one call of `embed` may hold."""
        return self._provider.limits

    def count_tokens(self, text: str) -> int:
        """Count, or estimate on the high side, the tokens of `text` without special ones."""
        if len(text) > self._longest:
            return len(text)  # far too many, whatever the number: nobody counts megabytes
        return self._provider.count_tokens(text)

    @property
    def _longest(self) -> int:
        """Characters beyond which no text can fit."""
        return MAX_CHARACTERS_PER_TOKEN * self.limits.max_tokens_per_text

    async def embed(self, texts: Sequence[str]) -> list[Vector]:
        """Return one vector for each text; see `Embedder.embed` for the errors."""
        if not texts:
            return []
        await self._provider.prepare()
        self._refuse_absurd(texts)
        tries = 0
        while True:
            tries += 1
            outcome = await self._call(texts)
            if not isinstance(outcome, ProcessorError):
                return outcome
            pause = _pause_seconds(outcome, tries)
            if pause is None:
                raise outcome
            logger.info(
                "embedding call failed, will be tried again",
                provider=self.provider,
                error_code=outcome.code,
                tries=tries,
                pause_seconds=round(pause, 2),
            )
            await self._sleep(pause)

    def _refuse_absurd(self, texts: Sequence[str]) -> None:
        """Refuse what cannot fit."""
        if any(len(text) > self._longest for text in texts):
            raise EmbeddingRejected(
                f"A text is too long: {self.model} reads {self.limits.max_tokens_per_text} tokens"
            )

    async def _call(self, texts: Sequence[str]) -> list[Vector] | ProcessorError:
        """Return an error instead of raising it: raised here, it would drag along the SDK's."""
        try:
            vectors = await self._provider.embed_batch(
                texts, model=self.model, api_key=self._api_key
            )
            return _checked(vectors, count=len(texts), dimension=self._provider.dimension)
        except Exception as error:  # noqa: BLE001 -- an SDK may raise anything
            return judge(error, provider=self.provider, api_key=self._api_key)

    async def __aenter__(self) -> Self:
        await self._provider.prepare()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Nothing to close: what is shared closes with `Providers`."""


def _pause_seconds(error: ProcessorError, tries: int) -> float | None:
    """Return how long to wait after this many tries, or None to give up."""
    if tries == MAX_TRIES or not isinstance(error, _WORTH_ANOTHER_TRY):
        return None
    wish = error.retry_after_seconds
    if wish is None:
        return _BASE_SECONDS * 2.0 ** (tries - 1) * random.uniform(0.5, 1.5)  # noqa: S311 -- jitter
    return None if wish > MAX_WAIT_SECONDS else wish * random.uniform(1, 1.1)  # noqa: S311


def _checked(vectors: Sequence[Sequence[float]], *, count: int, dimension: int) -> list[Vector]:
    """Return the vectors if they are what was asked for.

    Raises:
        EmbeddingInvalid: another count, another or no length, or a value that is no
            finite number.
    """
    if len(vectors) != count:
        raise EmbeddingInvalid(f"{count} texts were sent and {len(vectors)} vectors came back")
    length = dimension or len(vectors[0])
    if not length or any(len(vector) != length for vector in vectors):
        lengths = ", ".join(str(number) for number in sorted({len(one) for one in vectors}))
        wanted = dimension or "one length above 0"
        raise EmbeddingInvalid(f"Vectors of {lengths} values came back where {wanted} is expected")
    if not all(_is_finite(vector) for vector in vectors):
        raise EmbeddingInvalid("A vector came back with a value that is not a finite number")
    return [tuple(vector) for vector in vectors]


def _is_finite(vector: Sequence[float]) -> bool:
    """Look at the sum first: it is not finite if one value is not, and much faster."""
    try:
        return math.isfinite(sum(vector)) or all(map(math.isfinite, vector))
    except TypeError:
        return False
