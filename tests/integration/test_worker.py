"""The worker over a real queue, with a scripted document instead of the pipeline."""

from __future__ import annotations

import asyncio
import json
from contextlib import aclosing, asynccontextmanager

import pytest

from pdf_processor.errors import (
    DownloadFailed,
    NotAPdf,
    ServiceCredentialsRejected,
    StorageFull,
)
from pdf_processor.ingest.client import Receipt
from pdf_processor.queue import task_queue
from pdf_processor.queue.task_queue import TaskQueue
from pdf_processor.queue.task_status import State, StatusBoard, TaskReport
from pdf_processor.recoverer import Recoverer
from pdf_processor.slot import Slot
from pdf_processor.task import Task
from pdf_processor.worker import Worker


@pytest.fixture(autouse=True)
def short_takes(monkeypatch):
    """A worker that is stopped waits for its take to come back empty."""
    monkeypatch.setattr(task_queue, "BLOCK_SECONDS", 0.1)


class Documents:
    """Runs documents as the test says: each waits until it is told how to end."""

    def __init__(self) -> None:
        self.started: asyncio.Queue[str] = asyncio.Queue()
        self.attempts: dict[str, list[int]] = {}
        self.ended_early: list[str] = []
        self.at_once = False
        self._endings: dict[str, asyncio.Future[Receipt]] = {}

    async def run(self, task: Task, attempt: int, slot: Slot, report: TaskReport) -> Receipt:
        self.attempts.setdefault(task.task_id, []).append(attempt)
        await report.state(State.PROCESSING)
        ending = self._endings[task.task_id] = asyncio.get_running_loop().create_future()
        self.started.put_nowait(task.task_id)
        if task.user_id == "waits for its key":
            async with slot.lent():
                return await self._wait(task.task_id, ending)
        return await self._wait(task.task_id, ending)

    async def _wait(self, task_id: str, ending: asyncio.Future[Receipt]) -> Receipt:
        try:
            return await ending
        except asyncio.CancelledError:
            self.ended_early.append(task_id)
            raise

    def end(self, task_id: str, error: Exception | None = None) -> None:
        if error:
            self._endings[task_id].set_exception(error)
        else:
            self._endings[task_id].set_result(Receipt(3))


class Bench:
    def __init__(self, queue: TaskQueue, board: StatusBoard, documents: Documents) -> None:
        self.queue = queue
        self.board = board
        self.documents = documents
        self.forgotten: list[str] = []
        self.stop = asyncio.Event()

    async def push(self, *task_ids: str, **fields: object) -> None:
        for task_id in task_ids:
            task = {"task_id": task_id, "URL": "http://x/y.pdf"} | fields
            await self.queue.push(json.dumps(task).encode())

    async def begun(self) -> str:
        return await asyncio.wait_for(self.documents.started.get(), 10)

    async def reached(self, task_id: str, state: State) -> None:
        """Wait until the status says so."""
        async with asyncio.timeout(10), aclosing(self.board.watch(task_id)) as changes:
            async for status in changes:
                if status.state is state:
                    return
        raise AssertionError(f"{task_id} ended otherwise")

    async def forget(self, task_id: str) -> None:
        self.forgotten.append(task_id)


@asynccontextmanager
async def working(redis, new_queue, *, places: int = 2, grace: float = 10, pause: float = 30):
    """A worker and its recoverer at work; drained at the end."""
    queue = new_queue(retry_base_seconds=0.01, lease_seconds=2.0)
    async with StatusBoard(redis, name="queue:upload_tasks", ttl_seconds=60) as board:
        bench = Bench(queue, board, Documents())
        worker = Worker(
            queue=queue,
            board=board,
            run=bench.documents.run,
            forget_key=bench.forget,
            max_concurrent_tasks=places,
            grace_seconds=grace,
            pause_seconds=pause,
        )
        settled = asyncio.Event()
        recovering = asyncio.create_task(Recoverer(queue, lease_seconds=2.0).run(settled))
        bench.working = asyncio.create_task(worker.run(bench.stop))
        try:
            yield bench
        finally:
            bench.stop.set()
            await asyncio.wait_for(bench.working, 20)
            settled.set()
            await recovering


