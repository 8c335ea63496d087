"""`doctor`: tries everything the daemon needs, and says the mend for what fails."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Awaitable, Callable

from rich.text import Text

from pdf_processor import parts
from pdf_processor.commands.demo import SAMPLE
from pdf_processor.commands.output import open_console
from pdf_processor.config import ConfigurationError, Settings
from pdf_processor.errors import EmbeddingAuth, EmbeddingQuota, ProcessorError
from pdf_processor.pipeline import opened
from pdf_processor.provider_choice import HANDOFF, Choice
from pdf_processor.queue.connection import QueueUnavailable, ServerTooOld, check_server

INGEST_SECONDS = 5.0


class CheckFailed(Exception):
    """A part does not work; the message says the mend."""


EXPECTED = (
    CheckFailed,
    ConfigurationError,
    ProcessorError,
    QueueUnavailable,
    ServerTooOld,
)

Check = Callable[[Settings], Awaitable[str]]


async def run(settings: Settings) -> bool:
    """Try each part and print a line for it; False if any failed."""
    console = open_console()
    healthy = True
    for name, check in CHECKS.items():
        try:
            line = Text.assemble(("ok    ", "green"), f"{name}: ", await check(settings))
        except EXPECTED as error:
            line = Text.assemble(("FAIL  ", "red"), f"{name}: {error}")
            healthy = False
        console.print(line)
    return healthy


async def _redis(settings: Settings) -> str:
    async with parts.open_redis(settings) as (redis, blocking):
        await check_server(redis)
        counts = await parts.open_queue(settings, redis, blocking).counts()
    return f"{counts.waiting} tasks wait in {settings.redis_queue_name}"


async def _ingest(settings: Settings) -> str:
    async with parts.open_ingest(settings) as ingest:
        await ingest.check(INGEST_SECONDS)
    return f"{settings.go_grpc_ingest_addr} answers"


async def _bucket(settings: Settings) -> str:
    if not settings.bucket_name:
        return "no BUCKET_NAME is set, so s3:// URLs are refused"
    async with parts.open_store(settings) as store:
        await store.check()
    return f"{settings.bucket_name} can be read"


async def _embedder(settings: Settings) -> str:
    name = settings.embedding_provider
    if name == HANDOFF:
        return "provider and key come with each task, by ProvideAPIKey"
    async with parts.open_providers(settings) as providers:
        parts.check_provider(name, providers, "EMBEDDING_PROVIDER")
        choice = Choice(name, settings.service_keys.get(name))
        async with opened(providers, choice) as embedder:
            if embedder is None:
                return "none, chunks are sent without vectors"
            try:
                [vector] = await embedder.embed(["PDF Processor"])
            except (EmbeddingAuth, EmbeddingQuota) as error:
                raise CheckFailed(f"{error.message}: see {name.upper()}_API_KEY") from None
    return f"{name}/{embedder.model} makes vectors of {len(vector)} numbers"


async def _parser(settings: Settings) -> str:
    async with parts.open_parsers(settings) as parsers, parsers.read(SAMPLE) as document:
        pages = [page async for page in document]
    return f"{settings.parser_processes} children, {len(pages)} pages of the sample read"


async def _temp_dir(settings: Settings) -> str:
    async with parts.open_downloader(settings):
        free = await asyncio.to_thread(shutil.disk_usage, settings.temp_dir)
    if free.free < settings.max_file_bytes:
        raise CheckFailed(
            f"{settings.temp_dir} has {free.free} bytes left, less than one document of "
            f"MAX_FILE_BYTES={settings.max_file_bytes}: free some, or set TEMP_DIR elsewhere"
        )
    return f"{settings.temp_dir}, {free.free // 2**20} MiB free"


CHECKS: dict[str, Check] = {
    "Redis": _redis,
    "ingest server": _ingest,
    "bucket": _bucket,
    "embedder": _embedder,
    "parser children": _parser,
    "TEMP_DIR": _temp_dir,
}
