"""Whole documents through the reading, without a child in between."""

from __future__ import annotations

from pathlib import Path

import pymupdf

from pdf_processor.document import Block, Element, Heading
from pdf_processor.parsing.reading import Reading
from pdf_processor.parsing.source import open_document
from tests import pdfs


def elements_of(path: Path) -> list[Element]:
    with open_document(path, password="", max_pages=1000) as source:
        pages = [page for page in Reading(source, ocr="auto").pages() if page]
    return [element for page in pages for element in page.elements]


def headings_of(path: Path) -> list[tuple[str, int]]:
    return [(it.text, it.level) for it in elements_of(path) if isinstance(it, Heading)]


def test_no_page_loses_its_text(tmp_path: Path) -> None:
    path = pdfs.write_report(
        tmp_path / "a.pdf", pages=60, running_head="The Board", page_numbers=True
    )
    text = " ".join(element.text for element in elements_of(path))
    assert [text.count(pdfs.marker(page)) for page in range(1, 61)] == [2] * 60
    assert all(pdfs.chapter_title(page) in text for page in range(1, 61))


def test_running_heads_and_page_numbers_are_left_out(tmp_path: Path) -> None:
    path = pdfs.write_report(
        tmp_path / "a.pdf", pages=30, running_head="The Board", page_numbers=True
    )
    texts = [element.text for element in elements_of(path)]
    assert "The Board" not in texts
    assert not any(text.isdigit() for text in texts)


def test_the_outlines_levels_are_used_where_its_titles_stand_in_the_text(tmp_path: Path) -> None:
    path = pdfs.write_report(tmp_path / "a.pdf", pages=2)
    with pymupdf.open(path) as document:
        document.set_toc(
            [
                [1, "Something that stands nowhere", 1],
                [2, pdfs.chapter_title(1), 1],
                [3, pdfs.section_title(1), 1],
            ]
        )
        document.saveIncr()
    assert headings_of(path)[:2] == [(pdfs.chapter_title(1), 2), (pdfs.section_title(1), 3)]
    assert len(headings_of(path)) == 4


def test_a_paragraph_over_a_page_break_is_one(tmp_path: Path) -> None:
    path = pdfs.write_lines(
        tmp_path / "a.pdf",
        [
            [(72, 400, "helv", 11, "The river comes from the hills and leads its wa-")],
            [(72, 400, "helv", 11, "ter to the sea.")],
        ],
    )
    (block,) = elements_of(path)
    assert isinstance(block, Block)
    assert block.text == "The river comes from the hills and leads its water to the sea."
    assert (block.page, block.page_end) == (1, 2)
    assert [box.page for box in block.boxes] == [1, 2]


def test_the_title_comes_from_the_first_page_when_the_metadata_has_none(tmp_path: Path) -> None:
    lines = [(72.0, 120.0, "hebo", 24.0, "On Rivers")]
    lines += [(72.0, 200.0 + 14 * n, "helv", 11.0, "They flow.") for n in range(9)]
    path = pdfs.write_lines(tmp_path / "a.pdf", [lines])
    with open_document(path, password="", max_pages=10) as source:
        assert Reading(source, ocr="auto").info.title == "On Rivers"


def test_the_head_of_a_table_is_no_heading() -> None:
    sample = Path(__file__).parents[2] / "pdf_processor" / "embedded" / "sample.pdf"
    headings = [text for text, _ in headings_of(sample)]
    assert "5.2 When Something Fails" in headings
    assert not [text for text in headings if "What happened" in text]


def test_the_sections_of_the_sample_are_nested_as_their_numbers_say() -> None:
    sample = Path(__file__).parents[2] / "pdf_processor" / "embedded" / "sample.pdf"
    numbered = [(text, level) for text, level in headings_of(sample) if text[0].isdigit()]
    assert len(numbered) == 18
    assert all(level == text.split()[0].count(".") + 1 for text, level in numbered)
