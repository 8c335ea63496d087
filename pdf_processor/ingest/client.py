"""Streams documents to Go: one call a document, over one reused channel."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar, cast

import grpc
from pydantic import SecretStr

from pdf_processor.document import EmbeddedChunk
from pdf_processor.errors import IngestUnavailable
from pdf_processor.ingest.verdict import Receipt, judge_response, judge_status
from protos import cognicore_pb2 as pb
from protos import cognicore_pb2_grpc

__all__ = ["DocumentHeader", "IngestClient", "Receipt"]

MAX_MESSAGE_BYTES = 50 * 1024 * 1024

# A Go server with default settings ends a connection that is pinged more often than every
# five minutes. Keepalive also makes the kernel give up on data that nobody acknowledges
# within the time-out: that is what finds a peer that died silently.
CHANNEL_OPTIONS = (
    ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
    ("grpc.keepalive_time_ms", 310_000),
    ("grpc.keepalive_timeout_ms", 20_000),
    # Go is near: a proxy for the world outside would not know the way.
    ("grpc.enable_http_proxy", 0),
    ("grpc.initial_reconnect_backoff_ms", 500),
    ("grpc.max_reconnect_backoff_ms", 5_000),
)

FAILED_WRITE = "Internal error from Core"
"""The details that grpc.aio gives to a call when one of its writes failed."""

T = TypeVar("T")

IngestCall = grpc.aio.StreamUnaryCall[pb.IngestRequest, pb.IngestResponse]


@dataclass(frozen=True, slots=True, kw_only=True)
class DocumentHeader:
    """What Go is told before the chunks: fields as in the proto's `DocumentMetadata`."""

    doc_id: str
    task_id: str
    attempt: int
    user_id: str = ""
    file_name: str = ""
    page_count: int = 0
    title: str = ""
    author: str = ""
    file_size: int = 0
    sha256: str = ""
    embedding_provider: str = ""
    embedding_model: str = ""


class IngestClient:
    """Sends documents to the ingest server.

    Duties: open a call with a document's first chunk; send each chunk as it is made, as
    fast as Go reads; half-close after the last one, and cancel after any failure; stop at
    once when Go answers early. Leaves the meaning of the answer to `verdict`, and
    trying again to the worker.
    """

    def __init__(
        self,
        *,
        address: str,
        stall_seconds: float,
        auth_token: SecretStr | None = None,
        tls_ca: Path | None = None,
    ) -> None:
        self._address = address
        self._stall_seconds = stall_seconds
        self._tls_ca = tls_ca
        self._token = auth_token.get_secret_value() if auth_token else ""
        bearer = ("authorization", f"Bearer {self._token}")
        self._credentials = (bearer,) if self._token else ()

    async def __aenter__(self) -> Self:
        self._channel = self._open_channel()
        self._stub: Any = cognicore_pb2_grpc.IngestServiceStub(self._channel)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self._channel.close()

    async def check(self, timeout_seconds: float) -> None:
        """Look whether anything answers at the address.

        Raises:
            IngestUnavailable: nothing did in time.
        """
        try:
            await asyncio.wait_for(self._channel.channel_ready(), timeout_seconds)
        except TimeoutError:
            raise IngestUnavailable(
                f"Nothing answers at {self._address}: start the Go backend, or set "
                "GO_GRPC_INGEST_ADDR"
            ) from None

    async def send_document(
        self,
        chunks: AsyncIterator[EmbeddedChunk],
        describe: Callable[[], DocumentHeader],
        on_sent: Callable[[int], None] = lambda _count: None,
    ) -> Receipt | None:
        """Send a document; None if it has no chunk: then no call was opened.

        `describe` is asked once, when the first chunk is there. `on_sent` gets the number
        of chunks sent so far. The chunks are taken in the caller's own task, and closing
        the iterator stays with the caller.

        Raises:
            IngestRejected: Go refused the document.
            IngestMismatch: Go answered for another number of chunks.
            IngestUnavailable: Go is out of reach, failed, or made no progress for
                `stall_seconds`.
            Exception: whatever `chunks` raised.
        """
        first = await anext(chunks, None)
        if first is None:
            return None
        header = describe()
        call = self._stub.IngestDocument(metadata=self._credentials)
        transfer = _Transfer(call, self._stall_seconds, on_sent, self._token)
        try:
            async with _UntilOver(call):
                await transfer.send(header, first, chunks)
            return await transfer.judge(header.attempt)
        finally:
            call.cancel()

    def _open_channel(self) -> grpc.aio.Channel:
        if self._tls_ca is None:
            return grpc.aio.insecure_channel(self._address, CHANNEL_OPTIONS)
        credentials = grpc.ssl_channel_credentials(self._tls_ca.read_bytes())
        return grpc.aio.secure_channel(self._address, credentials, CHANNEL_OPTIONS)


