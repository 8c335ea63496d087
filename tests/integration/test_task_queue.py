"""The queue's protocol against a real server: where a task is after everything that can happen."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
from redis.crc import key_slot

from pdf_processor.errors import (
    DownloadFailed,
    EmbeddingRateLimited,
    InvalidTask,
    NotAPdf,
    WorkerCrashed,
)
from pdf_processor.queue import protocol, task_queue
from pdf_processor.queue.connection import ServerTooOld, check_server, connect
from pdf_processor.queue.lease import Lease
from pdf_processor.queue.protocol import QueueKeys
from pdf_processor.queue.task_queue import (
    NotStarted,
    QueueUnavailable,
    Retried,
    TaskQueue,
    new_worker_id,
)
from pdf_processor.task import Task

NewQueue = Callable[..., TaskQueue]
KEYS = QueueKeys("queue:upload_tasks")


def payload(task_id: str = "t-1", **fields: Any) -> bytes:
    return json.dumps({"task_id": task_id, "URL": "https://host/a.pdf", **fields}).encode()


async def waiting(redis: Any) -> Any:
    return await redis.lrange(KEYS.waiting, 0, -1)


async def taken(redis: Any, queue: TaskQueue) -> Any:
    return await redis.lrange(KEYS.taken(queue.worker), 0, -1)


async def delayed(redis: Any) -> Any:
    return await redis.zrange(KEYS.delayed, 0, -1)


async def make_due(redis: Any) -> None:
    for member in await delayed(redis):
        await redis.zadd(KEYS.delayed, {member: 0})


async def take_one(queue: TaskQueue) -> bytes:
    taken = await queue.take()
    assert taken is not None
    return taken


async def begin(queue: TaskQueue, pushed: bytes | None = None) -> Lease:
    """Push, where something is to be pushed, take and start."""
    if pushed is not None:
        await queue.push(pushed)
    taken = await take_one(queue)
    lease = await queue.start(taken, Task.parse(taken))
    assert lease is not None
    return lease


async def crash(redis: Any, queue: TaskQueue, healthy: TaskQueue) -> None:
    """Have the worker of `queue` found dead by `healthy`."""
    await redis.zrem(KEYS.workers, queue.worker)
    await redis.delete(KEYS.sweep)
    await healthy.recover()


@pytest.fixture
async def queue(new_queue: NewQueue) -> TaskQueue:
    queue = new_queue()
    await queue.register()
    return queue


@pytest.fixture
async def other(new_queue: NewQueue) -> TaskQueue:
    other = new_queue(worker=new_worker_id("other-pod"))
    await other.register()
    return other


# ------------------------------------------------------------------------------- taking


async def test_tasks_are_taken_in_the_order_they_were_pushed(queue: TaskQueue) -> None:
    for name in ("a", "b", "c"):
        await queue.push(payload(name))
    assert [Task.parse(await take_one(queue)).task_id for _ in range(3)] == ["a", "b", "c"]


async def test_what_is_taken_waits_in_the_list_of_the_worker(redis: Any, queue: TaskQueue) -> None:
    await queue.push(payload())
    assert await take_one(queue) == payload()
    assert await taken(redis, queue) == [payload()]
    assert await waiting(redis) == []


async def test_a_push_wakes_a_worker_that_waits(redis: Any, queue: TaskQueue) -> None:
    take = asyncio.create_task(queue.take())
    while not [client for client in await redis.client_list() if client["cmd"] == "blmove"]:
        pass
    await redis.rpush(KEYS.waiting, payload())
    assert await take == payload()


async def test_nothing_is_taken_without_a_lease_of_the_worker(
    redis: Any, new_queue: NewQueue
) -> None:
    queue = new_queue()
    await queue.push(payload())
    take = asyncio.create_task(queue.take())
    await asyncio.sleep(0)
    assert await waiting(redis) == [payload()]
    await queue.register()
    assert await take == payload()


async def test_nothing_is_taken_when_the_lease_is_stale(
    new_queue: NewQueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(task_queue, "BLOCK_SECONDS", 0.01)
    now = 0.0
    queue = new_queue(clock=lambda: now)
    await queue.register()
    await queue.push(payload("a"))
    assert await queue.take() == payload("a")
    now = 15.0
    await queue.push(payload("b"))
    assert await queue.take() is None


# ------------------------------------------------------------------------------- settling


async def test_an_acknowledged_task_is_nowhere_but_known_as_done(
    redis: Any, queue: TaskQueue
) -> None:
    lease = await begin(queue, payload())
    assert await lease.ack()
    assert set(await redis.keys()) - {KEYS.workers.encode()} == {
        KEYS.done("t-1").encode(),
        KEYS.settled(lease._nonce).encode(),
    }
    assert await redis.ttl(KEYS.done("t-1")) == 86_400


async def test_a_failed_attempt_waits_and_comes_again(redis: Any, queue: TaskQueue) -> None:
    lease = await begin(queue, payload())
    assert isinstance(await lease.retry(DownloadFailed()), Retried)
    assert await taken(redis, queue) == []
    assert await queue.forward_due() == 0
    await make_due(redis)
    assert await queue.forward_due() == 1
    assert (await begin(queue)).attempt == 2


async def test_pauses_double_and_are_jittered(redis: Any, queue: TaskQueue) -> None:
    lease = await begin(queue, payload())
    for longest in (2, 4, 8, 16):
        seconds, microseconds = await redis.time()
        retried = await lease.retry(DownloadFailed())
        assert isinstance(retried, Retried)
        assert 0.5 * longest <= retried.in_seconds <= 1.5 * longest
        [(_, due_ms)] = await redis.zrange(KEYS.delayed, 0, -1, withscores=True)
        assert due_ms >= seconds * 1000 + microseconds // 1000 + int(retried.in_seconds * 1000)
        await make_due(redis)
        await queue.forward_due()
        lease = await begin(queue)


async def test_a_peer_that_asks_for_patience_gets_it(queue: TaskQueue) -> None:
    lease = await begin(queue, payload())
    retried = await lease.retry(EmbeddingRateLimited(retry_after_seconds=60))
    assert retried == Retried(60)


async def test_the_longest_pause_has_a_limit(new_queue: NewQueue) -> None:
    queue = new_queue(retry_base_seconds=100.0, retry_max_seconds=1.0)
    await queue.register()
    retried = await (await begin(queue, payload())).retry(DownloadFailed())
    assert isinstance(retried, Retried)
    assert retried.in_seconds <= 1.5


async def test_the_fifth_failure_is_the_last(redis: Any, queue: TaskQueue) -> None:
    lease = await begin(queue, payload())
    for _ in range(4):
        assert not lease.last
        assert isinstance(await lease.retry(DownloadFailed()), Retried)
        await make_due(redis)
        await queue.forward_due()
        lease = await begin(queue)
    assert lease.attempt == 5
    assert lease.last
    assert await lease.dead_letter(DownloadFailed("The server said 503."))
    [letter] = await queue.dead_letters()
    assert (letter.error_code, letter.error_message) == ("DOWNLOAD_FAILED", "The server said 503.")
    assert letter.attempts == 5
    assert await redis.hlen(KEYS.attempts) == 0


async def test_a_dead_letter_has_the_contracts_fields(redis: Any, queue: TaskQueue) -> None:
    lease = await begin(queue, payload("t-1", DocID="d", big=2**70, Unknown={"é": [None]}))
    assert await lease.dead_letter(NotAPdf())
    [entry] = await redis.lrange(KEYS.dead, 0, -1)
    letter = json.loads(entry)
    at_ms = letter.pop("at_ms")
    assert letter == {
        "task": {
            "task_id": "t-1",
            "URL": "https://host/a.pdf",
            "DocID": "d",
            "big": 2**70,
            "Unknown": {"é": [None]},
        },
        "error_code": "NOT_A_PDF",
        "error_message": "The file is not a PDF.",
        "attempts": 1,
        "worker": queue.worker,
    }
    seconds, _ = await redis.time()
    assert abs(at_ms / 1000 - seconds) < 60


async def test_a_long_message_is_cut(queue: TaskQueue) -> None:
    await (await begin(queue, payload())).dead_letter(NotAPdf("x" * 100_000))
    assert len((await queue.dead_letters())[0].error_message) == 1000


async def test_old_dead_letters_go_when_there_are_too_many(
    redis: Any, queue: TaskQueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(protocol, "LETTERS_KEPT", 2)
    for name in ("a", "b", "c"):
        await (await begin(queue, payload(name))).dead_letter(NotAPdf())
    assert [letter.task_id for letter in await queue.dead_letters()] == ["c", "b"]
    assert await redis.llen(KEYS.dead) == 2


async def test_a_released_task_is_at_the_head_and_uncounted(redis: Any, queue: TaskQueue) -> None:
    lease = await begin(queue, payload("first"))
    await queue.push(payload("second"))
    assert await lease.release()
    assert await waiting(redis) == [payload("first"), payload("second")]
    assert await taken(redis, queue) == []
    lease = await begin(queue)
    assert (lease.task.task_id, lease.attempt) == ("first", 1)


async def test_a_release_keeps_earlier_failures(redis: Any, queue: TaskQueue) -> None:
    await (await begin(queue, payload())).retry(DownloadFailed())
    await make_due(redis)
    await queue.forward_due()
    assert await (await begin(queue)).release()
    lease = await begin(queue)
    assert lease.attempt == 2
    retried = await lease.retry(DownloadFailed())
    assert isinstance(retried, Retried)
    assert retried.in_seconds >= 2


# ------------------------------------------------------------------- lost leases, lost replies


async def settle(lease: Lease, how: str) -> object:
    error = DownloadFailed()
    match how:
        case "ack":
            return await lease.ack()
        case "retry":
            return await lease.retry(error)
        case "dead":
            return await lease.dead_letter(error)
        case _:
            return await lease.release()


async def everything(redis: Any) -> dict[bytes, bytes | None]:
    """What the server holds, but for the clock."""
    return {key: await redis.dump(key) for key in await redis.keys() if key != KEYS.workers}


@pytest.mark.parametrize("how", ["ack", "retry", "dead", "release"])
async def test_what_another_worker_has_started_again_is_left_alone(
    redis: Any, queue: TaskQueue, other: TaskQueue, how: str
) -> None:
    lease = await begin(queue, payload())
    await crash(redis, queue, other)
    await begin(other)
    before = await everything(redis)
    assert not await settle(lease, how)
    assert await everything(redis) == before
    assert lease.lost.is_set()


@pytest.mark.parametrize("how", ["retry", "dead", "release"])
async def test_what_went_back_to_the_queue_is_not_put_elsewhere_too(
    redis: Any, queue: TaskQueue, other: TaskQueue, how: str
) -> None:
    lease = await begin(queue, payload())
    await crash(redis, queue, other)
    assert not await settle(lease, how)
    counts = await other.counts()
    assert (counts.waiting, counts.delayed, counts.dead) == (1, 0, 0)


async def test_what_was_done_before_anybody_started_it_again_is_done(
    redis: Any, queue: TaskQueue, other: TaskQueue
) -> None:
    lease = await begin(queue, payload())
    await crash(redis, queue, other)
    assert await lease.ack()
    again = await take_one(other)
    assert await other.start(again, Task.parse(again)) is NotStarted.DONE
    assert (await other.counts()).in_flight == 0


@pytest.mark.parametrize("how", ["ack", "retry", "dead", "release"])
async def test_a_settlement_whose_reply_was_lost_answers_the_same_again(
    redis: Any, queue: TaskQueue, how: str
) -> None:
    lease = await begin(queue, payload())
    first = await settle(lease, how)
    before = await everything(redis)
    again = await settle(lease, how)
    assert type(first) is type(again)
    assert bool(first) == bool(again) is True
    assert await everything(redis) == before


async def test_a_lease_ends_only_once(redis: Any, queue: TaskQueue) -> None:
    lease = await begin(queue, payload())
    assert await lease.ack()
    assert not await lease.release()
    assert await waiting(redis) == []


async def test_a_start_whose_reply_was_lost_counts_once(redis: Any, queue: TaskQueue) -> None:
    await queue.push(payload())
    taken = await take_one(queue)
    ask = (taken, Task.parse(taken), queue.worker, "nonce")
    assert list(await queue._ask_to_start(*ask)) == [b"started", 1, 0]
    assert list(await queue._ask_to_start(*ask)) == [b"started", 1, 0]
    assert await redis.hget(KEYS.attempts, "t-1") == b"1 0"


async def test_a_refusal_whose_reply_was_lost_leaves_the_running_double_alone(
    redis: Any, queue: TaskQueue
) -> None:
    await begin(queue, payload())
    await queue.push(payload())
    ask = (await take_one(queue), Task.parse(payload()), queue.worker, "nonce")
    assert (await queue._ask_to_start(*ask))[0] == b"running"
    assert (await queue._ask_to_start(*ask))[0] == b"running"
    assert await taken(redis, queue) == [payload()]


async def test_settling_waits_out_a_failover(
    redis: Any, queue: TaskQueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    refused = asyncio.Event()

    def failed(_part: str, _error: Exception) -> float:
        refused.set()
        return 0.01

    monkeypatch.setattr(queue.outage, "failed", failed)
    lease = await begin(queue, payload())
    await redis.replicaof("127.0.0.1", 1)
    try:
        ack = asyncio.create_task(lease.ack())
        await refused.wait()
        assert not ack.done()
    finally:
        await redis.replicaof("NO", "ONE")
    assert await ack
    assert await taken(redis, queue) == []


async def test_a_server_without_room_still_lets_tasks_settle(redis: Any, queue: TaskQueue) -> None:
    lease = await begin(queue, payload())
    await redis.config_set("maxmemory", 1)
    try:
        assert await lease.ack()
    finally:
        await redis.config_set("maxmemory", 0)
    assert await redis.exists(KEYS.done("t-1"))


async def test_a_worker_that_was_taken_for_dead_learns_it(
    redis: Any, queue: TaskQueue, other: TaskQueue
) -> None:
    lease = await begin(queue, payload())
    before = queue.worker
    await crash(redis, queue, other)
    assert not await queue.heartbeat()
    assert lease.lost.is_set()
    assert not await lease.ack()
    assert not await redis.exists(KEYS.done("t-1"))
    assert queue.worker != before
    assert queue.worker.startswith("pod:")
    await queue.register()
    assert await queue.heartbeat()


async def test_a_settled_lease_is_not_lost_with_its_worker(
    redis: Any, queue: TaskQueue, other: TaskQueue
) -> None:
    lease = await begin(queue, payload())
    await lease.ack()
    await crash(redis, queue, other)
    await queue.heartbeat()
    assert not lease.lost.is_set()


async def test_what_was_taken_under_a_lost_id_goes_back(
    redis: Any, queue: TaskQueue, other: TaskQueue
) -> None:
    """The move came through after the worker was taken for dead."""
    await queue.push(payload())
    late = await take_one(queue)
    await redis.zrem(KEYS.workers, queue.worker)
    assert await queue.start(late, Task.parse(late)) is NotStarted.LOST
    await other.recover()
    assert await waiting(redis) == [payload()]


async def test_what_is_moved_after_the_worker_got_another_id_is_not_worked_on(
    redis: Any, queue: TaskQueue, other: TaskQueue
) -> None:
    take = asyncio.create_task(queue.take())
    while not [client for client in await redis.client_list() if client["cmd"] == "blmove"]:
        pass
    await redis.zrem(KEYS.workers, queue.worker)
    assert not await queue.heartbeat()
    await queue.push(payload())
    assert await take is None
    await other.recover()
    assert await waiting(redis) == [payload()]


async def test_a_lease_that_begins_as_the_worker_is_lost_is_lost(
    redis: Any, queue: TaskQueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    ask = queue._ask_to_start

    async def ask_and_lose(*args: Any) -> Any:
        answer = await ask(*args)
        await redis.zrem(KEYS.workers, queue.worker)
        assert not await queue.heartbeat()
        return answer

    monkeypatch.setattr(queue, "_ask_to_start", ask_and_lose)
    assert (await begin(queue, payload())).lost.is_set()


# ------------------------------------------------------------------------- de-duplication


async def start_copy(queue: TaskQueue, copy: bytes) -> Lease | NotStarted:
    await queue.push(copy)
    return await queue.start(await take_one(queue), Task.parse(copy))


async def test_a_done_task_is_not_started_again(redis: Any, queue: TaskQueue) -> None:
    await (await begin(queue, payload())).ack()
    assert await start_copy(queue, payload(DocID="another")) is NotStarted.DONE
    assert await taken(redis, queue) == []


async def test_a_done_task_is_started_again_by_force(queue: TaskQueue) -> None:
    await (await begin(queue, payload())).ack()
    lease = await start_copy(queue, payload(force=True))
    assert isinstance(lease, Lease)
    assert lease.attempt == 1


@pytest.mark.parametrize("copy", [payload(), payload(DocID="other bytes")])
async def test_a_copy_of_a_running_task_is_dropped(
    redis: Any, queue: TaskQueue, other: TaskQueue, copy: bytes
) -> None:
    lease = await begin(queue, payload())
    assert await start_copy(queue, copy) is NotStarted.RUNNING
    assert await start_copy(other, copy) is NotStarted.RUNNING
    assert (await taken(redis, queue), await taken(redis, other)) == ([payload()], [])
    assert await lease.ack()


async def test_a_forced_copy_of_a_running_task_waits_for_its_end(
    redis: Any, queue: TaskQueue
) -> None:
    lease = await begin(queue, payload())
    assert await start_copy(queue, payload(force=True)) is NotStarted.PARKED
    assert len(await delayed(redis)) == 1
    assert await lease.ack()
    await make_due(redis)
    await queue.forward_due()
    assert (await begin(queue)).task.force


async def test_two_copies_run_once_when_two_workers_take_them(
    queue: TaskQueue, other: TaskQueue
) -> None:
    await queue.push(payload())
    await queue.push(payload())
    one, two = await take_one(queue), await take_one(other)
    task = Task.parse(payload())
    leases = await asyncio.gather(queue.start(one, task), other.start(two, task))
    assert leases.count(NotStarted.RUNNING) == 1


async def test_a_dead_task_that_is_pushed_again_begins_a_new_life(queue: TaskQueue) -> None:
    await (await begin(queue, payload())).dead_letter(NotAPdf())
    assert (await begin(queue, payload())).attempt == 1


async def test_a_cancelled_task_is_dropped_and_may_come_again(redis: Any, queue: TaskQueue) -> None:
    await queue.cancel("t-1")
    assert await start_copy(queue, payload()) is NotStarted.CANCELLED
    assert await taken(redis, queue) == []
    assert (await begin(queue, payload())).attempt == 1


async def test_a_wish_to_cancel_a_running_task_is_not_spent_on_a_copy(
    redis: Any, queue: TaskQueue
) -> None:
    await begin(queue, payload())
    await queue.cancel("t-1")
    assert await start_copy(queue, payload()) is NotStarted.RUNNING
    assert await redis.exists(KEYS.cancel("t-1"))


async def test_a_lease_hears_that_its_task_is_wished_cancelled(queue: TaskQueue) -> None:
    wanted, unwanted = await begin(queue, payload("a")), await begin(queue, payload("b"))
    await queue.cancel("b")
    await queue.look_for_cancelled()
    assert unwanted.cancelled.is_set()
    assert not wanted.cancelled.is_set()


async def test_a_dropped_task_is_nowhere_and_may_come_again(queue: TaskQueue) -> None:
    lease = await begin(queue, payload())
    await queue.cancel("t-1")
    assert await lease.drop()
    counts = await queue.counts()
    assert (counts.waiting, counts.in_flight, counts.delayed, counts.dead) == (0, 0, 0, 0)
    assert (await begin(queue, payload())).attempt == 1


@pytest.mark.parametrize("how", ["ack", "dead"])
async def test_a_wish_to_cancel_ends_with_the_task(queue: TaskQueue, how: str) -> None:
    lease = await begin(queue, payload())
    await queue.cancel("t-1")
    await settle(lease, how)
    assert await start_copy(queue, payload(force=True)) is not None


# ------------------------------------------------------------------------------- recovery


async def test_a_crashed_workers_tasks_go_back_to_the_head_in_order(
    redis: Any, queue: TaskQueue, other: TaskQueue
) -> None:
    for name in ("a", "b", "c"):
        await queue.push(payload(name))
    await take_one(queue)
    await take_one(queue)
    await crash(redis, queue, other)
    assert await waiting(redis) == [payload("a"), payload("b"), payload("c")]
    assert await redis.zrange(KEYS.workers, 0, -1) == [other.worker.encode()]


class Clock:
    """A monotonic clock that goes when it is told to."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


