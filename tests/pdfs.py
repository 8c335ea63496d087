"""Builders of the PDFs that tests read; each writes one file and returns its path.

The documents are made to be recognised: page `n` of a report holds `marker(n)`, a word
that stands nowhere else, once in each of its two sections.
"""

from __future__ import annotations

import textwrap
from pathlib import Path
from typing import Any

import pymupdf

BODY_SIZE = 11
LINE_HEIGHT = 14
MARGIN = 72
BODY_FONT = "helv"
BOLD_FONT = "hebo"
PASSWORD = "open sesame"


def marker(page: int) -> str:
    """The word that only page `page` (from 1) of a report holds."""
    return f"marker{page:05d}"


def chapter_title(page: int) -> str:
    """The numbered title of 18 points that opens page `page` of a report."""
    return f"{page} Findings of {_name(page)}"


def section_title(page: int) -> str:
    """The numbered title of 14 points in the middle of page `page` of a report."""
    return f"{page}.1 Causes in {_name(page)}"


def write_report(
    path: Path,
    *,
    pages: int = 3,
    title: str = "Annual report",
    running_head: str = "",
    page_numbers: bool = False,
    outline: bool = False,
) -> Path:
    """A report: each page a chapter of two paragraphs and a section of one, bold headings."""
    _save(_report(pages, title, running_head, page_numbers, outline), path)
    return path


def write_encrypted(path: Path, *, password: str = PASSWORD, pages: int = 1) -> Path:
    """A report that opens with `password` only; an empty one opens for everybody."""
    _save(
        _report(pages),
        path,
        encryption=pymupdf.PDF_ENCRYPT_AES_256,
        owner_pw="the owner's own",
        user_pw=password,
    )
    return path


def write_truncated(path: Path, *, pages: int = 20, keep: float = 0.6) -> Path:
    """The first `keep` of a report's bytes, as a broken download leaves them."""
    whole = write_report(path, pages=pages).read_bytes()
    path.write_bytes(whole[: int(len(whole) * keep)])
    return path


def write_with_missing_page(path: Path, *, pages: int = 300, missing: int = 200) -> Path:
    """A report whose page tree lists a page `missing` (from 1) that is not there."""
    document = _report(pages)
    document.update_object(document[missing - 1].xref, "null")
    _save(document, path)
    return path


def write_image_only(path: Path, *, pages: int = 2) -> Path:
    """A scan: each page is a grey picture without any text."""
    document = pymupdf.open()
    picture = pymupdf.Pixmap(pymupdf.csGRAY, pymupdf.IRect(0, 0, 60, 80), 0)
    picture.clear_with(200)
    for _ in range(pages):
        page = document.new_page()
        page.insert_image(page.rect, pixmap=picture)
    _save(document, path)
    return path


def write_bomb(path: Path, *, characters: int = 20_000_000) -> Path:
    """A small file with one page of so many characters: reading it takes time and memory."""
    document = _report(1)
    page = document[0]
    shown = b"1 0 0 1 50 50 Tm (" + b"bomb " * 200 + b") Tj "
    content = b"BT /helv 1 Tf " + shown * (characters // 1000) + b"ET"
    document.update_stream(page.get_contents()[0], content, compress=True)
    _save(document, path)
    return path


def write_html(path: Path) -> Path:
    """The login page that a server sends instead of the PDF."""
    path.write_text("<!DOCTYPE html>\n<html><head><title>Sign in</title></head></html>\n")
    return path


def write_lines(
    path: Path, pages: list[list[tuple[float, float, str, float, str]]], **metadata: str
) -> Path:
    """Lines where the test wants them: for each page (x, y of the baseline, font, size, text)."""
    document = pymupdf.open()
    for lines in pages:
        page = document.new_page()
        for x, y, font, size, text in lines:
            page.insert_text((x, y), text, fontname=font, fontsize=size)
    if metadata:
        document.set_metadata(metadata)
    _save(document, path)
    return path


def _report(
    pages: int,
    title: str = "Annual report",
    running_head: str = "",
    page_numbers: bool = False,
    outline: bool = False,
) -> pymupdf.Document:
    document = pymupdf.open()
    for number in range(1, pages + 1):
        page = document.new_page()
        writer = _Writer(page)
        if running_head:
            page.insert_text((MARGIN, 40), running_head, fontname=BODY_FONT, fontsize=9)
        if page_numbers:
            page.insert_text((300, 810), str(number), fontname=BODY_FONT, fontsize=9)
        writer.line(chapter_title(number), BOLD_FONT, 18)
        writer.paragraph(f"This page is about {marker(number)}. {_prose(number)}")
        writer.paragraph(_prose(number + 7))
        writer.line(section_title(number), BOLD_FONT, 14)
        writer.paragraph(f"{_prose(number + 3)} So much for {marker(number)}.")
    document.set_metadata({"title": title, "author": "The Board"})
    if outline:
        document.set_toc(
            [
                entry
                for number in range(1, pages + 1)
                for entry in (
                    [1, chapter_title(number), number],
                    [2, section_title(number), number],
                )
            ]
        )
    return document


class _Writer:
    """Writes lines down a page."""

    def __init__(self, page: pymupdf.Page) -> None:
        self._page = page
        self._y = float(MARGIN)

    def line(self, text: str, font: str, size: float) -> None:
        self._y += size * 2
        self._page.insert_text((MARGIN, self._y), text, fontname=font, fontsize=size)
        self._y += size

    def paragraph(self, text: str) -> None:
        lines = textwrap.wrap(text, 80)
        self._page.insert_text(
            (MARGIN, self._y + LINE_HEIGHT),
            lines,
            fontname=BODY_FONT,
            fontsize=BODY_SIZE,
            lineheight=LINE_HEIGHT / BODY_SIZE,
        )
        self._y += LINE_HEIGHT * (len(lines) + 1)


_NOUNS = ("river", "harbour", "orchard", "quarry", "meadow", "viaduct", "archive", "granary")
_VERBS = ("carries", "borders", "outlasts", "feeds", "shelters", "divides", "recalls")


def _name(number: int) -> str:
    return f"the {_NOUNS[number % len(_NOUNS)]}"


def _prose(seed: int) -> str:
    sentences = []
    for step in range(6):
        subject = _NOUNS[(seed + step) % len(_NOUNS)]
        verb = _VERBS[(seed * 3 + step) % len(_VERBS)]
        thing = _NOUNS[(seed + step * 3 + 1) % len(_NOUNS)]
        sentences.append(f"In most years the old {subject} {verb} the {thing} beyond the town.")
    return " ".join(sentences)


def _save(document: pymupdf.Document, path: Path, **options: Any) -> None:
    document.save(path, **options)
    document.close()