class _CallOver(Exception):
    """The call ended while something was being written: its answer says why."""


class _UntilOver:
    """Ends its block as soon as the call is over, as `asyncio.timeout` does at a deadline.

    The block runs in the caller's own task, so that whatever it iterates over may hold
    task groups and timeouts.
    """

    def __init__(self, call: IngestCall) -> None:
        self._call = call
        self._inside = True
        self._interrupted = False

    async def __aenter__(self) -> None:
        task = asyncio.current_task()
        assert task is not None  # noqa: S101, a coroutine always runs in one
        self._task = task
        self._cancelling = task.cancelling()
        self._call.add_done_callback(self._on_done)

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> bool:
        self._inside = False
        if self._interrupted:
            others = self._task.uncancel() - self._cancelling
            return kind is asyncio.CancelledError and others <= 0
        return kind is _CallOver

    def _on_done(self, _call: object) -> None:
        """Not at once: the call may have ended in the middle of a step of this very task."""
        asyncio.get_running_loop().call_soon(self._interrupt)

    def _interrupt(self) -> None:
        if self._inside and not self._interrupted:
            self._interrupted = True
            self._task.cancel()


class _Transfer:
    """One document on its way."""

    def __init__(
        self,
        call: IngestCall,
        stall_seconds: float,
        on_sent: Callable[[int], None],
        token: str,
    ) -> None:
        self._call = call
        self._stall_seconds = stall_seconds
        self._on_sent = on_sent
        self._token = token
        self._sent = 0
        self._complete = False
        self._status: tuple[grpc.StatusCode, str] | None = None
        call.add_done_callback(self._note_status)

    async def send(
        self, header: DocumentHeader, first: EmbeddedChunk, rest: AsyncIterator[EmbeddedChunk]
    ) -> None:
        metadata = pb.DocumentMetadata(**asdict(header), embedding_dimension=len(first.vector))
        await self._write(pb.IngestRequest(metadata=metadata))
        await self._send_chunk(first)
        async for chunk in rest:
            await self._send_chunk(chunk)
        await self._in_time(self._call.done_writing())
        self._complete = True

    async def judge(self, attempt: int) -> Receipt:
        """Wait for the answer. Only it tells how the call ended: a failed write does not."""
        try:
            async with asyncio.timeout(self._stall_seconds):
                response = await self._call
        except TimeoutError:
            raise self._stalled() from None
        except grpc.aio.AioRpcError as error:
            code, details = self._status or (error.code(), error.details() or "")
            return judge_status(code, details, attempt=attempt, sent=self._sent, token=self._token)
        return judge_response(response, sent=self._sent, complete=self._complete, token=self._token)

    async def _send_chunk(self, chunk: EmbeddedChunk) -> None:
        await self._write(pb.IngestRequest(chunk=_message(chunk)))
        self._sent += 1
        self._on_sent(self._sent)

    async def _write(self, request: pb.IngestRequest) -> None:
        await self._in_time(self._call.write(request))

    async def _in_time(self, step: Coroutine[Any, Any, None]) -> None:
        try:
            async with asyncio.timeout(self._stall_seconds):
                await step
        except TimeoutError:
            raise self._stalled() from None
        except (grpc.aio.AioRpcError, grpc.aio.InternalError, asyncio.InvalidStateError):
            raise _CallOver from None

    def _note_status(self, call: IngestCall) -> None:
        """Keep what Go said: grpc.aio overwrites it when a write fails just before or after."""
        details = _at_once(call.details())
        if details != FAILED_WRITE:
            self._status = _at_once(call.code()), details

    def _stalled(self) -> IngestUnavailable:
        return IngestUnavailable(
            f"The ingest server made no progress for {self._stall_seconds:g} s "
            f"(INGEST_STALL_SECONDS) after {self._sent} chunks"
        )


def _at_once(coroutine: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine that has nothing to wait for: a call that is over knows its status."""
    try:
        coroutine.send(None)
    except StopIteration as returned:
        return cast("T", returned.value)
    raise AssertionError("the call is not over")


def _message(embedded: EmbeddedChunk) -> pb.DocumentChunk:
    chunk = embedded.chunk
    return pb.DocumentChunk(
        chapter=chunk.chapter,
        page=chunk.page,
        content=chunk.content,
        embeddings=embedded.vector,
        id=chunk.id,
        index=chunk.index,
        page_end=chunk.page_end,
        section_path=chunk.section_path,
        token_count=chunk.token_count,
        boxes=[pb.BoundingBox(**asdict(box)) for box in chunk.boxes],
        kind=pb.DocumentChunk.Kind.ValueType(chunk.kind),
    )
