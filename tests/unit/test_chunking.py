"""Chunks: sizes, headings, overlap, tables, places, ids, and that nothing is lost."""

from __future__ import annotations

import math
import random
import re
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from itertools import count as count_up
from itertools import pairwise
from typing import Any

import pytest

from pdf_processor.chunking.chunker import Chunker, ChunkSettings, chunk_pages
from pdf_processor.chunking.cuts import sentences
from pdf_processor.document import Block, Box, Chunk, Element, Heading, Kind, Page
from pdf_processor.tokens import estimate_tokens


def count_words(text: str) -> int:
    return len(text.split())


def count_like_bpe(text: str) -> int:
    """Blanks belong to the word behind them, so that parts do not add up to the whole."""
    return len(re.findall(r"\s?[^\s]{1,3}|\s", text))


def count_characters(text: str) -> int:
    return len(text)


def chunker(
    max_tokens: int = 20,
    overlap_tokens: int = 0,
    count_tokens: Callable[[str], int] = count_words,
    **changes: Any,
) -> Chunker:
    identity: dict[str, Any] = {"doc_id": "doc", "sha256": "ab" * 32} | changes
    settings = ChunkSettings(max_tokens=max_tokens, overlap_tokens=overlap_tokens)
    return Chunker(settings=settings, count_tokens=count_tokens, **identity)


def cut(*elements: Element, **settings: Any) -> list[Chunk]:
    subject = chunker(**settings)
    return subject.feed(Page(1, elements)) + subject.finish()


def text(words: str, page: int = 1, kind: Kind = Kind.TEXT) -> Block:
    return Block(words, page, page, kind=kind)


def numbered(words: int, start: int = 0) -> str:
    return " ".join(f"w{number}" for number in range(start, start + words))


def contents(chunks: list[Chunk]) -> list[str]:
    return [chunk.content for chunk in chunks]


# ------------------------------------------------------------------ sections


def test_a_chunk_names_its_heading_and_the_headings_above() -> None:
    chunks = cut(
        text("preface"),
        Heading("One", 1, 1),
        text("first"),
        Heading("One A", 2, 2),
        text("second", 2),
        Heading("Two", 1, 3),
        text("third", 3),
    )
    assert [(chunk.chapter, chunk.section_path) for chunk in chunks] == [
        ("", ()),
        ("One", ("One",)),
        ("One A", ("One", "One A")),
        ("Two", ("Two",)),
    ]


def test_a_heading_opens_the_content_of_its_section() -> None:
    assert contents(cut(Heading("One", 1, 1), text("first"))) == ["One\n\nfirst"]


def test_a_heading_stays_with_a_paragraph_that_is_too_long_for_both() -> None:
    paragraph = "Ten words make it just long enough for a chunk. " * 2
    chunks = cut(Heading("The heading", 1, 1), text(paragraph), max_tokens=20)
    assert contents(chunks) == [
        "The heading\n\nTen words make it just long enough for a chunk.",
        "Ten words make it just long enough for a chunk.",
    ]


def test_a_heading_without_text_stands_above_its_first_child() -> None:
    (chunk,) = cut(Heading("Part", 1, 1), Heading("Chapter", 2, 3), text("body", 3))
    assert chunk.content == "Part\n\nChapter\n\nbody"
    assert (chunk.chapter, chunk.page, chunk.page_end) == ("Chapter", 1, 3)


def test_a_heading_followed_by_its_sibling_has_a_chunk_of_its_own() -> None:
    chunks = cut(Heading("One", 1, 1), Heading("Two", 1, 1), text("body"))
    assert [(chunk.chapter, chunk.content) for chunk in chunks] == [
        ("One", "One"),
        ("Two", "Two\n\nbody"),
    ]


def test_the_last_heading_is_not_dropped() -> None:
    assert contents(cut(text("body"), Heading("The end", 1, 1))) == ["body", "The end"]