async def expired(redis: Any, queue: TaskQueue) -> None:
    await redis.zadd(KEYS.workers, {queue.worker: 1})


async def test_an_expired_worker_is_recovered_once_it_did_not_move_for_a_lease(
    redis: Any, queue: TaskQueue, new_queue: NewQueue
) -> None:
    clock = Clock()
    watcher = new_queue(worker=new_worker_id("watcher"), clock=clock)
    await queue.push(payload())
    await take_one(queue)
    await expired(redis, queue)
    recovered = []
    for clock.now in range(0, 18, 3):
        recovered.append(await watcher.recover())
    assert recovered == [0, 0, 0, 0, 0, 1]
    assert await waiting(redis) == [payload()]


async def test_a_worker_that_beats_is_left_alone(
    redis: Any, queue: TaskQueue, new_queue: NewQueue
) -> None:
    clock = Clock()
    watcher = new_queue(worker=new_worker_id("watcher"), clock=clock)
    await begin(queue, payload())
    for clock.now in range(0, 60, 3):
        await queue.heartbeat()
        assert await watcher.recover() == 0
    assert await taken(redis, queue) == [payload()]


async def test_the_first_back_after_an_outage_does_not_rob_the_rest(
    redis: Any, queue: TaskQueue, new_queue: NewQueue
) -> None:
    clock = Clock()
    watcher = new_queue(worker=new_worker_id("watcher"), clock=clock)
    await begin(queue, payload())
    await expired(redis, queue)
    await watcher.recover()
    clock.now = 100  # nobody could reach the server
    assert await watcher.recover() == 0
    clock.now = 103
    assert await queue.heartbeat()
    for clock.now in range(106, 130, 3):
        await queue.heartbeat()
        assert await watcher.recover() == 0
    assert await taken(redis, queue) == [payload()]


