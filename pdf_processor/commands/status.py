"""`status`: one task, or the queue."""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from dataclasses import asdict

import orjson
from rich.console import Console
from rich.live import Live
from rich.table import Table

from pdf_processor import parts
from pdf_processor.commands.progress import DocumentBars, describe
from pdf_processor.config import Settings
from pdf_processor.queue.task_queue import QueueCounts, TaskQueue
from pdf_processor.queue.task_status import StatusBoard
from pdf_processor.task_state import State, TaskStatus

LOOK_SECONDS = 1.0


async def run(settings: Settings, task_id: str, *, watch: bool, as_json: bool) -> bool:
    """Print the status of a task, or of the queue where `task_id` is empty; or follow it."""
    async with parts.open_redis(settings) as (redis, blocking):
        if not task_id:
            queue = parts.open_queue(settings, redis, blocking)
            return await _queue(queue, watch=watch, as_json=as_json)
        board = parts.open_board(settings, redis)
        if not watch:
            _print(await board.read(task_id), as_json=as_json)
            return True
        return await _follow_as(board, task_id, as_json=as_json)


async def follow(board: StatusBoard, names: dict[str, str]) -> dict[str, TaskStatus]:
    """Show tasks (id → name to show) live until all have ended; return how they ended."""
    ended: dict[str, TaskStatus] = {}

    async def one(task_id: str) -> None:
        async with aclosing(board.watch(task_id)) as changes:
            async for status in changes:
                bars.status(names[task_id], status)
                ended[task_id] = status

    with DocumentBars() as bars:
        await asyncio.gather(*map(one, names))
    return ended


async def _follow_as(board: StatusBoard, task_id: str, *, as_json: bool) -> bool:
    if not as_json:
        ended = await follow(board, {task_id: task_id})
        _print(ended[task_id], as_json=False)
        return ended[task_id].state is State.SUCCEEDED
    state = State.UNKNOWN
    async with aclosing(board.watch(task_id)) as changes:
        async for status in changes:
            _print(status, as_json=True)
            state = status.state
    return state is State.SUCCEEDED


async def _queue(queue: TaskQueue, *, watch: bool, as_json: bool) -> bool:
    counts = await queue.counts()
    if not watch:
        _print_counts(counts, as_json=as_json)
        return True
    while as_json:
        _print_counts(counts, as_json=True)
        await asyncio.sleep(LOOK_SECONDS)
        counts = await queue.counts()
    with Live(_table(counts), console=Console(), auto_refresh=False) as live:
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            live.update(_table(await queue.counts()), refresh=True)


def _print(status: TaskStatus, *, as_json: bool) -> None:
    if as_json:
        print(orjson.dumps(asdict(status)).decode(), flush=True)  # noqa: T201 - the output
        return
    console = Console()
    console.print(f"{status.task_id}: {describe(status)}", markup=False, highlight=False)
    for warning in status.warnings:
        console.print(f"  warning: {warning}", markup=False, highlight=False)


def _print_counts(counts: QueueCounts, *, as_json: bool) -> None:
    if as_json:
        print(orjson.dumps(asdict(counts)).decode(), flush=True)  # noqa: T201 - the output
    else:
        Console().print(_table(counts))


def _table(counts: QueueCounts) -> Table:
    table = Table(box=None, show_header=False, pad_edge=False)
    for name, number in asdict(counts).items():
        style = "red" if name == "dead" and number else ""
        table.add_row(name.replace("_", " "), str(number), style=style)
    return table
