"""What a provider implements: one method."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import ClassVar

from pydantic import SecretStr

from pdf_processor.embedding.embedder import BatchLimits
from pdf_processor.tokens import estimate_tokens


class Provider(ABC):
    """One source of vectors, for every key and model; built once.

    Duty: turn one batch of texts into vectors with one call. Leaves batching, retries,
    the meaning of failures and the check of the answer to whoever calls it.

    A provider of another package is a subclass that takes no arguments, registered as an
    entry point of the group `pdf_processor.embedders` under the provider's name.
    """

    needs_key: ClassVar[bool] = True

    default_model: str = ""
    dimension: int = 0
    """Length that every vector must have; 0: any, if the same within an answer."""

    @property
    def limits(self) -> BatchLimits:
        """What one call may hold. A class attribute of the same name does as well."""
        return BatchLimits(max_texts=64, max_tokens=32_000, max_tokens_per_text=512)

    @abstractmethod
    async def embed_batch(
        self, texts: Sequence[str], *, model: str, api_key: SecretStr | None
    ) -> Sequence[Sequence[float]]:
        """Return one vector for each text, in their order.

        Called on the event loop, with no more than `limits` allow and at least one text.
        Import the SDK in here, so that it costs nothing until it is needed, and switch its
        own retries off.

        Raises:
            Exception: of any kind. One with `status_code` or an HTTP `response` is
                understood: 401 and 403 as a refused key, 429 as a rate limit, other 4xx
                as a rejected request; everything else is tried again.
        """

    def accepts(self, model: str) -> bool:  # noqa: ARG002 -- for those that serve one model
        """Whether callers may ask for `model`."""
        return True

    def count_tokens(self, text: str) -> int:
        """Count, or estimate on the high side, the tokens of `text` without special ones."""
        return estimate_tokens(text)

    async def prepare(self) -> None:  # noqa: B027 -- most have nothing to prepare
        """Make `limits` and `count_tokens` usable. Called often: cheap when done before."""

    async def aclose(self) -> None:  # noqa: B027 -- most have nothing to close
        """Let go of connections and models, at the end of the process."""
