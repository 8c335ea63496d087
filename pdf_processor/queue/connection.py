"""How we talk to Redis: connections that never retry by themselves, and scripts that may."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from typing import Any

from redis.asyncio import BlockingConnectionPool, Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.commands.core import AsyncScript
from redis.exceptions import (
    ConnectionError as RedisConnectionError,
)
from redis.exceptions import (
    OutOfMemoryError,
    ReadOnlyError,
    RedisError,
    TryAgainError,
)
from redis.exceptions import (
    TimeoutError as RedisTimeoutError,
)

from pdf_processor.outage import Outage

OLDEST_SERVER = (6, 2)
BLOCK_SECONDS = 1
BLOCKING_TIMEOUT_SECONDS = 7
TIMEOUT_SECONDS = 5
MAX_CONNECTIONS = 64
"""Whoever finds none free waits for one; a thousand waiters for keys need not have one each."""

PASSING_TROUBLE = (
    RedisConnectionError,
    RedisTimeoutError,
    ReadOnlyError,
    TryAgainError,
    OutOfMemoryError,
    OSError,
)
"""What passes by itself: Redis restarts, fails over, or is full for the moment."""

PASSING_REFUSALS = ("NOREPLICAS", "MISCONF", "CLUSTERDOWN", "MASTERDOWN", "NOAUTH", "WRONGPASS")
"""What passes by itself or by the operator, so that what is held had better wait for it."""


class QueueUnavailable(Exception):
    """Redis cannot be reached, or refuses what the queue needs."""


class ServerTooOld(Exception):
    """The Redis server lacks the commands that keep tasks safe."""


@asynccontextmanager
async def connect(url: str, *, password: str = "") -> AsyncIterator[tuple[Redis, Redis]]:
    """Yield two clients: one for everything, one with a single connection for taking tasks.

    Neither retries by itself: redis-py would silently repeat a move or a script whose reply
    was lost. The second waits longer for a reply than it lets the server block. Connects
    only when used; `password`, where given, wins over the URL's.
    """
    shared: dict[str, Any] = {"retry": Retry(NoBackoff(), 0), "protocol": 2}
    if password:
        shared["password"] = password
    pool: Any = BlockingConnectionPool.from_url(
        url,
        **shared,
        socket_timeout=TIMEOUT_SECONDS,
        max_connections=MAX_CONNECTIONS,
        timeout=TIMEOUT_SECONDS,
    )
    async with (
        Redis.from_pool(pool) as redis,
        Redis.from_url(
            url, **shared, socket_timeout=BLOCKING_TIMEOUT_SECONDS, max_connections=1
        ) as blocking,
    ):
        yield redis, blocking


async def check_server(redis: Redis) -> None:
    """Look whether the server can do what the queue needs.

    Raises:
        ServerTooOld: it is older than 6.2, so that it cannot move tasks between lists.
        QueueUnavailable: it cannot be reached, or refuses the password.
    """
    with translated():
        info = await redis.info("server")
    version = str(info.get("redis_version", ""))  # Valkey gives the Redis version it equals
    numbers = tuple(int(part) for part in version.split(".")[:2] if part.isdigit())
    if numbers < OLDEST_SERVER:
        raise ServerTooOld(
            f"The Redis server at REDIS_URL is version {version or 'unknown'}: "
            "Redis or Valkey 6.2 or newer is needed, for BLMOVE and LMOVE."
        )


@contextmanager
def translated() -> Iterator[None]:
    """Turn any trouble with Redis into `QueueUnavailable`."""
    try:
        yield
    except (RedisError, OSError) as error:
        raise _unavailable(error) from None


def _passes(error: Exception) -> bool:
    return isinstance(error, PASSING_TROUBLE) or str(error).startswith(PASSING_REFUSALS)


def _unavailable(error: Exception) -> QueueUnavailable:
    return QueueUnavailable(
        f"Redis cannot be used ({type(error).__name__}): check REDIS_URL and REDIS_PASSWORD, "
        "and that the server is up."
    )


class Scripts:
    """Runs scripts, loaded into the server when it does not know them."""

    def __init__(self, redis: Redis, outage: Outage) -> None:
        self._redis = redis
        self._outage = outage
        self._known: dict[str, AsyncScript] = {}

    async def once(self, script: str, keys: Sequence[str], args: Sequence[Any]) -> Any:
        """Run a script.

        Raises:
            QueueUnavailable: it may or may not have run.
        """
        with translated():
            return await self._run(script, keys, args)

    async def until_answered(self, script: str, keys: Sequence[str], args: Sequence[Any]) -> Any:
        """Run a script that may be repeated, as often as it takes to hear its answer.

        Raises:
            QueueUnavailable: the server refuses it for a reason that does not pass by itself.
        """
        while True:
            try:
                answer = await self._run(script, keys, args)
            except (RedisError, OSError) as error:
                if not _passes(error):
                    raise _unavailable(error) from None
                await asyncio.sleep(self._outage.failed("settle", _unavailable(error)))
            else:
                self._outage.passed("settle")
                return answer

    async def _run(self, script: str, keys: Sequence[str], args: Sequence[Any]) -> Any:
        if script not in self._known:
            self._known[script] = self._redis.register_script(script)
        return await self._known[script](keys, args)