async def test_a_worker_whose_lease_is_longer_is_left_alone(
    queue: TaskQueue, new_queue: NewQueue
) -> None:
    clock = Clock()
    watcher = new_queue(worker=new_worker_id("watcher"), clock=clock, lease_seconds=1.0)
    await begin(queue, payload())
    for tick in range(20):
        clock.now = tick * 0.2
        assert await watcher.recover() == 0


async def test_a_worker_does_not_recover_itself(redis: Any, new_queue: NewQueue) -> None:
    clock = Clock()
    queue = new_queue(clock=clock)
    await queue.register()
    await begin(queue, payload())
    await expired(redis, queue)
    for clock.now in range(0, 30, 3):
        assert await queue.recover() == 0


async def test_a_sign_of_life_in_the_last_moment_counts(
    redis: Any, queue: TaskQueue, other: TaskQueue
) -> None:
    await begin(queue, payload())
    [(_, seen)] = [
        entry
        for entry in await redis.zrange(KEYS.workers, 0, -1, withscores=True)
        if entry[0] == queue.worker.encode()
    ]
    await redis.zincrby(KEYS.workers, 1, queue.worker)
    assert await other._lost_workers._put_back_of(queue.worker, repr(seen)) == 0
    assert await taken(redis, queue) == [payload()]


