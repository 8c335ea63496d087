"""What `process` writes: a JSON object a chunk, one a section, or a Markdown document."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

from pdf_processor.document import Block, EmbeddedChunk, Heading, Kind, Page, Section

_MAX_HEADING_LEVEL = 6

_BULLET = re.compile(r"\A[-*•◦▪‣●○■–]\s+")  # noqa: RUF001 - what is printed before list items
_NUMBER = re.compile(r"\A\d{1,3}[.)]\s+")
_ACTIVE_LINE = re.compile(
    r"""\#{1,6}(?=\s|$)           # a heading
      | >                         # a quotation
      | \+(?=\s)                  # a bullet that nobody prints
      | =+\s*$ | -+\s*$           # the rule below a heading
      | ([-*_])(\s*\1){2,}\s*$    # a rule across the page
      | \[[^\]]+\]:               # the target of a link, which is not shown
    """,
    re.VERBOSE,
)
_YEAR = re.compile(r"\A(\d{4,9})([.)])(?=\s)")
"""A number too long for a list; a shorter one is taken to be what it looks like."""

_ACTIVE_INLINE = re.compile(
    r"""<(?=[A-Za-z/!?])             # HTML, which is not shown
      | &(?=\#?\w+;)                 # an entity
      | \\(?=[!-/:-@\[-`{-~])        # an escape
      | \](?=\()                     # a link
      | `(?=[^`]*`)                  # code
      | \*(?=\S)(?=[^*]*\*)          # emphasis
      | (?<!\w)_(?=\S)(?=[^_]*_)
      | ~(?=~)                       # struck out, or a fence around code
    """,
    re.VERBOSE,
)


def chunk_record(doc_id: str, embedded: EmbeddedChunk) -> dict[str, Any]:
    """Return a chunk as a JSON object: every field of `DocumentChunk`, and `doc_id`.

    Zeros and empty strings are there too, `kind` is written by name; `embeddings` are
    there only if there is a vector.
    """
    fields = asdict(embedded.chunk)
    record = {"doc_id": doc_id, **fields, "kind": embedded.chunk.kind.name}
    return record | {"embeddings": list(embedded.vector)} if embedded.vector else record


def section_record(doc_id: str, section: Section) -> dict[str, Any]:
    """Return a section as a JSON object; `heading` is null before the first."""
    return {"doc_id": doc_id, **asdict(section)}


class SectionAssembler:
    """Gathers the elements of one document into sections.

    A section ends where the next heading stands, of whatever level; it may have no
    text. What stands before the first heading is a section without one, if it is there.
    """

    def __init__(self) -> None:
        self._path: tuple[Heading, ...] = ()
        self._blocks: list[Block] = []

    def feed(self, page: Page) -> list[Section]:
        """Take a page; return the sections that are complete now."""
        sections: list[Section] = []
        for element in page.elements:
            if isinstance(element, Block):
                self._blocks.append(element)
                continue
            sections += self.finish()
            above = (outer for outer in self._path if outer.level < element.level)
            self._path = (*above, element)
        return sections

    def finish(self) -> list[Section]:
        """Return the section that was held back: the document is complete."""
        if not (self._path or self._blocks):
            return []
        heading = self._path[-1] if self._path else None
        page = heading.page if heading else self._blocks[0].page
        section = Section(
            heading=heading.text if heading else None,
            level=heading.level if heading else 0,
            path=tuple(outer.text for outer in self._path),
            page=page,
            page_end=max([page, *(block.page_end for block in self._blocks)]),
            text="\n\n".join(block.text for block in self._blocks),
        )
        self._blocks = []
        return [section]


class MarkdownWriter:
    """Turns the pages of one document into Markdown, page after page.

    Blocks are parted by an empty line, items of a list only by a line break. Tables
    arrive as Markdown; in all other text, characters that would be taken for markup
    are escaped.
    """

    def __init__(self) -> None:
        self._in_list = False
        self._started = False

    def feed(self, page: Page) -> str:
        """Return the page's Markdown, to be written right behind that of the page before."""
        return "".join(self._blocks(page))

    def _blocks(self, page: Page) -> Iterator[str]:
        for element in page.elements:
            if not element.text.strip():
                continue
            is_item = isinstance(element, Block) and _is_item(element)
            if self._started:
                yield "" if is_item and self._in_list else "\n"
            yield _markdown(element) + "\n"
            self._started, self._in_list = True, is_item


def _markdown(element: Heading | Block) -> str:
    if isinstance(element, Heading):
        marks = "#" * min(element.level, _MAX_HEADING_LEVEL)
        return f"{marks} {_escape(' '.join(element.text.split()))}"
    if element.kind is Kind.TABLE:
        return element.text.strip()
    return "\n".join(_line(line.strip()) for line in _escape(element.text).strip().splitlines())


def _is_item(block: Block) -> bool:
    text = block.text.lstrip()
    return block.kind is not Kind.TABLE and bool(_BULLET.match(text) or _NUMBER.match(text))


def _line(line: str) -> str:
    """Write a line of text: a list item keeps its mark, all else means what it says."""
    if _ACTIVE_LINE.match(line):
        return "\\" + line
    return _YEAR.sub(r"\1\\\2", _BULLET.sub("- ", line))


def _escape(text: str) -> str:
    return _ACTIVE_INLINE.sub(r"\\\g<0>", text)
