"""What the rest of the processor knows of a provider: an `Embedder`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Protocol, Self

Vector = tuple[float, ...]


@dataclass(frozen=True, slots=True)
class BatchLimits:
    """What one provider call takes; tokens as counted by `Embedder.count_tokens`."""

    max_texts: int
    max_tokens: int
    max_tokens_per_text: int


class Embedder(Protocol):
    """Makes vectors with one provider, model and key.

    Enter it before counting tokens or reading its limits: a local model is loaded then.
    `embed` also works without, from any task of the event loop, and so from a thread with
    `asyncio.run_coroutine_threadsafe`.
    """

    @property
    def provider(self) -> str:
        """The provider's registered name."""

    @property
    def model(self) -> str:
        """The model's name, as the provider spells it."""

    @property
    def limits(self) -> BatchLimits:
        """What one call of `embed` may hold."""

    def count_tokens(self, text: str) -> int:
        """Count, or estimate on the high side, the tokens of `text` without special ones."""

    async def embed(self, texts: Sequence[str]) -> list[Vector]:
        """Return one vector for each text, in their order, all of one dimension.

        This is one provider call, tried again on temporary failures.

        Raises:
            EmbeddingAuth: the key was refused.
            EmbeddingQuota: the quota of the key is used up.
            EmbeddingRejected: the provider refuses these texts or this model.
            EmbeddingRateLimited: too many calls, still so after some tries.
            EmbeddingUnavailable: no usable answer after some tries, or no local model.
            EmbeddingInvalid: the answer has the wrong number, size or values of vectors.
        """

    async def __aenter__(self) -> Self:
        """Make ready, which may take as long as loading a model."""

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Let go of what this embedder alone holds."""
