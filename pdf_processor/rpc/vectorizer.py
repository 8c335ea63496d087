"""VectorizerService: vectors of the local model."""

from __future__ import annotations

import grpc

from pdf_processor.embedding.embedder import Embedder
from pdf_processor.errors import EmbeddingUnavailable
from pdf_processor.rpc.answering import Refused, answering
from pdf_processor.rpc.bridge import Bridge, LongCalls
from protos import cognicore_pb2 as pb
from protos import cognicore_pb2_grpc


class VectorizerServicer(cognicore_pb2_grpc.VectorizerServiceServicer):
    """Embeds a text with the local model, if there is one."""

    def __init__(self, embedder: Embedder | None, bridge: Bridge, long_calls: LongCalls) -> None:
        self._embedder = embedder
        self._bridge = bridge
        self._long_calls = long_calls

    def GetVector(  # noqa: N802, the proto's name
        self, request: pb.TextRequest, context: grpc.ServicerContext
    ) -> pb.VectorResponse:
        """Return the vector of a text."""
        with answering("GetVector", context), self._long_calls.one():
            if self._embedder is None:
                message = "There is no local model here: see LOCAL_EMBEDDING_MODEL"
                raise Refused(grpc.StatusCode.FAILED_PRECONDITION, message)
            if not request.text.strip():
                raise Refused(grpc.StatusCode.INVALID_ARGUMENT, "text is missing")
            try:
                [vector] = self._bridge.wait(self._embedder.embed([request.text]), context)
            except EmbeddingUnavailable as error:  # of a local model: it is not there
                raise Refused(grpc.StatusCode.FAILED_PRECONDITION, error.message) from None
            return pb.VectorResponse(vector=vector)
