"""The chunk that is being packed, and where its parts stand on the pages."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import accumulate

from pdf_processor.chunking.cuts import Piece
from pdf_processor.document import Box, Element, Heading, Kind


@dataclass(frozen=True, slots=True)
class Place:
    """Pages, inclusive, and boxes of a stretch of text."""

    page: int
    page_end: int
    boxes: tuple[Box, ...]


class Source:
    """An element's text, and where each stretch of it stands.

    An element has boxes (of lines, columns or pages) but does not say which words are
    in which: a stretch of text is taken to cover its share of their area.
    """

    def __init__(self, element: Element) -> None:
        self.element = element
        self.text = element.text.strip()
        areas = (abs((box.x1 - box.x0) * (box.y1 - box.y0)) for box in element.boxes)
        self._area_up_to = list(accumulate(areas))

    def place(self, piece: Piece) -> Place:
        """Return the pages and boxes of a piece of the text."""
        element = self.element
        page_end = element.page if isinstance(element, Heading) else element.page_end
        whole = piece.end - piece.start == len(self.text)
        if whole or len(element.boxes) < 2 or not self._area_up_to[-1]:  # noqa: PLR2004 - one place
            return Place(element.page, page_end, element.boxes)
        scale = self._area_up_to[-1] / len(self.text)
        first = bisect_right(self._area_up_to, piece.start * scale)
        last = bisect_left(self._area_up_to, piece.end * scale)
        boxes = element.boxes[min(first, len(element.boxes) - 1) : last + 1]
        return Place(boxes[0].page, boxes[-1].page, boxes)


@dataclass(frozen=True, slots=True)
class Part:
    """A piece of an element in a chunk, what joins it to the part before, tokens of both."""

    source: Source
    piece: Piece
    tokens: int
    glue: str = ""

    @property
    def text(self) -> str:
        """The piece itself, without glue."""
        return self.source.text[self.piece.start : self.piece.end]


@dataclass(slots=True)
class Draft:
    """The chunk that is being packed; `lead` repeats text of the `previous` one."""

    kind: Kind = Kind.TEXT
    head: list[Part] = field(default_factory=list)
    previous: list[Part] = field(default_factory=list)
    lead: list[Part] = field(default_factory=list)
    parts: list[Part] = field(default_factory=list)
    tokens: int = 0
    """The sum over the lead and the parts: near the number of the joined text."""

    @property
    def text(self) -> str:
        """The content of the chunk."""
        return join([*self.lead, *self.parts])

    @property
    def has_only_headings(self) -> bool:
        """Whether no text has come yet; also true of an empty draft."""
        return all(isinstance(part.source.element, Heading) for part in self.parts)

    @property
    def standing_here(self) -> list[Part]:
        """The parts with a place: an overlap stands there twice, a repeated head does not."""
        return self.parts if self.kind is Kind.TABLE else [*self.lead, *self.parts]

    def open(self, lead: list[Part], part: Part) -> None:
        """Put the first part, below what is repeated."""
        self.lead = lead
        self.tokens = sum(repeated.tokens for repeated in lead)
        self.add(replace(part, glue="\n") if lead and self.head else part)

    def add(self, part: Part) -> None:
        """Put a further part."""
        self.parts.append(part)
        self.tokens += part.tokens

    def give_up(self, tokens: int) -> list[Part]:
        """Return parts from the end with about as many tokens, but never the first part."""
        rest: list[Part] = []
        while tokens > 0 and len(self.parts) > 1:
            part = self.parts.pop()
            tokens -= part.tokens
            rest.insert(0, part)
        return rest


def join(parts: Sequence[Part]) -> str:
    """Return the text of the parts, one or more."""
    return parts[0].text + "".join(part.glue + part.text for part in parts[1:])
