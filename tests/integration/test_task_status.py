"""Status against a real server: what is written, what is refused, and who hears of it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import aclosing
from pathlib import Path
from typing import Any

import pytest
from redis.asyncio import Redis
from structlog.testing import capture_logs

from pdf_processor.embedded.valkey import EmbeddedValkey
from pdf_processor.errors import DownloadFailed, NotAPdf
from pdf_processor.queue import protocol, task_status
from pdf_processor.queue.connection import connect
from pdf_processor.queue.protocol import QueueKeys
from pdf_processor.queue.task_status import State, StatusBoard, TaskReport, TaskStatus

KEYS = QueueKeys("queue:upload_tasks")
FIELDS = {
    *("state", "attempt", "pages_done", "pages_total", "chunks_sent", "error_code"),
    *("error_message", "worker", "doc_id", "tokens", "provider_calls", "cache_hits"),
    *("warnings", "updated_at_ms"),
}


def new_board(redis: Redis) -> StatusBoard:
    return StatusBoard(redis, name="queue:upload_tasks", ttl_seconds=60)


@pytest.fixture
async def board(redis: Redis, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[StatusBoard]:
    monkeypatch.setattr(task_status, "WRITE_SECONDS", 0.01)
    async with new_board(redis) as board:
        yield board


@pytest.fixture
async def events(redis: Any) -> AsyncIterator[asyncio.Queue[Any]]:
    """Every event since now."""
    heard: asyncio.Queue[Any] = asyncio.Queue()
    async with redis.pubsub() as pubsub:
        await pubsub.subscribe(KEYS.events)
        await pubsub.get_message(timeout=5)

        async def listen() -> None:
            async for message in pubsub.listen():
                heard.put_nowait(json.loads(message["data"]))

        listening = asyncio.create_task(listen())
        yield heard
        listening.cancel()
        await asyncio.gather(listening, return_exceptions=True)


async def begin(board: StatusBoard, attempt: int = 1, worker: str = "w:1:a") -> TaskReport:
    return await begin_of(board, "t-1", attempt=attempt, worker=worker)


async def begin_of(board: StatusBoard, task_id: str, attempt: int = 1, worker: str = "w") -> Any:
    """The report of a task that this worker has."""
    await board._redis.hset(KEYS.running, task_id, f"nonce {worker}")
    return await board.begin(task_id, doc_id="d", attempt=attempt, worker=worker)


async def settle(report: TaskReport, *ending: Any) -> None:
    """End the lease of a delivery, as its lease would."""
    await report._board.flush()
    redis, status = report._board._redis, report._status
    said = report.ending(*ending)
    token = f"nonce {status.worker}"
    keys = [KEYS.taken("w"), KEYS.running, KEYS.attempts, f"settled-{id(report)}"]
    keys += [KEYS.done("-"), KEYS.cancel("-"), KEYS.status(status.task_id)]
    args = ["payload", status.task_id, token, 60, 60, said]
    await redis.eval(protocol.ACK, len(keys), *keys, *args)


async def written(board: StatusBoard) -> TaskStatus:
    """What stands there once everything reported so far is written."""
    while board._outbox:
        await board._write()
    return await board.read("t-1")


async def test_a_task_that_nobody_took_is_unknown(board: StatusBoard) -> None:
    assert await board.read("t-1") == TaskStatus("t-1", State.UNKNOWN)


async def test_the_hash_and_the_event_have_the_contracts_fields(
    redis: Any, board: StatusBoard, events: asyncio.Queue[Any]
) -> None:
    report = await begin(board)
    await report.state(State.PROCESSING)
    report.progress(pages_done=3, pages_total=9, warnings=("page 2: no text",))
    status = await written(board)
    values = await redis.hgetall(KEYS.status("t-1"))
    assert {name.decode() for name in values} == FIELDS
    assert values[b"state"] == b"PROCESSING"
    assert values[b"pages_done"] == b"3"
    assert values[b"warnings"] == b'["page 2: no text"]'
    assert 0 < await redis.ttl(KEYS.status("t-1")) <= 60
    event = await events.get()
    assert event.keys() == FIELDS | {"task_id"}
    assert (event["task_id"], event["pages_total"], event["doc_id"]) == ("t-1", 9, "d")
    assert TaskStatus.from_event(json.dumps(event).encode()) == status


async def test_every_change_of_state_is_published(
    board: StatusBoard, events: asyncio.Queue[Any]
) -> None:
    report = await begin(board)
    states = [State.WAITING_FOR_KEY, State.DOWNLOADING, State.PROCESSING]
    for state in states:
        await report.state(state)
    await settle(report, State.SUCCEEDED)
    heard = [(await events.get())["state"] for _ in range(4)]
    assert heard == [*states, State.SUCCEEDED]


async def test_progress_of_many_pages_is_written_once(
    redis: Any, events: asyncio.Queue[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(task_status, "WRITE_SECONDS", 3600)
    async with new_board(redis) as board:
        report = await begin(board)
        await report.state(State.PROCESSING)
        assert (await events.get())["pages_done"] == 0
        for page in range(1000):
            report.progress(pages_done=page)
            await asyncio.sleep(0)
        assert events.empty()
    assert (await events.get())["pages_done"] == 999
    assert (await board.read("t-1")).pages_done == 999


async def test_late_progress_does_not_touch_what_is_settled(board: StatusBoard) -> None:
    report = await begin(board)
    await report.state(State.PROCESSING)
    await settle(report, State.SUCCEEDED)
    report.progress(pages_done=5)
    await report.state(State.PROCESSING)
    await settle(report, State.DEAD, NotAPdf())
    status = await written(board)
    assert (status.state, status.pages_done) == (State.SUCCEEDED, 0)


@pytest.mark.parametrize("end", [State.SUCCEEDED, State.DEAD, State.RETRYING, State.QUEUED])
@pytest.mark.parametrize("worker", ["lost:1:a", "w:1:a"])
async def test_another_delivery_does_not_touch_what_is_settled(
    redis: Redis, board: StatusBoard, end: State, worker: str
) -> None:
    async with new_board(redis) as elsewhere:
        lost = await begin(elsewhere, worker=worker)
        await lost.state(State.PROCESSING)
        await written(elsewhere)
        report = await begin(board)
        await report.state(State.PROCESSING)
        await settle(report, end)
        before = await written(board)
        lost.progress(pages_done=7)
        await settle(lost, State.DEAD, NotAPdf())
        assert await written(elsewhere) == before


async def test_who_wakes_up_after_another_has_finished_says_nothing(
    redis: Redis, board: StatusBoard
) -> None:
    """A worker that was stopped right after its start, and goes on when all is over."""
    sleeper = await begin(board, worker="asleep:1:a")
    async with new_board(redis) as elsewhere:
        report = await begin(elsewhere, attempt=2)
        await settle(report, State.SUCCEEDED)
    await sleeper.state(State.DOWNLOADING)
    assert (await written(board)).state is State.SUCCEEDED


async def test_a_worker_that_lost_its_lease_does_not_touch_the_next_ones(
    redis: Redis, board: StatusBoard
) -> None:
    async with new_board(redis) as elsewhere:
        lost = await begin(elsewhere, worker="lost:1:a")
        await lost.state(State.PROCESSING)
        await written(elsewhere)
        await (await begin(board)).state(State.DOWNLOADING)
        before = await written(board)
        lost.progress(pages_done=7)
        await lost.state(State.PROCESSING)
        assert await written(elsewhere) == before


async def test_a_retry_keeps_how_far_it_came_and_why_it_failed(board: StatusBoard) -> None:
    report = await begin(board)
    await report.state(State.PROCESSING)
    report.progress(pages_done=3, pages_total=9)
    await settle(report, State.RETRYING, DownloadFailed("The server said 503."))
    status = await written(board)
    assert (status.state, status.pages_done, status.pages_total) == (State.RETRYING, 3, 9)
    assert (status.error_code, status.error_message) == ("DOWNLOAD_FAILED", "The server said 503.")


async def test_the_next_attempt_begins_anew_but_for_what_was_paid(board: StatusBoard) -> None:
    report = await begin(board)
    await report.state(State.PROCESSING)
    report.progress(pages_done=3, tokens=100, provider_calls=2, cache_hits=1, warnings=("x",))
    await settle(report, State.RETRYING, DownloadFailed())
    await written(board)
    report = await begin(board, attempt=2)
    await report.state(State.PROCESSING)
    report.progress(tokens=10)
    report.progress(tokens=20, cache_hits=5)
    status = await written(board)
    assert (status.attempt, status.pages_done, status.error_code) == (2, 0, "")
    assert (status.tokens, status.provider_calls, status.cache_hits) == (120, 2, 6)
    assert status.warnings == ()
    await settle(report, State.SUCCEEDED)
    status = await written(board)
    assert (status.state, status.error_code, status.error_message) == (State.SUCCEEDED, "", "")


async def test_a_new_life_has_cost_nothing_yet(board: StatusBoard) -> None:
    report = await begin(board, attempt=1)
    await report.state(State.PROCESSING)
    report.progress(tokens=100)
    await settle(report, State.DEAD, NotAPdf())
    await written(board)
    await (await begin(board, attempt=1)).state(State.DOWNLOADING)
    status = await written(board)
    assert (status.state, status.tokens) == (State.DOWNLOADING, 0)


async def test_a_released_task_is_queued_and_its_attempt_never_was(board: StatusBoard) -> None:
    report = await begin(board, attempt=2)
    await report.state(State.PROCESSING)
    await settle(report, State.QUEUED)
    status = await written(board)
    assert (status.state, status.attempt) == (State.QUEUED, 1)


async def test_a_submitted_task_is_queued(board: StatusBoard) -> None:
    await board.queued("t-1", doc_id="d")
    status = await board.read("t-1")
    assert (status.state, status.doc_id) == (State.QUEUED, "d")


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (State.PROCESSING, State.PROCESSING),
        (State.RETRYING, State.RETRYING),
        (State.SUCCEEDED, State.SUCCEEDED),
        (State.DEAD, State.QUEUED),
        (State.CANCELLED, State.QUEUED),
    ],
)
async def test_submitting_again_changes_only_what_may_begin_again(
    board: StatusBoard, before: State, after: State
) -> None:
    report = await begin(board)
    await report.state(State.PROCESSING)
    if before is not State.PROCESSING:
        await settle(report, before)
    await written(board)
    await board.queued("t-1", doc_id="d")
    assert (await board.read("t-1")).state is after


async def test_messages_and_warnings_are_bounded(board: StatusBoard) -> None:
    report = await begin(board)
    await report.state(State.PROCESSING)
    report.progress(warnings=("w" * 5000,) * 5000)
    await settle(report, State.DEAD, NotAPdf("m" * 5000))
    status = await written(board)
    assert len(status.error_message) == 1000
    assert [len(warning) for warning in status.warnings] == [1000] * 100


async def test_what_somebody_damaged_has_its_default(redis: Any, board: StatusBoard) -> None:
    damaged = {"state": "SLEEPING", "attempt": "many", "warnings": "[", "doc_id": b"\xff", "x": 1}
    await redis.hset(KEYS.status("t-1"), mapping=damaged)
    assert await board.read("t-1") == TaskStatus("t-1", doc_id="\ufffd")


async def test_a_key_that_is_no_hash_holds_up_nobody(redis: Any, board: StatusBoard) -> None:
    await redis.set(KEYS.status("bad"), "no hash")
    bad = await begin_of(board, "bad")
    await bad.state(State.PROCESSING)
    await (await begin(board)).state(State.PROCESSING)
    assert (await written(board)).state is State.PROCESSING


async def test_a_status_that_expired_is_written_again(redis: Any, board: StatusBoard) -> None:
    report = await begin(board)
    await report.state(State.PROCESSING)
    await written(board)
    await redis.delete(KEYS.status("t-1"))
    report.progress(pages_done=2)
    status = await written(board)
    assert (status.state, status.pages_done) == (State.PROCESSING, 2)


async def test_more_tasks_than_a_batch_are_all_written(board: StatusBoard) -> None:
    for number in range(250):
        report = await begin_of(board, f"t-{number}")
        await report.state(State.PROCESSING)
    await written(board)
    states = [(await board.read(f"t-{number}")).state for number in range(250)]
    assert set(states) == {State.PROCESSING}


# ------------------------------------------------------------------------------- outages


async def test_an_outage_fails_nothing_and_the_newest_is_written_after_it(tmp_path: Path) -> None:
    with EmbeddedValkey(directory=tmp_path) as server, capture_logs() as logs:
        async with connect(server.url) as (redis, _), new_board(redis) as board:
            report = await begin(board, attempt=2)
            server.__exit__(None, None, None)
            await report.state(State.DOWNLOADING)
            await report.state(State.PROCESSING)
            for _ in range(3):
                await board._write()
                report.progress(pages_done=5)
            with EmbeddedValkey(port=server.port, directory=tmp_path):
                while (await written(board)).state is not State.PROCESSING:
                    pass
                assert (await board.read("t-1")).pages_done == 5
    assert [entry["event"] for entry in logs] == ["peer is away", "peer is back"]


async def test_the_end_of_the_board_does_not_wait_for_a_server_that_is_away() -> None:
    with EmbeddedValkey() as server:
        async with connect(server.url) as (redis, _), new_board(redis) as board:
            report = await begin(board)
            server.__exit__(None, None, None)
            await report.state(State.DOWNLOADING)


# ------------------------------------------------------------------------------- watching


async def test_watching_sees_every_change_and_ends_with_the_task(board: StatusBoard) -> None:
    seen = []
    async with aclosing(board.watch("t-1")) as changes:
        async for status in changes:
            seen.append(status.state)
            if len(seen) == 1:
                other = await begin_of(board, "t-2")
                await other.state(State.PROCESSING)
                report = await begin(board)
                await report.state(State.DOWNLOADING)
                await report.state(State.PROCESSING)
                await settle(report, State.SUCCEEDED)
    assert seen == [State.UNKNOWN, State.DOWNLOADING, State.PROCESSING, State.SUCCEEDED]


async def test_watching_a_task_that_is_over_says_so_and_ends(board: StatusBoard) -> None:
    report = await begin(board)
    await settle(report, State.DEAD, NotAPdf())
    await written(board)
    assert [status.state async for status in board.watch("t-1")] == [State.DEAD]


async def test_watching_needs_no_events(
    redis: Any, board: StatusBoard, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A message of pub/sub may be lost: it looks, too."""
    monkeypatch.setattr(task_status, "LOOK_SECONDS", 0.01)
    seen = []
    async with aclosing(board.watch("t-1")) as changes:
        async for status in changes:
            seen.append(status.state)
            if len(seen) == 1:
                await redis.hset(KEYS.status("t-1"), "state", "SUCCEEDED")
    assert seen == [State.UNKNOWN, State.SUCCEEDED]


