"""Where an API key waits for its task, or a task for its key."""

from __future__ import annotations

import asyncio
import math
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from itertools import count
from types import TracebackType
from typing import Protocol, Self

import structlog
from pydantic import SecretStr

from pdf_processor.errors import InternalError, KeyNotDelivered

log = structlog.get_logger()


class KeyNotKept(Exception):
    """The API key could not be kept: provide it again."""

    def __init__(self, message: str | None = None) -> None:
        super().__init__(message or self.__doc__)


class KeysOutOfReach(InternalError):
    """Nobody can tell whether a key was handed over: Redis is out of reach."""


class InboxClosed(KeyNotDelivered):
    """The processor is stopping: the task has to wait for its API key elsewhere."""


@dataclass(frozen=True, slots=True)
class ApiKey:
    """A key and the provider it is for."""

    provider: str
    secret: SecretStr


@dataclass(frozen=True, slots=True)
class KeptKey:
    """A key that was found; `delivery` tells it from the same key delivered again."""

    key: ApiKey
    delivery: bytes


class KeyStore(Protocol):
    """Keeps the newest key of each task, for some time after it was last put or got."""

    look_again_seconds: float
    """How late its news may be."""

    def put(self, task_id: str, key: ApiKey) -> None:
        """Keep a key. From any thread but the loop's own if it blocks. Raises `KeyNotKept`."""

    async def get(self, task_id: str) -> KeptKey | None:
        """Find the newest key. Raises `KeyUnreadable`."""

    async def delete(self, task_id: str, delivery: bytes) -> None:
        """Drop this delivery; a newer one stays."""

    def on_news(self, tell: Callable[[str], None]) -> None:
        """Call `tell(task_id)` on the loop when a key came in elsewhere."""