def test_headings_above_headings_leave_room_for_text() -> None:
    deep = [Heading(numbered(5, start=10 * level), level, 1) for level in range(1, 6)]
    chunks = cut(*deep, text("body"), max_tokens=20)
    assert max(chunk.token_count for chunk in chunks) <= 20
    assert [chunk.chapter for chunk in chunks] == [deep[1].text, deep[3].text, deep[4].text]


def test_blank_elements_make_no_chunk() -> None:
    assert cut(Heading(" ", 1, 1), text("\n")) == []


# --------------------------------------------------------------------- sizes


def test_paragraphs_share_a_chunk_while_they_fit() -> None:
    chunks = cut(*(text(numbered(6, start)) for start in (0, 10, 20, 30)), max_tokens=20)
    assert [count_words(content) for content in contents(chunks)] == [18, 6]
    assert contents(chunks)[0].count("\n\n") == 2


def test_a_paragraph_that_fits_a_chunk_is_not_cut() -> None:
    chunks = cut(text(numbered(12)), text(numbered(15, 20)), max_tokens=20)
    assert contents(chunks) == [numbered(12), numbered(15, 20)]


def test_a_long_paragraph_is_cut_between_sentences() -> None:
    said = [f"{numbered(7, 10 * n)}.".capitalize() for n in range(5)]
    chunks = cut(text(" ".join(said)), max_tokens=20)
    assert contents(chunks) == [" ".join(said[:2]), " ".join(said[2:4]), said[4]]


def test_a_long_chinese_paragraph_is_cut_between_sentences() -> None:
    sentence = "文档一页一页地到来。"
    chunks = cut(text(sentence * 5), max_tokens=25, count_tokens=count_characters)
    assert contents(chunks) == [sentence * 2, sentence * 2, sentence]


def test_a_long_arabic_paragraph_is_cut_between_sentences() -> None:
    sentence = "أين الوثيقة؟"
    chunks = cut(text(" ".join([sentence] * 3)), max_tokens=30, count_tokens=count_characters)
    assert contents(chunks) == [f"{sentence} {sentence}", sentence]


def test_a_dot_within_a_sentence_does_not_end_it() -> None:
    words = "As J. Smith shows in Fig. 3 (e.g. here) and no. four, it holds. Then more."
    assert [words[start:end] for start, end in sentences(words, 0, len(words))] == [
        "As J. Smith shows in Fig. 3 (e.g. here) and no. four, it holds.",
        "Then more.",
    ]


def test_a_long_sentence_is_cut_between_words() -> None:
    words = numbered(103)
    chunks = cut(text(words), max_tokens=20)
    assert " ".join(contents(chunks)) == words
    assert len(chunks) <= 7


def test_a_word_that_fits_is_never_cut() -> None:
    words = ["x" * 19, "a", "y" * 20, "b" * 3, "z" * 18] * 3
    chunks = cut(text(" ".join(words)), max_tokens=20, count_tokens=count_characters)
    assert " ".join(contents(chunks)).split() == words


def test_a_word_too_long_for_any_chunk_is_cut_between_characters() -> None:
    word = "".join(chr(0x61 + n % 26) for n in range(10_000))
    chunks = cut(text(f"before {word} after"), max_tokens=64, count_tokens=estimate_tokens)
    assert max(chunk.token_count for chunk in chunks) <= 64
    assert "".join(contents(chunks)).replace(" ", "") == f"before{word}after"


def test_an_accent_is_not_parted_from_its_letter() -> None:
    word = "e\u0301" * 50
    chunks = cut(text(word), max_tokens=9, count_tokens=count_characters)
    assert "".join(contents(chunks)) == word
    assert all(content[0] == "e" for content in contents(chunks))


def test_a_joined_emoji_is_not_parted() -> None:
    family = "\U0001f469\u200d\U0001f469\u200d\U0001f467"
    chunks = cut(text(family * 20), max_tokens=7, count_tokens=count_characters)
    assert "".join(contents(chunks)) == family * 20
    assert all(content.startswith(family) for content in contents(chunks))


