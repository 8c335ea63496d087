"""`demo`: the whole system in one go, with nothing to install, start or configure."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from itertools import groupby
from pathlib import Path
from typing import Literal, TextIO
from urllib.parse import quote, unquote, urlsplit

import grpc
import orjson
from aiohttp import web
from google.protobuf.json_format import MessageToDict
from pydantic import SecretStr
from rich.console import Console
from rich.table import Table
from rich.text import Text

from pdf_processor import app, config, logs, parts
from pdf_processor.commands.output import open_console, open_output
from pdf_processor.commands.status import follow
from pdf_processor.config import Settings
from pdf_processor.embedded.ingest_receiver import IngestReceiver, ReceivedDocument
from pdf_processor.embedded.valkey import EmbeddedValkey
from pdf_processor.errors import DownloadNotFound
from pdf_processor.task_state import State
from protos import cognicore_pb2 as pb
from protos import cognicore_pb2_grpc

SAMPLE = Path(__file__).resolve().parent.parent / "embedded" / "sample.pdf"
Provider = Literal["hashing", "local", "none"]
MAX_SECTIONS_SHOWN = 40
NO_PROXY = (("grpc.enable_http_proxy", 0),)
HASHING_NOTE = (
    "Vectors: the built-in 'hashing' embedder, which only counts words. It is NOT a language "
    "model: use it to see the system work, never to search. `demo --provider local` uses a "
    "real model; in production the provider and its key come from Go."
)


async def run(pdfs: list[Path], *, out: Path | None, provider: Provider) -> bool:
    """Process PDFs through a whole system of one's own; False if one did not arrive.

    Raises:
        DownloadNotFound: one of them is not a file.
        ConfigurationError: `out` cannot be written.
    """
    logs.configure(level="WARNING", log_format="console")
    paths = pdfs or [SAMPLE]
    for path in paths:
        if not path.is_file():
            raise DownloadNotFound(f"{path} is not a file")
    console = open_console()
    received: list[ReceivedDocument] = []
    async with AsyncExitStack() as stack:
        lines = stack.enter_context(open_output(out)) if out else None
        valkey = stack.enter_context(EmbeddedValkey())
        receiver = await stack.enter_async_context(IngestReceiver(on_document=received.append))
        files = await stack.enter_async_context(_file_server(paths))
        settings = _settings(valkey, receiver, files, provider)
        daemon = await stack.enter_async_context(app.Daemon(settings))
        await stack.enter_async_context(_working(daemon))
        key_server = f"127.0.0.1:{daemon.ports[app.Part.KEYS]}"
        console.print(
            f"An embedded Valkey listens at {valkey.url}, the ingest server at "
            f"{receiver.address}, the daemon at {key_server}.",
            markup=False,
        )
        tasks = await _push(settings, files, key_server, provider)
        failures = await _follow(settings, tasks)
        if lines:
            _write(lines, received)
    for document in received:
        _print_document(console, document)
    if received and provider == "hashing":
        console.print(Text(HASHING_NOTE, style="yellow"))
    if out:
        console.print(f"Every chunk with its vector: {out}", markup=False)
    for failure in failures:
        Console(stderr=True, soft_wrap=True).print(Text(failure, style="red"))
    return not failures


def _settings(
    valkey: EmbeddedValkey, receiver: IngestReceiver, files: dict[str, str], provider: str
) -> Settings:
    """Settings of the demo alone: whatever the environment says stays out of it."""
    hosts = {urlsplit(url).netloc for url in files.values()}
    own_model = {}
    if provider == "local":
        own_model["local_embedding_model"] = config.load().local_embedding_model
    return config.without_environment(
        redis_url=valkey.url,
        go_grpc_ingest_addr=receiver.address,
        grpc_server_port=0,
        grpc_embedding_port=0,
        allowed_download_hosts=tuple(hosts),
        max_attempts=1,
        key_encryption_secret=(SecretStr(secrets.token_hex(32)),),
        **own_model,
    )


@asynccontextmanager
async def _working(daemon: app.Daemon) -> AsyncIterator[None]:
    """Let the daemon work meanwhile, and stop it in good order."""
    stop = asyncio.Event()
    working = asyncio.create_task(daemon.run(stop))
    try:
        yield
    finally:
        stop.set()
        await working


@asynccontextmanager
async def _file_server(paths: list[Path]) -> AsyncIterator[dict[str, str]]:
    """Serve the files on loopback, as a bucket's presigned URLs would; task id → URL."""
    served = {f"demo-{index}": path for index, path in enumerate(paths, start=1)}

    async def serve(request: web.Request) -> web.FileResponse:
        return web.FileResponse(served[request.match_info["task_id"]])

    application = web.Application()
    application.router.add_get("/{task_id}/{name}", serve)
    runner = web.AppRunner(application)
    await runner.setup()
    try:
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        port = runner.addresses[0][1]
        yield {
            task_id: f"http://127.0.0.1:{port}/{task_id}/{quote(path.name)}"
            for task_id, path in served.items()
        }
    finally:
        await runner.cleanup()


