"""Headings, levels, running heads and paragraphs, from rows written by hand."""

from __future__ import annotations

import pytest

from pdf_processor.document import Block
from pdf_processor.parsing import numbering, paragraphs
from pdf_processor.parsing.headings import HeadingFinder
from pdf_processor.parsing.levels import Levels
from pdf_processor.parsing.page_text import PageText, Row
from pdf_processor.parsing.running_heads import RunningHeads
from pdf_processor.parsing.styles import BodyStyle
from pdf_processor.parsing.title import metadata_title, title_on

BODY = "The quick brown fox jumps over the lazy dog, and the dog does not mind it at all."


class Sheet:
    """Writes rows down a page, each a block of its own unless it continues the last."""

    def __init__(self, number: int = 1) -> None:
        self.page = PageText(number, 600, 800)
        self._y = 80.0

    def row(
        self,
        text: str,
        *,
        size: float = 10,
        bold: bool = False,
        font: str = "Serif",
        gap: float = 12,
        same_block: bool = False,
        y: float | None = None,
        x: float = 72,
        run_in: bool = False,
    ) -> Sheet:
        self._y += gap
        baseline = self._y if y is None else y
        block = len(self.page.rows) - same_block
        self.page.rows.append(
            Row(
                text,
                x,
                baseline - size,
                x + len(text) * size / 2,
                baseline + 2,
                baseline,
                size,
                font,
                bold,
                block,
                run_in,
            )
        )
        return self

    def body(self, rows: int = 4) -> Sheet:
        self.row(BODY, gap=24)
        for _ in range(rows - 1):
            self.row(BODY, same_block=True)
        return self


def found(sheet: Sheet) -> list[str]:
    finder = HeadingFinder(BodyStyle.of([sheet.page]))
    return [candidate.text for candidate in finder.find(sheet.page.rows)]


def test_larger_type_is_a_heading() -> None:
    assert found(Sheet().row("Overview", size=16).body()) == ["Overview"]


def test_bold_type_with_room_above_is_a_heading() -> None:
    assert found(Sheet().body().row("Overview", bold=True, gap=24).body()) == ["Overview"]


def test_bold_type_amid_its_paragraph_is_none() -> None:
    assert found(Sheet().body().row("an important word", bold=True, gap=12).body()) == []


def test_a_run_in_label_is_none() -> None:
    assert found(Sheet().body().row("Note. It rains.", run_in=True, gap=24).body()) == []


def test_lines_of_one_heading_are_joined() -> None:
    sheet = Sheet().row("A rather long title that", size=16).row("needs two lines", size=16, gap=18)
    assert found(sheet.body()) == ["A rather long title that needs two lines"]


def test_two_numbered_headings_stay_two() -> None:
    sheet = Sheet().row("2 Methods", size=16).row("2.1 Data", size=16, gap=18)
    assert found(sheet.body()) == ["2 Methods", "2.1 Data"]


def test_a_number_on_a_line_of_its_own_belongs_to_its_title() -> None:
    sheet = Sheet().row("Chapter 3", size=16).row("Rivers", size=24, gap=50)
    assert found(sheet.body()) == ["Chapter 3 Rivers"]


@pytest.mark.parametrize(
    "text",
    [
        "Figure 3: A map of the river",
        "Table 2.1. Costs",
        "2.1 Data . . . . . . . . 14",
        "• a point in large type",
        "12",
        "+ = ∑",
    ],
)
def test_what_is_set_large_and_is_no_heading(text: str) -> None:
    assert found(Sheet().body().row(text, size=14, gap=24).body()) == []


def test_lines_of_a_table_of_contents_are_none() -> None:
    sheet = Sheet().row("Contents", size=16)
    for number in range(1, 9):
        sheet.row(f"{number} Topic number {number}  {number * 10}", bold=True, gap=20)
    finder = HeadingFinder(BodyStyle.of([sheet.page, Sheet().body(20).page]))
    assert [it.text for it in finder.find(sheet.page.rows)] == ["Contents"]


def test_bold_cells_beside_each_other_are_none() -> None:
    sheet = Sheet().body().row("Name", bold=True, gap=24).row("Price", bold=True, gap=0, x=300)
    assert found(sheet.body()) == []


def test_bold_body_text_does_not_make_every_paragraph_a_heading() -> None:
    sheet = Sheet()
    for _ in range(6):
        sheet.row("All of this document is bold", bold=True, gap=24)
    assert found(sheet) == []


@pytest.mark.parametrize(
    ("text", "depth"),
    [
        ("3 Results", 1),
        ("2.1.4 Noise", 3),
        ("Chapter 4", 1),
        ("Part II", 0),
        ("Appendix A Tables", 1),
        ("B.2 Proofs", 2),
        ("IV. Evaluation", 1),
        ("第三章 方法", 1),
        ("第2節 結果", 2),
        ("付録 A", 1),
        ("Results", None),
        ("A river runs", None),
        ("2019 was a year", None),
        ("Partial results", None),
    ],
)
def test_depth_of_a_number(text: str, depth: int | None) -> None:
    assert numbering.depth_of(text) == depth


def levels_of(sheet: Sheet) -> list[tuple[str, int]]:
    candidates = HeadingFinder(BodyStyle.of([sheet.page])).find(sheet.page.rows)
    levels = Levels(candidates)
    return [(it.text, levels.of(it)) for it in candidates]


