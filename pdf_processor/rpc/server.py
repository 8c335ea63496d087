"""A thread-pooled gRPC server."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

import grpc
from grpc_health.v1 import health_pb2_grpc
from grpc_health.v1.health import SERVICE_NAME as HEALTH_SERVICE
from grpc_health.v1.health import HealthServicer
from grpc_health.v1.health_pb2 import HealthCheckResponse
from grpc_reflection.v1alpha import reflection
from pydantic import SecretStr

from pdf_processor.rpc.authentication import TokenInterceptor
from protos import cognicore_pb2, cognicore_pb2_grpc

MAX_MESSAGE_BYTES = 50 * 1024 * 1024
MAX_WAITING_CALLS = 256
STOP_SECONDS = 1.0

SERVER_OPTIONS = (
    # Else a second server on the same port starts silently and takes half of the calls.
    ("grpc.so_reuseport", 0),
    ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
    # A Go client may ping every 10 seconds, also while it is idle.
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.min_ping_interval_without_data_ms", 5_000),
)


class CannotListen(Exception):
    """The server cannot listen at its address."""


@dataclass(frozen=True, slots=True)
class Tls:
    """Certificate and key in PEM files; with `client_ca`, clients must have one from it."""

    cert: Path
    key: Path
    client_ca: Path | None = None

    def credentials(self) -> grpc.ServerCredentials:
        """Read the files."""
        return grpc.ssl_server_credentials(
            [(self.key.read_bytes(), self.cert.read_bytes())],
            root_certificates=self.client_ca.read_bytes() if self.client_ca else None,
            require_client_auth=self.client_ca is not None,
        )


class RpcServer:
    """Serves while it is entered.

    Duties: listen on an address that nobody else has; run each call in one of `threads`
    threads, let 256 wait and refuse the rest (`RESOURCE_EXHAUSTED`); ask for the token;
    answer health checks; on leaving, tell them first, then give calls a second to end.
    Leaves the answers to `services` (service name of the proto → servicer).
    """

    def __init__(
        self,
        services: Mapping[str, object],
        *,
        threads: int,
        port: int,
        port_setting: str,
        host: str = "127.0.0.1",
        auth_token: SecretStr | None = None,
        tls: Tls | None = None,
        use_reflection: bool = False,
    ) -> None:
        """`port` 0 takes a free one; `port_setting` names it where it cannot be had."""
        self._services = services
        self._threads = threads
        self._host = host
        self.port = port
        self._port_setting = port_setting
        self._auth_token = auth_token
        self._tls = tls
        self._use_reflection = use_reflection
        self._health = HealthServicer()

    async def __aenter__(self) -> Self:
        self._executor = ThreadPoolExecutor(self._threads, thread_name_prefix="rpc")
        self._server = grpc.server(
            self._executor,
            interceptors=self._interceptors(),
            options=SERVER_OPTIONS,
            maximum_concurrent_rpcs=self._threads + MAX_WAITING_CALLS,
        )
        self._register()
        self.port = self._listen()
        self._server.start()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._health.enter_graceful_shutdown()
        stopped = self._server.stop(STOP_SECONDS)
        await asyncio.to_thread(stopped.wait)
        await asyncio.to_thread(self._executor.shutdown)

    def _interceptors(self) -> list[grpc.ServerInterceptor]:
        if self._auth_token is None or not self._auth_token.get_secret_value():
            return []
        return [TokenInterceptor(self._auth_token)]

    def _register(self) -> None:
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)
        names = []
        for name, servicer in self._services.items():
            add = getattr(cognicore_pb2_grpc, f"add_{name}Servicer_to_server")
            add(servicer, self._server)
            names.append(cognicore_pb2.DESCRIPTOR.services_by_name[name].full_name)
            self._health.set(names[-1], HealthCheckResponse.SERVING)
        if self._use_reflection:
            names += [HEALTH_SERVICE, reflection.SERVICE_NAME]
            reflection.enable_server_reflection(names, self._server)

    def _listen(self) -> int:
        host = f"[{self._host}]" if ":" in self._host else self._host
        address = f"{host}:{self.port}"
        try:
            if self._tls is None:
                return self._server.add_insecure_port(address)
            return self._server.add_secure_port(address, self._tls.credentials())
        except RuntimeError:
            raise CannotListen(
                f"Cannot listen on {address}: another program has the port, or the address is "
                f"not this machine's. See {self._port_setting} and GRPC_BIND"
            ) from None