async def _push(
    settings: Settings, files: dict[str, str], key_server: str, provider: str
) -> dict[str, str]:
    """Do what Go does: push a task for each file, then hand its key over. Id → name."""
    names: dict[str, str] = {}
    async with (
        parts.open_redis(settings) as (redis, blocking),
        grpc.aio.insecure_channel(key_server, NO_PROXY) as channel,
    ):
        queue = parts.open_queue(settings, redis, blocking)
        keys = cognicore_pb2_grpc.APIKeyServiceStub(channel)
        for task_id, url in files.items():
            await queue.push(orjson.dumps({"task_id": task_id, "DocID": task_id, "URL": url}))
            await keys.ProvideAPIKey(
                pb.APIKeyRequest(task_id=task_id, api_key="demo", provider=provider)
            )
            names[task_id] = unquote(url.rpartition("/")[2])
    return names


async def _follow(settings: Settings, names: dict[str, str]) -> list[str]:
    """Show the tasks until they have ended; return a line for each that did not arrive."""
    async with parts.open_redis(settings) as (redis, _):
        ended = await follow(parts.open_board(settings, redis), names)
    return [
        f"{names[status.task_id]}: {status.error_code}: {status.error_message}"
        for status in ended.values()
        if status.state is not State.SUCCEEDED
    ]


def _print_document(console: Console, document: ReceivedDocument) -> None:
    metadata, chunks = document.metadata, document.chunks
    table = Table("section", "page", "chunks", "tokens", box=None, pad_edge=False)
    sections = [list(group) for _, group in groupby(chunks, key=lambda it: list(it.section_path))]
    for section in sections[:MAX_SECTIONS_SHOWN]:
        path = section[0].section_path
        name = "  " * (len(path) - 1) + path[-1] if path else "(before the first heading)"
        tokens = sum(chunk.token_count for chunk in section)
        table.add_row(Text(name), str(section[0].page), str(len(section)), str(tokens))
    console.print(Text(f"\n{metadata.file_name}: {metadata.title or 'no title'}", style="bold"))
    console.print(table)
    if len(sections) > MAX_SECTIONS_SHOWN:
        console.print(f"… and {len(sections) - MAX_SECTIONS_SHOWN} more sections")
    vectors = (
        f"vectors of {metadata.embedding_dimension} numbers made by "
        f"{metadata.embedding_provider}/{metadata.embedding_model}"
    )
    console.print(
        f"Arrived at the ingest server: {len(chunks)} chunks of {metadata.page_count} pages, "
        f"{vectors if metadata.embedding_provider else 'without vectors'}.\n",
        markup=False,
    )


def _write(file: TextIO, documents: list[ReceivedDocument]) -> None:
    """Write what arrived in the format of `process`, vectors included."""
    for document in documents:
        for chunk in document.chunks:
            record = MessageToDict(
                chunk,
                preserving_proto_field_name=True,
                always_print_fields_with_no_presence=True,
            )
            line = {"doc_id": document.metadata.doc_id, **record}
            file.write(orjson.dumps(line, option=orjson.OPT_APPEND_NEWLINE).decode())
