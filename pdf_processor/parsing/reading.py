"""A document from its first page to its last: sample, then read page after page.

1. Sample some pages for what is normal in the document: body style, heading styles, what
   repeats at the edges.
2. Read the pages in order, some pages ahead of what is handed out, so that a running head
   is known by its repetition.
3. Take running heads out, find the headings, join the rest into paragraphs.
4. Hold back a page's last paragraph until it is known whether the next page continues it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from typing import Final

from pdf_processor.document import Block, DocumentInfo, Element, Heading, Page
from pdf_processor.errors import DocumentCorrupt, NoText
from pdf_processor.parsing.headings import Candidate, HeadingFinder
from pdf_processor.parsing.levels import Levels
from pdf_processor.parsing.mupdf_errors import (
    MUPDF_ERRORS,
    is_out_of_memory,
    raise_if_memory_failed,
)
from pdf_processor.parsing.outline import Outline
from pdf_processor.parsing.page_text import PageText, Row, read_page
from pdf_processor.parsing.paragraphs import begins_item, continues, merge, paragraph, union
from pdf_processor.parsing.running_heads import RunningHeads
from pdf_processor.parsing.source import Source
from pdf_processor.parsing.styles import BodyStyle
from pdf_processor.parsing.title import metadata_title, title_on

SAMPLE_PAGES: Final = 20
PAGES_AHEAD: Final = 2
NAMED_PAGES: Final = 12


class Reading:
    """One document being read; `warnings` is complete after the last page."""

    def __init__(self, source: Source, *, ocr: str) -> None:
        self.warnings = source.warnings
        self._source = source
        self._ocr = ocr
        self._seen: dict[int, PageText] = {}
        self._without_text: list[int] = []
        self._unreadable: list[int] = []
        self._held: Block | None = None
        self.info = self._describe()

    def pages(self) -> Iterator[Page | None]:
        """Page after page; None is a sign of life where a page takes its time.

        Raises:
            DocumentCorrupt: a page is missing, or no page can be read.
            NoText: no page has any text; raised at the end.
        """
        yield from self._sample()
        for page in self._pages_ahead():
            elements = [*self._elements(page)]
            if page.number == self._source.page_count:
                self._judge()
                elements += self._release()
            yield Page(page.number, tuple(elements))

    def _describe(self) -> DocumentInfo:
        metadata = self._source.document.metadata or {}
        title = metadata_title(metadata.get("title"))
        if not title:
            self._seen[0] = self._read(0)
            title = title_on(self._seen[0])
        return DocumentInfo(self._source.page_count, title, (metadata.get("author") or "").strip())

    def _sample(self) -> Iterator[None]:
        for index in _sample_of(self._source.page_count):
            if index not in self._seen:
                self._seen[index] = self._read(index)
            yield None
        pages = list(self._seen.values())
        body = BodyStyle.of(pages)
        self._heads = RunningHeads(pages, body)
        self._finder = HeadingFinder(body)
        self._outline = Outline(self._source.document)
        self._levels = Levels(
            candidate
            for page in pages
            for candidate in self._finder.find(self._heads.without(page))
        )

    def _read(self, index: int) -> PageText:
        """A page's text: what there is of it, when its content is damaged."""
        page = self._source.page(index)
        try:
            text = read_page(page, index + 1)
            raise_if_memory_failed()
        except MUPDF_ERRORS as error:
            if is_out_of_memory(error):
                raise
            self._unreadable.append(index + 1)
            text = PageText(index + 1, page.rect.width, page.rect.height)
        return text

    def _pages_ahead(self) -> Iterator[PageText]:
        """The pages in order, each after the edges of the next ones were learned."""
        ahead: deque[PageText] = deque()
        for index in range(self._source.page_count):
            page = self._seen.pop(index, None)
            if page is None:
                page = self._read(index)
                self._heads.learn(page)
            ahead.append(page)
            if len(ahead) > PAGES_AHEAD:
                yield ahead.popleft()
        yield from ahead

    def _elements(self, page: PageText) -> Iterator[Element]:
        """What is finished with this page; a paragraph held back before it comes first."""
        if not page.rows:
            self._without_text.append(page.number)
        rows = self._heads.without(page)
        headings = {id(found.rows[0]): found for found in self._finder.find(rows)}
        start = 0
        while start < len(rows):
            if found := headings.get(id(rows[start])):
                yield from self._release()
                yield self._heading(found, page.number)
                start += len(found.rows)
                continue
            end = start + 1
            while end < len(rows) and id(rows[end]) not in headings and _joins(rows, end):
                end += 1
            yield from self._offer(paragraph(rows[start:end], page.number))
            start = end

    def _heading(self, found: Candidate, page: int) -> Heading:
        level = self._outline.level(found.text, page) or self._levels.of(found)
        return Heading(found.text, level, page, (union(found.rows, page),))

    def _offer(self, block: Block) -> Iterator[Block]:
        """Hold a paragraph back; hand out the one before, unless this continues it."""
        if self._held and continues(self._held, block):
            self._held = merge(self._held, block)
            return
        yield from self._release()
        self._held = block

    def _release(self) -> Iterator[Block]:
        if self._held:
            yield self._held
        self._held = None

    def _judge(self) -> None:
        """Say which pages gave nothing; fail when none gave anything."""
        count = self._source.page_count
        if len(self._without_text) == count and self._unreadable:
            raise DocumentCorrupt("No page of the PDF can be read: its contents are damaged.")
        if len(self._without_text) == count:
            raise NoText(
                f"The document has no text on any of its pages ({count:,}): it looks scanned,"
                " and this build does not read scans."
            )
        if self._unreadable:
            self.warnings.append(f"Pages too damaged to be read: {_named(self._unreadable)}.")
        scans = [page for page in self._without_text if page not in self._unreadable]
        if scans and self._ocr != "off":
            self.warnings.append(
                "Pages without text, perhaps scans, which this build does not read:"
                f" {_named(scans)}."
            )


def _named(pages: list[int]) -> str:
    named = ", ".join(str(page) for page in pages[:NAMED_PAGES])
    more = len(pages) - NAMED_PAGES
    return f"{named} and {more:,} more" if more > 0 else named


def _joins(rows: list[Row], index: int) -> bool:
    """Whether a row belongs to the paragraph of the one before."""
    return rows[index].block == rows[index - 1].block and not begins_item(rows[index].text)


def _sample_of(page_count: int) -> list[int]:
    """The first pages, and pairs of a left or right page and its next, spread over the others."""
    if page_count <= SAMPLE_PAGES:
        return list(range(page_count))
    first = SAMPLE_PAGES // 4
    pairs = (SAMPLE_PAGES - first) // 2
    step = (page_count - first) / pairs
    starts = (first + int(step * pair) for pair in range(pairs))
    chosen = {*range(first), *(near for start in starts for near in (start, start + 2))}
    return sorted(index for index in chosen if index < page_count)
