"""What a document is read into: plain, frozen values that cross process boundaries.

A parser child yields a `DocumentInfo`, then `Page` after `Page`. A page carries the
elements, in reading order, that were *finished* by the time it was read: a heading,
or a block of text (a paragraph that runs over a page break is finished on the later
page). The chunker turns elements into `Chunk`s; a chunk with its vector is an
`EmbeddedChunk`.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum


class Kind(IntEnum):
    """What the text of a block or chunk is; numbers as in `DocumentChunk.Kind`."""

    TEXT = 0
    TABLE = 1
    OCR = 2


@dataclass(frozen=True, slots=True)
class Box:
    """Where text stands: page from 1; points (1/72 inch), origin top left."""

    page: int
    x0: float
    y0: float
    x1: float
    y1: float


@dataclass(frozen=True, slots=True)
class DocumentInfo:
    """What is known once a document is open; title and author may be empty."""

    page_count: int
    title: str = ""
    author: str = ""


@dataclass(frozen=True, slots=True)
class Heading:
    """A title line. `level` counts from 1, the outermost."""

    text: str
    level: int
    page: int
    boxes: tuple[Box, ...] = ()


@dataclass(frozen=True, slots=True)
class Block:
    """A paragraph, list item or table: the smallest unit of text that belongs together."""

    text: str
    page: int
    page_end: int
    boxes: tuple[Box, ...] = ()
    kind: Kind = Kind.TEXT


Element = Heading | Block


@dataclass(frozen=True, slots=True)
class Page:
    """Progress: pages up to `number` (from 1) are read, and these elements are finished."""

    number: int
    elements: tuple[Element, ...]


@dataclass(frozen=True, slots=True)
class Section:
    """What stands under one heading, up to the next.

    `heading` is None, `level` 0 and `path` empty for what stands before the first;
    else the last of `path` is `heading`.
    """

    heading: str | None
    level: int
    path: tuple[str, ...]
    page: int
    page_end: int
    text: str


@dataclass(frozen=True, slots=True)
class Chunk:
    """The unit that is embedded and sent: fields as in `DocumentChunk`."""

    id: str
    index: int
    chapter: str
    section_path: tuple[str, ...]
    page: int
    page_end: int
    content: str
    token_count: int
    boxes: tuple[Box, ...]
    kind: Kind


@dataclass(frozen=True, slots=True)
class EmbeddedChunk:
    """A chunk and its vector, which is empty without a provider."""

    chunk: Chunk
    vector: tuple[float, ...] = ()
