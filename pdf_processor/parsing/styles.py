"""What is normal in a document: the size, fonts and weight of its body text."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from pdf_processor.parsing.page_text import PageText, Row, is_mono

LARGER: Final = 1.08
"""Text this many times the body's size is set to be seen."""
SMALLER: Final = 0.88
"""Below this it is a note or a label."""
BODY_FONT_SHARE: Final = 0.15

Style = tuple[float, bool, str]
"""Size to half a point, bold, name of the font: what headings of one level share."""


def style_of(row: Row) -> Style:
    """The row's style."""
    return (round(row.size * 2) / 2, row.bold, row.font)


@dataclass(frozen=True, slots=True)
class BodyStyle:
    """The body text's size in points, whether it is bold, its fonts, and its line distance."""

    size: float
    bold: bool
    fonts: frozenset[str]
    leading: float

    @classmethod
    def of(cls, pages: Iterable[PageText]) -> BodyStyle:
        """Find the style that most characters of the pages have."""
        sizes: Counter[float] = Counter()
        fonts: Counter[tuple[float, str]] = Counter()
        bold: Counter[float] = Counter()
        steps: Counter[float] = Counter()
        for page in pages:
            above: Row | None = None
            for row in page.rows:
                size, is_bold, font = style_of(row)
                letters = len(row.text)
                sizes[size] += letters
                fonts[size, font] += letters
                bold[size] += letters * is_bold
                if above is not None and above.block == row.block:
                    steps[round((row.baseline - above.baseline) * 2) / 2] += letters
                above = row
        if not sizes:
            return cls(10, False, frozenset(), 12)
        size = max(sizes, key=sizes.__getitem__)
        least = sizes[size] * BODY_FONT_SHARE
        names = frozenset(
            name for (at, name), count in fonts.items() if at == size and count >= least
        )
        down = {step: count for step, count in steps.items() if size * 0.9 < step < size * 2.5}
        leading = max(down, key=down.__getitem__) if down else size * 1.2
        return cls(size, bold[size] * 2 > sizes[size], names, leading)

    def is_larger(self, row: Row) -> bool:
        """Whether the row's type is larger than the body's."""
        size = round(row.size * 2) / 2
        return size >= self.size * LARGER and size >= self.size + 0.5

    def prominence(self, row: Row) -> int:
        """2: larger than the body. 1: set apart by weight or font. 0: like the body or smaller."""
        if not row.is_upright:
            return 0
        if self.is_larger(row):
            return 2
        if row.size < self.size * SMALLER or row.run_in or is_mono(row.font):
            return 0
        if row.bold:
            return 0 if self.bold else 1
        return 1 if row.font not in self.fonts else 0
