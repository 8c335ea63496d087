"""The composition root: joins the parts, starts them in order and stops them likewise."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Mapping
from contextlib import AsyncExitStack
from enum import StrEnum
from functools import partial
from typing import Self

import structlog
from redis.asyncio import Redis

from pdf_processor import parts
from pdf_processor.config import ConfigurationError, Settings
from pdf_processor.keys.inbox import KeyInbox
from pdf_processor.keys.vault import KeyVault
from pdf_processor.pipeline import Pipeline
from pdf_processor.provider_choice import HANDOFF, ProviderChoice
from pdf_processor.queue.connection import check_server
from pdf_processor.queue.task_queue import CancelAnswer
from pdf_processor.recoverer import Recoverer
from pdf_processor.rpc.api_key import ApiKeyServicer
from pdf_processor.rpc.bridge import Bridge, LongCalls
from pdf_processor.rpc.embedding import EmbeddingServicer
from pdf_processor.rpc.server import RpcServer, Tls
from pdf_processor.rpc.task import TaskServicer
from pdf_processor.rpc.vectorizer import VectorizerServicer
from pdf_processor.signals import stop_on_signals
from pdf_processor.worker import Worker

log = structlog.get_logger()

KEY_SERVER_THREADS = 10
EMBEDDING_SERVER_THREADS = 20
MAX_LONG_CALLS = 6
"""Watching and vectorizing together leave at least four threads for keys."""


class Part(StrEnum):
    """What `serve --only` can start alone."""

    WORKER = "worker"
    KEYS = "keys"
    EMBEDDING = "embedding"


ALL_PARTS = frozenset(Part)


async def serve(settings: Settings, only: frozenset[Part] = frozenset()) -> None:
    """Run the daemon until a signal stops it.

    Raises:
        ConfigurationError: the settings do not fit the parts.
        QueueUnavailable, ServerTooOld: Redis cannot be used.
        CannotListen: a port is taken.
    """
    with stop_on_signals() as stop:
        async with Daemon(settings, only or ALL_PARTS) as daemon:
            await daemon.run(stop)
    log.info("stopped")


class Daemon:
    """All parts, joined.

    Duties: build and start them top-down (Redis, parser children, keys, providers, ingest,
    the servers last), so that nothing is asked before it can answer; run the worker beside
    the recoverer; stop bottom-up, also when a step fails.
    """

    def __init__(self, settings: Settings, parts: frozenset[Part] = ALL_PARTS) -> None:
        _check_parts(settings, parts)
        self._settings = settings
        self._parts = parts
        self._stack = AsyncExitStack()
        self.ports: dict[Part, int] = {}

    async def __aenter__(self) -> Self:
        async with AsyncExitStack() as stack:
            await self._start(stack)
            self._stack = stack.pop_all()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._stack.aclose()

    async def run(self, stop: asyncio.Event) -> None:
        """Work until `stop` is set and everything that was taken is settled."""
        log.info("ready", parts=sorted(self._parts))
        if Part.WORKER not in self._parts:
            await stop.wait()
            return
        settled = asyncio.Event()
        async with asyncio.TaskGroup() as group:
            group.create_task(self._recoverer.run(settled))
            await self._worker.run(stop)
            settled.set()

    async def _start(self, stack: AsyncExitStack) -> None:
        settings, enter = self._settings, stack.enter_async_context
        redis, blocking = await enter(parts.open_redis(settings))
        await check_server(redis)
        self._board = await enter(parts.open_board(settings, redis))
        self._queue = parts.open_queue(settings, redis, blocking)
        self._providers = await enter(parts.open_providers(settings))
        if settings.embedding_provider != HANDOFF:
            parts.check_provider(settings.embedding_provider, self._providers, "EMBEDDING_PROVIDER")
        await self._start_inbox(redis, stack)
        if Part.WORKER in self._parts:
            await self._start_worker(stack)
        if Part.KEYS in self._parts:
            await self._start_key_server(stack)
        if Part.EMBEDDING in self._parts:
            await self._start_embedding_server(stack)

    async def _start_inbox(self, redis: Redis, stack: AsyncExitStack) -> None:
        settings, vault = self._settings, None
        if settings.key_encryption_secret:
            vault = await stack.enter_async_context(
                KeyVault(
                    redis,
                    queue_name=settings.redis_queue_name,
                    secrets=settings.key_encryption_secret,
                    ttl_seconds=settings.api_key_ttl_seconds,
                )
            )
        elif settings.embedding_provider == HANDOFF:
            log.warning("keys stay in this process, run one replica or set KEY_ENCRYPTION_SECRET")
        self._inbox = stack.enter_context(
            KeyInbox(vault=vault, ttl_seconds=settings.api_key_ttl_seconds)
        )

    async def _start_worker(self, stack: AsyncExitStack) -> None:
        settings, enter = self._settings, stack.enter_async_context
        pipeline = Pipeline(
            choice=ProviderChoice(
                inbox=self._inbox,
                providers=self._providers,
                default_provider=settings.embedding_provider,
                service_keys=settings.service_keys,
                key_timeout_seconds=settings.api_key_timeout_seconds,
            ),
            providers=self._providers,
            parsers=await enter(parts.open_parsers(settings)),
            downloader=await enter(parts.open_downloader(settings)),
            ingest=await enter(parts.open_ingest(settings)),
        )
        self._worker = Worker(
            queue=self._queue,
            board=self._board,
            run=pipeline.run,
            forget_key=self._inbox.forget,
            max_concurrent_tasks=settings.max_concurrent_tasks,
            grace_seconds=settings.shutdown_grace_seconds,
        )
        self._recoverer = Recoverer(self._queue, lease_seconds=settings.lease_seconds)

    async def _start_key_server(self, stack: AsyncExitStack) -> None:
        bridge = Bridge(asyncio.get_running_loop())
        long_calls = LongCalls(limit=MAX_LONG_CALLS)
        local = self._providers.open("local", api_key=None)
        services = {
            "APIKeyService": ApiKeyServicer(self._inbox, providers=self._providers.names()),
            "VectorizerService": VectorizerServicer(local, bridge, long_calls),
            "TaskService": TaskServicer(
                self._board,
                bridge,
                long_calls,
                retry_dead=partial(parts.retry_dead, self._queue, self._board),
                cancel=self._cancel,
            ),
        }
        await self._start_server(Part.KEYS, services, KEY_SERVER_THREADS, stack)

    async def _start_embedding_server(self, stack: AsyncExitStack) -> None:
        bridge = Bridge(asyncio.get_running_loop())
        services = {"EmbeddingService": EmbeddingServicer(self._providers, bridge)}
        await self._start_server(Part.EMBEDDING, services, EMBEDDING_SERVER_THREADS, stack)

    async def _start_server(
        self, part: Part, services: Mapping[str, object], threads: int, stack: AsyncExitStack
    ) -> None:
        settings = self._settings
        port, setting = {
            Part.KEYS: (settings.grpc_server_port, "GRPC_SERVER_PORT"),
            Part.EMBEDDING: (settings.grpc_embedding_port, "GRPC_EMBEDDING_PORT"),
        }[part]
        server = await stack.enter_async_context(
            RpcServer(
                services,
                threads=threads,
                port=port,
                port_setting=setting,
                host=settings.grpc_bind,
                auth_token=settings.grpc_auth_token,
                tls=_tls(settings),
                use_reflection=settings.grpc_reflection,
            )
        )
        self.ports[part] = server.port
        log.info("listening", server=str(part), host=settings.grpc_bind, port=server.port)

    async def _cancel(self, task_id: str) -> None:
        """Wish a task cancelled; of one that nobody works on it is true at once."""
        if await self._queue.cancel(task_id) is CancelAnswer.WAITS:
            await self._board.cancelled(task_id)


def _tls(settings: Settings) -> Tls | None:
    if settings.grpc_tls_cert is None or settings.grpc_tls_key is None:
        return None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    try:
        context.load_cert_chain(settings.grpc_tls_cert, settings.grpc_tls_key)
        if settings.grpc_tls_client_ca:
            context.load_verify_locations(settings.grpc_tls_client_ca)
    except (ssl.SSLError, OSError) as error:
        raise ConfigurationError(
            "GRPC_TLS_CERT, GRPC_TLS_KEY and GRPC_TLS_CLIENT_CA must be PEM files that fit "
            f"together ({type(error).__name__})"
        ) from None
    return Tls(settings.grpc_tls_cert, settings.grpc_tls_key, settings.grpc_tls_client_ca)


def _check_parts(settings: Settings, parts: frozenset[Part]) -> None:
    """Parts in different processes can share keys only through Redis."""
    if parts not in (ALL_PARTS, {Part.EMBEDDING}) and not settings.key_encryption_secret:
        raise ConfigurationError(
            "serve --only needs KEY_ENCRYPTION_SECRET: keys then travel through Redis"
        )