class KeyInbox:
    """Brings a task and its API key together, whichever comes first.

    Duties: keep a key that was delivered, in this process or in a vault that all replicas
    share; wake the tasks that wait for it; hand it out as often as it is asked for, since
    attempts repeat; forget it once its task is settled; fail every waiter when it closes.
    Built once, inside the running loop. Leaves it to others to decide whether a task needs
    a key.
    """

    def __init__(
        self,
        *,
        ttl_seconds: float,
        vault: KeyStore | None = None,
        max_keys: int = 10_000,
        loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        self._loop = loop or asyncio.get_running_loop()
        self._store = vault or MemoryKeys(max_keys=max_keys, ttl_seconds=ttl_seconds)
        self._store.on_news(self._wake)
        self._waiters: dict[str, set[asyncio.Future[None]]] = {}
        self._received: OrderedDict[str, bytes] = OrderedDict()  # task id → delivery
        self._max_keys = max_keys
        self._closed = False

    def deliver(self, task_id: str, key: ApiKey) -> None:
        """Keep a key and wake its task; the newest wins. From any thread.

        With a vault this blocks until the key is sealed and stored: not to be called on the
        loop's own thread then.

        Raises:
            KeyNotKept: the vault is out of reach, or the inbox is closed.
        """
        if self._closed:
            raise KeyNotKept
        self._store.put(task_id, key)
        try:
            self._loop.call_soon_threadsafe(self._wake, task_id)
        except RuntimeError:  # the loop is closed
            raise KeyNotKept from None

    async def receive(self, task_id: str, *, timeout_seconds: float) -> ApiKey:
        """Return the key for a task, waiting for it; 0 seconds: only look.

        Raises:
            KeyNotDelivered: no key came in time.
            InboxClosed: the inbox closed meanwhile.
            KeyUnreadable: a key is there, sealed with a secret unknown here.
            KeysOutOfReach: it is not known whether a key is there.
        """
        deadline = self._loop.time() + timeout_seconds
        while not self._closed:
            remaining = deadline - self._loop.time()
            try:
                key = await self._look_or_wait(task_id, remaining)
            except KeysOutOfReach:
                if remaining <= 0:
                    raise
                await asyncio.sleep(min(remaining, self._store.look_again_seconds))
                continue
            if key is not None:
                return key
            if remaining <= 0:
                raise KeyNotDelivered
        raise InboxClosed

    async def forget(self, task_id: str) -> None:
        """Drop the key that was received for a settled task; one delivered since stays."""
        delivery = self._received.pop(task_id, None)
        if delivery is not None:
            await self._store.delete(task_id, delivery)

    def close(self) -> None:
        """Fail every waiter at once, now and from now on. On the loop's thread."""
        self._closed = True
        for task_id in self._waiters:
            self._wake(task_id)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    async def _look_or_wait(self, task_id: str, seconds: float) -> ApiKey | None:
        """Wait only if nothing is there. The waiter stands first, so no key slips between."""
        waiter = self._loop.create_future()
        self._waiters.setdefault(task_id, set()).add(waiter)
        try:
            key = await self._look(task_id)
            if key is None and seconds > 0:
                await self._rest(waiter, min(seconds, self._store.look_again_seconds))
            return key
        finally:
            self._remove(task_id, waiter)

    async def _look(self, task_id: str) -> ApiKey | None:
        kept = await self._store.get(task_id)
        if kept is None:
            return None
        self._received[task_id] = kept.delivery
        self._received.move_to_end(task_id)
        if len(self._received) > self._max_keys:
            self._received.popitem(last=False)
        return kept.key

    async def _rest(self, waiter: asyncio.Future[None], seconds: float) -> None:
        timer = self._loop.call_later(seconds, _finish, waiter)
        try:
            await waiter
        finally:
            timer.cancel()

    def _wake(self, task_id: str) -> None:
        for waiter in self._waiters.get(task_id, ()):
            _finish(waiter)

    def _remove(self, task_id: str, waiter: asyncio.Future[None]) -> None:
        waiters = self._waiters[task_id]
        waiters.discard(waiter)
        if not waiters:
            del self._waiters[task_id]


def _finish(waiter: asyncio.Future[None]) -> None:
    if not waiter.done():
        waiter.set_result(None)


@dataclass(frozen=True, slots=True)
class _Entry:
    kept: KeptKey
    expires_at: float


class MemoryKeys:
    """Keys of this process alone, bounded in number and age. Safe from any thread."""

    look_again_seconds = math.inf

    def __init__(self, *, max_keys: int, ttl_seconds: float) -> None:
        self._max_keys = max_keys
        self._ttl_seconds = ttl_seconds
        self._lock = threading.Lock()
        self._entries: OrderedDict[str, _Entry] = OrderedDict()  # soonest to expire first
        self._numbers = count()

    def put(self, task_id: str, key: ApiKey) -> None:
        """Keep a key; where too many are kept, the one unused for longest goes."""
        dropped = None
        with self._lock:
            self._drop_expired()
            self._keep(task_id, KeptKey(key, b"%d" % next(self._numbers)))
            if len(self._entries) > self._max_keys:
                dropped, _ = self._entries.popitem(last=False)
        if dropped is not None:
            log.warning("key dropped: too many are kept", task_id=dropped, max_keys=self._max_keys)

    async def get(self, task_id: str) -> KeptKey | None:
        """Find the newest key."""
        with self._lock:
            self._drop_expired()
            entry = self._entries.get(task_id)
            if entry is None:
                return None
            self._keep(task_id, entry.kept)
            return entry.kept

    async def delete(self, task_id: str, delivery: bytes) -> None:
        """Drop this delivery; a newer one stays."""
        with self._lock:
            entry = self._entries.get(task_id)
            if entry is not None and entry.kept.delivery == delivery:
                del self._entries[task_id]

    def on_news(self, tell: Callable[[str], None]) -> None:
        """There is no elsewhere."""

    def _keep(self, task_id: str, kept: KeptKey) -> None:
        self._entries[task_id] = _Entry(kept, time.monotonic() + self._ttl_seconds)
        self._entries.move_to_end(task_id)

    def _drop_expired(self) -> None:
        now = time.monotonic()
        while self._entries:
            task_id, entry = next(iter(self._entries.items()))
            if entry.expires_at > now:
                return
            del self._entries[task_id]