async def test_watching_is_not_disturbed_by_foreign_events(redis: Any, board: StatusBoard) -> None:
    seen = []
    async with aclosing(board.watch("t-1")) as changes:
        async for status in changes:
            seen.append(status.state)
            if len(seen) == 1:
                for garbage in (b"", b"[]", b"\xff", b'{"task_id": "t-1"}'):
                    await redis.publish(KEYS.events, garbage)
                await settle(await begin(board), State.CANCELLED)
    assert seen == [State.UNKNOWN, State.CANCELLED]


async def test_watching_does_not_go_back_in_time(redis: Any, board: StatusBoard) -> None:
    seen = []
    report = await begin(board)
    await report.state(State.PROCESSING)
    await written(board)
    async with aclosing(board.watch("t-1")) as changes:
        async for status in changes:
            seen.append(status.state)
            if len(seen) == 1:
                late = TaskStatus("t-1", State.DOWNLOADING, updated_at_ms=status.updated_at_ms)
                await redis.publish(KEYS.events, late.to_event())
                await settle(report, State.SUCCEEDED)
    assert seen == [State.PROCESSING, State.SUCCEEDED]


async def test_watching_goes_on_after_a_restart_of_the_server(tmp_path: Path) -> None:
    with EmbeddedValkey(directory=tmp_path) as server:
        async with (
            connect(server.url) as (redis, _),
            new_board(redis) as board,
            aclosing(board.watch("t-1")) as changes,
        ):
            assert (await anext(changes)).state is State.UNKNOWN
            report = await begin(board)
            server.__exit__(None, None, None)
            with EmbeddedValkey(port=server.port, directory=tmp_path):
                await report.state(State.PROCESSING)
                assert (await anext(changes)).state is State.PROCESSING
