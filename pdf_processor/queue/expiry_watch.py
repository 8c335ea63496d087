"""Which workers are really gone, told without trusting anybody's wall clock."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

LONGEST_GAP = 0.4
"""Part of a lease: a longer time without a look was an outage, of the server or of ourselves."""


@dataclass(frozen=True, slots=True)
class _Sighting:
    expiry_ms: float
    since: float


class ExpiryWatch:
    """Watches the expiries of all workers.

    A worker counts as gone when its lease is past by the server's clock *and* has not moved
    while we watched, without a gap, for one lease by our own monotonic clock. After an
    outage longer than a lease everybody's expiry is past: the first who comes back must
    not rob the rest.
    """

    def __init__(self, *, lease_seconds: float, clock: Callable[[], float]) -> None:
        self._lease_seconds = lease_seconds
        self._clock = clock
        self._looked_at = clock()
        self._sightings: dict[str, _Sighting] = {}

    def gone(self, now_ms: float, expiries_ms: Mapping[str, float]) -> list[str]:
        """Take note of what stands in the server now; return the workers that are gone."""
        now = self._clock()
        if now - self._looked_at > LONGEST_GAP * self._lease_seconds:
            self._sightings.clear()
        self._looked_at = now
        self._sightings = {
            worker: self._seen(worker, expiry_ms, now) for worker, expiry_ms in expiries_ms.items()
        }
        return [
            worker
            for worker, seen in self._sightings.items()
            if seen.expiry_ms < now_ms and now - seen.since >= self._lease_seconds
        ]

    def _seen(self, worker: str, expiry_ms: float, now: float) -> _Sighting:
        before = self._sightings.get(worker)
        unmoved = before is not None and before.expiry_ms == expiry_ms
        return before if before is not None and unmoved else _Sighting(expiry_ms, now)
