"""The title of a document: what its metadata says, or the largest type on its first page."""

from __future__ import annotations

import re
from typing import Final

from pdf_processor.parsing.page_text import PageText
from pdf_processor.parsing.paragraphs import join

LONGEST: Final = 300
LARGER_THAN_MEDIAN: Final = 1.2

_MADE_UP: Final = re.compile(
    r"(?:untitled|title|document\d*|microsoft word\b.*"
    r"|.*\.(?:docx?|tex|dvi|indd|pdf|rtf|odt|qxd|pptx?))",
    re.IGNORECASE,
)
"""What programs write there by themselves."""


def metadata_title(title: str | None) -> str:
    """The title in the metadata, unless a program made it up."""
    plain = (title or "").replace("\x00", "").strip()
    return "" if _MADE_UP.fullmatch(plain) else plain[:LONGEST]


def title_on(page: PageText) -> str:
    """The largest type on a page, if it is clearly larger than the rest."""
    rows = [row for row in page.rows if row.is_upright]
    if not rows:
        return ""
    sizes = sorted(row.size for row in rows)
    largest = sizes[-1]
    if largest < sizes[len(sizes) // 2] * LARGER_THAN_MEDIAN:
        return ""
    title = ""
    for row in rows:
        if row.size > largest - 0.5:
            title = join(title, row.text)
        elif title:
            break
    return title if len(title) <= LONGEST else ""