@pytest.mark.parametrize("max_tokens", range(5, 15))
def test_no_chunk_begins_with_a_comma(max_tokens: int) -> None:
    clauses = text("分句分，" * 20)  # noqa: RUF001
    chunks = cut(clauses, max_tokens=max_tokens, count_tokens=count_characters)
    assert not any(content.startswith("，") for content in contents(chunks))  # noqa: RUF001


def test_text_without_blanks_is_cut_beside_ideographs_only() -> None:
    words = "我们用PyMuPDF读取文档" * 10
    chunks = cut(text(words), max_tokens=30, count_tokens=count_characters)
    assert "".join(contents(chunks)) == words
    assert "".join(contents(chunks)).count("PyMuPDF") == sum(
        content.count("PyMuPDF") for content in contents(chunks)
    )


def test_a_chunk_that_turns_out_too_long_passes_its_end_on() -> None:
    def count_with_seams(content: str) -> int:
        return count_words(content) + 3 * len(re.findall(r"\S\n\n\S", content))

    blocks = [text(numbered(4, 10 * n)) for n in range(6)]
    chunks = cut(*blocks, max_tokens=20, count_tokens=count_with_seams)
    assert [chunk.token_count for chunk in chunks] == [11, 11, 11]
    assert "\n\n".join(contents(chunks)) == "\n\n".join(block.text for block in blocks)


# ------------------------------------------------------------------- overlap


def test_a_chunk_repeats_the_last_whole_sentences_of_the_one_before() -> None:
    said = [f"S{n} a b c dd." for n in range(8)]
    first, second, *_ = cut(text(" ".join(said)), max_tokens=20, overlap_tokens=12)
    assert first.content == " ".join(said[:4])
    assert second.content == " ".join(said[2:6])


def test_a_chunk_repeats_whole_words_where_the_sentence_is_too_long() -> None:
    first, second, *_ = cut(text(numbered(60)), max_tokens=20, overlap_tokens=4)
    repeated = first.content.split()[-4:]
    assert second.content.split()[:4] == repeated


def test_sections_do_not_overlap() -> None:
    chunks = cut(text("One two."), Heading("H", 1, 1), text("Three."), overlap_tokens=10)
    assert contents(chunks) == ["One two.", "H\n\nThree."]


def test_an_overlap_never_makes_a_chunk_of_its_own() -> None:
    chunks = cut(text(numbered(18)), text(numbered(20, 50)), max_tokens=20, overlap_tokens=10)
    assert contents(chunks) == [numbered(18), numbered(20, 50)]


def test_an_overlap_begins_on_its_own_page() -> None:
    before, after = (Box(page, 0, 0, 10, 10) for page in (4, 5))
    blocks = Block(numbered(15), 4, 4, (before,)), Block(numbered(15, 20), 5, 5, (after,))
    first, second = cut(*blocks, max_tokens=20, overlap_tokens=4)
    assert second.content == f"{numbered(4, 11)}\n\n{numbered(15, 20)}"
    assert (first.page, first.page_end, first.boxes) == (4, 4, (before,))
    assert (second.page, second.page_end, second.boxes) == (4, 5, (before, after))


# ------------------------------------------------------------ tables and OCR


def table(rows: int, page: int = 1, page_end: int = 1) -> Block:
    body = "".join(f"\n| r{n} | v{n} |" for n in range(rows))
    return Block("| Key | Value |\n| --- | --- |" + body, page, page_end, kind=Kind.TABLE)


def test_a_table_has_a_chunk_of_its_own() -> None:
    chunks = cut(Heading("H", 1, 1), text("before"), table(1), text("after"), max_tokens=50)
    assert [(chunk.kind, chunk.chapter) for chunk in chunks] == [
        (Kind.TEXT, "H"),
        (Kind.TABLE, "H"),
        (Kind.TEXT, "H"),
    ]
    assert chunks[1].content == table(1).text


