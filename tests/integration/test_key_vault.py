from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager

import orjson
import pytest
from pydantic import SecretStr
from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from pdf_processor.errors import KeyNotDelivered, KeyUnreadable
from pdf_processor.keys.inbox import ApiKey, KeyInbox, KeyNotKept, KeysOutOfReach
from pdf_processor.keys.vault import KeyVault

CANARY = "sk-canary-4711"
KEY = ApiKey("openai", SecretStr(CANARY))
NEWER = ApiKey("gemini", SecretStr("sk-second"))
OLD_SECRET = SecretStr("o" * 32)
NEW_SECRET = SecretStr("n" * 32)
QUEUE = "queue:test"
KEY_NAME = "{queue:test}:key:t"


@asynccontextmanager
async def replica(redis_url: str, *secrets: SecretStr, queue: str = QUEUE):
    """An inbox as one process of several has it."""
    async with Redis.from_url(redis_url) as redis:
        vault = KeyVault(redis, queue_name=queue, secrets=secrets or (NEW_SECRET,), ttl_seconds=600)
        with KeyInbox(ttl_seconds=600, vault=vault) as inbox:
            async with vault:
                yield inbox


async def deliver(inbox: KeyInbox, key: ApiKey = KEY, task_id: str = "t") -> None:
    await asyncio.to_thread(inbox.deliver, task_id, key)


async def listening(redis: Redis, queue: str) -> None:
    """Wait until both replicas listen. Of another test's queue none can be left over."""
    while (await redis.pubsub_numsub(f"{{{queue}}}:keys"))[0][1] < 2:
        pass


async def waiting(inbox: KeyInbox) -> asyncio.Task[ApiKey]:
    """A task that waits, for longer than any test lasts."""
    task = asyncio.create_task(inbox.receive("t", timeout_seconds=1000))
    while "t" not in inbox._waiters:  # noqa: ASYNC110, a step of the loop is all it takes
        await asyncio.sleep(0)
    return task


async def test_a_key_given_to_one_replica_is_found_by_another(redis_url):
    async with replica(redis_url) as one, replica(redis_url) as other:
        await deliver(one)
        assert await other.receive("t", timeout_seconds=0) == KEY


async def test_a_key_given_to_one_replica_wakes_the_task_that_waits_at_another(redis, redis_url):
    queue = "queue:woken"
    async with replica(redis_url, queue=queue) as one, replica(redis_url, queue=queue) as other:
        other._store.look_again_seconds = 1000  # only the news can wake it
        await listening(redis, queue)
        receiving = await waiting(other)
        await deliver(one)
        assert await receiving == KEY


async def test_a_waiting_task_finds_its_key_though_the_news_got_lost(redis_url):
    async with replica(redis_url) as one, replica(redis_url) as other:
        other._store.on_news(lambda _task_id: None)
        other._store.look_again_seconds = 0.05
        receiving = await waiting(other)
        await deliver(one)
        assert await receiving == KEY


async def test_only_looking_does_not_wait(redis_url):
    async with replica(redis_url) as inbox:
        with pytest.raises(KeyNotDelivered):
            await inbox.receive("t", timeout_seconds=0)


async def test_the_key_stands_nowhere_in_the_clear_and_does_not_stay_for_ever(redis, redis_url):
    async with replica(redis_url) as inbox:
        await deliver(inbox)
        sealed = await redis.get(KEY_NAME)
        assert CANARY.encode() not in sealed
        assert NEW_SECRET.get_secret_value().encode() not in sealed
        assert 0 < await redis.ttl(KEY_NAME) <= 600


async def test_only_the_id_of_the_task_is_published(redis, redis_url):
    async with redis.pubsub(ignore_subscribe_messages=True) as pubsub:
        await pubsub.subscribe("{queue:test}:keys")
        async with replica(redis_url) as inbox:
            await deliver(inbox)
            message = await anext(aiter(pubsub.listen()))
    assert message["data"] == b"t"


async def test_no_two_seals_of_a_key_are_alike(redis, redis_url):
    async with replica(redis_url) as inbox:
        await deliver(inbox)
        first = await redis.get(KEY_NAME)
        await deliver(inbox)
        assert await redis.get(KEY_NAME) != first


async def test_receiving_a_key_prolongs_its_life(redis, redis_url):
    async with replica(redis_url) as inbox:
        await deliver(inbox)
        await redis.expire(KEY_NAME, 5)
        await inbox.receive("t", timeout_seconds=0)
        assert await redis.ttl(KEY_NAME) > 5


async def test_a_key_sealed_with_the_old_secret_opens_beside_the_new_one(redis_url):
    async with (
        replica(redis_url, OLD_SECRET) as old,
        replica(redis_url, NEW_SECRET, OLD_SECRET) as new,
    ):
        await deliver(old)
        assert await new.receive("t", timeout_seconds=0) == KEY


