"""API keys in Redis, sealed, so that any replica may take a key and any other use it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import CancelledError
from types import TracebackType
from typing import Self, cast

import structlog
from pydantic import SecretStr
from redis.asyncio import Redis
from redis.exceptions import RedisError

from pdf_processor.ending import end
from pdf_processor.keys.inbox import ApiKey, KeptKey, KeyNotKept, KeysOutOfReach
from pdf_processor.keys.sealer import KeySealer
from pdf_processor.outage import Outage

log = structlog.get_logger()

REPLY_SECONDS = 5.0
"""How long one answer of Redis may take."""

# KEYS 1 a task's sealed key | ARGV 1 the sealed key that was read | returns keys deleted
DELETE_UNLESS_NEWER = """
if redis.call('GET', KEYS[1]) == ARGV[1] then
    return redis.call('DEL', KEYS[1])
end
return 0
"""


class KeyVault:
    """Keeps keys in Redis for all replicas.

    Duties: seal a key, store it for `ttl_seconds` and tell every replica its task's id; open
    a stored key and prolong its life; delete one that was used; listen for news from other
    replicas while it is entered. Built inside the running loop, over a client that answers
    in bytes. Leaves the waiting to the key inbox, the cipher to the sealer.
    """

    look_again_seconds = 1.0

    def __init__(
        self, redis: Redis, *, queue_name: str, secrets: Sequence[SecretStr], ttl_seconds: int
    ) -> None:
        self._redis = redis
        self._prefix = f"{{{queue_name}}}:key:"
        self._channel = f"{{{queue_name}}}:keys"
        self._sealer = KeySealer(secrets)
        self._ttl_seconds = ttl_seconds
        self._loop = asyncio.get_running_loop()
        self._tell: Callable[[str], None] = lambda _task_id: None
        self._delete = redis.register_script(DELETE_UNLESS_NEWER)
        self._outage = Outage("Redis")

    async def __aenter__(self) -> Self:
        self._listener = asyncio.create_task(self._listen(), name="key vault listener")
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await end(self._listener)

    def on_news(self, tell: Callable[[str], None]) -> None:
        """Call `tell(task_id)` on the loop when a key came in at any replica."""
        self._tell = tell

    def put(self, task_id: str, key: ApiKey) -> None:
        """Seal and store a key. From any thread but the loop's own: it waits for Redis.

        Raises:
            KeyNotKept: Redis is out of reach, or the loop is closed.
        """
        storing = self._store(task_id, self._sealer.seal(task_id, key))
        try:
            future = asyncio.run_coroutine_threadsafe(storing, self._loop)
        except RuntimeError:  # the loop is closed
            storing.close()
            raise KeyNotKept from None
        try:
            future.result(2 * REPLY_SECONDS)
        except (RedisError, OSError, TimeoutError, CancelledError):
            future.cancel()
            message = "The API key could not be kept, Redis is out of reach: provide it again"
            raise KeyNotKept(message) from None

    async def get(self, task_id: str) -> KeptKey | None:
        """Open the newest key; None where there is none.

        Raises:
            KeysOutOfReach: Redis did not answer.
            KeyUnreadable: it was sealed with a secret unknown here, or for another task.
        """
        try:
            async with asyncio.timeout(REPLY_SECONDS):
                answer = await self._redis.getex(self._prefix + task_id, ex=self._ttl_seconds)
        except (RedisError, OSError, TimeoutError):
            raise KeysOutOfReach from None
        if answer is None:
            return None
        sealed = cast("bytes", answer)
        return KeptKey(self._sealer.open(task_id, sealed), delivery=sealed)

    async def delete(self, task_id: str, delivery: bytes) -> None:
        """Drop this delivery; a newer one stays. What cannot be dropped now expires."""
        try:
            async with asyncio.timeout(REPLY_SECONDS):
                await self._delete(keys=[self._prefix + task_id], args=[delivery])
        except (RedisError, OSError, TimeoutError):
            log.warning("key not deleted, it stays until it expires", task_id=task_id)

    async def _store(self, task_id: str, sealed: bytes) -> None:
        async with asyncio.timeout(REPLY_SECONDS), self._redis.pipeline() as pipeline:
            pipeline.set(self._prefix + task_id, sealed, ex=self._ttl_seconds)
            pipeline.publish(self._channel, task_id)
            await pipeline.execute()

    async def _listen(self) -> None:
        while True:
            try:
                await self._follow_news()
            except RedisError as error:
                await asyncio.sleep(self._outage.failed("news of keys", error))

    async def _follow_news(self) -> None:
        async with self._redis.pubsub(ignore_subscribe_messages=True) as pubsub:
            await pubsub.subscribe(self._channel)
            self._outage.passed("news of keys")
            async for message in pubsub.listen():
                self._tell(message["data"].decode(errors="replace"))
