"""Where text may be cut so that each piece fits: between sentences, words, characters.

Everything works on spans `(start, end)` of one text; a span neither begins nor ends
with a blank, and the blanks between two spans are all that is left out.
"""

from __future__ import annotations

import re
import unicodedata
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator
from itertools import pairwise
from typing import NamedTuple

CountTokens = Callable[[str], int]
Boundary = Callable[[str, int], bool]
Span = tuple[int, int]

_SENTENCE_END = re.compile(
    r"""[.!?…؟۔।॥]+["'”’»)\]]*\s+"""  # noqa: RUF001 - Latin to Devanagari: a blank must follow
    r"""|[。！？｡]+[」』”’）】》]*\s*"""  # noqa: RUF001 - CJK, where none does
    r"""|\n+"""
)
_WORD_START = re.compile(r"(?<=\s)\S|(?<=[，、；：])\S")  # noqa: RUF001 - or after a CJK comma
_WIDE = re.compile(r"[\u2e80-\u9fff\uf900-\ufaff\uff00-\uffef\U00020000-\U0003ffff]")
_NEVER_FIRST = frozenset("。！？｡，、；：」』”’）】》〉〕％ー々")  # noqa: RUF001
_JOINER = "\u200d"

_HEADROOM = 1.1
"""Pieces of equal length differ in tokens; cut a little shorter than the mean allows."""


class Piece(NamedTuple):
    """A span that fits, and its tokens."""

    start: int
    end: int
    tokens: int


def sentences(text: str, start: int, end: int) -> Iterator[Span]:
    """Yield the spans of the sentences, and of the lines, between `start` and `end`."""
    begin = start
    for match in _SENTENCE_END.finditer(text, start, end):
        if _ends_sentence(text, match, end):
            yield from _trimmed(text, begin, match.end())
            begin = match.end()
    yield from _trimmed(text, begin, end)


def lines(text: str, start: int, end: int) -> Iterator[Span]:
    """Yield the spans of the lines between `start` and `end`: the rows of a table."""
    begin = start
    while begin < end:
        newline = text.find("\n", begin, end)
        stop = end if newline < 0 else newline
        yield from _trimmed(text, begin, stop)
        begin = stop + 1


def fit(text: str, spans: Iterable[Span], *, limit: int, count: CountTokens) -> Iterator[Piece]:
    """Yield the spans, and those of more than `limit` tokens in pieces that fit.

    Words stay whole unless one alone is over the limit; then characters with their
    accents do, in scripts without blanks preferably next to an ideograph.
    """
    for span in spans:
        yield from _fit_span(text, span, limit, count, (_at_word, _at_wide, _at_character))


def tail(
    text: str, start: int, end: int, *, limit: int, count: CountTokens, words: bool
) -> Piece | None:
    """Find the longest run of whole sentences that ends at `end` and fits.

    Where not even the last one does, the longest run of whole `words`, if they are
    allowed; None if there is nothing.
    """
    choices = [[span[0] for span in sentences(text, start, end)]]
    if words:
        choices.append([match.start() for match in _WORD_START.finditer(text, start, end)])
    for starts in choices:
        found = bisect_left(starts, x=True, key=lambda at: count(text[at:end]) <= limit)
        if found < len(starts):
            return Piece(starts[found], end, count(text[starts[found] : end]))
    return None


def _fit_span(
    text: str, span: Span, limit: int, count: CountTokens, levels: tuple[Boundary, ...]
) -> Iterator[Piece]:
    start, end = span
    tokens = count(text[start:end])
    if tokens <= limit or end - start == 1:
        yield Piece(start, end, tokens)
        return
    size = max(1, int((end - start) / (int(tokens * _HEADROOM / limit) + 1)))
    while levels and not (cuts := _cuts(text, start, end, size, levels[0])):
        levels = levels[1:]
    if not levels:
        cuts = list(range(start + size, end, size))
    for begin, stop in pairwise([start, *cuts, end]):
        for trimmed in _trimmed(text, begin, stop):
            yield from _fit_span(text, trimmed, limit, count, levels)


def _cuts(text: str, start: int, end: int, size: int, boundary: Boundary) -> list[int]:
    """Find boundaries about `size` characters apart: before the ideal place, else after."""
    cuts: list[int] = []
    last = start
    while (ideal := last + size) < end:
        nearest = (at for at in range(ideal, last, -1) if boundary(text, at))
        beyond = (at for at in range(ideal + 1, end) if boundary(text, at))
        cut = next(nearest, None) or next(beyond, None)
        if cut is None:
            break
        cuts.append(cut)
        last = cut
    return cuts


def _at_word(text: str, at: int) -> bool:
    return text[at - 1].isspace()


def _at_wide(text: str, at: int) -> bool:
    """Tell whether a script without blanks allows a cut before `at`."""
    beside = _WIDE.match(text, at - 1) or _WIDE.match(text, at)
    return bool(beside) and text[at] not in _NEVER_FIRST and _at_character(text, at)


def _at_character(text: str, at: int) -> bool:
    """Tell whether a character starts at `at`, and not an accent or a joined emoji part."""
    marks = unicodedata.category(text[at]).startswith("M")
    return not marks and _JOINER not in (text[at - 1], text[at])


def _ends_sentence(text: str, match: re.Match[str], end: int) -> bool:
    """Leave out the dots of "e.g. this", "J. Smith", "Fig. 3"."""
    mark = match.group()
    if not mark.startswith(".") or "\n" in mark:
        return True
    following = text[match.end() : min(match.end() + 1, end)]
    before = text[max(0, match.start() - 2) : match.start()]
    initial = before[-1:].isalpha() and not before[:-1].isalnum()
    return not (initial or following.islower() or following.isdigit())


def _trimmed(text: str, start: int, end: int) -> Iterator[Span]:
    """Yield the span without the blanks around it, or nothing if there is only blank."""
    while start < end and text[start].isspace():
        start += 1
    while start < end and text[end - 1].isspace():
        end -= 1
    if start < end:
        yield start, end
