"""The parts, made from the settings: for the daemon, and for the commands that need a few."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager

from redis.asyncio import Redis

from pdf_processor.config import ConfigurationError, Settings
from pdf_processor.download.downloader import Downloader
from pdf_processor.download.object_store import ObjectStore
from pdf_processor.download.url_policy import UrlPolicy
from pdf_processor.embedding.providers import Providers, built_in
from pdf_processor.ingest.client import IngestClient
from pdf_processor.parser_pool import ParserPool
from pdf_processor.queue.connection import connect
from pdf_processor.queue.task_queue import TaskQueue, new_worker_id
from pdf_processor.queue.task_status import StatusBoard


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


async def retry_dead(queue: TaskQueue, board: StatusBoard, task_id: str) -> bool:
    """Send a dead task back to the queue, and say so. False: it is not there."""
    if not await queue.retry_dead(task_id):
        return False
    before = await board.read(task_id)
    await board.queued(task_id, doc_id=before.doc_id)
    return True
