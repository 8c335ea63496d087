"""Lets in who knows the token."""

from __future__ import annotations

import hmac
from collections.abc import Callable
from typing import Any, NoReturn, TypeAlias

import grpc
from pydantic import SecretStr

Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any]"

HEALTH_METHODS = "/grpc.health.v1.Health/"


class TokenInterceptor(grpc.ServerInterceptor):
    """Refuses every RPC but the health service's without `authorization: Bearer <token>`."""

    def __init__(self, token: SecretStr) -> None:
        self._expected = f"Bearer {token.get_secret_value()}".encode()
        self._refusal: Handler = grpc.unary_unary_rpc_method_handler(_refuse)

    def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Handler | None],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Handler | None:
        """Pass an RPC on, or let it end in `UNAUTHENTICATED`."""
        if handler_call_details.method.startswith(HEALTH_METHODS):
            return continuation(handler_call_details)
        if self._knows_token(handler_call_details):
            return continuation(handler_call_details)
        return self._refusal

    def _knows_token(self, details: grpc.HandlerCallDetails) -> bool:
        given = dict(details.invocation_metadata).get("authorization", "")
        raw = given.encode() if isinstance(given, str) else given
        return hmac.compare_digest(raw, self._expected)


def _refuse(_request: object, context: grpc.ServicerContext) -> NoReturn:
    message = "Send metadata `authorization: Bearer <token>` with the token of GRPC_AUTH_TOKEN"
    context.abort(grpc.StatusCode.UNAUTHENTICATED, message)
