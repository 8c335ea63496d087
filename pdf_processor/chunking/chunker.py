"""Sections to chunks: pure, in one pass, holding back no more than one chunk."""

from __future__ import annotations

import hashlib
import json
from collections.abc import AsyncGenerator, AsyncIterable, Iterable, Iterator, Sequence
from dataclasses import dataclass

from pdf_processor.chunking import cuts
from pdf_processor.chunking.cuts import CountTokens, Piece
from pdf_processor.chunking.draft import Draft, Part, Source, join
from pdf_processor.document import Chunk, Heading, Kind, Page

_PARAGRAPH_BREAK = "\n\n"


@dataclass(frozen=True, slots=True)
class ChunkSettings:
    """Limits in tokens. The overlap is taken to be at most half of `max_tokens`."""

    max_tokens: int = 512
    overlap_tokens: int = 64


class Chunker:
    """Cuts the elements of one document into chunks.

    Duties, in order:

    1. Follow the headings. A chunk stands under one heading, whose text opens the
       first chunk of its section: it is embedded with what it announces, and is not
       lost where nothing follows it. A heading with no text of its own stands above
       that of its first child.
    2. Pack paragraphs. One is cut only if it is too long for a chunk, or for the room
       that the heading above it leaves: at sentences, else words (see `cuts`).
    3. Open each further chunk of a section with the end of the one before.
    4. Keep tables, recognised text and text apart. A table is cut between rows, and
       its head repeated.
    5. Count the finished text, since the tokens of parts do not simply add up, and
       move what is too much into the next chunk.

    What a token is, `count_tokens` decides; what a heading is, the parser.
    `fingerprint` names whatever else decides what the chunks hold (the tokenizer, the
    OCR mode): the ids come from it, the document's id and hash, the settings, and the
    index.
    """

    def __init__(
        self,
        *,
        doc_id: str,
        sha256: str,
        settings: ChunkSettings,
        count_tokens: CountTokens,
        fingerprint: Sequence[str] = (),
    ) -> None:
        self._max = settings.max_tokens
        self._overlap_tokens = settings.overlap_tokens
        self._count = count_tokens
        self._seam_tokens = count_tokens(_PARAGRAPH_BREAK)
        self._identity = (doc_id, sha256, self._max, self._overlap_tokens, *fingerprint)
        self._index = 0
        self._path: tuple[Heading, ...] = ()
        self._draft = Draft()

    def feed(self, page: Page) -> list[Chunk]:
        """Take a page; return the chunks that are complete now."""
        chunks: list[Chunk] = []
        for element in page.elements:
            source = Source(element)
            if source.text:
                chunks += self._take(source)
        return chunks

    def finish(self) -> list[Chunk]:
        """Return what was held back: the document is complete."""
        return list(self._close())

    def _take(self, source: Source) -> Iterator[Chunk]:
        if isinstance(source.element, Heading):
            return self._open_section(source, source.element)
        if source.element.kind is Kind.TABLE:
            return self._add_table(source)
        return self._add_text(source, source.element.kind)

    def _open_section(self, source: Source, heading: Heading) -> Iterator[Chunk]:
        pieces = self._pieces(source, limit=self._max)
        if not self._stands_above(heading, pieces):
            yield from self._close()
        above = (outer for outer in self._path if outer.level < heading.level)
        self._path = (*above, heading)
        yield from self._pack(source, pieces)

    def _stands_above(self, heading: Heading, pieces: Sequence[Piece]) -> bool:
        """Tell whether the draft is only headings over this one, and leaves room for text."""
        tokens = self._draft.tokens + sum(piece.tokens for piece in pieces)
        is_child = bool(self._path) and self._path[-1].level < heading.level
        return is_child and self._draft.has_only_headings and tokens * 2 <= self._max

    def _add_text(self, source: Source, kind: Kind) -> Iterator[Chunk]:
        if self._draft.kind is not kind and not self._draft.has_only_headings:
            yield from self._close()
        self._draft.kind = kind
        yield from self._pack(source, self._pieces(source, limit=self._room()))

    def _room(self) -> int:
        """How long a paragraph may be so that it need not part from the heading above it."""
        if not (self._draft.parts and self._draft.has_only_headings):
            return self._max
        used = self._draft.tokens + self._seam_tokens
        return self._max - used if used * 2 <= self._max else self._max

    def _add_table(self, source: Source) -> Iterator[Chunk]:
        yield from self._close()
        self._draft.kind = Kind.TABLE
        text, tokens = source.text, self._count(source.text)
        if tokens <= self._max:
            yield from self._pack(source, [Piece(0, len(text), tokens)])
        else:
            yield from self._pack_rows(source)
        yield from self._close()

    def _pack_rows(self, source: Source) -> Iterator[Chunk]:
        text, limit = source.text, self._max
        head, end = list[Piece](), _end_of_head(source.text)
        if end and (tokens := self._count(text[:end])) * 2 <= self._max:
            head = [Piece(0, end, tokens)]
            limit -= tokens + self._seam_tokens
        self._draft.head = [Part(source, piece, piece.tokens) for piece in head]
        rows = cuts.lines(text, end if head else 0, len(text))
        yield from self._pack(
            source, [*head, *cuts.fit(text, rows, limit=limit, count=self._count)]
        )

    def _pieces(self, source: Source, *, limit: int) -> list[Piece]:
        """Return the text as one piece, or its sentences, if they must be parted."""
        text = source.text
        tokens = self._count(text)
        if tokens <= limit:
            return [Piece(0, len(text), tokens)]
        spans = cuts.sentences(text, 0, len(text))
        return list(cuts.fit(text, spans, limit=limit, count=self._count))

    def _pack(self, source: Source, pieces: Iterable[Piece]) -> Iterator[Chunk]:
        end = 0
        for piece in pieces:
            glue = source.text[end : piece.start] if end else _PARAGRAPH_BREAK
            tokens = piece.tokens if end else piece.tokens + self._seam_tokens
            end = piece.end
            while self._draft.parts and self._draft.tokens + tokens > self._max:
                yield self._complete()
            self._put(Part(source, piece, tokens, glue))

    def _put(self, part: Part) -> None:
        if self._draft.parts:
            self._draft.add(part)
        else:
            self._draft.open(self._lead(part), part)

    def _lead(self, part: Part) -> list[Part]:
        """Return what the draft repeats before `part`: a table's head, or the overlap."""
        if self._draft.head:
            return self._draft.head if self._draft.previous else []
        budget = min(self._overlap_tokens, self._max - part.tokens)
        lead: list[Part] = []
        for before in reversed(self._draft.previous):
            if budget <= 0 or isinstance(before.source.element, Heading):
                break
            end = self._end_of(before, budget, words=not lead)
            if end is None:
                break
            lead.insert(0, end)
            budget -= end.tokens
            if end is not before:
                break
        while lead and self._count(join(lead)) > self._overlap_tokens:
            lead.pop(0)
        return lead

    def _end_of(self, part: Part, budget: int, *, words: bool) -> Part | None:
        if part.tokens <= budget:
            return part
        start, end, _ = part.piece
        tail = cuts.tail(part.source.text, start, end, limit=budget, count=self._count, words=words)
        return Part(part.source, tail, tail.tokens) if tail else None

    def _close(self) -> Iterator[Chunk]:
        """Complete the draft, so that nothing that follows is packed or overlaps with it."""
        while self._draft.parts:
            yield self._complete()
        self._draft = Draft()

    def _complete(self) -> Chunk:
        """Make a chunk of the draft; what turns out to be too much opens the next draft."""
        draft, rest = self._draft, list[Part]()
        content = draft.text
        while (tokens := self._count(content)) > self._max:
            if len(draft.parts) > 1:
                rest = draft.give_up(tokens - self._max) + rest
            elif draft.lead:
                draft.lead = []
            else:
                break
            content = draft.text
        self._draft = Draft(kind=draft.kind, head=draft.head, previous=draft.parts)
        for part in rest:
            self._put(part)
        return self._chunk(draft, content, tokens)

    def _chunk(self, draft: Draft, content: str, tokens: int) -> Chunk:
        places = [part.source.place(part.piece) for part in draft.standing_here]
        chunk = Chunk(
            id=self._id(),
            index=self._index,
            chapter=self._path[-1].text.strip() if self._path else "",
            section_path=tuple(heading.text.strip() for heading in self._path),
            page=places[0].page,
            page_end=max(place.page_end for place in places),
            content=content,
            token_count=tokens,
            boxes=tuple(dict.fromkeys(box for place in places for box in place.boxes)),
            kind=draft.kind,
        )
        self._index += 1
        return chunk

    def _id(self) -> str:
        """SHA-256 over a JSON array, in which no two identities are written alike."""
        identity = json.dumps([*self._identity, self._index])
        return hashlib.sha256(identity.encode()).hexdigest()[:32]


async def chunk_pages(pages: AsyncIterable[Page], chunker: Chunker) -> AsyncGenerator[Chunk, None]:
    """Yield the chunks of a document while its pages arrive."""
    async for page in pages:
        for chunk in chunker.feed(page):
            yield chunk
    for chunk in chunker.finish():
        yield chunk


def _end_of_head(table: str) -> int:
    """Find where a Markdown table's first row and the rule below it end; 0 without a rule."""
    first, _, rest = table.partition("\n")
    rule = rest.partition("\n")[0]
    return len(first) + 1 + len(rule) if "-" in rule and not set(rule) - set("|-: ") else 0