def test_a_long_table_is_cut_between_rows_and_repeats_its_head() -> None:
    chunks = cut(table(9), max_tokens=30, overlap_tokens=10)
    head, rule, *rows = table(9).text.split("\n")
    assert all(content.split("\n")[:2] == [head, rule] for content in contents(chunks))
    assert [row for content in contents(chunks) for row in content.split("\n")[2:]] == rows
    assert max(chunk.token_count for chunk in chunks) <= 30


def test_a_row_too_long_for_a_chunk_is_cut_below_the_head() -> None:
    long = Block(f"| Key |\n| --- |\n| {numbered(40)} |", 1, 1, kind=Kind.TABLE)
    chunks = cut(long, max_tokens=20)
    bodies = [content.removeprefix("| Key |\n| --- |\n") for content in contents(chunks)]
    assert "\n".join(bodies).split() == f"| {numbered(40)} |".split()
    assert all(content.startswith("| Key |\n| --- |\n") for content in contents(chunks))


def test_a_head_that_would_fill_half_of_every_chunk_is_not_repeated() -> None:
    wide = f"| {numbered(12)} |\n| --- |" + "".join(f"\n| r{n} |" for n in range(12))
    chunks = cut(Block(wide, 1, 1, kind=Kind.TABLE), max_tokens=20)
    assert "\n".join(contents(chunks)) == wide


def test_a_table_without_a_rule_has_no_head_to_repeat() -> None:
    rows = "\n".join(f"| r-{n} | v |" for n in range(12))
    chunks = cut(Block(rows, 1, 1, kind=Kind.TABLE), max_tokens=20)
    assert "\n".join(contents(chunks)) == rows


def test_the_repeated_head_of_a_table_does_not_stand_there() -> None:
    boxes = Box(1, 0, 0, 10, 10), Box(2, 0, 0, 10, 10)
    *_, last = cut(replace(table(9), page_end=2, boxes=boxes), max_tokens=30)
    assert (last.page, last.page_end, last.boxes) == (2, 2, boxes[1:])


def test_recognised_text_is_kept_apart_from_text() -> None:
    chunks = cut(Heading("H", 1, 1), text("seen", kind=Kind.OCR), text("read"), max_tokens=50)
    assert [(chunk.kind, chunk.content) for chunk in chunks] == [
        (Kind.OCR, "H\n\nseen"),
        (Kind.TEXT, "read"),
    ]


# -------------------------------------------------------------------- places


def test_pages_and_boxes_are_those_of_the_blocks_in_the_chunk() -> None:
    boxes = [Box(page, 0, 0, 10, 10) for page in (1, 2, 3)]
    chunks = cut(
        Heading("H", 1, 1, (boxes[0],)),
        Block(numbered(5), 2, 2, (boxes[1],)),
        Block(numbered(18, 20), 3, 3, (boxes[2],)),
    )
    assert [(chunk.page, chunk.page_end, chunk.boxes) for chunk in chunks] == [
        (1, 2, tuple(boxes[:2])),
        (3, 3, (boxes[2],)),
    ]


def test_parts_of_a_paragraph_over_a_page_break_are_placed_by_their_share_of_it() -> None:
    lines = [Box(7, 0, y, 100, y + 10) for y in (0, 10, 20)] + [Box(8, 0, 0, 100, 10)]
    chunks = cut(Block(numbered(60), 7, 8, tuple(lines)), max_tokens=20)
    assert chunks[0].page == chunks[0].page_end == 7
    assert chunks[0].boxes[0] == lines[0]
    assert (chunks[-1].page_end, chunks[-1].boxes[-1]) == (8, lines[-1])
    assert all(
        before.page_end <= after.page + 1 and before.page <= after.page
        for before, after in pairwise(chunks)
    )


