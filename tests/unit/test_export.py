"""What `process` writes: chunk and section records, and Markdown."""

from __future__ import annotations

import json

import pytest

from pdf_processor.document import (
    Block,
    Box,
    Chunk,
    Element,
    EmbeddedChunk,
    Heading,
    Kind,
    Page,
    Section,
)
from pdf_processor.export import (
    MarkdownWriter,
    SectionAssembler,
    chunk_record,
    section_record,
)

CHUNK = Chunk(
    id="0f" * 16,
    index=0,
    chapter="",
    section_path=(),
    page=1,
    page_end=2,
    content="text",
    token_count=0,
    boxes=(Box(1, 0.0, 1.5, 2.0, 3.0),),
    kind=Kind.TEXT,
)

# ------------------------------------------------------------------- records


def test_a_chunk_record_has_every_field_even_if_it_is_empty() -> None:
    record = json.loads(json.dumps(chunk_record("doc", EmbeddedChunk(CHUNK))))
    assert record == {
        "doc_id": "doc",
        "id": "0f" * 16,
        "index": 0,
        "chapter": "",
        "section_path": [],
        "page": 1,
        "page_end": 2,
        "content": "text",
        "token_count": 0,
        "boxes": [{"page": 1, "x0": 0.0, "y0": 1.5, "x1": 2.0, "y1": 3.0}],
        "kind": "TEXT",
    }


def test_a_chunk_record_has_embeddings_where_there_is_a_vector() -> None:
    record = chunk_record("doc", EmbeddedChunk(CHUNK, (0.5, -1.0)))
    assert record["embeddings"] == [0.5, -1.0]


def test_a_section_record_has_the_contracts_fields() -> None:
    record = section_record("doc", Section(None, 0, (), 1, 1, "text"))
    assert json.loads(json.dumps(record)) == {
        "doc_id": "doc",
        "heading": None,
        "level": 0,
        "path": [],
        "page": 1,
        "page_end": 1,
        "text": "text",
    }


# ------------------------------------------------------------------ sections


def sections(*pages: tuple[Element, ...]) -> list[Section]:
    assembler = SectionAssembler()
    found = []
    for number, elements in enumerate(pages, start=1):
        found += assembler.feed(Page(number, elements))
    return found + assembler.finish()


def text(words: str, page: int = 1, page_end: int | None = None) -> Block:
    return Block(words, page, page_end or page)


def test_a_section_runs_to_the_next_heading_and_knows_its_pages() -> None:
    found = sections(
        (Heading("One", 1, 1), text("a")),
        (text("b", 2, 3), Heading("One A", 2, 3), text("c", 3)),
    )
    assert found == [
        Section("One", 1, ("One",), 1, 3, "a\n\nb"),
        Section("One A", 2, ("One", "One A"), 3, 3, "c"),
    ]


def test_what_stands_before_the_first_heading_is_a_section_without_one() -> None:
    assert sections((text("a"), Heading("One", 1, 1)))[0] == Section(None, 0, (), 1, 1, "a")


def test_nothing_before_the_first_heading_is_no_section() -> None:
    assert [section.heading for section in sections((Heading("One", 1, 1), text("a")))] == ["One"]


def test_a_heading_with_no_text_gives_a_section() -> None:
    found = sections((Heading("One", 1, 1), Heading("Two", 1, 1)))
    assert [(section.heading, section.text) for section in found] == [("One", ""), ("Two", "")]


def test_a_shallower_heading_ends_the_deeper_ones() -> None:
    found = sections(tuple(Heading(f"H{level}", level, 1) for level in (1, 3, 2, 1)))
    assert [section.path for section in found] == [
        ("H1",),
        ("H1", "H3"),
        ("H1", "H2"),
        ("H1",),
    ]


def test_a_document_without_elements_has_no_sections() -> None:
    assert sections((), ()) == []


# ------------------------------------------------------------------ markdown


def markdown(*elements: Element) -> str:
    writer = MarkdownWriter()
    pages = [Page(number, (element,)) for number, element in enumerate(elements, start=1)]
    return "".join(writer.feed(page) for page in pages)


def test_headings_and_paragraphs_are_parted_by_an_empty_line() -> None:
    written = markdown(Heading("One", 1, 1), text("a\nb"), Heading("Deep", 9, 1), text("c"))
    assert written == "# One\n\na\nb\n\n###### Deep\n\nc\n"


def test_items_of_a_list_follow_each_other() -> None:
    written = markdown(text("Before"), text("• a"), text("– b"), text("After"))  # noqa: RUF001
    assert written == "Before\n\n- a\n- b\n\nAfter\n"


def test_numbers_of_a_list_are_kept() -> None:
    assert markdown(text("1. a"), text("2) b")) == "1. a\n2) b\n"


def test_a_table_is_written_as_it_is() -> None:
    table = Block("| *a* |\n| --- |\n| <b> |", 1, 1, kind=Kind.TABLE)
    assert markdown(text("a"), table, text("b")) == f"a\n\n{table.text}\n\nb\n"


def test_blank_elements_leave_no_gap() -> None:
    assert markdown(text("a"), text(" "), text("b")) == "a\n\nb\n"


@pytest.mark.parametrize(
    ("words", "written"),
    [
        ("# no heading", r"\# no heading"),
        ("> no quotation", r"\> no quotation"),
        ("+ 5 percent", r"\+ 5 percent"),
        ("Title\n---", "Title\n\\---"),
        ("Title\n==", "Title\n\\=="),
        ("* * *", r"\* * *"),
        ("[1]: not a link's target", r"\[1]: not a link's target"),
        ("1986. That year", r"1986\. That year"),
        ("a List<String>", r"a List\<String>"),
        ("R&amp;D", r"R\&amp;D"),
        ("see [here](there)", r"see [here\](there)"),
        ("a `b` c", r"a \`b` c"),
        ("2*x and 3*y", r"2\*x and 3*y"),
        ("an _idea_", r"an \_idea_"),
        ("~~no~~", r"\~~no\~~"),
        (r"C:\#x", r"C:\\#x"),
    ],
)
def test_a_character_that_would_be_markup_is_escaped(words: str, written: str) -> None:
    assert markdown(text(words)) == f"{written}\n"


@pytest.mark.parametrize(
    "words",
    [
        "#hashtag",
        "-5 degrees",
        "a - b > c # d",
        "5 * 4 * 3",
        "snake_case_name",
        "R&D, a < b, x <5",
        "footnote*",
        "[1] A book",
        "born in 1986. Died",
        r"C:\dir",
    ],
)
def test_a_character_that_is_no_markup_there_is_left_alone(words: str) -> None:
    assert markdown(text(words)) == f"{words}\n"