async def test_a_document_that_arrived_is_acknowledged_and_its_key_forgotten(redis, new_queue):
    async with working(redis, new_queue) as bench:
        await bench.push("a")
        bench.documents.end(await bench.begun())
        await bench.reached("a", State.SUCCEEDED)
        counts = await bench.queue.counts()
    assert (counts.waiting, counts.in_flight, counts.dead) == (0, 0, 0)
    assert bench.forgotten == ["a"]


async def test_a_failure_that_may_pass_is_tried_again_and_keeps_its_key(redis, new_queue):
    async with working(redis, new_queue) as bench:
        await bench.push("a")
        bench.documents.end(await bench.begun(), DownloadFailed())
        await bench.begun()
        assert bench.documents.attempts == {"a": [1, 2]}
        assert bench.forgotten == []
        bench.documents.end("a")


async def test_a_status_says_how_it_ended_from_the_moment_it_is_settled(
    redis, new_queue, monkeypatch
):
    """Though the worker dies the next moment, and writes nothing any more."""
    async with working(redis, new_queue) as bench:
        await bench.push("a")
        await bench.begun()
        await bench.reached("a", State.PROCESSING)
        monkeypatch.setattr(bench.board, "_send", None)
        async with aclosing(bench.board.watch("a")) as changes:
            assert (await anext(changes)).state is State.PROCESSING
            bench.documents.end("a")
            assert (await anext(changes)).state is State.SUCCEEDED
        monkeypatch.undo()


async def test_a_failure_for_good_is_dead_at_once(redis, new_queue):
    async with working(redis, new_queue) as bench:
        await bench.push("a")
        bench.documents.end(await bench.begun(), NotAPdf())
        await bench.reached("a", State.DEAD)
        [letter] = await bench.queue.dead_letters()
    assert (letter.task_id, letter.error_code, letter.attempts) == ("a", "NOT_A_PDF", 1)
    assert bench.forgotten == ["a"]


async def test_a_bug_costs_an_attempt_and_not_the_worker(redis, new_queue, caplog):
    async with working(redis, new_queue) as bench:
        await bench.push("a")
        bench.documents.end(await bench.begun(), RuntimeError("sk-canary-4711"))
        await bench.begun()
        status = await bench.board.read("a")
        bench.documents.end("a")
    assert bench.documents.attempts == {"a": [1, 2]}
    assert "4711" not in caplog.text + status.error_message


async def test_garbage_is_rejected_and_the_next_task_runs(redis, new_queue):
    async with working(redis, new_queue) as bench:
        await bench.queue.push(b"garbage")
        await bench.push("a")
        bench.documents.end(await bench.begun())
        await bench.reached("a", State.SUCCEEDED)
        [letter] = await bench.queue.dead_letters(invalid=True)
    assert letter.task == "garbage"


async def test_no_more_tasks_are_taken_than_there_are_places(redis, new_queue):
    async with working(redis, new_queue, places=2) as bench:
        await bench.push("a", "b", "c")
        first, _ = await bench.begun(), await bench.begun()
        assert (await bench.queue.counts()).waiting == 1
        assert bench.documents.started.empty()
        bench.documents.end(first)
        assert await bench.begun() == "c"
        for task_id in {"a", "b", "c"} - {first}:
            bench.documents.end(task_id)


async def test_a_task_that_waits_for_its_key_holds_no_place(redis, new_queue):
    async with working(redis, new_queue, places=1) as bench:
        await bench.push("patient", UserID="waits for its key")
        await bench.begun()
        await bench.push("quick")
        assert await bench.begun() == "quick"
        bench.documents.end("quick")
        bench.documents.end("patient")
        await bench.reached("patient", State.SUCCEEDED)


async def test_at_the_end_what_is_in_work_may_finish(redis, new_queue):
    async with working(redis, new_queue) as bench:
        await bench.push("a")
        await bench.begun()
        bench.stop.set()
        bench.documents.end("a")
        await bench.working
        await bench.reached("a", State.SUCCEEDED)
    assert bench.documents.ended_early == []


async def test_at_the_end_a_task_that_waits_for_its_key_is_released_at_once(redis, new_queue):
    async with working(redis, new_queue, grace=3600) as bench:
        await bench.push("patient", UserID="waits for its key")
        await bench.begun()
        bench.stop.set()
        await asyncio.wait_for(bench.working, 10)
        await bench.reached("patient", State.QUEUED)
        assert (await bench.queue.counts()).waiting == 1


