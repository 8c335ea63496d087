"""The parent's side of the parser children."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any, Self, cast

import structlog

from pdf_processor.document import DocumentInfo, Page
from pdf_processor.errors import (
    ERROR_BY_CODE,
    ParserCrashed,
    ParserOutOfMemory,
    ParseTimedOut,
    ProcessorError,
)
from pdf_processor.parsing import frames

log = structlog.get_logger()

PACKAGE_ROOT = Path(__file__).resolve().parent.parent
START_TIMEOUT_SECONDS = 60
RESTART_DELAY_SECONDS = 1.0
CHILD_IS_SPENT = {ParserOutOfMemory.code, ProcessorError.code}
"""Codes after which a child is not trusted with another document."""


class ParserPool:
    """Keeps parser children warm and lends each to one document at a time.

    Duties, in order:
    1. start the children, and wait until they have imported everything;
    2. lend a free one to each `read`, which waits while there is none;
    3. take it back as soon as the last page was taken, or kill and replace it in the
       background when the document was left early, crashed it, hung in it, or used up its
       memory, and after `documents_per_child` documents;
    4. on leaving, kill them all.

    What a child may say and how long it may take is `DocumentReader`'s business.
    """

    def __init__(
        self,
        *,
        processes: int,
        memory_bytes: int,
        parse_timeout_seconds: float,
        page_timeout_seconds: float,
        max_pages: int,
        documents_per_child: int = 100,
    ) -> None:
        self._processes = processes
        self._memory_bytes = memory_bytes
        self._parse_timeout_seconds = parse_timeout_seconds
        self._page_timeout_seconds = page_timeout_seconds
        self._max_pages = max_pages
        self._documents_per_child = documents_per_child
        self._children: set[_Child] = set()
        self._free: asyncio.Queue[_Child] = asyncio.Queue()
        self._replacements: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        try:
            async with asyncio.TaskGroup() as group:
                for _ in range(self._processes):
                    group.create_task(self._add_child())
        except ExceptionGroup as failures:
            await self._kill_all()
            raise failures.exceptions[0] from None
        except BaseException:
            await self._kill_all()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        for replacement in self._replacements:
            replacement.cancel()
        await asyncio.gather(*self._replacements, return_exceptions=True)
        await self._kill_all()

    @asynccontextmanager
    async def read(
        self, path: Path, *, ocr: str = "auto", password: str = ""
    ) -> AsyncIterator[DocumentReader]:
        """Read one document in a child of its own, waiting while none is free.

        Raises:
            NotAPdf, DocumentEncrypted, DocumentCorrupt, TooManyPages: on entering.
            ParseTimedOut, ParserCrashed, ParserOutOfMemory: on entering or while iterating.
            DocumentCorrupt, NoText: also while iterating.
        """
        child = await self._lend()
        taken_back = False

        def take_back() -> None:
            nonlocal taken_back
            if not taken_back:
                taken_back = True
                self._take_back(child)

        try:
            reader = DocumentReader(
                child,
                parse_timeout_seconds=self._parse_timeout_seconds,
                page_timeout_seconds=self._page_timeout_seconds,
                on_end=take_back,
            )
            request = {"path": str(path), "ocr": ocr, "password": password}
            await reader.open({**request, "max_pages": self._max_pages})
            yield reader
        finally:
            take_back()

    async def _lend(self) -> _Child:
        """A free child that lives; one that somebody killed meanwhile is replaced."""
        while True:
            child = await self._free.get()
            if child.alive:
                return child
            self._take_back(child)

    def _take_back(self, child: _Child) -> None:
        child.documents += 1
        if child.idle and child.alive and child.documents < self._documents_per_child:
            self._free.put_nowait(child)
            return
        child.kill()
        replacement = asyncio.create_task(self._replace(child))
        self._replacements.add(replacement)
        replacement.add_done_callback(self._replacements.discard)

    async def _replace(self, child: _Child) -> None:
        await child.ended()
        self._children.discard(child)
        while True:
            try:
                return await self._add_child()
            except (ParserCrashed, OSError) as error:
                log.error("parser child did not start", error=str(error))  # noqa: TRY400  said, not traced
                await asyncio.sleep(RESTART_DELAY_SECONDS)

    async def _add_child(self) -> None:
        child = await _Child.spawn(self._memory_bytes)
        self._children.add(child)
        try:
            await child.ready()
        except BaseException:
            child.kill()
            raise
        self._free.put_nowait(child)

    async def _kill_all(self) -> None:
        for child in self._children:
            child.kill()
        await asyncio.gather(*(child.ended() for child in self._children))
        self._children.clear()


class DocumentReader:
    """An open document: iterate over it for its pages.

    `info` is known once `read` is entered, `warnings` is complete after the last page.
    The time limits count only while the child is waited for, never while it waits for
    whoever takes the pages.
    """

    info: DocumentInfo

    def __init__(
        self,
        child: _Child,
        *,
        parse_timeout_seconds: float,
        page_timeout_seconds: float,
        on_end: Callable[[], None],
    ) -> None:
        self.warnings: list[str] = []
        self._child = child
        self._parse_timeout_seconds = parse_timeout_seconds
        self._page_timeout_seconds = page_timeout_seconds
        self._on_end = on_end
        self._ended = False
        self._waited_seconds = 0.0
        self._page = 0

    async def open(self, request: dict[str, Any]) -> None:
        """Hand the document to the child and wait for its verdict."""
        self._child.ask(request)
        _, page_count, title, author = await self._frame(self._parse_timeout_seconds)
        self.info = DocumentInfo(page_count, title, author)

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Page:
        while not self._ended:
            name, *values = await self._frame(self._page_timeout_seconds)
            if name == frames.PAGE:
                self._page = values[0]
                return frames.decode_page(*values)
            if name == frames.DONE:
                self.warnings = values[0]
                self._ended = True
                self._on_end()
        raise StopAsyncIteration

    async def _frame(self, limit_seconds: float) -> list[Any]:
        loop = asyncio.get_running_loop()
        started = loop.time()
        left = self._parse_timeout_seconds - self._waited_seconds
        try:
            async with asyncio.timeout(min(limit_seconds, left)):
                frame = await self._child.answer()
        except TimeoutError:
            self._child.kill()
            raise ParseTimedOut(self._timeout_message(limit_seconds, left)) from None
        self._waited_seconds += loop.time() - started
        if frame[0] == frames.FAILED:
            raise _error(*frame[1:])
        return frame

    def _timeout_message(self, limit_seconds: float, left: float) -> str:
        if left <= limit_seconds:
            return (
                f"Reading the document took longer than {self._parse_timeout_seconds:g} seconds"
                " (PARSE_TIMEOUT_SECONDS)."
            )
        where = f"A page after page {self._page}" if self._page else "One of the first pages"
        return f"{where} took longer than {limit_seconds:g} seconds to read (PAGE_TIMEOUT_SECONDS)."


def _error(code: str, message: str) -> ProcessorError:
    return ERROR_BY_CODE.get(code, ProcessorError)(message)


class _Child:
    """One parser process and its two pipes."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process
        self._requests = cast(asyncio.StreamWriter, process.stdin)
        self._answers = cast(asyncio.StreamReader, process.stdout)
        self.documents = 0
        self.idle = False
        """Ready for the next document."""

    @classmethod
    async def spawn(cls, memory_bytes: int) -> Self:
        """Start a process with nothing of the daemon's environment in it."""
        return cls(
            await asyncio.create_subprocess_exec(
                sys.executable,
                "-P",
                "-m",
                "pdf_processor.parsing.child",
                str(memory_bytes),
                str(os.getpid()),
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                env={"PYTHONPATH": str(PACKAGE_ROOT), "LANG": "C.UTF-8"},
                start_new_session=True,
            )
        )

    @property
    def alive(self) -> bool:
        """It has not ended, as far as is known."""
        return self._process.returncode is None

    async def ready(self) -> None:
        """Wait until the child has imported everything.

        Raises:
            ParserCrashed: it ended, or did not answer in time.
        """
        try:
            async with asyncio.timeout(START_TIMEOUT_SECONDS):
                await self.answer()
        except TimeoutError:
            raise ParserCrashed("The parser process did not start in time.") from None
        self.idle = True

    def ask(self, request: dict[str, Any]) -> None:
        """Send a document to be read."""
        self.idle = False
        self._requests.write(frames.encode("read", request))

    async def answer(self) -> list[Any]:
        """The child's next frame.

        Raises:
            ParserCrashed: it ended, or said what is no frame.
        """
        try:
            (length,) = frames.LENGTH.unpack(await self._answers.readexactly(frames.LENGTH.size))
            if length > frames.MAX_FRAME_BYTES:
                self.kill()
                raise ParserCrashed("The parser process sent more for one page than it may.")
            frame = frames.decode(await self._answers.readexactly(length))
        except (asyncio.IncompleteReadError, ConnectionError):
            raise ParserCrashed(_how_it_ended(await self._process.wait())) from None
        except ValueError:
            self.kill()
            raise ParserCrashed("The parser process sent garbage.") from None
        if frame[0] == frames.DONE or (
            frame[0] == frames.FAILED and frame[1] not in CHILD_IS_SPENT
        ):
            self.idle = True
        return frame

    def kill(self) -> None:
        """End the process at once; harmless when it has ended."""
        self.idle = False
        with suppress(ProcessLookupError):
            self._process.kill()

    async def ended(self) -> None:
        """Wait until the process is gone."""
        self._requests.close()
        await self._process.wait()


def _how_it_ended(code: int) -> str:
    if code >= 0:
        return f"The parser process ended by itself, with exit code {code}."
    name = signal.strsignal(-code) or "unknown"
    return f"The parser process was killed by signal {-code} ({name})."
