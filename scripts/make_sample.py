#!/usr/bin/env python
"""Makes pdf_processor/embedded/sample.pdf, the document that `demo` processes.

The same PyMuPDF makes the same bytes each time. The text is the project's own (MIT);
its fonts, Charis SIL and Droid Sans Fallback, come with PyMuPDF and are embedded in
part. The PDF has no outline: its headings are there to be found.

Usage: uv run python scripts/make_sample.py
"""

from __future__ import annotations

import io
from pathlib import Path

import pymupdf

HERE = Path(__file__).parent
SAMPLE = HERE.parent / "pdf_processor" / "embedded" / "sample.pdf"
TITLE = "How a Document Travels"

PAGE = pymupdf.paper_rect("a5")
BODY = pymupdf.Rect(62, 70, PAGE.x1 - 62, PAGE.y1 - 66)
RUNNING_HEAD = pymupdf.Rect(BODY.x0, 40, BODY.x1, 60)
PAGE_NUMBER = pymupdf.Rect(BODY.x0, PAGE.y1 - 50, BODY.x1, PAGE.y1 - 30)

STYLE = """
body { margin: 0; font-family: serif; font-size: 9.6pt; line-height: 1.32; }
p { margin: 0 0 5pt 0; text-align: justify; }
h1 { font-size: 21pt; line-height: 1.15; margin: 26pt 0 4pt 0; }
h2 { font-size: 14.5pt; line-height: 1.2; margin: 15pt 0 5pt 0; }
h3 { font-size: 11.5pt; line-height: 1.2; margin: 10pt 0 4pt 0; }
h4 { font-size: 9.6pt; font-weight: bold; font-style: italic; margin: 8pt 0 3pt 0; }
p.subtitle { font-size: 11.5pt; font-style: italic; margin-bottom: 20pt; text-align: left; }
p.caption { font-size: 8.4pt; font-style: italic; text-align: left; margin: 7pt 0 3pt 0; }
p.running { font-size: 8pt; font-style: italic; text-align: right; }
p.number { font-size: 8.4pt; text-align: center; }
ul, ol { margin: 0 0 5pt 0; padding-left: 16pt; }
li { margin: 0 0 2pt 0; }
table { border-collapse: collapse; margin: 0 0 8pt 0; font-size: 8.4pt; }
th, td { border: 0.5pt solid #777777; padding: 2.5pt 5pt; text-align: left; }
th { font-weight: bold; }
"""


def main() -> None:
    """Write the sample."""
    drawn = io.BytesIO()
    writer = pymupdf.DocumentWriter(drawn)
    text = (HERE / "sample.html").read_text(encoding="utf-8")
    story = pymupdf.Story(text, user_css=STYLE)
    number, more = 0, 1
    while more:
        number += 1
        page = writer.begin_page(PAGE)
        more, _ = story.place(BODY)
        story.draw(page)
        draw_line(page, PAGE_NUMBER, f"<p class='number'>{number}</p>")
        if number > 1:
            draw_line(page, RUNNING_HEAD, f"<p class='running'>{TITLE}</p>")
        writer.end_page()
    writer.close()
    SAMPLE.write_bytes(finished(drawn.getvalue()))


def draw_line(page: pymupdf.DeviceWrapper, place: pymupdf.Rect, html: str) -> None:
    """Draw one line outside the body."""
    line = pymupdf.Story(html, user_css=STYLE)
    line.place(place)
    line.draw(page)


def finished(drawn: bytes) -> bytes:
    """Give the document its title, and leave out what is not used and what would change."""
    with pymupdf.open("pdf", drawn) as document:
        document.set_metadata({"title": TITLE, "author": "The PDF Processor project"})
        document.subset_fonts()
        return bytes(document.tobytes(garbage=4, deflate=True, use_objstms=1, no_new_id=True))


if __name__ == "__main__":
    main()
