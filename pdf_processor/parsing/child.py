"""The parser child: one document after the other, page after page, until its stdin ends.

Started by the parser pool as `python -m pdf_processor.parsing.child MEMORY_BYTES PARENT`.
Frames come in on standard input and leave on a duplicate of standard output; whatever C
libraries print goes to /dev/null. The child dies with its parent.
"""

from __future__ import annotations

import ctypes
import os
import resource
import signal
import sys
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import pymupdf

from pdf_processor.errors import InternalError, ParserOutOfMemory, ProcessorError
from pdf_processor.parsing import frames
from pdf_processor.parsing.mupdf_errors import is_out_of_memory
from pdf_processor.parsing.reading import Reading
from pdf_processor.parsing.source import open_document

PR_SET_PDEATHSIG = 1


def main() -> None:
    """Serve the parent's requests until it goes away."""
    memory_bytes, parent = int(sys.argv[1]), int(sys.argv[2])
    _die_with(parent)
    requests, answers = _claim_pipes()
    _limit_memory(memory_bytes)
    pymupdf.TOOLS.mupdf_display_errors(False)
    pymupdf.TOOLS.mupdf_display_warnings(False)
    answers.write(frames.encode(frames.READY))
    while (request := frames.read_frame(requests)) is not None:
        for frame in _answers(request[1]):
            answers.write(frame)
        pymupdf.TOOLS.store_shrink(100)


def _answers(request: dict[str, Any]) -> Iterator[bytes]:
    """All frames that answer one request; the last says how it ended."""
    try:
        yield from _read(request)
    except ProcessorError as error:
        yield frames.encode(frames.FAILED, error.code, error.message)
    except Exception as error:  # noqa: BLE001  whatever it is, it fails this document only
        failure = ParserOutOfMemory() if is_out_of_memory(error) else _unexpected(error)
        yield frames.encode(frames.FAILED, failure.code, failure.message)


def _unexpected(error: Exception) -> ProcessorError:
    """A bug: say where it is, and nothing of the document."""
    frame = traceback.extract_tb(error.__traceback__)[-1]
    place = f"{Path(frame.filename).name}:{frame.lineno}"
    return InternalError(f"The parser failed with {type(error).__name__} at {place}.")


def _read(request: dict[str, Any]) -> Iterator[bytes]:
    with open_document(
        Path(request["path"]), password=request["password"], max_pages=request["max_pages"]
    ) as source:
        reading = Reading(source, ocr=request["ocr"])
        info = reading.info
        yield frames.encode(frames.OPENED, info.page_count, info.title, info.author)
        for page in reading.pages():
            yield frames.encode(frames.WORKING) if page is None else frames.encode_page(page)
        yield frames.encode(frames.DONE, reading.warnings)


def _claim_pipes() -> tuple[BinaryIO, BinaryIO]:
    """Standard input and output as pipes of frames; nobody else can print on them."""
    requests = os.fdopen(os.dup(0), "rb")
    answers = os.fdopen(os.dup(1), "wb", buffering=0)
    nowhere = os.open(os.devnull, os.O_RDWR)
    for descriptor in (0, 1, 2):
        os.dup2(nowhere, descriptor)
    return requests, answers


def _die_with(parent: int) -> None:
    """Leave SIGINT to the parent, and ask Linux for SIGKILL when it is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        sys.exit(0)


def _limit_memory(memory_bytes: int) -> None:
    """Let allocations beyond the limit fail: data counts, mapped libraries do not."""
    resource.setrlimit(resource.RLIMIT_DATA, (memory_bytes, memory_bytes))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


if __name__ == "__main__":
    main()