def test_levels_follow_size_and_weight() -> None:
    sheet = Sheet().row("Rivers", size=20).body().row("Sources", size=14).body()
    sheet.row("Springs", bold=True, gap=24).body()
    assert levels_of(sheet) == [("Rivers", 1), ("Sources", 2), ("Springs", 3)]


def test_numbers_outweigh_size() -> None:
    sheet = Sheet().row("1 Rivers", size=14).body().row("1.1 Sources", size=14).body()
    sheet.row("1.1.1 Springs", size=14).body()
    assert [level for _, level in levels_of(sheet)] == [1, 2, 3]


def test_parts_stand_above_chapters() -> None:
    sheet = Sheet().row("Part I Water", size=24).body().row("Chapter 1 Rivers", size=20).body()
    sheet.row("1.1 Sources", size=14).body()
    assert [level for _, level in levels_of(sheet)] == [1, 2, 3]


def test_a_style_the_sample_lacked_falls_between() -> None:
    sample = Sheet().row("Rivers", size=20).body().row("Sources", size=12).body()
    finder = HeadingFinder(BodyStyle.of([sample.page]))
    levels = Levels(finder.find(sample.page.rows))
    (new,) = finder.find(Sheet().row("Lakes", size=16).page.rows)
    assert levels.of(new) == 2


def running_heads(pages: list[PageText]) -> RunningHeads:
    return RunningHeads(pages, BodyStyle.of(pages))


def report(pages: int) -> list[PageText]:
    """Pages with a head of their section, and a foot of running text and page number."""
    sheets = []
    for number in range(1, pages + 1):
        sheet = Sheet(number)
        sheet.row("Annual report", y=40)
        sheet.row(f"{'And so on. ' * number}").body()
        sheets.append(sheet.row(f"Page {number + 10}", y=780).page)
    return sheets


def test_what_repeats_at_the_edges_is_left_out_and_nothing_else() -> None:
    pages = report(4)
    heads = running_heads(pages)
    for page in pages:
        assert heads.without(page) == page.rows[1:-1]


def test_a_head_that_carries_the_page_number_is_left_out_though_its_words_change() -> None:
    pages = report(6)
    for page, words in zip(
        pages, ("Rivers", "Lakes", "Seas", "Ponds", "Wells", "Fens"), strict=True
    ):
        page.rows[0].text = f"{page.number + 10} {words}"
    heads = running_heads(pages)
    assert [row.text for page in pages for row in heads.without(page) if row.y0 < 60] == []


def test_large_numbered_titles_at_one_place_are_kept() -> None:
    pages = report(6)
    for page in pages:
        page.rows[0].text, page.rows[0].size = f"{page.number + 10} Findings", 18
    heads = running_heads(pages)
    assert all(heads.without(page) == page.rows[:-1] for page in pages)


def test_first_lines_that_differ_are_kept() -> None:
    pages = report(4)
    for page, words in zip(pages, ("One day", "Another day", "At night", "Never"), strict=True):
        page.rows[0].text = words
    heads = running_heads(pages)
    assert all(page.rows[0] in heads.without(page) for page in pages)


def test_a_document_of_nothing_but_repeated_lines_keeps_them() -> None:
    pages = [Sheet(number).row("Form 7", y=40).page for number in (1, 2, 3)]
    heads = running_heads(pages)
    assert [len(heads.without(page)) for page in pages] == [1, 1, 1]


@pytest.mark.parametrize(
    ("above", "below", "joined"),
    [
        ("one", "two", "one two"),
        ("exam-", "ple", "example"),
        ("soft\u00ad", "ware", "software"),
        ("PDF-", "Datei", "PDF-Datei"),
        ("1990-", "2000", "1990-2000"),
        ("日本", "語", "日本語"),
        ("한국", "어", "한국 어"),
        ("in 日本", "and", "in 日本 and"),
        ("", "x", "x"),
    ],
)
def test_lines_are_joined(above: str, below: str, joined: str) -> None:
    assert paragraphs.join(above, below) == joined


@pytest.mark.parametrize(
    ("above", "below", "goes_on"),
    [
        ("It flows to the", "sea and beyond.", True),
        ("It is a water-", "course.", True),
        ("It ends here.", "and this is another", False),
        ("It flows to the", "The next paragraph", False),
        ("It flows to the", "• a point", False),
    ],
)
def test_a_paragraph_goes_on_after_a_break(above: str, below: str, goes_on: bool) -> None:
    assert paragraphs.continues(Block(above, 1, 1), Block(below, 2, 2)) is goes_on


def test_a_merged_paragraph_has_both_pages() -> None:
    merged = paragraphs.merge(Block("It is a water-", 1, 1), Block("course.", 2, 2))
    assert merged == Block("It is a watercourse.", 1, 2)


def test_the_title_is_the_largest_type_on_the_page() -> None:
    sheet = Sheet().row("A Report", size=9).row("On the Rivers", size=20).row("of Home", size=20)
    assert title_on(sheet.body().page) == "On the Rivers of Home"
    assert title_on(Sheet().body().page) == ""


@pytest.mark.parametrize("title", ["Microsoft Word - report.doc", "untitled", "thesis.dvi", None])
def test_a_title_that_a_program_made_up_is_none(title: str | None) -> None:
    assert metadata_title(title) == ""
    assert metadata_title(" Rivers ") == "Rivers"
