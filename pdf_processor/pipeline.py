"""The story of one document: its key, its file, its sections, its chunks, their vectors, Go.

After the key everything overlaps: while a child still reads page 200, the chunks of page 3
have arrived. Nothing here decides what a failure means; errors travel up to the worker.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from contextlib import AsyncExitStack, aclosing, asynccontextmanager, contextmanager
from dataclasses import dataclass

from pdf_processor.chunking.chunker import Chunker, ChunkSettings, chunk_pages
from pdf_processor.document import Chunk, EmbeddedChunk, Page
from pdf_processor.download.downloader import DownloadedFile, Downloader
from pdf_processor.embedding.batching import embed_chunks
from pdf_processor.embedding.embedder import Embedder
from pdf_processor.embedding.providers import NO_EMBEDDINGS, Providers
from pdf_processor.errors import (
    EmbeddingAuth,
    EmbeddingBudget,
    EmbeddingQuota,
    NoText,
    ServiceCredentialsRejected,
)
from pdf_processor.ingest.client import DocumentHeader, IngestClient, Receipt
from pdf_processor.parser_pool import DocumentReader, ParserPool
from pdf_processor.provider_choice import Choice, ProviderChoice
from pdf_processor.queue.task_status import State, TaskReport
from pdf_processor.slot import Slot
from pdf_processor.task import Task, TaskOptions
from pdf_processor.tokens import estimate_tokens


@dataclass(frozen=True)
class Pipeline:
    """Takes one document from its task to its receipt.

    Duties: put the steps in order, each starting as soon as the one before has something;
    report progress; leave nothing behind, whatever happened. The steps themselves belong
    to the objects it was given, the verdict on a failure to the worker.
    """

    choice: ProviderChoice
    providers: Providers
    downloader: Downloader
    parsers: ParserPool
    ingest: IngestClient

    async def run(self, task: Task, attempt: int, slot: Slot, report: TaskReport) -> Receipt:
        """Process one document.

        Raises:
            ProcessorError: what happened, by its code.
        """
        choice = await self._choose(task, slot, report)
        with _blaming_the_service(choice):
            async with (
                opened(self.providers, choice) as embedder,
                self._downloaded(task, report) as file,
                self._parsed(task.options, file, report) as document,
                embedded_chunks(
                    _reported(document, report),
                    doc_id=task.document_id,
                    sha256=file.sha256,
                    options=task.options,
                    embedder=embedder,
                ) as chunks,
            ):
                receipt = await self.ingest.send_document(
                    chunks,
                    lambda: _header(task, attempt, file, document, embedder),
                    lambda count: report.progress(chunks_sent=count),
                )
        if receipt is None:
            raise NoText
        return receipt

    async def _choose(self, task: Task, slot: Slot, report: TaskReport) -> Choice:
        @asynccontextmanager
        async def waiting() -> AsyncIterator[None]:
            await report.state(State.WAITING_FOR_KEY)
            async with slot.lent():
                yield

        return await self.choice.choose(task, waiting)

    @asynccontextmanager
    async def _downloaded(self, task: Task, report: TaskReport) -> AsyncIterator[DownloadedFile]:
        await report.state(State.DOWNLOADING)
        async with self.downloader.fetch(task.source, declared_bytes=task.file_size) as file:
            yield file

    @asynccontextmanager
    async def _parsed(
        self, options: TaskOptions, file: DownloadedFile, report: TaskReport
    ) -> AsyncIterator[DocumentReader]:
        await report.state(State.PROCESSING)
        password = options.password.get_secret_value()
        async with self.parsers.read(file.path, ocr=options.ocr, password=password) as document:
            report.progress(pages_total=document.info.page_count)
            yield document


@asynccontextmanager
async def opened(providers: Providers, choice: Choice) -> AsyncIterator[Embedder | None]:
    """Have the embedder of this choice ready; None where no vectors are wanted."""
    if choice.provider == NO_EMBEDDINGS:
        yield None
        return
    async with providers.open(choice.provider, api_key=choice.api_key) as embedder:
        yield embedder


@asynccontextmanager
async def embedded_chunks(
    pages: AsyncIterator[Page],
    *,
    doc_id: str,
    sha256: str,
    options: TaskOptions,
    embedder: Embedder | None,
) -> AsyncIterator[AsyncIterator[EmbeddedChunk]]:
    """Cut pages into chunks and embed them while the pages arrive.

    Chunks have at most as many tokens as the task's options and the embedder's model allow.
    Without an embedder the vectors are empty, and tokens are estimated and cost nothing.

    Raises:
        EmbeddingBudget: while iterating, see `options.max_embedding_tokens`.
    """
    chunker = _chunker(doc_id, sha256, options, embedder)
    async with AsyncExitStack() as stack:
        chunks = await stack.enter_async_context(aclosing(chunk_pages(pages, chunker)))
        if embedder is None:
            stream = _without_vectors(chunks)
        else:
            affordable = _within_budget(chunks, options.max_embedding_tokens)
            chunks = await stack.enter_async_context(aclosing(affordable))
            stream = embed_chunks(chunks, embedder)
        yield await stack.enter_async_context(aclosing(stream))


def _chunker(doc_id: str, sha256: str, options: TaskOptions, embedder: Embedder | None) -> Chunker:
    max_tokens, overlap_tokens = options.max_tokens, options.overlap_tokens
    if embedder:
        max_tokens = min(max_tokens, embedder.limits.max_tokens_per_text)
        overlap_tokens = min(overlap_tokens, max_tokens // 4)
    return Chunker(
        doc_id=doc_id,
        sha256=sha256,
        settings=ChunkSettings(max_tokens=max_tokens, overlap_tokens=overlap_tokens),
        count_tokens=embedder.count_tokens if embedder else estimate_tokens,
        fingerprint=(options.ocr, *((embedder.provider, embedder.model) if embedder else ())),
    )


async def _within_budget(
    chunks: AsyncIterator[Chunk], max_tokens: int | None
) -> AsyncGenerator[Chunk]:
    """Pass chunks on until their tokens would overspend the task's budget.

    Raises:
        EmbeddingBudget: before the chunk that is too much is embedded.
    """
    tokens = 0
    async for chunk in chunks:
        tokens += chunk.token_count
        if max_tokens is not None and tokens > max_tokens:
            raise EmbeddingBudget
        yield chunk


async def _without_vectors(chunks: AsyncIterator[Chunk]) -> AsyncGenerator[EmbeddedChunk]:
    async for chunk in chunks:
        yield EmbeddedChunk(chunk)


async def _reported(document: DocumentReader, report: TaskReport) -> AsyncGenerator[Page]:
    async for page in document:
        report.progress(pages_done=page.number)
        yield page
    report.progress(warnings=tuple(document.warnings))


def _header(
    task: Task,
    attempt: int,
    file: DownloadedFile,
    document: DocumentReader,
    embedder: Embedder | None,
) -> DocumentHeader:
    return DocumentHeader(
        doc_id=task.document_id,
        task_id=task.task_id,
        attempt=attempt,
        user_id=task.user_id,
        file_name=task.display_name,
        page_count=document.info.page_count,
        title=document.info.title,
        author=document.info.author,
        file_size=file.size_bytes,
        sha256=file.sha256,
        embedding_provider=embedder.provider if embedder else "",
        embedding_model=embedder.model if embedder else "",
    )


@contextmanager
def _blaming_the_service(choice: Choice) -> Iterator[None]:
    """Tell the service's own key from a tenant's: no task is to blame for the former."""
    try:
        yield
    except (EmbeddingAuth, EmbeddingQuota) as error:
        if not choice.service_key:
            raise
        raise ServiceCredentialsRejected(
            f"The service's own key for {choice.provider} was refused: {error.message}"
        ) from None
