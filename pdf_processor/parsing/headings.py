"""Which rows are headings: set apart from the body, short, alone on their lines.

A candidate is a run of rows of one style, one below the other. Larger type is enough by
itself; weight or another font needs a place of its own as well, or a number. Captions,
list items, lines of a table of contents and what stands in a table are none.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from pdf_processor.parsing import numbering
from pdf_processor.parsing.page_text import Row
from pdf_processor.parsing.paragraphs import BULLETS, begins_item, join
from pdf_processor.parsing.styles import BodyStyle, Style, style_of

MOST_ROWS: Final = 4
STEP: Final = 2
LABEL_STEP: Final = 4
"""So many times their size the lines of a heading, or its number and its title, may be apart."""
LONGEST: Final = 200
LONGEST_AT_BODY_SIZE: Final = 110
TOC_ROWS: Final = 5
TOC_SHARE: Final = 0.4
"""A page is of a table of contents when so many rows, and this share, end in a page number."""

CELL_GAPS: Final = 2
"""A row with so many wide gaps is the head of a table; one may part a number from a title."""

_LEADERS: Final = re.compile(r"(?:\.\s?){4,}|…{2,}|(?:·\s?){4,}|(?:\s\.){3,}")
_ENDS_IN_PAGE: Final = re.compile(r"\S\s+(?:\d{1,4}|[ivxlc]{1,6})$")
_CAPTION: Final = re.compile(
    r"(?:fig(?:ure|\.)?|table|tab\.|listing|algorithm|equation|abb(?:ildung|\.)|tabelle|tableau)"
    r"\s*[\dA-Z]+(?:[.\d]*)\s*[:.\u2013\u2014-]|[図圖图表]\s*\d",
    re.IGNORECASE,
)
_LABEL: Final = re.compile(r"[^\W\d_]+\s\d+(?:\.\d+)*[.:]?(?:\s*\(.*)?$")
"""Definition 3, Example 4.2 (Hausdorff): the label of a numbered thing, but no chapter's."""
_WORD: Final = re.compile(r"[^\W\d_]{2,}|[\u3040-\u30ff\u3400-\u9fff\uac00-\ud7a3]")


@dataclass(slots=True)
class Candidate:
    """Rows that may be a heading, as one text."""

    text: str
    rows: list[Row]
    style: Style
    depth: int | None
    """What its number says; see `numbering.depth_of`."""


class HeadingFinder:
    """Finds the headings of a page, given what is normal in the document."""

    def __init__(self, body: BodyStyle) -> None:
        self._body = body

    def find(self, rows: list[Row]) -> list[Candidate]:
        """The headings among a page's own rows, in reading order."""
        found = [it for it, above, below in self._runs(rows) if self._is_heading(it, above, below)]
        if any(_ENDS_IN_PAGE.search(it.text) for it in found) and _is_toc(rows):
            return [it for it in found if not _ENDS_IN_PAGE.search(it.text)]
        return found

    def _runs(self, rows: list[Row]) -> Iterator[tuple[Candidate, Row | None, Row | None]]:
        """Runs of prominent rows with the rows before and after them."""
        start = 0
        while start < len(rows):
            end = start + 1
            if self._body.prominence(rows[start]):
                while end < len(rows) and self._goes_on(rows[start:end], rows[end]):
                    end += 1
                above = rows[start - 1] if start else None
                below = rows[end] if end < len(rows) else None
                yield _candidate(rows[start:end]), above, below
            start = end

    def _goes_on(self, run: list[Row], row: Row) -> bool:
        last = run[-1]
        step = row.baseline - last.baseline
        if not self._body.prominence(row) or step < -1:
            return False
        if len(run) == 1 and numbering.is_label(last.text):
            return step < LABEL_STEP * max(row.size, last.size)
        if step > STEP * last.size:
            return False
        if numbering.is_strong(row.text) and numbering.depth_of(run[0].text) is not None:
            return False
        return style_of(row) == style_of(last) and step > last.size * 0.5

    def _is_heading(self, it: Candidate, above: Row | None, below: Row | None) -> bool:
        text = it.text
        if len(it.rows) > MOST_ROWS or len(text) > LONGEST or not _WORD.search(text):
            return False
        if any(row.gaps >= CELL_GAPS for row in it.rows):
            return False
        if text.startswith(BULLETS) or _LEADERS.search(text) or _CAPTION.match(text):
            return False
        if self._body.prominence(it.rows[0]) > 1:
            return True
        return self._stands_alone(it, above, below)

    def _stands_alone(self, it: Candidate, above: Row | None, below: Row | None) -> bool:
        """What a heading of the body's size needs beside its weight or font."""
        first, last = it.rows[0], it.rows[-1]
        if len(it.text) > LONGEST_AT_BODY_SIZE or _beside(above, first) or _beside(below, last):
            return False
        if not it.style[1] and not numbering.is_strong(it.text):
            return False
        if begins_item(it.text) or (it.depth is None and _LABEL.match(it.text)):
            return False
        if it.text.endswith((",", ";", ":")) or (it.text.endswith(".") and it.depth is None):
            return False
        return above is None or not 0 < first.baseline - above.baseline < self._body.leading * 1.1


def _candidate(rows: list[Row]) -> Candidate:
    text = rows[0].text
    for row in rows[1:]:
        text = join(text, row.text)
    return Candidate(text, rows, style_of(rows[-1]), numbering.depth_of(text))


def _beside(other: Row | None, row: Row) -> bool:
    """Whether two rows stand side by side, as the cells of a table do."""
    return other is not None and abs(other.baseline - row.baseline) < row.size * 0.5


def _is_toc(rows: list[Row]) -> bool:
    listed = sum(1 for row in rows if _LEADERS.search(row.text) or _ENDS_IN_PAGE.search(row.text))
    return listed >= TOC_ROWS and listed >= len(rows) * TOC_SHARE
