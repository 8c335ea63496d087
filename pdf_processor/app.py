"""The composition root: the only module that builds the parts and joins them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from enum import StrEnum
from functools import partial
from typing import Self

import structlog
from redis.asyncio import Redis

from pdf_processor.config import ConfigurationError, Settings
from pdf_processor.download.downloader import Downloader
from pdf_processor.download.object_store import ObjectStore
from pdf_processor.download.url_policy import UrlPolicy
from pdf_processor.embedding.providers import Providers, built_in
from pdf_processor.ingest.client import IngestClient
from pdf_processor.keys.inbox import KeyInbox
from pdf_processor.keys.vault import KeyVault
from pdf_processor.parser_pool import ParserPool
from pdf_processor.pipeline import Pipeline
from pdf_processor.provider_choice import HANDOFF, ProviderChoice
from pdf_processor.queue.connection import check_server, connect
from pdf_processor.queue.task_queue import CancelAnswer, TaskQueue, new_worker_id
from pdf_processor.queue.task_status import StatusBoard
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
        redis, blocking = await enter(open_redis(settings))
        await check_server(redis)
        self._board = await enter(open_board(settings, redis))
        self._queue = open_queue(settings, redis, blocking)
        self._providers = await enter(open_providers(settings))
        if settings.embedding_provider != HANDOFF:
            check_provider(settings.embedding_provider, self._providers, "EMBEDDING_PROVIDER")
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
            parsers=await enter(open_parsers(settings)),
            downloader=await enter(open_downloader(settings)),
            ingest=await enter(open_ingest(settings)),
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
                retry_dead=partial(retry_dead, self._queue, self._board),
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


async def retry_dead(queue: TaskQueue, board: StatusBoard, task_id: str) -> bool:
    """Send a dead task back to the queue, and say so. False: it is not there."""
    if not await queue.retry_dead(task_id):
        return False
    before = await board.read(task_id)
    await board.queued(task_id, doc_id=before.doc_id)
    return True


# ------------------------------------------------- parts, for the daemon and the commands


def open_redis(settings: Settings) -> AbstractAsyncContextManager[tuple[Redis, Redis]]:
    """Return the two clients: for everything, and for the blocking move."""
    return connect(settings.redis_url, password=settings.redis_password.get_secret_value())


def open_board(settings: Settings, redis: Redis) -> StatusBoard:
    """Return where the status of tasks stands."""
    return StatusBoard(
        redis, name=settings.redis_queue_name, ttl_seconds=settings.status_ttl_seconds
    )


def open_queue(settings: Settings, redis: Redis, blocking: Redis) -> TaskQueue:
    """Return the queue, as a worker with an id of its own sees it."""
    return TaskQueue(
        redis,
        blocking,
        name=settings.redis_queue_name,
        worker=new_worker_id(settings.pod_name),
        pod_name=settings.pod_name,
        lease_seconds=settings.lease_seconds,
        max_attempts=settings.max_attempts,
        retry_base_seconds=settings.retry_base_seconds,
        retry_max_seconds=settings.retry_max_seconds,
        done_ttl_seconds=settings.done_ttl_seconds,
    )


def open_providers(settings: Settings) -> Providers:
    """Return all embedding providers."""
    return Providers(
        built_in(
            openai_base_url=settings.openai_base_url,
            openai_model=settings.openai_embedding_model,
            gemini_base_url=settings.gemini_base_url,
            gemini_model=settings.gemini_embedding_model,
            local_model=settings.local_embedding_model,
            dimension=settings.embedding_dimension,
        )
    )


def open_parsers(settings: Settings, *, processes: int = 0) -> ParserPool:
    """Return the parser children: as many as set, or `processes`."""
    return ParserPool(
        processes=processes or settings.parser_processes,
        memory_bytes=settings.parser_memory_bytes,
        parse_timeout_seconds=settings.parse_timeout_seconds,
        page_timeout_seconds=settings.page_timeout_seconds,
        max_pages=settings.max_pages,
    )


def check_provider(name: str, providers: Providers, setting: str = "--provider") -> None:
    """Refuse a provider that nobody knows.

    Raises:
        ConfigurationError: with those that are known.
    """
    if name not in providers.names():
        known = ", ".join(sorted(providers.names()))
        raise ConfigurationError(f"{setting}={name} is unknown; known are {known}")


def open_store(settings: Settings) -> ObjectStore:
    """Return the bucket."""
    try:
        return ObjectStore(
            bucket_name=settings.bucket_name,
            endpoint=settings.bucket_endpoint,
            access_key_id=settings.bucket_access_id.get_secret_value(),
            secret_access_key=settings.bucket_access_key.get_secret_value(),
            storage_type=settings.storage_type,
        )
    except ValueError as error:
        raise ConfigurationError(str(error)) from None


@asynccontextmanager
async def open_downloader(settings: Settings) -> AsyncIterator[Downloader]:
    """Have the downloader and its bucket ready."""
    policy = _policy(settings)
    async with AsyncExitStack() as stack:
        store = await stack.enter_async_context(open_store(settings))
        downloader = Downloader(
            policy=policy,
            store=store,
            temp_dir=settings.temp_dir,
            max_bytes=settings.max_file_bytes,
        )
        try:
            await stack.enter_async_context(downloader)
        except OSError as error:
            raise ConfigurationError(
                f"TEMP_DIR={settings.temp_dir} cannot be used: {error.strerror}"
            ) from None
        yield downloader


def open_ingest(settings: Settings) -> IngestClient:
    """Return the client of Go's ingest server."""
    return IngestClient(
        address=settings.go_grpc_ingest_addr,
        stall_seconds=settings.ingest_stall_seconds,
        auth_token=settings.ingest_auth_token,
        tls_ca=settings.ingest_tls_ca,
    )


def _policy(settings: Settings) -> UrlPolicy:
    try:
        return UrlPolicy(
            bucket_endpoint=settings.bucket_endpoint,
            bucket_name=settings.bucket_name,
            allowed_buckets=settings.allowed_buckets,
            allowed_hosts=settings.allowed_download_hosts,
            allow_file_urls=settings.allow_file_urls,
        )
    except ValueError as error:
        raise ConfigurationError(str(error)) from None


def _tls(settings: Settings) -> Tls | None:
    if settings.grpc_tls_cert is None or settings.grpc_tls_key is None:
        return None
    return Tls(settings.grpc_tls_cert, settings.grpc_tls_key, settings.grpc_tls_client_ca)


def _check_parts(settings: Settings, parts: frozenset[Part]) -> None:
    """Parts in different processes can share keys only through Redis."""
    if parts not in (ALL_PARTS, {Part.EMBEDDING}) and not settings.key_encryption_secret:
        raise ConfigurationError(
            "serve --only needs KEY_ENCRYPTION_SECRET: keys then travel through Redis"
        )
