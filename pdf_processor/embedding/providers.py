"""The providers by name: built in, and installed by other packages."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from contextlib import AsyncExitStack
from importlib.metadata import EntryPoint, entry_points
from types import TracebackType
from typing import Self

from pydantic import SecretStr

from pdf_processor.embedding.bound import BoundEmbedder, Sleep
from pdf_processor.embedding.embedder import Embedder
from pdf_processor.embedding.gemini import GeminiProvider
from pdf_processor.embedding.hashing import HashingProvider
from pdf_processor.embedding.local import LocalProvider
from pdf_processor.embedding.openai import OpenAIProvider
from pdf_processor.embedding.provider import Provider
from pdf_processor.errors import EmbeddingAuth, EmbeddingRejected, EmbeddingUnavailable

ENTRY_POINT_GROUP = "pdf_processor.embedders"
NO_EMBEDDINGS = "none"

Factory = Callable[[], Provider]


def built_in(
    *,
    openai_base_url: str,
    openai_model: str,
    gemini_base_url: str,
    gemini_model: str,
    local_model: str,
    dimension: int = 0,
) -> dict[str, Factory]:
    """Return how to build the providers that come with the processor.

    An empty base URL is the provider's own; `local_model` is a directory or the name of a
    model at a hub; `dimension` 0 leaves the length of the vectors to the models.
    """
    return {
        "openai": lambda: OpenAIProvider(
            base_url=openai_base_url, model=openai_model, dimension=dimension
        ),
        "gemini": lambda: GeminiProvider(
            base_url=gemini_base_url, model=gemini_model, dimension=dimension
        ),
        "local": lambda: LocalProvider(model=local_model, dimension=dimension),
        "hashing": HashingProvider,
    }


class Providers:
    """All providers of this process.

    Duties: know the names, including those of installed packages; build each provider
    when it is first asked for, once; bind it to a key and a model; close what was built.
    Leaves the calls to the embedder, and the choice of a name to its callers.
    """

    def __init__(self, factories: Mapping[str, Factory], *, sleep: Sleep = asyncio.sleep) -> None:
        """`factories` go before installed ones of the same name."""
        self._factories = {**_installed(), **factories}
        self._sleep = sleep
        self._built: dict[str, Provider] = {}
        self._open = AsyncExitStack()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._built.clear()
        await self._open.aclose()

    def names(self) -> frozenset[str]:
        """Every name that a task may carry: `none` too, which makes no vectors."""
        return frozenset(self._factories) | {NO_EMBEDDINGS}

    def needs_key(self, name: str) -> bool:
        """Whether the provider works only with an API key.

        Raises:
            EmbeddingRejected: no provider has this name.
            EmbeddingUnavailable: it is installed, and cannot be loaded.
        """
        return name != NO_EMBEDDINGS and self._provider(name).needs_key

    def open(self, name: str, *, api_key: SecretStr | None, model: str = "") -> Embedder:
        """Bind a provider to a key and a model; "" is its configured model.

        Raises:
            EmbeddingRejected: no provider has this name, or not this model.
            EmbeddingAuth: it needs a key, and there is none.
            EmbeddingUnavailable: it is installed, and cannot be loaded.
        """
        provider = self._provider(name)
        if provider.needs_key and not (api_key and api_key.get_secret_value().strip()):
            raise EmbeddingAuth(f"The provider {name} needs an API key, and none was given")
        model = model or provider.default_model
        if not provider.accepts(model):
            raise EmbeddingRejected(f"The provider {name} does not serve this model")
        return BoundEmbedder(
            provider,
            name=name,
            model=model,
            api_key=api_key if provider.needs_key else None,
            sleep=self._sleep,
        )

    def _provider(self, name: str) -> Provider:
        if name not in self._built:
            provider = self._factory(name)()
            self._open.push_async_callback(provider.aclose)
            self._built[name] = provider
        return self._built[name]

    def _factory(self, name: str) -> Factory:
        try:
            return self._factories[name]
        except KeyError:
            known = ", ".join(sorted(self._factories))
            raise EmbeddingRejected(
                f"No provider of that name makes embeddings; known are {known}"
            ) from None


def _installed() -> dict[str, Factory]:
    return {found.name: _loader(found) for found in entry_points(group=ENTRY_POINT_GROUP)}


def _loader(found: EntryPoint) -> Factory:
    def build() -> Provider:
        try:
            provider = found.load()()
        except Exception as error:  # noqa: BLE001 -- another's code, which may fail in any way
            kind = type(error).__name__
            raise EmbeddingUnavailable(
                f"The installed provider {found.name} cannot be loaded ({kind})"
            ) from None
        if not isinstance(provider, Provider):
            raise EmbeddingUnavailable(f"The installed provider {found.name} is no Provider")
        return provider

    return build
