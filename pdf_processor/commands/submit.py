"""`submit`: tasks, as Go would push them."""

from __future__ import annotations

import uuid
from pathlib import Path

import orjson
from rich.console import Console

from pdf_processor import parts
from pdf_processor.commands.status import follow
from pdf_processor.config import ConfigurationError, Settings
from pdf_processor.download.object_store import ObjectStore
from pdf_processor.errors import DownloadNotFound
from pdf_processor.task import Task
from pdf_processor.task_state import State


async def run(settings: Settings, sources: list[str], *, watch: bool) -> bool:
    """Push a task for each source and print its id; follow them if asked."""
    async with (
        parts.open_redis(settings) as (redis, blocking),
        parts.open_store(settings) as store,
    ):
        queue = parts.open_queue(settings, redis, blocking)
        board = parts.open_board(settings, redis)
        names: dict[str, str] = {}
        for source in sources:
            payload = await _payload(settings, source, store)
            task = Task.parse(payload)
            await board.queued(task.task_id, doc_id=task.document_id)
            await queue.push(payload)
            names[task.task_id] = task.display_name
            print(task.task_id, flush=True)  # noqa: T201 - the output
        if not watch:
            return True
        ended = await follow(board, names)
    for status in ended.values():
        if status.error_code:
            message = f"{status.task_id}: {status.error_code}: {status.error_message}"
            Console(stderr=True).print(message, markup=False, highlight=False)
    return all(status.state is State.SUCCEEDED for status in ended.values())


async def _payload(settings: Settings, source: str, store: ObjectStore) -> bytes:
    task_id = str(uuid.uuid4())
    task: dict[str, object] = {"task_id": task_id, "DocID": task_id, "URL": source}
    if "://" not in source:
        path = _file(source)
        task |= {"FileName": path.name, "URL": await _placed(settings, path, task_id, store)}
    return orjson.dumps(task)


def _file(source: str) -> Path:
    path = Path(source).resolve()
    if not path.is_file():
        raise DownloadNotFound(f"{source} is not a file")
    return path


async def _placed(settings: Settings, path: Path, task_id: str, store: ObjectStore) -> str:
    """Put a local file where the daemon can fetch it; return its URL."""
    if settings.bucket_name:
        return await store.put(path, f"{task_id}/{path.name}")
    if settings.allow_file_urls:
        return path.as_uri()
    raise ConfigurationError(
        f"{path} has to be put where the daemon can fetch it: set BUCKET_NAME and its "
        "credentials, or ALLOW_FILE_URLS=true where both run on this machine"
    )