def test_sentences_of_one_paragraph_share_its_box() -> None:
    box = Box(1, 0, 0, 10, 10)
    chunks = cut(Block("Three more words. " * 9, 1, 1, (box,)), max_tokens=20)
    assert [chunk.boxes for chunk in chunks] == [(box,), (box,)]


def test_halves_of_a_paragraph_on_two_pages_stand_on_one_each() -> None:
    boxes = Box(1, 0, 0, 10, 10), Box(2, 0, 0, 10, 10)
    halves = Block("文档来了。" * 2, 1, 2, boxes)
    chunks = cut(halves, max_tokens=5, count_tokens=count_characters)
    assert [(chunk.page, chunk.page_end, chunk.boxes) for chunk in chunks] == [
        (1, 1, boxes[:1]),
        (2, 2, boxes[1:]),
    ]


# ----------------------------------------------------------------------- ids


def test_ids_are_the_same_over_attempts() -> None:
    blocks = [text(numbered(50))]
    assert cut(*blocks) == cut(*blocks)


def test_an_id_is_32_lower_case_hex_digits() -> None:
    assert all(re.fullmatch(r"[0-9a-f]{32}", chunk.id) for chunk in cut(text(numbered(50))))


@pytest.mark.parametrize(
    "change",
    [
        {"doc_id": "other"},
        {"sha256": "cd" * 32},
        {"max_tokens": 21},
        {"overlap_tokens": 1},
        {"fingerprint": ("tokenizer",)},
    ],
)
def test_an_id_depends_on_all_that_decides_the_chunk(change: dict[str, Any]) -> None:
    assert cut(text("a"), **change)[0].id != cut(text("a"))[0].id


def test_identities_that_read_alike_have_different_ids() -> None:
    one = cut(text("a"), doc_id='a", "b', sha256="c")
    other = cut(text("a"), doc_id="a", sha256='b", "c')
    assert one[0].id != other[0].id


# ---------------------------------------------------------------- properties


def random_document(seed: int) -> list[Page]:
    """Every word of it occurs once."""
    dice = random.Random(seed)
    words = (f"{dice.choice(['w', 'Wort', 'слово', '词', 'x' * 9])}{n}" for n in count_up())

    def some(most: int) -> list[str]:
        return [next(words) for _ in range(dice.randint(1, most))]

    def prose() -> str:
        marks = ["", "", "", ",", ".", "!", "。", "؟", ".\n"]
        return " ".join(word + dice.choice(marks) for word in some(dice.choice([8, 60, 300])))

    def rows() -> str:
        lines = ["| " + " | ".join(some(4)) + " |" for _ in range(dice.randint(1, 40))]
        return "\n".join([lines[0], "| --- |", *lines[1:]])

    def element(page: int) -> Element:
        kind = dice.choice(["heading", "heading", "text", "text", "text", "text", "ocr", "table"])
        if kind == "heading":
            return Heading(" ".join(some(9)), dice.randint(1, 4), page)
        if kind == "table":
            return Block(rows(), page, page, kind=Kind.TABLE)
        return Block(prose(), page, page, kind=Kind.OCR if kind == "ocr" else Kind.TEXT)

    return [
        Page(page, tuple(element(page) for _ in range(dice.randint(0, 8)))) for page in range(1, 9)
    ]


def words_of(content: str) -> list[str]:
    return [word for word in content.split() if word not in {"|", "---"}]


COUNTS = [count_words, count_like_bpe, count_characters, estimate_tokens]


