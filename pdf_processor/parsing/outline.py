"""The outline that a PDF carries, used where it agrees with the text."""

from __future__ import annotations

import re
import unicodedata
from typing import Final

import pymupdf

from pdf_processor.parsing.mupdf_errors import MUPDF_ERRORS

_WORDS: Final = re.compile(r"[^\W_]+")
_NUMBER: Final = re.compile(r"^[\d.]+\s+")


class Outline:
    """Looks a heading up among the outline's entries of its page and the ones beside it."""

    def __init__(self, document: pymupdf.Document) -> None:
        self._levels: dict[tuple[int, str], int] = {}
        try:
            entries = document.get_toc(simple=True)
        except MUPDF_ERRORS:
            entries = []
        for level, title, page in entries:
            self._levels.setdefault((page, _key(title)), level)

    def level(self, text: str, page: int) -> int | None:
        """The level of the entry with this title on `page` or a neighbour."""
        key = _key(text)
        for near in (page, page + 1, page - 1):
            if level := self._levels.get((near, key)):
                return level
        return None


def _key(title: str) -> str:
    plain = unicodedata.normalize("NFKC", title).casefold()
    return "".join(_WORDS.findall(_NUMBER.sub("", plain)))
