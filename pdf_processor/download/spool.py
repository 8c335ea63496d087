"""Temporary files: private, counted, hashed, and gone when their context is left."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

import aiofiles.threadpool

from pdf_processor.errors import InternalError, ProcessorError, StorageFull, TooLarge

CHUNK_BYTES = 256 * 1024
"""How much is read and written at a time."""

_PREFIX = "pdf-processor-"
_CONTENT_RANGE = re.compile(r"bytes ([0-9]{1,18})-([0-9]{1,18})/([0-9]{1,18})")


class Spool:
    """One temporary file while it grows.

    1. Refuses more than `max_bytes`, as soon as that many are announced or have come.
    2. Writes off the event loop, and hashes.
    3. Remembers which version of the document its bytes are, so that a download that
       broke off can be resumed; starts over when it cannot.

    Where the bytes come from, and deleting the file, are left to others.
    """

    def __init__(self, path: Path, file: BinaryIO, *, max_bytes: int) -> None:
        self.path = path
        self.size_bytes = 0
        self.version = ""
        """Names the version that the bytes belong to; empty: it cannot be resumed."""
        self._file = aiofiles.threadpool.wrap(file)
        self._buffer = bytearray()
        self._sha256 = hashlib.sha256()
        self._max_bytes = max_bytes

    @property
    def sha256(self) -> str:
        """Of the finished file, in lower-case hex."""
        return self._sha256.hexdigest()

    def announce(self, total_bytes: int) -> None:
        """Say how large the file is going to be.

        Raises:
            TooLarge: larger than allowed.
        """
        if total_bytes > self._max_bytes:
            raise TooLarge(
                f"The file has {total_bytes} bytes or more; "
                f"MAX_FILE_BYTES allows {self._max_bytes}."
            )

    async def append(self, chunk: bytes) -> None:
        """Take the next bytes.

        Raises:
            TooLarge: with them the file is larger than allowed.
            StorageFull: there is no room for them.
        """
        self.announce(self.size_bytes + len(chunk))
        self.size_bytes += len(chunk)
        self._buffer += chunk
        if len(self._buffer) >= CHUNK_BYTES:
            await self._write()

    async def finish(self) -> None:
        """Write the rest, so that others can read the whole file.

        Raises:
            StorageFull: there is no room for it.
        """
        await self._write()
        with _translated():
            await self._file.flush()

    async def restart(self, *, version: str = "") -> None:
        """Forget all bytes; those that come next are of `version`."""
        self._buffer.clear()
        self._sha256 = hashlib.sha256()
        self.size_bytes = 0
        self.version = version
        with _translated():
            await self._file.seek(0)
            await self._file.truncate()

    def resumed_total(self, content_range: str) -> int | None:
        """The whole document's size in bytes, if an answer continues where the file ends.

        `content_range` is the answer's header (RFC 9110, section 14.4).
        """
        match = _CONTENT_RANGE.fullmatch(content_range)
        if match is None:
            return None
        first, last, total = map(int, match.groups())
        return total if first == self.size_bytes and last == total - 1 else None

    async def _write(self) -> None:
        chunk = bytes(self._buffer)
        self._buffer.clear()
        self._sha256.update(chunk)
        with _translated():
            await self._file.write(chunk)


class SpoolFolder:
    """The private folder of the spools.

    1. Makes the folder, readable by nobody else.
    2. Removes what processes that crashed left in it. A file in use is locked, and the
       kernel unlocks it when its process ends in whatever way, so other live processes
       may share the folder, also from other containers.
    3. Hands out spools, and deletes each when its context is left.
    """

    def __init__(self, path: Path) -> None:
        self._path = path

    def prepare(self) -> None:
        """Make the folder and remove leftovers.

        Raises:
            OSError: the folder cannot be made or read.
        """
        self._make()
        for path in self._path.glob(f"{_PREFIX}*"):
            with suppress(OSError):  # locked, not ours, or already removed
                _remove_unlocked(path)

    @contextmanager
    def spool(self, *, max_bytes: int) -> Iterator[Spool]:
        """Give an empty spool, whose file (mode 0600) lives as long as the context.

        Raises:
            StorageFull: there is no room for another file.
        """
        with _translated():
            path, file = self._create()
        try:
            yield Spool(path, file, max_bytes=max_bytes)
        finally:
            path.unlink(missing_ok=True)
            with suppress(OSError):  # what could not be written is not wanted any more
                file.close()

    def _make(self) -> None:
        self._path.mkdir(mode=0o700, parents=True, exist_ok=True)

    def _create(self) -> tuple[Path, BinaryIO]:
        while True:
            self._make()  # again: cleaners of /tmp remove folders that were empty for days
            descriptor, name = tempfile.mkstemp(prefix=_PREFIX, dir=self._path)
            file = os.fdopen(descriptor, "wb")
            fcntl.flock(file, fcntl.LOCK_EX)
            if os.fstat(descriptor).st_nlink:
                return Path(name), file
            file.close()  # another process, as it started, took the file for a leftover


def _remove_unlocked(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        path.unlink()
    finally:
        os.close(descriptor)


@contextmanager
def _translated() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise _verdict(error) from None


def _verdict(error: OSError) -> ProcessorError:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return StorageFull()
    return InternalError(f"TEMP_DIR cannot be written: {os.strerror(error.errno or errno.EIO)}.")
