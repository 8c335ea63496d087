"""The numbering schemes of headings: 1.2.3, Chapter 4, Appendix A, IV., 第三章, 付録 B."""

from __future__ import annotations

import re
from typing import Final

_WORDS: Final = {
    0: r"part|teil|partie|parte|livre|book",
    1: r"chapter|chap\.|appendix|annex|kapitel|anhang|chapitre|annexe|cap[ií]tulo|ap[eé]ndice",
    2: r"section|sect\.|abschnitt|secci[oó]n|article|artikel|§",
}
_WORD: Final = {
    depth: re.compile(
        rf"(?:{words})\s*(?:\d+(?:\.\d+)*|[ivxlc]+|[a-z])(?=$|[\s.:)\u2013\u2014-])", re.IGNORECASE
    )
    for depth, words in _WORDS.items()
}
_DECIMAL: Final = re.compile(r"(\d{1,3}(?:\.\d{1,3}){0,6})(\.?)\s+(?=\S)")
_LETTERED: Final = re.compile(r"[A-Z]((?:\.\d{1,3}){1,5})\.?\s+(?=\S)")
_LETTER: Final = re.compile(r"(?:[A-Z][.:]?|[IVX]{1,5}\.)\s+(?=[A-Z])")
_CJK: Final = re.compile(
    r"第\s*[\d一二三四五六七八九十百\u3007]+\s*([部編编篇章回節节条條])|([付附][録录])\s*[A-Z\d]?"
)
_CJK_DEPTH: Final = {"部": 0, "編": 0, "编": 0, "篇": 0, "節": 2, "节": 2, "条": 2, "條": 2}
_LABEL_ONLY: Final = re.compile(
    rf"(?:(?:{'|'.join(_WORDS.values())})\s*)?(?:\d+(?:\.\d+)*|[ivxlc]+|[a-z])\.?|第.{{1,5}}[部編编篇章回節节]",
    re.IGNORECASE,
)


def depth_of(text: str) -> int | None:
    """How deep the number that begins `text` says it is: 1 for "3", 3 for "2.1.4".

    0 is a part, above chapters; None is no number. A lone letter counts as 1.
    """
    for depth, word in _WORD.items():
        if word.match(text):
            return depth
    if match := _DECIMAL.match(text):
        return match[1].count(".") + 1
    if match := _LETTERED.match(text):
        return match[1].count(".") + 1
    if match := _CJK.match(text):
        return _CJK_DEPTH.get(match[1] or "", 1)
    return 1 if _LETTER.match(text) else None


def is_strong(text: str) -> bool:
    """Whether the number is one that prose hardly begins with: 1.2, Chapter 3, 第三章."""
    if match := _DECIMAL.match(text):
        return "." in match[1]
    return depth_of(text) is not None and _LETTER.match(text) is None


def is_label(text: str) -> bool:
    """Whether `text` is a heading's number alone, whose title stands beside or below it."""
    return _LABEL_ONLY.fullmatch(text) is not None
