"""Running heads, feet and page numbers, found by repetition and place.

A row at the edge of a page is left out when
- the same text, numbers aside, stands at the same height of another page that was seen, or
- it begins or ends with the number of its page, counted as the other pages count, or
- it stands beside such a row.
Type larger than the body's is a title rather than furniture, "Chapter 3" at the same place
as "Chapter 2": its numbers count, and it goes only when all of it repeats.
All else is kept, and a document whose text would mostly go keeps all of it.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from typing import Final

from pdf_processor.parsing.page_text import PageText, Row
from pdf_processor.parsing.styles import BodyStyle

EDGE_ROWS: Final = 4
"""So many rows from the top and the bottom of a page may be furniture."""
EDGE_SHARE: Final = 0.15
"""And they stand in this share of its height."""
HEIGHT_STEP: Final = 3
"""Rows stand at the same height when they are not farther apart, in points."""
LONGEST: Final = 160
SURE_PAGES: Final = 3
SURE_SHARE: Final = 0.3
"""So many pages must count alike before their numbers are known as page numbers."""

_NUMBER: Final = re.compile(r"\d+")
_FIRST_OR_LAST_NUMBER: Final = re.compile(r"^\W*(\d{1,4})(?=\s|$)|(?:^|(?<=\s))(\d{1,4})\W*$")
_NUMBER_ALONE: Final = re.compile(r"\W*(?:\d{1,4}|[ivxlc]{1,7})\W*", re.IGNORECASE)

Mark = tuple[str, int]


class RunningHeads:
    """Remembers what stands at the edges of the pages seen, and tells what is furniture."""

    def __init__(self, sample: Iterable[PageText], body: BodyStyle) -> None:
        self._body = body
        self._pages_with: Counter[Mark] = Counter()
        self._shifts: Counter[int] = Counter()
        self._learned = 0
        self._keeps_all = False
        pages = list(sample)
        for page in pages:
            self.learn(page)
        emptied = sum(1 for page in pages if page.rows and not self.without(page))
        self._keeps_all = emptied * 2 > sum(1 for page in pages if page.rows)

    def learn(self, page: PageText) -> None:
        """Take note of a page's edges; once for each page."""
        rows = _edge_rows(page)
        self._learned += 1
        self._pages_with.update({self._mark(row) for row in rows})
        self._shifts.update({shift for row in rows for shift in _shifts(row, page.number)})

    def without(self, page: PageText) -> list[Row]:
        """The rows of a page that are its own."""
        if self._keeps_all:
            return page.rows
        edge = _edge_rows(page)
        numbers = [row for row in edge if self._is_numbered(row, page.number)]
        furniture = {
            id(row)
            for row in edge
            if self._repeats(row) or any(_beside(row, number) for number in numbers)
        }
        return [row for row in page.rows if id(row) not in furniture] if furniture else page.rows

    def _repeats(self, row: Row) -> bool:
        text, height = self._mark(row)
        return any(self._pages_with[text, height + near] > 1 for near in (-1, 0, 1))

    def _is_numbered(self, row: Row, page: int) -> bool:
        if self._body.is_larger(row):
            return False
        least = max(SURE_PAGES, self._learned * SURE_SHARE)
        return any(self._shifts[shift] >= least for shift in _shifts(row, page))

    def _mark(self, row: Row) -> Mark:
        text = row.text.casefold()
        if not self._body.is_larger(row):
            text = "#" if _NUMBER_ALONE.fullmatch(text) else _NUMBER.sub("#", text)
        return text, round(row.baseline / HEIGHT_STEP)


def _edge_rows(page: PageText) -> list[Row]:
    top, bottom = page.height * EDGE_SHARE, page.height * (1 - EDGE_SHARE)
    rows = [row for row in page.rows if len(row.text) <= LONGEST]
    above = sorted((row for row in rows if row.baseline < top), key=lambda row: row.baseline)
    below = sorted((row for row in rows if row.y0 > bottom), key=lambda row: -row.baseline)
    return [*above[:EDGE_ROWS], *below[:EDGE_ROWS]]


def _shifts(row: Row, page: int) -> list[int]:
    """How far the numbers at the row's ends are from the page's own number."""
    return [int(first or last) - page for first, last in _FIRST_OR_LAST_NUMBER.findall(row.text)]


def _beside(row: Row, other: Row) -> bool:
    return abs(row.baseline - other.baseline) < HEIGHT_STEP