async def test_past_the_grace_a_task_goes_back_uncounted(redis, new_queue):
    async with working(redis, new_queue, grace=0) as bench:
        await bench.push("a")
        await bench.begun()
        bench.stop.set()
        await bench.working
        assert bench.documents.ended_early == ["a"]
        [payload] = await redis.lrange("queue:upload_tasks", 0, -1)
        assert Task.parse(payload).task_id == "a"
    async with working(redis, new_queue) as bench:
        await bench.begun()
        assert bench.documents.attempts == {"a": [1]}
        bench.documents.end("a")


async def test_the_service_s_own_credentials_cost_no_attempt_and_pause_intake(redis, new_queue):
    async with working(redis, new_queue, places=1, pause=3600) as bench:
        await bench.push("a", "b")
        bench.documents.end(await bench.begun(), ServiceCredentialsRejected())
        await bench.reached("a", State.QUEUED)
        counts = await bench.queue.counts()
        assert (counts.waiting, counts.dead) == (2, 0)
        assert (await redis.lindex("queue:upload_tasks", 0)).startswith(b'{"task_id": "a"')


async def test_after_the_pause_intake_goes_on(redis, new_queue):
    async with working(redis, new_queue, pause=0.01) as bench:
        await bench.push("a")
        bench.documents.end(await bench.begun(), ServiceCredentialsRejected())
        assert await bench.begun() == "a"
        bench.documents.end("a")
    assert bench.documents.attempts == {"a": [1, 1]}


async def test_a_task_that_is_cancelled_while_it_runs_is_stopped(redis, new_queue):
    async with working(redis, new_queue) as bench:
        await bench.push("a")
        await bench.begun()
        await bench.queue.cancel("a")
        await bench.reached("a", State.CANCELLED)
        counts = await bench.queue.counts()
    assert bench.documents.ended_early == ["a"]
    assert (counts.waiting, counts.delayed, counts.dead, counts.in_flight) == (0, 0, 0, 0)
    assert bench.forgotten == ["a"]


async def test_a_task_that_is_cancelled_while_it_waits_never_starts(redis, new_queue):
    async with working(redis, new_queue, places=1) as bench:
        await bench.push("a", "b")
        await bench.begun()
        await bench.queue.cancel("b")
        bench.documents.end("a")
        await bench.reached("b", State.CANCELLED)
    assert "b" not in bench.documents.attempts


async def test_a_worker_that_was_taken_for_dead_stops_and_writes_nothing(redis, new_queue):
    async with working(redis, new_queue, places=1) as bench:
        await bench.push("a")
        await bench.begun()
        other = new_queue()
        await other.register()
        await redis.zrem("{queue:upload_tasks}:workers", bench.queue.worker)
        await redis.delete("{queue:upload_tasks}:sweep")
        await other.recover()
        assert await bench.begun() == "a"
        assert bench.documents.ended_early == ["a"]
        bench.documents.end("a")
        await bench.reached("a", State.SUCCEEDED)


async def test_a_task_that_crashes_its_workers_is_convicted(redis, new_queue):
    await redis.hset("{queue:upload_tasks}:attempts", "a", "5 0")
    async with working(redis, new_queue) as bench:
        await bench.push("a")
        await bench.reached("a", State.DEAD)
        assert (await bench.board.read("a")).error_code == "WORKER_CRASHED"
    assert bench.documents.attempts == {}


async def test_what_is_taken_while_the_worker_stops_is_given_back(redis, new_queue):
    async with working(redis, new_queue, grace=3600) as bench:
        take = bench.queue.take

        async def take_and_stop():
            payload = await take()
            if payload is not None:
                bench.stop.set()
            return payload

        bench.queue.take = take_and_stop
        await bench.push("late")
        await asyncio.wait_for(bench.working, 10)
        assert (await bench.queue.counts()).waiting == 1
    assert bench.documents.attempts == {}


async def test_a_full_disk_pauses_intake_so_that_others_get_the_tasks(redis, new_queue):
    async with working(redis, new_queue, places=1, pause=3600) as bench:
        await bench.push("a", "b")
        bench.documents.end(await bench.begun(), StorageFull())
        await bench.reached("a", State.RETRYING)
        assert (await bench.queue.counts()).dead == 0
    assert "b" not in bench.documents.attempts
