"""What Go's answer to a document means: a receipt, or the error that the worker settles."""

from __future__ import annotations

from dataclasses import dataclass

import grpc

from pdf_processor.errors import IngestMismatch, IngestRejected, IngestUnavailable
from protos import cognicore_pb2 as pb

MAX_QUOTED_CHARACTERS = 300

REJECTING_CODES = frozenset(
    {
        grpc.StatusCode.INVALID_ARGUMENT,
        grpc.StatusCode.FAILED_PRECONDITION,
        grpc.StatusCode.UNIMPLEMENTED,
        grpc.StatusCode.PERMISSION_DENIED,
    }
)


@dataclass(frozen=True, slots=True)
class Receipt:
    """Go has the document: how many chunks were sent to it, and what it said."""

    chunks: int
    message: str = ""


def judge_status(
    code: grpc.StatusCode, details: str, *, attempt: int, sent: int, token: str = ""
) -> Receipt:
    """Judge a call that ended with another status than OK.

    A document that an earlier attempt brought there already is as good as received. An
    answer that repeats `token` is not quoted.

    Raises:
        IngestRejected: Go refused the document.
        IngestUnavailable: anything else.
    """
    quoted = _quoted(details, token)
    if code is grpc.StatusCode.ALREADY_EXISTS and attempt > 1:
        return Receipt(sent, quoted)
    answer = f"{code.name}: {quoted}" if quoted else code.name
    if code in REJECTING_CODES:
        raise IngestRejected(f"The ingest server refused the document: {answer}")
    if code is grpc.StatusCode.UNAUTHENTICATED:
        answer += "; see INGEST_AUTH_TOKEN"
    raise IngestUnavailable(
        f"The ingest server at GO_GRPC_INGEST_ADDR cannot be reached or failed: {answer}"
    )


def judge_response(
    response: pb.IngestResponse, *, sent: int, complete: bool, token: str = ""
) -> Receipt:
    """Judge a response; `complete` says whether all chunks were sent before it came.

    An answer that repeats `token` is not quoted.

    Raises:
        IngestRejected: it says `success=false`.
        IngestMismatch: it came too early, or counts other chunks than were sent.
    """
    message = _quoted(response.message, token)
    counted = response.chunks_received
    if not response.success:
        said = message or "it gave no reason"
        raise IngestRejected(f"The ingest server refused the document: {said}")
    if not complete:
        raise IngestMismatch(
            f"The ingest server answered after {sent} chunks, before the document was complete"
        )
    if counted not in (0, sent):  # 0: a server that does not count
        raise IngestMismatch(f"The ingest server counted {counted} chunks, {sent} were sent")
    return Receipt(sent, message)


def _quoted(text: str, token: str) -> str:
    """One printable line of bounded length; never one with the token in it."""
    if token and token in text:
        return "(its answer repeats INGEST_AUTH_TOKEN)"
    line = " ".join("".join(c if c.isprintable() else " " for c in text).split())
    if len(line) <= MAX_QUOTED_CHARACTERS:
        return line
    return line[:MAX_QUOTED_CHARACTERS] + "…"