async def test_an_older_boot_of_the_own_pod_is_recovered_at_once(
    redis: Any, new_queue: NewQueue
) -> None:
    old = new_queue(worker="web-1:1000:aa")
    await old.register()
    await begin(old, payload())
    boot = new_queue(worker="web-1:2000:bb", pod_name="web-1")
    await boot.register()
    assert await boot.recover() == 1
    assert await waiting(redis) == [payload()]


@pytest.mark.parametrize(
    ("stranger", "pod_name"),
    [
        ("web-1:1000:aa", ""),  # two daemons on one host, without POD_NAME
        ("web-1:3000:aa", "web-1"),  # a newer boot
        ("web-11:1000:aa", "web-1"),
        ("web-1:worker:1000:aa", "web-1"),  # another part in the same pod
        ("my-web-1:1000:aa", "web-1"),
    ],
)
async def test_no_stranger_is_taken_for_an_older_boot(
    new_queue: NewQueue, stranger: str, pod_name: str
) -> None:
    old = new_queue(worker=stranger)
    await old.register()
    await begin(old, payload())
    boot = new_queue(worker="web-1:2000:bb", pod_name=pod_name)
    await boot.register()
    assert await boot.recover() == 0


async def test_lists_without_a_worker_are_found_once_a_minute(
    redis: Any, queue: TaskQueue, other: TaskQueue
) -> None:
    await redis.rpush(KEYS.taken("nobody"), payload("a"))
    assert await queue.recover() == 1
    await redis.rpush(KEYS.taken("nobody"), payload("b"))
    assert await other.recover() == 0
    assert 0 < await redis.ttl(KEYS.sweep) <= 60
    await redis.delete(KEYS.sweep)
    assert await other.recover() == 1