async def test_the_first_secret_seals(redis_url):
    async with (
        replica(redis_url, NEW_SECRET, OLD_SECRET) as both,
        replica(redis_url, NEW_SECRET) as new,
    ):
        await deliver(both)
        assert await new.receive("t", timeout_seconds=0) == KEY


async def test_a_key_sealed_with_an_unknown_secret_is_unreadable(redis_url):
    async with replica(redis_url, OLD_SECRET) as old, replica(redis_url, NEW_SECRET) as new:
        await deliver(old)
        with pytest.raises(KeyUnreadable, match="does not have"):
            await new.receive("t", timeout_seconds=0)


async def test_a_key_moved_to_another_task_does_not_open(redis, redis_url):
    async with replica(redis_url) as inbox:
        await deliver(inbox)
        await redis.rename(KEY_NAME, "{queue:test}:key:thief")
        with pytest.raises(KeyUnreadable, match="not sealed for this task"):
            await inbox.receive("thief", timeout_seconds=0)


async def test_a_key_whose_provider_was_changed_does_not_open(redis, redis_url):
    async with replica(redis_url) as inbox:
        await deliver(inbox)
        parts = orjson.loads(await redis.get(KEY_NAME))
        await redis.set(KEY_NAME, orjson.dumps({**parts, "provider": "elsewhere"}))
        with pytest.raises(KeyUnreadable, match="not sealed for this task"):
            await inbox.receive("t", timeout_seconds=0)


@pytest.mark.parametrize(
    "damaged", [b"", b"[]", b"{}", b'{"secret":1,"provider":"x","sealed":"*"}']
)
async def test_a_damaged_key_is_unreadable(redis, redis_url, damaged):
    async with replica(redis_url) as inbox:
        await redis.set(KEY_NAME, damaged)
        with pytest.raises(KeyUnreadable, match="damaged"):
            await inbox.receive("t", timeout_seconds=0)


async def test_a_forgotten_key_is_gone_for_all(redis_url):
    async with replica(redis_url) as one, replica(redis_url) as other:
        await deliver(one)
        await other.receive("t", timeout_seconds=0)
        await other.forget("t")
        with pytest.raises(KeyNotDelivered):
            await one.receive("t", timeout_seconds=0)


async def test_forgetting_spares_the_same_key_delivered_again_since(redis_url):
    async with replica(redis_url) as one, replica(redis_url) as other:
        await deliver(one)
        await other.receive("t", timeout_seconds=0)
        await deliver(one)
        await other.forget("t")
        assert await one.receive("t", timeout_seconds=0) == KEY


async def test_a_key_that_redis_cannot_take_is_not_kept():
    redis = Redis.from_url("redis://127.0.0.1:1", retry=Retry(NoBackoff(), 0))
    vault = KeyVault(redis, queue_name=QUEUE, secrets=[NEW_SECRET], ttl_seconds=600)
    inbox = KeyInbox(ttl_seconds=600, vault=vault)
    with pytest.raises(KeyNotKept, match="Redis is out of reach") as caught:
        await deliver(inbox)
    assert CANARY not in repr(caught.value)
    await redis.aclose()


async def test_that_nobody_could_look_does_not_mean_that_there_is_no_key():
    """Else a tenant's text would go to the configured provider, on the service's own key."""
    redis = Redis.from_url("redis://127.0.0.1:1", retry=Retry(NoBackoff(), 0))
    vault = KeyVault(redis, queue_name=QUEUE, secrets=[NEW_SECRET], ttl_seconds=600)
    vault.look_again_seconds = 0.01
    inbox = KeyInbox(ttl_seconds=600, vault=vault)
    for seconds in (0, 0.05):
        with pytest.raises(KeysOutOfReach):
            await inbox.receive("t", timeout_seconds=seconds)
    await redis.aclose()


async def test_news_come_again_after_redis_cut_the_connection(redis, redis_url):
    async with replica(redis_url) as inbox:
        heard = set()
        inbox._store.on_news(heard.add)

        async def hear(news: str) -> None:
            while news not in heard:
                await redis.publish("{queue:test}:keys", news)

        await hear("before")
        await redis.client_kill_filter(_type="pubsub")
        await hear("after")


async def test_random_replicas_find_every_key(redis_url):
    async with replica(redis_url) as one, replica(redis_url) as other:
        names = [f"t{number}" for number in range(60)]
        receiving = [
            asyncio.create_task((one if number % 3 else other).receive(name, timeout_seconds=1000))
            for number, name in enumerate(names)
        ]
        await asyncio.gather(
            *(deliver(one if number % 2 else other, KEY, name) for number, name in enumerate(names))
        )
        assert await asyncio.gather(*receiving) == [KEY] * len(names)
