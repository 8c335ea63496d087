"""Something is away: said once, waited for with growing, jittered pauses, said when it is back."""

from __future__ import annotations

import random
from collections import Counter

import structlog

log = structlog.get_logger()

FIRST_PAUSE_SECONDS = 0.1
LONGEST_PAUSE_SECONDS = 2.0


class Outage:
    """Keeps count of who cannot get through to a peer.

    1. logs when the first part fails, and when the last that failed gets through again;
    2. tells each part how long to pause before it tries again.
    """

    def __init__(self, peer: str) -> None:
        self._peer = peer
        self._failures: Counter[str] = Counter()

    def failed(self, part: str, error: Exception) -> float:
        """Note a failure of `part`; return the seconds to pause."""
        if not self._failures:
            log.warning("peer is away", peer=self._peer, part=part, error=str(error))
        self._failures[part] += 1
        longest = FIRST_PAUSE_SECONDS * 2.0 ** min(self._failures[part], 10)
        return min(LONGEST_PAUSE_SECONDS, longest) * random.uniform(0.5, 1)  # noqa: S311 - jitter

    def passed(self, part: str) -> None:
        """Note that `part` got through."""
        if self._failures.pop(part, 0) and not self._failures:
            log.info("peer is back", peer=self._peer)
