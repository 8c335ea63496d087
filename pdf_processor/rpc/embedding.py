"""EmbeddingService: vectors for texts, with the caller's own key."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import grpc
import structlog
from pydantic import SecretStr

from pdf_processor.embedding.batching import embed_texts
from pdf_processor.embedding.embedder import Embedder, Vector
from pdf_processor.errors import EmbeddingRejected, ProcessorError
from pdf_processor.rpc.answering import answering
from pdf_processor.rpc.api_key import key_problem
from pdf_processor.rpc.bridge import Bridge
from protos import cognicore_pb2 as pb
from protos import cognicore_pb2_grpc

log = structlog.get_logger()

Request = pb.EmbeddingRequest | pb.BatchEmbeddingRequest


class Embedders(Protocol):
    """All providers, by name."""

    def open(self, name: str, /, *, api_key: SecretStr | None, model: str = "") -> Embedder:
        """Bind a provider to a key and a model. Raises `ProcessorError`."""


class EmbeddingServicer(cognicore_pb2_grpc.EmbeddingServiceServicer):
    """Embeds texts; what the caller or the provider did wrong is said in the answer."""

    def __init__(self, embedders: Embedders, bridge: Bridge) -> None:
        self._embedders = embedders
        self._bridge = bridge

    def GetEmbedding(  # noqa: N802, the proto's name
        self, request: pb.EmbeddingRequest, context: grpc.ServicerContext
    ) -> pb.EmbeddingResponse:
        """Return the vector of one text."""
        with answering("GetEmbedding", context):
            try:
                model, [vector] = self._bridge.wait(self._embed(request, [request.text]), context)
            except ProcessorError as error:
                return pb.EmbeddingResponse(success=False, message=_said(request, error))
            return pb.EmbeddingResponse(
                success=True, embeddings=vector, dimension=len(vector), model=model
            )

    def GetEmbeddings(  # noqa: N802, the proto's name
        self, request: pb.BatchEmbeddingRequest, context: grpc.ServicerContext
    ) -> pb.BatchEmbeddingResponse:
        """Return the vectors of several texts, in their order."""
        with answering("GetEmbeddings", context):
            try:
                model, vectors = self._bridge.wait(self._embed(request, request.texts), context)
            except ProcessorError as error:
                return pb.BatchEmbeddingResponse(success=False, message=_said(request, error))
            return pb.BatchEmbeddingResponse(
                success=True,
                vectors=[pb.Vector(values=vector) for vector in vectors],
                dimension=len(vectors[0]),
                model=model,
            )

    async def _embed(self, request: Request, texts: Sequence[str]) -> tuple[str, list[Vector]]:
        if not texts or not all(text.strip() for text in texts):
            raise EmbeddingRejected("text is missing")
        embedder = self._embedders.open(
            request.provider, api_key=_key(request), model=request.model
        )
        async with embedder:
            return embedder.model, await embed_texts(texts, embedder)


def _key(request: Request) -> SecretStr | None:
    """Return the caller's key; without one, none is taken from anywhere else."""
    if not request.api_key:
        return None
    problem = key_problem(request.api_key)
    if problem:
        raise EmbeddingRejected(problem)
    return SecretStr(request.api_key.strip())


def _said(request: Request, error: ProcessorError) -> str:
    log.info("embedding failed", task_id=request.task_id, code=error.code)
    return error.message
