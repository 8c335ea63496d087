"""`process`: documents straight to chunks, without Redis and Go."""

from __future__ import annotations

import asyncio
import hashlib
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, nullcontext
from dataclasses import dataclass
from enum import StrEnum
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any, TextIO

import orjson

from pdf_processor import parts
from pdf_processor.commands.output import open_output
from pdf_processor.commands.progress import DocumentBars
from pdf_processor.config import Settings
from pdf_processor.document import Page
from pdf_processor.download.downloader import DownloadedFile, Downloader
from pdf_processor.embedding.providers import Providers
from pdf_processor.errors import DownloadNotFound, ProcessorError
from pdf_processor.export import MarkdownWriter, SectionAssembler, chunk_record, section_record
from pdf_processor.parser_pool import ParserPool
from pdf_processor.pipeline import embedded_chunks, opened
from pdf_processor.provider_choice import Choice
from pdf_processor.task import TaskOptions, last_part


class Format(StrEnum):
    """What `process` writes."""

    JSONL = "jsonl"
    SECTIONS = "sections"
    MD = "md"


OnPage = Callable[[int, int], None]
"""Told the pages read so far, and how many there are."""


async def run(
    settings: Settings,
    sources: list[str],
    *,
    out: str,
    provider: str,
    output_format: Format,
    options: TaskOptions,
) -> bool:
    """Process each source; False if any failed, which is said on stderr."""
    with nullcontext(sys.stdout) if out == "-" else open_output(Path(out)) as target:
        async with (
            parts.open_downloader(settings) as downloader,
            parts.open_providers(settings) as providers,
            parts.open_parsers(settings, processes=1) as parsers,
        ):
            parts.check_provider(provider, providers)
            choice = Choice(provider, settings.service_keys.get(provider))
            work = Standalone(
                downloader, parsers, providers, choice, options, output_format, target
            )
            return await _each(work, sources)


async def _each(work: Standalone, sources: list[str]) -> bool:
    failures: list[str] = []
    with DocumentBars() as bars:
        for source in sources:
            try:
                await work.process(source, partial(bars.pages, _document_id(source)))
            except ProcessorError as error:
                failures.append(f"{_shown(source)}: {error.code}: {error.message}")
    for failure in failures:
        sys.stderr.write(failure + "\n")
    return not failures


@dataclass(frozen=True)
class Standalone:
    """Reads documents and writes what they hold.

    Duties: fetch a source (a path of this machine, or any URL that a task may name), read
    it, write it in one of the formats. Leaves what a failure means to the command.
    """

    downloader: Downloader
    parsers: ParserPool
    providers: Providers
    choice: Choice
    options: TaskOptions
    format: Format
    out: TextIO

    async def process(self, source: str, on_page: OnPage) -> None:
        """Process one source.

        Raises:
            ProcessorError: what happened, by its code. Chunks made before that are written.
        """
        password = self.options.password.get_secret_value()
        async with (
            self._fetched(source) as file,
            self.parsers.read(file.path, ocr=self.options.ocr, password=password) as document,
        ):
            on_page(0, document.info.page_count)

            async def pages() -> AsyncIterator[Page]:
                async for page in document:
                    yield page
                    on_page(page.number, document.info.page_count)

            await self._write(_document_id(source), file, pages())

    @asynccontextmanager
    async def _fetched(self, source: str) -> AsyncIterator[DownloadedFile]:
        if "://" in source:
            async with self.downloader.fetch(source) as file:
                yield file
        else:
            yield await asyncio.to_thread(_local, Path(source))

    async def _write(self, doc_id: str, file: DownloadedFile, pages: AsyncIterator[Page]) -> None:
        match self.format:
            case Format.JSONL:
                await self._write_chunks(doc_id, file, pages)
            case Format.SECTIONS:
                await self._write_sections(doc_id, pages)
            case Format.MD:
                writer = MarkdownWriter()
                async for page in pages:
                    self.out.write(writer.feed(page))

    async def _write_chunks(
        self, doc_id: str, file: DownloadedFile, pages: AsyncIterator[Page]
    ) -> None:
        async with (
            opened(self.providers, self.choice) as embedder,
            embedded_chunks(
                pages, doc_id=doc_id, sha256=file.sha256, options=self.options, embedder=embedder
            ) as chunks,
        ):
            async for chunk in chunks:
                self._write_record(chunk_record(doc_id, chunk))

    async def _write_sections(self, doc_id: str, pages: AsyncIterator[Page]) -> None:
        assembler = SectionAssembler()
        async for page in pages:
            for section in assembler.feed(page):
                self._write_record(section_record(doc_id, section))
        for section in assembler.finish():
            self._write_record(section_record(doc_id, section))

    def _write_record(self, record: dict[str, Any]) -> None:
        self.out.write(orjson.dumps(record, option=orjson.OPT_APPEND_NEWLINE).decode())


def _shown(source: str) -> str:
    """Name a source for people, without a query that may be signed."""
    return source.partition("?")[0].encode(errors="replace").decode()


def _document_id(source: str) -> str:
    """A path's or URL's last part, without its ending and without a query."""
    name = last_part(source) if "://" in source else source
    return PurePosixPath(name).stem.encode(errors="replace").decode()


def _local(path: Path) -> DownloadedFile:
    try:
        str(path).encode()
    except UnicodeEncodeError:
        raise DownloadNotFound("The file's name is not valid Unicode: rename it") from None
    try:
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
            return DownloadedFile(path, file.tell(), digest)
    except OSError as error:
        raise DownloadNotFound(f"{path} cannot be read: {error.strerror}") from None
