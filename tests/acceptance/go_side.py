"""Go's ingest server as tests need it: records every stream, and behaves as it is told."""

from __future__ import annotations

import asyncio
from collections import defaultdict, deque
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self

import grpc

from protos import cognicore_pb2 as pb
from protos import cognicore_pb2_grpc

WHOLE = "whole"
CANCELLED = "cancelled"


@dataclass
class Stream:
    """One call of IngestDocument, as it was received. `ending` is empty while it goes on."""

    metadata: pb.DocumentMetadata
    chunks: list[pb.DocumentChunk] = field(default_factory=list)
    ending: str = ""

    @property
    def ids(self) -> list[str]:
        return [chunk.id for chunk in self.chunks]


class Hold:
    """A stop in the reading of a document, after so many chunks."""

    def __init__(self, after: int) -> None:
        self.after = after
        self.reached = asyncio.Event()
        self.released = asyncio.Event()


class GoSide(cognicore_pb2_grpc.IngestServiceServicer):
    """Serves IngestService on one port while it is entered, or between `start` and `stop`.

    `hold` stops the reading of a document's next stream; `answer` scripts its next answers:
    a response, or a status to fail with. Without them it reads and confirms.
    """

    def __init__(self) -> None:
        self.port = 0
        self.streams: list[Stream] = []
        self._holds: dict[str, Hold] = {}
        self._answers: defaultdict[str, deque[pb.IngestResponse | tuple[Any, str]]]
        self._answers = defaultdict(deque)
        self._changed = asyncio.Condition()

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    def hold(self, doc_id: str, *, after: int) -> Hold:
        """Stop reading the next stream of this document after so many chunks."""
        self._holds[doc_id] = Hold(after)
        return self._holds[doc_id]

    def answer(self, doc_id: str, *answers: pb.IngestResponse | tuple[Any, str]) -> None:
        """Answer the document's next streams so."""
        self._answers[doc_id].extend(answers)

    def of(self, doc_id: str) -> list[Stream]:
        """All streams of a document, in the order in which they began."""
        return [stream for stream in self.streams if stream.metadata.doc_id == doc_id]

    async def ended(self, doc_id: str, number: int = 1) -> Stream:
        """Wait until that many streams of a document have ended; return the last of them."""
        async with asyncio.timeout(30), self._changed:
            await self._changed.wait_for(lambda: len(self._over(doc_id)) >= number)
        return self._over(doc_id)[number - 1]

    def _over(self, doc_id: str) -> list[Stream]:
        return [stream for stream in self.of(doc_id) if stream.ending]

    async def start(self) -> None:
        """Listen, on the same port as before."""
        self._server = grpc.aio.server(options=(("grpc.so_reuseport", 0),))
        cognicore_pb2_grpc.add_IngestServiceServicer_to_server(self, self._server)
        self.port = self._server.add_insecure_port(self.address)
        await self._server.start()

    async def stop(self) -> None:
        """End at once, whatever is being received."""
        await self._server.stop(grace=None)

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.stop()

    async def IngestDocument(  # noqa: N802 - the proto's name
        self,
        request_iterator: AsyncIterator[pb.IngestRequest],
        context: grpc.aio.ServicerContext[Any, Any],
    ) -> pb.IngestResponse:
        first = await anext(aiter(request_iterator))
        assert first.WhichOneof("payload") == "metadata"
        stream = Stream(first.metadata)
        self.streams.append(stream)
        ending = CANCELLED
        try:
            await self._receive(stream, request_iterator)
            # grpc.aio now and then shows a cancelled stream as one that ended; on a
            # cancelled call this raises.
            await context.send_initial_metadata(())
            ending = WHOLE
        finally:
            stream.ending = ending
            async with self._changed:
                self._changed.notify_all()
        return await self._answer(stream, context)

    async def _receive(self, stream: Stream, requests: AsyncIterator[pb.IngestRequest]) -> None:
        hold = self._holds.pop(stream.metadata.doc_id, None)
        async for request in requests:
            assert request.WhichOneof("payload") == "chunk"
            stream.chunks.append(request.chunk)
            if hold and len(stream.chunks) == hold.after:
                hold.reached.set()
                await hold.released.wait()

    async def _answer(
        self, stream: Stream, context: grpc.aio.ServicerContext[Any, Any]
    ) -> pb.IngestResponse:
        answers = self._answers[stream.metadata.doc_id]
        answer = answers.popleft() if answers else None
        if isinstance(answer, tuple):
            await context.abort(*answer)
        return answer or pb.IngestResponse(success=True, chunks_received=len(stream.chunks))
