"""OpenAI, and every server that speaks its embeddings API."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from types import ModuleType
from typing import TYPE_CHECKING

from pydantic import SecretStr

from pdf_processor.embedding.embedder import BatchLimits
from pdf_processor.embedding.http_client import open_http_client
from pdf_processor.embedding.off_loop import OffLoop
from pdf_processor.embedding.provider import Provider

if TYPE_CHECKING:
    import httpx2

_BASE_URL = "https://api.openai.com/v1"


class OpenAIProvider(Provider):
    """Embeds with the `openai` SDK.

    One pool of connections serves all keys; the SDK's client around it is made for each
    call, which takes 0.05 ms, so that no key outlives its call here.
    """

    limits = BatchLimits(max_texts=2_048, max_tokens=250_000, max_tokens_per_text=8_191)
    """As documented, but for the 300,000 tokens a call, less what an estimate may be off."""

    def __init__(self, *, base_url: str, model: str, dimension: int = 0) -> None:
        """`dimension` 0 leaves the length to the model; other servers may know no other."""
        self.default_model = model
        self.dimension = dimension
        self._base_url = base_url or _BASE_URL
        self._sdk = OffLoop(_open_sdk)

    async def embed_batch(
        self, texts: Sequence[str], *, model: str, api_key: SecretStr | None
    ) -> Sequence[Sequence[float]]:
        """Call `/embeddings` once; raises the SDK's exceptions."""
        sdk, http = await self._sdk.get()
        client = sdk.AsyncOpenAI(
            api_key=api_key.get_secret_value() if api_key else "",
            base_url=self._base_url,
            organization="",
            project="",
            max_retries=0,
            http_client=http,
        )
        answer = await client.embeddings.create(
            model=model, input=list(texts), dimensions=self.dimension or sdk.omit
        )
        return [item.embedding for item in sorted(answer.data, key=lambda item: item.index)]

    async def aclose(self) -> None:
        """Close the connections."""
        if self._sdk.made:
            await self._sdk.made[1].aclose()


def _open_sdk() -> tuple[ModuleType, httpx2.AsyncClient]:
    import openai  # noqa: PLC0415 -- imported when first used

    with suppress(ImportError):
        # The SDK decodes with it if it is there, and would import it on the event loop.
        import numpy  # noqa: F401, ICN001, PLC0415
    return openai, open_http_client()