async def test_a_queue_named_with_wildcards_sweeps_only_its_own(new_queue: NewQueue) -> None:
    plain, wild = new_queue(name="queue:x"), new_queue(name="queue:[a-z]*?")
    for queue in (plain, wild):
        await queue.register()
        await queue.push(payload())
        await take_one(queue)
    await plain._redis.zrem(plain.keys.workers, plain.worker)
    await wild._redis.zrem(wild.keys.workers, wild.worker)
    assert await wild.recover() == 1
    assert (await plain.counts()).waiting == 0


async def test_a_task_that_takes_its_worker_down_is_convicted_in_the_end(
    redis: Any, new_queue: NewQueue
) -> None:
    judge = new_queue(worker=new_worker_id("judge"))
    await judge.register()
    await judge.push(payload())
    for attempt in range(1, 6):
        victim = new_queue()
        await victim.register()
        lease = await begin(victim)
        assert (lease.attempt, lease.worn_out) == (attempt, False)
        await crash(redis, victim, judge)
    lease = await begin(judge)
    assert lease.worn_out
    assert await lease.dead_letter(WorkerCrashed())
    [letter] = await judge.dead_letters()
    assert (letter.error_code, letter.attempts) == ("WORKER_CRASHED", 5)


async def test_one_crash_convicts_nobody(redis: Any, new_queue: NewQueue) -> None:
    judge, victim = (new_queue(max_attempts=1) for _ in range(2))
    await judge.register()
    await victim.register()
    await begin(victim, payload())
    await crash(redis, victim, judge)
    lease = await begin(judge)
    assert (lease.attempt, lease.worn_out) == (2, False)


