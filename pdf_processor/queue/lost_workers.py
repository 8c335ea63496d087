"""Workers that are gone, and what they held."""

from __future__ import annotations

import re
import time
from collections.abc import Callable

import structlog
from redis.asyncio import Redis

from pdf_processor.queue import protocol
from pdf_processor.queue.connection import Scripts, translated
from pdf_processor.queue.expiry_watch import ExpiryWatch
from pdf_processor.queue.protocol import QueueKeys

log = structlog.get_logger()

SWEEP_SECONDS = 60


class LostWorkers:
    """Finds workers that are gone, and puts what they held back to the head of the queue.

    1. whose lease ran out and did not move while we watched;
    2. asked once, older boots of the own pod: their process is known to be dead;
    3. once a minute, one worker for all: owners of lists that no registered worker has.
    """

    def __init__(
        self,
        redis: Redis,
        scripts: Scripts,
        keys: QueueKeys,
        *,
        lease_seconds: float,
        pod_name: str = "",
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._redis = redis
        self._scripts = scripts
        self._keys = keys
        self._pod_name = pod_name
        self._watch = ExpiryWatch(lease_seconds=lease_seconds, clock=clock)
        self._boots_known = False

    async def put_back(self, me: str) -> int:
        """Return how many tasks went back. `me` is the worker that asks.

        Raises:
            QueueUnavailable: Redis cannot be used.
        """
        now_ms, expiries = await self.workers()
        gone = self._watch.gone(now_ms, expiries)
        if not self._boots_known:
            gone += [worker for worker in expiries if self._is_older_boot(worker, me)]
        lost = {worker: repr(expiries[worker]) for worker in gone if worker != me}
        lost |= {worker: "" for worker in await self._owners_of_lists() if worker not in expiries}
        moved = [await self._put_back_of(worker, expiry) for worker, expiry in lost.items()]
        self._boots_known = True
        return sum(moved)

    async def workers(self) -> tuple[float, dict[str, float]]:
        """Return the server's time, and each worker's expiry; both in ms.

        Raises:
            QueueUnavailable: Redis cannot be used.
        """
        with translated():
            async with self._redis.pipeline(transaction=False) as pipeline:
                pipeline.time()
                pipeline.zrange(self._keys.workers, 0, -1, withscores=True)
                (seconds, microseconds), scores = await pipeline.execute()
        now_ms = seconds * 1000 + microseconds / 1000
        return now_ms, {name.decode(errors="replace"): score for name, score in scores}

    def _is_older_boot(self, worker: str, me: str) -> bool:
        boot = worker.removeprefix(f"{self._pod_name}:")
        if not self._pod_name or boot == worker or not re.fullmatch(r"\d+:[0-9a-f]+", boot):
            return False
        return int(boot.split(":")[0]) < int(me.rsplit(":", 2)[1])

    async def _owners_of_lists(self) -> list[str]:
        prefix = self._keys.taken("")
        pattern = re.sub(r"([*?\[\]\\])", r"\\\1", prefix) + "*"
        with translated():
            if not await self._redis.set(self._keys.sweep, 1, nx=True, ex=SWEEP_SECONDS):
                return []
            lists = self._redis.scan_iter(match=pattern, count=1000, _type="list")
            return [key.decode(errors="replace").removeprefix(prefix) async for key in lists]

    async def _put_back_of(self, worker: str, expiry: str) -> int:
        keys = [self._keys.workers, self._keys.taken(worker), self._keys.waiting]
        moved: int = await self._scripts.once(protocol.RECOVER, keys, [worker, expiry])
        if moved >= 0:
            log.warning("worker recovered", worker=worker, tasks=moved)
        return max(0, moved)
