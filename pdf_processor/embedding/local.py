"""A local model: no key, no provider call."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import structlog
from pydantic import SecretStr

from pdf_processor.embedding.embedder import BatchLimits
from pdf_processor.embedding.off_loop import OffLoop
from pdf_processor.embedding.provider import Provider
from pdf_processor.errors import EmbeddingRejected, EmbeddingUnavailable

if TYPE_CHECKING:
    from pdf_processor.embedding.sentence_model import SentenceModel

logger = structlog.get_logger()

_MAX_TEXTS = 32


class LocalProvider(Provider):
    """Embeds with a sentence-transformers model on this machine's processor.

    Duties: load the model once, when it is first needed; run it in one thread of its own,
    so that the loop goes on and calls queue up. Leaves the model to `SentenceModel`.
    """

    needs_key = False

    def __init__(self, *, model: str, dimension: int = 0) -> None:
        """`model` is a directory, or the name of a model at a hub."""
        self.default_model = Path(model).name if Path(model).is_dir() else model
        self.dimension = dimension
        self._loaded = OffLoop(lambda: _load(model))
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="local-embedding")

    def accepts(self, model: str) -> bool:
        """Only the configured one: callers choose no files of this machine."""
        return model == self.default_model

    @property
    def limits(self) -> BatchLimits:
        """Small batches, so that calls of others get their turn. Needs `prepare`."""
        longest = self._model.max_tokens
        return BatchLimits(_MAX_TEXTS, _MAX_TEXTS * longest, longest)

    def count_tokens(self, text: str) -> int:
        """Count with the model's own tokenizer. Needs `prepare`."""
        return self._model.count_tokens(text)

    async def prepare(self) -> None:
        """Load the model.

        Raises:
            EmbeddingUnavailable: the extra `local` is not installed, or there is no such
                model, with a sentence that says what to do.
        """
        await self._loaded.get()

    async def embed_batch(
        self,
        texts: Sequence[str],
        *,
        model: str,  # noqa: ARG002 -- there is but one
        api_key: SecretStr | None,  # noqa: ARG002 -- none is needed
    ) -> Sequence[Sequence[float]]:
        """Run the model once.

        Raises:
            EmbeddingRejected: a text is longer than the model reads; nothing is cut off.
        """
        loaded = await self._loaded.get()
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._thread, self._run, loaded, texts)

    def _run(self, loaded: SentenceModel, texts: Sequence[str]) -> list[list[float]]:
        longest = max(map(loaded.count_tokens, texts))
        if longest > loaded.max_tokens:
            raise EmbeddingRejected(
                f"A text of {longest} tokens is too long: {self.default_model} reads "
                f"{loaded.max_tokens} at a time"
            )
        return loaded.embed(texts)

    async def aclose(self) -> None:
        """Wait for the call that runs; those that queue are cancelled."""
        await asyncio.to_thread(self._thread.shutdown, cancel_futures=True)

    @property
    def _model(self) -> SentenceModel:
        if self._loaded.made is None:
            raise EmbeddingUnavailable("The local model is not loaded: enter the embedder first")
        return self._loaded.made


def _load(name: str) -> SentenceModel:
    try:
        from pdf_processor.embedding.sentence_model import (  # noqa: PLC0415 -- when first used
            SentenceModel,
            locate,
        )
    except ImportError as error:
        raise EmbeddingUnavailable(
            f"The local model needs the extra `local` ({error.name} is missing): "
            "run `uv sync --extra local`"
        ) from None
    logger.info("loading the local embedding model", model=name)
    model = SentenceModel(locate(name))
    logger.info("loaded the local embedding model", model=name, max_tokens=model.max_tokens)
    return model