async def test_crashes_do_not_use_up_failures(redis: Any, new_queue: NewQueue) -> None:
    queue = new_queue(max_attempts=2, worker=new_worker_id("steady"))
    await queue.register()
    victim = new_queue(max_attempts=2)
    await victim.register()
    await begin(victim, payload())
    await crash(redis, victim, queue)
    assert isinstance(await (await begin(queue)).retry(DownloadFailed()), Retried)


async def test_a_worker_that_holds_something_is_not_unregistered(
    redis: Any, queue: TaskQueue
) -> None:
    lease = await begin(queue, payload())
    assert not await queue.unregister()
    assert await redis.zcard(KEYS.workers) == 1
    await lease.release()
    assert await queue.unregister()
    assert await redis.zcard(KEYS.workers) == 0


# -------------------------------------------------------------------------- dead and invalid


async def test_a_dead_task_is_retried_with_fresh_attempts(redis: Any, queue: TaskQueue) -> None:
    pushed = payload("t-1", DocID="d", options={"password": "p"}, more=1.5)
    lease = await begin(queue, pushed)
    for _ in range(4):
        await lease.retry(DownloadFailed())
        await make_due(redis)
        await queue.forward_due()
        lease = await begin(queue)
    await lease.dead_letter(DownloadFailed())
    assert await queue.retry_dead("t-1")
    assert await queue.dead_letters() == []
    lease = await begin(queue)
    assert lease.attempt == 1
    assert json.loads(lease._payload) == json.loads(pushed)
    assert isinstance(await lease.retry(DownloadFailed()), Retried)


