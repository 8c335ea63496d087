from __future__ import annotations

import asyncio
import gc
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from pydantic import SecretStr

from pdf_processor.errors import KeyNotDelivered
from pdf_processor.keys import inbox as key_inbox
from pdf_processor.keys.inbox import ApiKey, InboxClosed, KeyInbox, KeyNotKept

CANARY = "sk-canary-4711"
LONG_SECONDS = 1000.0
KEY = ApiKey("openai", SecretStr("sk-first"))
NEWER = ApiKey("gemini", SecretStr("sk-second"))


@pytest.fixture
async def inbox():
    with KeyInbox(ttl_seconds=60) as inbox:
        yield inbox


async def waiting(inbox: KeyInbox, task_id: str = "t") -> asyncio.Task[ApiKey]:
    """A task that has come as far as waiting."""
    task = asyncio.create_task(inbox.receive(task_id, timeout_seconds=LONG_SECONDS))
    while task_id not in inbox._waiters:  # noqa: ASYNC110, a step of the loop is all it takes
        await asyncio.sleep(0)
    return task


async def test_a_key_that_came_early_is_there_at_once(inbox):
    inbox.deliver("t", KEY)
    assert await inbox.receive("t", timeout_seconds=0) == KEY


async def test_only_looking_does_not_wait(inbox):
    with pytest.raises(KeyNotDelivered):
        await inbox.receive("t", timeout_seconds=0)


async def test_a_key_from_another_thread_wakes_a_loop_that_has_nothing_else_to_do(inbox):
    receiving = await waiting(inbox)
    loop = asyncio.get_running_loop()
    asleep = threading.Event()
    thread = threading.Thread(target=lambda: (asleep.wait(), inbox.deliver("t", KEY)))
    thread.start()
    loop.call_soon(asleep.set)
    # No timer but the waiter's own, far away: only the delivery can end this.
    assert await receiving == KEY
    thread.join()


async def test_all_who_wait_for_one_task_get_its_key(inbox):
    receiving = [await waiting(inbox) for _ in range(3)]
    inbox.deliver("t", KEY)
    assert await asyncio.gather(*receiving) == [KEY] * 3


async def test_a_key_wakes_nobody_else(inbox):
    other = await waiting(inbox, "other")
    inbox.deliver("t", KEY)
    assert await inbox.receive("t", timeout_seconds=LONG_SECONDS) == KEY
    assert not other.done()
    other.cancel()


async def test_the_newest_key_wins(inbox):
    inbox.deliver("t", KEY)
    inbox.deliver("t", NEWER)
    assert await inbox.receive("t", timeout_seconds=0) == NEWER


async def test_a_key_is_there_again_for_the_next_attempt(inbox):
    inbox.deliver("t", KEY)
    await inbox.receive("t", timeout_seconds=0)
    assert await inbox.receive("t", timeout_seconds=0) == KEY


async def test_a_forgotten_key_is_gone(inbox):
    inbox.deliver("t", KEY)
    await inbox.receive("t", timeout_seconds=0)
    await inbox.forget("t")
    with pytest.raises(KeyNotDelivered):
        await inbox.receive("t", timeout_seconds=0)


async def test_forgetting_spares_a_key_delivered_since_even_an_equal_one(inbox):
    inbox.deliver("t", KEY)
    await inbox.receive("t", timeout_seconds=0)
    inbox.deliver("t", KEY)
    await inbox.forget("t")
    assert await inbox.receive("t", timeout_seconds=0) == KEY


async def test_forgetting_spares_a_key_that_nobody_received(inbox):
    inbox.deliver("t", KEY)
    await inbox.forget("t")
    assert await inbox.receive("t", timeout_seconds=0) == KEY


async def test_forgetting_an_unknown_task_is_harmless(inbox):
    await inbox.forget("never heard of")


async def test_closing_fails_every_waiter_at_once():
    inbox = KeyInbox(ttl_seconds=60)
    receiving = [await waiting(inbox, str(number)) for number in range(3)]
    inbox.close()
    for task in receiving:
        with pytest.raises(InboxClosed):
            await task
    with pytest.raises(InboxClosed):
        await inbox.receive("t", timeout_seconds=LONG_SECONDS)


async def test_a_closed_inbox_says_that_it_keeps_no_key(inbox):
    inbox.close()
    with pytest.raises(KeyNotKept):
        inbox.deliver("t", KEY)


def test_delivering_after_the_loop_is_closed_is_refused_in_words():
    async def build() -> KeyInbox:
        return KeyInbox(ttl_seconds=60)

    inbox = asyncio.run(build())
    with pytest.raises(KeyNotKept, match="provide it again"):
        inbox.deliver("t", KEY)


async def test_keys_are_bounded_in_number_and_the_one_unused_for_longest_goes():
    inbox = KeyInbox(ttl_seconds=60, max_keys=2)
    inbox.deliver("a", KEY)
    inbox.deliver("b", KEY)
    await inbox.receive("a", timeout_seconds=0)
    inbox.deliver("c", KEY)
    assert await inbox.receive("a", timeout_seconds=0) == KEY
    assert await inbox.receive("c", timeout_seconds=0) == KEY
    with pytest.raises(KeyNotDelivered):
        await inbox.receive("b", timeout_seconds=0)


async def test_keys_are_bounded_in_age(monkeypatch):
    now = 0.0
    monkeypatch.setattr(key_inbox.time, "monotonic", lambda: now)
    inbox = KeyInbox(ttl_seconds=60)
    inbox.deliver("t", KEY)
    now = 59.0
    assert await inbox._store.get("t") is not None  # and lives 60 s from here
    now = 118.0
    assert await inbox._store.get("t") is not None
    now = 178.5
    assert await inbox._store.get("t") is None
    assert not inbox._store._entries


async def test_a_cancelled_waiter_leaves_nothing_behind(inbox):
    receiving = await waiting(inbox)
    receiving.cancel()
    await asyncio.wait([receiving])
    assert not inbox._waiters


async def test_100_000_waits_in_vain_leave_nothing_behind(inbox):
    async def wait_in_vain(number: int) -> None:
        with pytest.raises(KeyNotDelivered):
            await inbox.receive(f"t{number}", timeout_seconds=1e-6)

    for start in range(0, 100_000, 10_000):
        await asyncio.gather(*(wait_in_vain(start + offset) for offset in range(10_000)))
    assert not inbox._waiters
    assert not inbox._received
    gc.collect()
    assert len(asyncio.all_tasks()) == 1


async def test_no_key_is_missed_when_threads_deliver_while_tasks_begin_to_wait(inbox):
    names = [f"t{number}" for number in range(500)]
    with ThreadPoolExecutor(4) as threads:
        for name in names:
            threads.submit(inbox.deliver, name, KEY)
        found = await asyncio.gather(
            *(inbox.receive(name, timeout_seconds=LONG_SECONDS) for name in names)
        )
    assert found == [KEY] * 500


async def test_a_key_has_no_repr(inbox):
    key = ApiKey("openai", SecretStr(CANARY))
    inbox.deliver("t", key)
    assert CANARY not in repr((key, inbox, inbox._store, inbox._store._entries))