@pytest.mark.parametrize("seed", range(60))
def test_whatever_the_document_no_word_is_lost_and_every_limit_holds(seed: int) -> None:
    count_tokens = COUNTS[seed % len(COUNTS)]
    max_tokens = random.Random(seed).choice([32, 50, 128, 512])
    max_tokens *= 8 if count_tokens is count_characters else 1
    overlap_tokens = max_tokens // random.Random(-seed).choice([2, 4, 8])
    pages = random_document(seed)
    subject = chunker(max_tokens, overlap_tokens, count_tokens)
    chunks = [chunk for page in pages for chunk in subject.feed(page)] + subject.finish()

    expected = [word for page in pages for e in page.elements for word in words_of(e.text)]
    assert fresh_words(chunks, overlap_tokens, count_tokens) == expected
    assert max(chunk.token_count for chunk in chunks) <= max_tokens
    assert all(chunk.token_count == count_tokens(chunk.content) for chunk in chunks)
    assert [chunk.index for chunk in chunks] == list(range(len(chunks)))
    assert len({chunk.id for chunk in chunks}) == len(chunks)
    assert all((chunk.section_path or ("",))[-1] == chunk.chapter for chunk in chunks)
    assert all(before.page <= after.page for before, after in pairwise(chunks))

    at_once = Page(8, tuple(element for page in pages for element in page.elements))
    assert chunks == cut(
        *at_once.elements,
        max_tokens=max_tokens,
        overlap_tokens=overlap_tokens,
        count_tokens=count_tokens,
    )


def fresh_words(
    chunks: list[Chunk], overlap_tokens: int, count_tokens: Callable[[str], int]
) -> list[str]:
    """All words but the repeated ones, which must be the end of the chunk before."""
    seen: list[str] = []
    known: set[str] = set()
    before: Chunk | None = None
    for chunk in chunks:
        words = words_of(chunk.content)
        fresh = [word for word in words if word not in known]
        repeated = words[: len(words) - len(fresh)]
        assert fresh or chunk.content.endswith("\n|"), "a chunk is only overlap"
        assert words[len(repeated) :] == fresh, "what is repeated stands first"
        if repeated:
            assert before is not None
            assert (before.section_path, before.kind) == (chunk.section_path, chunk.kind)
            if chunk.kind is not Kind.TABLE:
                assert words_of(before.content)[-len(repeated) :] == repeated
                at = chunk.content.index(fresh[0])
                assert count_tokens(chunk.content[:at].rstrip()) <= overlap_tokens
        seen += fresh
        known.update(fresh)
        before = chunk
    return seen


@pytest.mark.parametrize(
    "document",
    [
        pytest.param([text("word " * 200_000)], id="one sentence"),
        pytest.param([text("x" * 1_000_000)], id="one word"),
        pytest.param([text("文" * 1_000_000)], id="no blank"),
        pytest.param([text("It is so. " * 100_000)], id="many sentences"),
        pytest.param([text("word")] * 200_000, id="many blocks"),
        pytest.param([Heading("word", 1, 1)] * 20_000, id="many headings"),
        pytest.param([table(80_000)], id="one table"),
    ],
)
def test_a_megabyte_is_counted_only_a_few_times_over(document: list[Element]) -> None:
    counted = 0

    def counting(content: str) -> int:
        nonlocal counted
        counted += len(content)
        return math.ceil(len(content) / 4)

    cut(*document, max_tokens=512, overlap_tokens=64, count_tokens=counting)
    assert counted < 8 * sum(len(element.text) for element in document)


def test_no_more_than_a_chunk_is_held_back() -> None:
    subject = chunker(max_tokens=50, overlap_tokens=10)
    arrived = 0
    for number in range(1, 200):
        arrived += sum(
            len(words_of(chunk.content))
            for chunk in subject.feed(Page(number, (text(numbered(30, 30 * number), number),)))
        )
        assert arrived >= 30 * number - 50


async def test_chunks_arrive_before_the_last_page_is_read() -> None:
    read = 0

    async def pages() -> AsyncIterator[Page]:
        nonlocal read
        for read in range(1, 101):
            yield Page(read, (text(numbered(30), read),))

    read_at = [read async for _ in chunk_pages(pages(), chunker(max_tokens=50))]
    assert read_at[0] == 2
    assert len(read_at) == 100