async def test_a_dead_task_is_retried_even_if_it_succeeded_before(queue: TaskQueue) -> None:
    await (await begin(queue, payload())).ack()
    await (await begin(queue, payload(force=True))).dead_letter(NotAPdf())
    await queue.push(payload(force=False))
    assert await queue.retry_dead("t-1")
    assert await begin(queue)


async def test_of_several_letters_of_a_task_the_newest_is_retried(queue: TaskQueue) -> None:
    for doc_id in ("old", "new"):
        await (await begin(queue, payload(DocID=doc_id))).dead_letter(NotAPdf())
    assert await queue.retry_dead("t-1")
    assert (await begin(queue)).task.doc_id == "new"


async def test_a_dead_task_can_be_dropped(queue: TaskQueue) -> None:
    for name in ("a", "b"):
        await (await begin(queue, payload(name))).dead_letter(NotAPdf())
    assert await queue.drop_dead("a")
    assert not await queue.drop_dead("a")
    assert not await queue.retry_dead("a")
    assert [letter.task_id for letter in await queue.dead_letters()] == ["b"]


async def test_garbage_stands_in_a_list_of_its_own(redis: Any, queue: TaskQueue) -> None:
    garbage = b"\xff\x00{" + b"x" * 100_000
    await queue.push(garbage)
    await queue.reject(await take_one(queue), InvalidTask("no JSON"))
    assert await taken(redis, queue) == []
    assert await queue.dead_letters() == []
    [letter] = await queue.dead_letters(invalid=True)
    assert letter.task == garbage[: 16 * 1024].decode(errors="replace")
    assert (letter.error_code, letter.error_message) == ("INVALID_TASK", "no JSON")


async def test_equal_garbage_is_rejected_one_by_one(redis: Any, queue: TaskQueue) -> None:
    for _ in range(2):
        await queue.push(b"garbage")
        await take_one(queue)
    await queue.reject(b"garbage", InvalidTask())
    assert await taken(redis, queue) == [b"garbage"]
    await queue.reject(b"garbage", InvalidTask())
    assert (await queue.counts()).invalid == 2


CORRUPT = [b"", b"\xff\xfe", b"null", b"[]", b"1" * 5000, b'{"task": 1}', b"[" * 100_000]


