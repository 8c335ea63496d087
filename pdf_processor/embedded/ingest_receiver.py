"""A small ingest server: what Go's `IngestService` does, in memory."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

import grpc

from protos import cognicore_pb2 as pb
from protos import cognicore_pb2_grpc

MAX_MESSAGE_BYTES = 50 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class ReceivedDocument:
    """A document that arrived whole."""

    metadata: pb.DocumentMetadata
    chunks: tuple[pb.DocumentChunk, ...]


class IngestReceiver(cognicore_pb2_grpc.IngestServiceServicer):
    """Receives documents and keeps those that arrive whole, while it is entered.

    Duties: read a stream; refuse one that does not begin with its metadata or has a gap
    among its chunks; forget one that is cancelled; keep a whole one in `documents` (by
    document id, in place of an earlier one) and hand it to `on_document`.
    """

    def __init__(
        self,
        *,
        host: str = "127.0.0.1",
        port: int = 0,
        on_document: Callable[[ReceivedDocument], None] = lambda _document: None,
    ) -> None:
        self._host = host
        self.port = port
        self._on_document = on_document
        self.documents: dict[str, ReceivedDocument] = {}

    @property
    def address(self) -> str:
        """Where it listens, as in `GO_GRPC_INGEST_ADDR`."""
        return f"{self._host}:{self.port}"

    async def __aenter__(self) -> Self:
        self._server = grpc.aio.server(
            options=(
                ("grpc.so_reuseport", 0),
                ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
            )
        )
        cognicore_pb2_grpc.add_IngestServiceServicer_to_server(self, self._server)
        self.port = self._server.add_insecure_port(self.address)
        await self._server.start()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self._server.stop(grace=None)

    async def IngestDocument(  # noqa: N802, the proto's name
        self,
        request_iterator: AsyncIterator[pb.IngestRequest],
        context: grpc.aio.ServicerContext[Any, Any],
    ) -> pb.IngestResponse:
        """Keep a document, if its stream ends whole."""
        try:
            document = await _read(request_iterator)
        except ValueError as problem:
            return pb.IngestResponse(success=False, message=str(problem))
        # grpc.aio now and then shows a cancelled stream as one that ended (seen in 2 of 100).
        # Sending something tells them apart: on a cancelled call this raises.
        await context.send_initial_metadata(())
        self.documents[document.metadata.doc_id] = document
        self._on_document(document)
        return pb.IngestResponse(success=True, chunks_received=len(document.chunks))


async def _read(requests: AsyncIterator[pb.IngestRequest]) -> ReceivedDocument:
    metadata: pb.DocumentMetadata | None = None
    chunks: list[pb.DocumentChunk] = []
    async for request in requests:
        if (request.WhichOneof("payload") == "metadata") is not (metadata is None):
            raise ValueError("metadata comes first, once, and chunks after it")
        if metadata is None:
            metadata = request.metadata
        elif request.chunk.index == len(chunks):
            chunks.append(request.chunk)
        else:
            raise ValueError(f"chunk {len(chunks)} is missing")
    if metadata is None:
        raise ValueError("the stream is empty")
    return ReceivedDocument(metadata, tuple(chunks))
