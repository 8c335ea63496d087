"""Rows to paragraphs: lines joined, hyphens at their ends taken out, CJK without blanks."""

from __future__ import annotations

import re
from typing import Final

from pdf_processor.document import Block, Box
from pdf_processor.parsing.page_text import Row

FIRST_WIDE: Final = "\u2e80"
"""From here on (CJK radicals, kana, ideographs, full-width forms) lines join without a blank."""
LAST_WIDE: Final = "\uffef"
HANGUL: Final = ("\uac00", "\ud7a3")
HYPHENS: Final = ("-", "\u2010", "\u00ad")

BULLETS: Final = (
    "•",
    "◦",
    "▪",
    "‣",
    "●",
    "○",
    "■",
    "□",
    "◆",
    "* ",
    "\u2013 ",
    "\u2014 ",
    "· ",
    "∙",
    "- ",
)

_COUNTED_ITEM: Final = re.compile(r"\(?[a-z\d]{1,2}[.)]\s")
_SENTENCE_END: Final = (".", "!", "?", ":", ";", "。", "\uff01", "\uff1f", "\uff1a", "”", '"', ")")


def join(above: str, below: str) -> str:
    """Two lines of one paragraph as one."""
    if not above or not below:
        return above or below
    last, first = above[-1], below[0]
    if last in HYPHENS:
        if last == "\u00ad" or (first.islower() and above[-2:-1].isalpha()):
            return above[:-1] + below
        return above + below
    if _is_wide(last) and _is_wide(first):
        return above + below
    return f"{above} {below}"


def _is_wide(character: str) -> bool:
    return FIRST_WIDE <= character <= LAST_WIDE and not HANGUL[0] <= character <= HANGUL[1]


def begins_item(text: str) -> bool:
    """Whether a line opens a list item."""
    return text.startswith(BULLETS) or _COUNTED_ITEM.match(text) is not None


def union(rows: list[Row], page: int) -> Box:
    """The smallest box around rows of one page."""
    return Box(
        page,
        round(min(row.x0 for row in rows), 1),
        round(min(row.y0 for row in rows), 1),
        round(max(row.x1 for row in rows), 1),
        round(max(row.y1 for row in rows), 1),
    )


def paragraph(rows: list[Row], page: int) -> Block:
    """The rows as one block."""
    text = rows[0].text
    for row in rows[1:]:
        text = join(text, row.text)
    return Block(text, page, page, (union(rows, page),))


def continues(above: Block, below: Block) -> bool:
    """Whether a paragraph goes on after a break of column or page."""
    if above.text.endswith(_SENTENCE_END) or begins_item(below.text):
        return False
    return below.text[:1].islower() or (above.text.endswith(HYPHENS) and below.text[:1].isalpha())


def merge(above: Block, below: Block) -> Block:
    """One paragraph out of two pieces."""
    return Block(
        join(above.text, below.text),
        above.page,
        below.page_end,
        (*above.boxes, *below.boxes),
        above.kind,
    )
