"""The download: from a task's URL to a private file that is gone when it was used."""

from __future__ import annotations

import asyncio
import itertools
import os
import random
import stat
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Self

import aiofiles.threadpool
import structlog
from aiohttp.abc import AbstractResolver

from pdf_processor.download.http_source import HttpSource
from pdf_processor.download.object_store import ObjectStore
from pdf_processor.download.spool import CHUNK_BYTES, Spool, SpoolFolder
from pdf_processor.download.url_policy import HttpTarget, LocalFile, S3Object, Target, UrlPolicy
from pdf_processor.errors import (
    DownloadFailed,
    DownloadForbidden,
    DownloadNotFound,
    DownloadTimedOut,
    TooLarge,
)

FIRST_PAUSE_SECONDS = 0.5
MAX_PAUSE_SECONDS = 10.0
"""A server that asks for a longer pause is left for the task's next attempt."""

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class DownloadedFile:
    """A document on this machine: its size in bytes, and its SHA-256 in lower-case hex."""

    path: Path
    size_bytes: int
    sha256: str


class Downloader:
    """Fetches documents.

    1. Asks the policy whether the URL may be fetched at all, and refuses what is said to
       be too large.
    2. Fills a temporary file from the web, the bucket or this machine.
    3. Tries again when the connection or the server failed: resumed where it can be, after
       a pause that grows and has jitter, or that the server asked for.
    4. Deletes the file when its context is left.

    The object store is opened and closed by whoever hands it in. Attempts of the task are
    counted by others.
    """

    def __init__(
        self,
        *,
        policy: UrlPolicy,
        store: ObjectStore,
        temp_dir: Path,
        max_bytes: int,
        connect_timeout_seconds: float = 10,
        read_timeout_seconds: float = 30,
        total_timeout_seconds: float = 600,
        max_tries: int = 3,
        sleep: Callable[[float], Awaitable[object]] = asyncio.sleep,
        resolver: AbstractResolver | None = None,
    ) -> None:
        self._policy = policy
        self._store = store
        self._web = HttpSource(
            policy=policy,
            connect_timeout_seconds=connect_timeout_seconds,
            read_timeout_seconds=read_timeout_seconds,
            resolver=resolver,
        )
        self._folder = SpoolFolder(temp_dir)
        self._max_bytes = max_bytes
        self._total_timeout_seconds = total_timeout_seconds
        self._max_tries = max_tries
        self._sleep = sleep

    async def __aenter__(self) -> Self:
        await asyncio.to_thread(self._folder.prepare)
        await self._web.__aenter__()
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self._web.__aexit__(exc_type, exc, traceback)

    @asynccontextmanager
    async def fetch(self, url: str, *, declared_bytes: int = 0) -> AsyncIterator[DownloadedFile]:
        """Have the document as a file for as long as the context lasts.

        `declared_bytes` is the size that the task states; 0: unknown.

        Raises:
            DownloadForbidden, DownloadNotFound, TooLarge: for good.
            DownloadFailed, DownloadTimedOut, StorageFull: a later attempt may succeed.
            ServiceCredentialsRejected: the bucket refuses the service itself.
        """
        target = self._policy.judge(url)
        if declared_bytes > self._max_bytes:
            raise TooLarge(
                f"FileSize is {declared_bytes} bytes; MAX_FILE_BYTES allows {self._max_bytes}."
            )
        with self._folder.spool(max_bytes=self._max_bytes) as spool:
            await self._fill(spool, target)
            yield DownloadedFile(spool.path, spool.size_bytes, spool.sha256)

    async def _fill(self, spool: Spool, target: Target) -> None:
        try:
            async with asyncio.timeout(self._total_timeout_seconds):
                await self._receive_with_retries(spool, target)
                await spool.finish()
        except TimeoutError:
            raise DownloadTimedOut(
                f"The download took longer than {self._total_timeout_seconds:g} seconds."
            ) from None

    async def _receive_with_retries(self, spool: Spool, target: Target) -> None:
        for tried in itertools.count(1):
            try:
                await self._receive(spool, target)
            except (DownloadFailed, DownloadTimedOut) as error:
                pause_seconds = _pause_seconds(tried, error.retry_after_seconds)
                if tried >= self._max_tries or pause_seconds > MAX_PAUSE_SECONDS:
                    raise
                log.info(
                    "download interrupted",
                    reason=error.message,
                    tried=tried,
                    have_bytes=spool.size_bytes,
                    pause_seconds=round(pause_seconds, 3),
                )
                await self._sleep(pause_seconds)
            else:
                return

    async def _receive(self, spool: Spool, target: Target) -> None:
        match target:
            case HttpTarget():
                await self._web.receive(target, spool)
            case S3Object():
                await self._store.receive(target, spool)
            case LocalFile():
                await _copy(target.path, spool)


def _pause_seconds(tried: int, wish_seconds: float | None) -> float:
    """Doubling, with jitter ("equal jitter": half fixed, half random), or the peer's wish."""
    if wish_seconds is not None:
        return wish_seconds
    longest = min(FIRST_PAUSE_SECONDS * 2**tried, MAX_PAUSE_SECONDS)
    return random.uniform(longest / 2, longest)  # noqa: S311 - jitter, no secret


async def _copy(path: Path, spool: Spool) -> None:
    """Copy a file of this machine: it may change or vanish while the document is read."""
    try:
        with _open_regular(path) as file:
            source = aiofiles.threadpool.wrap(file)
            while chunk := await source.read(CHUNK_BYTES):
                await spool.append(chunk)
    except OSError as error:
        raise DownloadNotFound(f"{path} cannot be read: {error.strerror}.") from None


@contextmanager
def _open_regular(path: Path) -> Iterator[BinaryIO]:
    with open(path, "rb", opener=_open_without_waiting) as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise DownloadForbidden(f"{path} is not a regular file.")
        yield file


def _open_without_waiting(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NONBLOCK)  # a FIFO without a writer would wait for one
