"""APIKeyService: keys come in."""

from __future__ import annotations

from collections.abc import Collection
from typing import Protocol

import grpc
import structlog
from pydantic import SecretStr

from pdf_processor.keys.inbox import ApiKey, KeyNotKept
from pdf_processor.rpc.answering import Refused, answering
from protos import cognicore_pb2 as pb
from protos import cognicore_pb2_grpc

log = structlog.get_logger()

MAX_TASK_ID_CHARACTERS = 200
MAX_KEY_CHARACTERS = 8192


class Inbox(Protocol):
    """Takes keys, from any thread."""

    def deliver(self, task_id: str, key: ApiKey) -> None:
        """Keep a key. Raises `KeyNotKept`."""


class ApiKeyServicer(cognicore_pb2_grpc.APIKeyServiceServicer):
    """Delivers keys to the inbox; what is wrong with a request is said in its answer."""

    def __init__(self, inbox: Inbox, *, providers: Collection[str]) -> None:
        self._inbox = inbox
        self._providers = providers

    def ProvideAPIKey(  # noqa: N802, the proto's name
        self, request: pb.APIKeyRequest, context: grpc.ServicerContext
    ) -> pb.APIKeyResponse:
        """Keep a key for its task; the newest wins."""
        with answering("ProvideAPIKey", context):
            problem = (
                task_id_problem(request.task_id)
                or key_problem(request.api_key)
                or provider_problem(request.provider, self._providers)
            )
            if problem:
                return pb.APIKeyResponse(success=False, message=problem)
            key = ApiKey(request.provider, SecretStr(request.api_key.strip()))
            try:
                self._inbox.deliver(request.task_id, key)
            except KeyNotKept as error:
                raise Refused(grpc.StatusCode.UNAVAILABLE, str(error)) from None
            log.info("key delivered", task_id=request.task_id, provider=request.provider)
            return pb.APIKeyResponse(success=True, message="The API key is kept for the task")


def task_id_problem(task_id: str) -> str:
    """Say what is wrong with a task's id, or nothing."""
    if not task_id:
        return "task_id is missing"
    if len(task_id) > MAX_TASK_ID_CHARACTERS or not task_id.isprintable():
        return f"task_id must be 1 to {MAX_TASK_ID_CHARACTERS} printable characters"
    return ""


def key_problem(api_key: str) -> str:
    """Say what is wrong with a key, or nothing; never repeat it."""
    key = api_key.strip()
    if not key:
        return "api_key is empty"
    if len(key) > MAX_KEY_CHARACTERS or not (key.isascii() and key.isprintable()):
        return f"api_key must be at most {MAX_KEY_CHARACTERS} printable ASCII characters"
    return ""


def provider_problem(provider: str, known: Collection[str]) -> str:
    """Say what is wrong with a provider's name, or nothing."""
    if provider in known:
        return ""
    what = "provider is unknown" if provider else "provider is missing"
    return f"{what}; known are {', '.join(sorted(known))}"
