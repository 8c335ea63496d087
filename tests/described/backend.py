"""A Go backend's part, played by stubs of the described fields alone.

    python backend.py ingest                        prints its address, then each document
    python backend.py provide ADDRESS TASK KEY PROVIDER    hands a key over

It needs the generated `cognicore_described_pb2` on its path, and a process of its own:
these messages have the names of the real ones, and one process can know only one of both.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import cognicore_described_pb2 as pb
import cognicore_described_pb2_grpc as pb_grpc
import grpc
from google.protobuf.json_format import MessageToDict
from google.protobuf.message import Message


class Ingest(pb_grpc.IngestServiceServicer):
    """Prints every document that comes whole: its metadata and its chunks."""

    def IngestDocument(  # noqa: N802, the proto's name
        self, requests: Iterator[pb.IngestRequest], _context: grpc.ServicerContext
    ) -> pb.IngestResponse:
        metadata = next(requests).metadata
        chunks = [request.chunk for request in requests]
        say(metadata=fields(metadata), chunks=[fields(chunk) for chunk in chunks])
        return pb.IngestResponse(success=True, chunks_received=len(chunks))


def fields(message: Message) -> dict[str, object]:
    return MessageToDict(
        message, preserving_proto_field_name=True, always_print_fields_with_no_presence=True
    )


def say(**values: object) -> None:
    sys.stdout.write(json.dumps(values) + "\n")
    sys.stdout.flush()


def ingest() -> None:
    server = grpc.server(ThreadPoolExecutor())
    pb_grpc.add_IngestServiceServicer_to_server(Ingest(), server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    say(address=f"127.0.0.1:{port}")
    server.wait_for_termination()


def provide(address: str, task_id: str, api_key: str, provider: str) -> None:
    with grpc.insecure_channel(address) as channel:
        request = pb.APIKeyRequest(task_id=task_id, api_key=api_key, provider=provider)
        say(**fields(pb_grpc.APIKeyServiceStub(channel).ProvideAPIKey(request)))


if __name__ == "__main__":
    {"ingest": ingest, "provide": provide}[sys.argv[1]](*sys.argv[2:])
