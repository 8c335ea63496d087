"""Gemini, by Google's google-genai SDK."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from pydantic import SecretStr

from pdf_processor.embedding.embedder import BatchLimits
from pdf_processor.embedding.http_client import open_http_client
from pdf_processor.embedding.off_loop import OffLoop
from pdf_processor.embedding.provider import Provider

if TYPE_CHECKING:
    import httpx2
    from google.genai import Client

_BASE_URL = "https://generativelanguage.googleapis.com"
_KEY_HEADER = "x-goog-api-key"
_MAX_TEXTS = 100
_MAX_TOKENS = 2_048


class GeminiProvider(Provider):
    """Embeds with the `google-genai` SDK.

    One client serves all keys, because making one takes 30 to 100 ms: each call carries
    its key in a header of its own. The SDK does not retry on its own.
    """

    limits = BatchLimits(
        max_texts=_MAX_TEXTS,
        max_tokens=_MAX_TEXTS * _MAX_TOKENS,
        max_tokens_per_text=_MAX_TOKENS,
    )

    def __init__(self, *, base_url: str, model: str, dimension: int = 0) -> None:
        """`dimension` 0 leaves the length to the model."""
        self.default_model = model
        self.dimension = dimension
        self._sdk = OffLoop(lambda: _open_sdk(base_url or _BASE_URL))

    def accepts(self, model: str) -> bool:
        """Whether `model` may stand in the path of a URL."""
        return not set("?&#%\\") & set(model) and ".." not in model

    async def embed_batch(
        self, texts: Sequence[str], *, model: str, api_key: SecretStr | None
    ) -> Sequence[Sequence[float]]:
        """Call `batchEmbedContents` once; raises the SDK's exceptions."""
        client, _ = await self._sdk.get()
        key = api_key.get_secret_value() if api_key else ""
        answer = await client.aio.models.embed_content(
            model=model,
            # A list of plain strings becomes one content of many parts for
            # gemini-embedding-2, which then returns a single vector.
            contents=[{"parts": [{"text": text}]} for text in texts],
            config={
                "output_dimensionality": self.dimension or None,
                "http_options": {"headers": {_KEY_HEADER: key}},
            },
        )
        return [_unit(embedding.values or []) for embedding in answer.embeddings or []]

    async def aclose(self) -> None:
        """Close the connections."""
        if self._sdk.made:
            client, http = self._sdk.made
            await http.aclose()
            client.close()


def _unit(values: Sequence[float]) -> Sequence[float]:
    """Scale to length 1: Gemini does so only for full-size vectors of gemini-embedding-001."""
    length = math.hypot(*values)
    return [value / length for value in values] if length else values


def _open_sdk(base_url: str) -> tuple[Client, httpx2.AsyncClient]:
    from google.genai import Client, types  # noqa: PLC0415 -- imported when first used

    http = open_http_client()
    client = Client(
        vertexai=False,
        api_key="each-call-carries-its-own",
        http_options=types.HttpOptions(base_url=base_url, httpx_async_client=http),
    )
    return client, http
