"""How an RPC ends when it does not end well."""

from __future__ import annotations

import traceback
from collections.abc import Iterator
from contextlib import contextmanager

import grpc
import structlog

from pdf_processor.errors import ProcessorError
from pdf_processor.queue.connection import QueueUnavailable

log = structlog.get_logger()


class Refused(Exception):
    """The RPC ends with this code and these words."""

    def __init__(self, code: grpc.StatusCode, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message


@contextmanager
def answering(rpc: str, context: grpc.ServicerContext) -> Iterator[None]:
    """Turn what the body raises into the status of the RPC.

    What is unexpected is logged by its type and place: its text may hold a secret.
    """
    try:
        yield
    except Refused as refused:
        refusal = refused
    except ProcessorError as error:
        refusal = Refused(_code(error), error.message)
    except QueueUnavailable as error:
        refusal = Refused(grpc.StatusCode.UNAVAILABLE, str(error))
    except Exception as error:  # noqa: BLE001, the edge: nothing may escape to the client
        log.error("rpc failed", rpc=rpc, error=type(error).__name__, at=_place(error))  # noqa: TRY400
        refusal = Refused(grpc.StatusCode.INTERNAL, "Something unexpected went wrong; see the log")
    else:
        return
    context.abort(refusal.code, refusal.message)


def _code(error: ProcessorError) -> grpc.StatusCode:
    if error.permanent:
        return grpc.StatusCode.FAILED_PRECONDITION
    return grpc.StatusCode.UNAVAILABLE


def _place(error: Exception) -> str:
    frames = traceback.extract_tb(error.__traceback__)
    return f"{frames[-1].filename}:{frames[-1].lineno}" if frames else ""
