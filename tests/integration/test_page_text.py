from __future__ import annotations

from pathlib import Path

import orjson
import pymupdf
import pytest

from pdf_processor.parsing.page_text import PageText, read_page
from tests import pdfs


def read(path: Path) -> PageText:
    with pymupdf.open(path) as document:
        return read_page(document[0], 1)


def test_a_row_has_text_place_and_style(tmp_path: Path) -> None:
    path = pdfs.write_lines(
        tmp_path / "a.pdf", [[(72, 90, "hebo", 18, "Heading"), (72, 130, "helv", 11, "Body")]]
    )
    heading, body = read(path).rows
    assert (heading.text, heading.size, heading.bold) == ("Heading", 18, True)
    assert (body.text, body.size, body.bold) == ("Body", 11, False)
    assert (heading.x0, heading.baseline) == pytest.approx((72, 90), abs=0.1)
    assert heading.y1 < body.y0


def test_a_row_that_only_begins_bold_is_a_run_in(tmp_path: Path) -> None:
    path = pdfs.write_lines(
        tmp_path / "a.pdf", [[(72, 90, "hebo", 11, "Note."), (106, 90, "helv", 11, "It rains.")]]
    )
    (row,) = read(path).rows
    assert row.text == "Note. It rains."
    assert row.run_in
    assert not row.bold


def test_the_dictionary_gives_the_same_rows_where_the_json_is_broken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = pdfs.write_report(tmp_path / "a.pdf", pages=1)
    expected = read(path).rows

    def refuse(_: bytes) -> None:
        raise orjson.JSONDecodeError("broken", "", 0)

    monkeypatch.setattr(orjson, "loads", refuse)
    rows = read(path).rows
    assert [(r.text, r.size, r.bold, r.block) for r in rows] == [
        (r.text, r.size, r.bold, r.block) for r in expected
    ]
    assert [r.baseline for r in rows] == pytest.approx([r.baseline for r in expected], abs=0.1)


def test_ligatures_are_taken_apart(tmp_path: Path) -> None:
    path = tmp_path / "a.pdf"
    document = pymupdf.open()
    writer = pymupdf.TextWriter(document.new_page().rect)
    writer.append((72, 90), "\ufb01nd it", font=pymupdf.Font("tiro"))
    writer.write_text(document[0])
    document.save(path)
    assert [row.text for row in read(path).rows] == ["find it"]
