"""`dead`: the tasks that failed for good."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any

import orjson
from rich.console import Console
from rich.table import Column, Table
from rich.text import Text

from pdf_processor import parts
from pdf_processor.commands.output import open_console
from pdf_processor.config import Settings
from pdf_processor.queue.dead_letter import DeadLetter
from pdf_processor.queue.task_queue import TaskQueue

SHOWN = 100
MASK = "********"
_STRING = r'(?:[^"\\]|\\.)*'
_QUERY = re.compile(rf"(?:\?|\\u003f){_STRING}", re.IGNORECASE)
_PASSWORD = re.compile(rf'(?<="password")\s*:\s*"?{_STRING}', re.IGNORECASE)
_USERINFO = re.compile(r"(?:\\?/){2}[^/\\\"\s]*@")


async def show_all(settings: Settings, *, as_json: bool) -> bool:
    """Print the newest dead letters."""
    async with _queue(settings) as queue:
        letters = await queue.dead_letters(limit=SHOWN)
        letters += await queue.dead_letters(limit=SHOWN, invalid=True)
    if as_json:
        _print_json([masked(letter) for letter in letters])
        return True
    if not letters:
        open_console().print("No dead tasks.")
        return True
    table = Table(
        Column("task", overflow="fold"),
        "code",
        "message",
        "attempts",
        "when",
        box=None,
        pad_edge=False,
    )
    for letter in letters:
        table.add_row(
            Text(letter.task_id or "(no task)"),
            Text(letter.error_code, style="red"),
            Text(letter.error_message),
            str(letter.attempts),
            _when(letter.at_ms),
        )
    open_console().print(table)
    return True


async def show(settings: Settings, task_id: str) -> bool:
    """Print one dead letter whole."""
    async with _queue(settings) as queue:
        letters = [one for one in await queue.dead_letters() if one.task_id == task_id]
    for letter in letters:
        _print_json(masked(letter))
    return _found(bool(letters), task_id)


async def retry(settings: Settings, task_id: str) -> bool:
    """Send one dead task back to the queue."""
    async with parts.open_redis(settings) as (redis, blocking):
        queue = parts.open_queue(settings, redis, blocking)
        board = parts.open_board(settings, redis)
        revived = await parts.retry_dead(queue, board, task_id)
    return _found(revived, task_id, done="back in the queue")


async def drop(settings: Settings, task_id: str) -> bool:
    """Forget one dead task."""
    async with _queue(settings) as queue:
        return _found(await queue.drop_dead(task_id), task_id, done="dropped")


def _when(at_ms: int) -> str:
    try:
        return f"{datetime.fromtimestamp(at_ms / 1000, UTC):%Y-%m-%d %H:%M:%S}"
    except (ValueError, OverflowError, OSError):  # a letter that somebody else wrote
        return "?"


def masked(letter: DeadLetter) -> dict[str, Any]:
    """Return a letter for showing: without URLs' queries and userinfo, and passwords."""
    shown = asdict(letter)
    if isinstance(letter.task, str):
        return shown | {"task": _masked_garbage(letter.task)}
    return shown | {"task": _masked_task(letter.task)}


def _masked_task(value: Any, name: str = "") -> Any:
    if name == "password":
        return MASK
    if isinstance(value, dict):
        return {key: _masked_task(inner, key) for key, inner in value.items()}
    if isinstance(value, list):
        return [_masked_task(inner) for inner in value]
    return _masked_url(value) if isinstance(value, str) and "://" in value else value


def _masked_url(url: str) -> str:
    address, question_mark, _ = url.partition("?")
    return _USERINFO.sub("//", address) + (question_mark and f"?{MASK}")


def _masked_garbage(text: str) -> str:
    """Nobody knows what this is: leave out what may be a query, a login or a password."""
    for pattern, shown in ((_PASSWORD, MASK), (_QUERY, f"?{MASK}"), (_USERINFO, "//")):
        text = pattern.sub(shown, text)
    return text


def _found(found: bool, task_id: str, *, done: str = "") -> bool:
    if not found:
        Console(stderr=True).print(f"There is no dead task {task_id}.", markup=False)
    elif done:
        open_console().print(f"{task_id}: {done}", markup=False)
    return found


def _print_json(value: Any) -> None:
    print(orjson.dumps(value, option=orjson.OPT_INDENT_2).decode())  # noqa: T201 - the output


@asynccontextmanager
async def _queue(settings: Settings) -> AsyncIterator[TaskQueue]:
    async with parts.open_redis(settings) as (redis, blocking):
        yield parts.open_queue(settings, redis, blocking)
