"""How deep a heading stands: its number says so, or the order of the document's styles.

The styles of the headings in a sample of the pages are ordered by size and weight. A
style whose headings are numbered stands where their numbers put it, and its headings
without a number one deeper, but for the outermost; any other style stands one below the
next larger.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable
from typing import Final

from pdf_processor.parsing.headings import Candidate
from pdf_processor.parsing.styles import Style

DEEPEST: Final = 6


class Levels:
    """Gives a heading its level, the same one all over the document."""

    def __init__(self, sample: Iterable[Candidate]) -> None:
        depths: dict[Style, Counter[int | None]] = defaultdict(Counter)
        for candidate in sample:
            depths[candidate.style][candidate.depth] += 1
        self._shift = 1 if any(0 in counter for counter in depths.values()) else 0
        self._by_style: dict[Style, int] = {}
        level = 0
        look: tuple[float, bool] | None = None
        for style in sorted(depths, key=_rank):
            common, _ = depths[style].most_common(1)[0]
            if common is not None:
                level = max(1, common + self._shift) + (common > 1)
            elif look != style[:2]:
                level += 1
            look = style[:2]
            self._by_style[style] = min(level, DEEPEST)

    def of(self, candidate: Candidate) -> int:
        """The heading's level, from 1, the outermost."""
        if candidate.depth is not None:
            return min(max(1, candidate.depth + self._shift), DEEPEST)
        if candidate.style not in self._by_style:
            self._by_style[candidate.style] = self._between(candidate.style)
        return self._by_style[candidate.style]

    def _between(self, style: Style) -> int:
        """The level of a style that the sample did not show."""
        look = _rank(style)[:2]
        levels = self._by_style.items()
        same = [level for known, level in levels if _rank(known)[:2] == look]
        above = [level for known, level in levels if _rank(known)[:2] < look]
        return same[0] if same else min(max(above, default=0) + 1, DEEPEST)


def _rank(style: Style) -> tuple[float, bool, str]:
    size, bold, font = style
    return (-size, not bold, font)