async def test_corrupt_entries_in_any_list_stop_nothing(redis: Any, queue: TaskQueue) -> None:
    lease = await begin(queue, payload("good"))
    await lease.dead_letter(NotAPdf())
    for garbage in CORRUPT:
        await redis.rpush(KEYS.waiting, garbage)
        await redis.rpush(KEYS.dead, garbage)
        await redis.rpush(KEYS.invalid, garbage)
        await redis.rpush(KEYS.taken("nobody"), garbage)
        await redis.zadd(KEYS.delayed, {garbage: 1})
    await redis.zadd(KEYS.workers, {b"\xff": 1, b"": "inf"})
    await redis.hset(KEYS.running, "good", "nonsense")
    await redis.hset(KEYS.attempts, "good", "nonsense")
    assert await queue.forward_due() == len(CORRUPT)
    assert await queue.recover() == len(CORRUPT)
    assert len(await queue.dead_letters()) == len(CORRUPT) + 1
    assert len(await queue.dead_letters(invalid=True)) == len(CORRUPT)
    seen = Counter([await take_one(queue) for _ in range(3 * len(CORRUPT))])
    assert seen == dict.fromkeys(CORRUPT, 3)
    assert await queue.retry_dead("good")
    assert (await begin(queue)).attempt == 1


@pytest.mark.parametrize(
    "task_id", ["a:b:c", "{t}", "}{", "日本語 é", "%s %d", "*?[x]", "q\"'\\", "x" * 200]
)
async def test_any_task_id_goes_all_the_way(redis: Any, queue: TaskQueue, task_id: str) -> None:
    lease = await begin(queue, payload(task_id))
    await lease.retry(DownloadFailed())
    await make_due(redis)
    await queue.forward_due()
    lease = await begin(queue)
    assert (lease.task.task_id, lease.attempt) == (task_id, 2)
    await lease.dead_letter(NotAPdf())
    assert await queue.retry_dead(task_id)
    assert await (await begin(queue)).ack()
    assert await start_copy(queue, payload(task_id)) is NotStarted.DONE


# -------------------------------------------------------------------------- counts, server


async def test_counts_say_what_is_where(
    redis: Any, queue: TaskQueue, other: TaskQueue, new_queue: NewQueue
) -> None:
    gone = new_queue()
    await gone.register()
    await (await begin(queue, payload("delayed"))).retry(DownloadFailed())
    await (await begin(queue, payload("dead"))).dead_letter(NotAPdf())
    await begin(queue, payload("one"))
    await begin(other, payload("two"))
    await begin(gone, payload("three"))
    await expired(redis, gone)
    await queue.push(payload("waiting"))
    counts = await queue.counts()
    assert (counts.waiting, counts.in_flight, counts.delayed) == (1, 3, 1)
    assert (counts.dead, counts.invalid, counts.workers) == (1, 0, 2)


def test_every_key_is_in_the_slot_of_the_waiting_list() -> None:
    keys = [KEYS.taken("w"), KEYS.workers, KEYS.done("}x{"), KEYS.status("t"), KEYS.settled("n")]
    assert {key_slot(key.encode()) for key in keys} == {key_slot(KEYS.waiting.encode())}


async def test_a_server_that_is_new_enough_is_accepted(redis: Any) -> None:
    await check_server(redis)


@pytest.mark.parametrize("version", ["5.0.7", "6.0.16", "unknown"])
async def test_an_older_server_is_refused_with_a_sentence(
    redis: Any, monkeypatch: pytest.MonkeyPatch, version: str
) -> None:
    async def info(_section: str) -> dict[str, str]:
        return {"redis_version": version}

    monkeypatch.setattr(redis, "info", info)
    with pytest.raises(ServerTooOld, match=f"{version}: Redis or Valkey 6.2 or newer"):
        await check_server(redis)


async def test_trouble_is_told_without_the_password(unused_tcp_port: int) -> None:
    url = f"redis://:topsecret@127.0.0.1:{unused_tcp_port}/0"
    async with connect(url, password="othersecret") as (redis, _):
        with pytest.raises(QueueUnavailable, match="check REDIS_URL") as told:
            await check_server(redis)
        assert "secret" not in f"{told.value!r} {redis!r}"


async def test_a_settlement_waits_out_a_server_that_refuses_writes(
    redis: Any, queue: TaskQueue
) -> None:
    """NOREPLICAS is no broken connection, but it passes as one does."""
    lease = await begin(queue, payload())
    await redis.config_set("min-replicas-to-write", 1)
    try:
        settling = asyncio.create_task(lease.ack())
        done, _ = await asyncio.wait({settling}, timeout=0.2)
        assert not done
    finally:
        await redis.config_set("min-replicas-to-write", 0)
    assert await asyncio.wait_for(settling, 20)


async def test_more_callers_than_connections_wait_their_turn(redis_url: str) -> None:
    async with connect(redis_url) as (shared, _):
        answers = await asyncio.gather(*(shared.ping() for _ in range(400)))
    assert answers == [True] * 400
