"""One page of MuPDF's structured text as rows.

MuPDF prints a page as JSON in C, which is faster than building Python objects from its
structures; where that is no valid JSON, PyMuPDF's dictionary is the way round. A row is
what stands side by side on one baseline of one block.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, Final

import orjson
import pymupdf
from pymupdf import mupdf

SCALE: Final = 100
"""The JSON printer rounds to whole numbers: this many of them a point."""

WIDE_GAP: Final = 1.5
"""So many times the size of the type."""

UPRIGHT: Final = 3
"""A row this many times higher than its type is turned."""

FLAGS: Final = (
    pymupdf.TEXT_PRESERVE_WHITESPACE
    | pymupdf.TEXT_MEDIABOX_CLIP
    | pymupdf.TEXT_CID_FOR_UNKNOWN_UNICODE
)
"""Ligatures are taken apart; images are left out."""

_BOLD_NAME: Final = re.compile(
    r"bold|black|heavy|demi|(?<![a-z])medi|cmbx|cmb\d|sfbx|ecbx|-bd|gothicbbb|w[6-9]$",
    re.IGNORECASE,
)
_MONO_NAME: Final = re.compile(r"mono|courier|cmtt|sftt|consol|typewriter|code", re.IGNORECASE)


@dataclass(slots=True)
class Row:
    """Text side by side on one baseline; points, origin top left."""

    text: str
    x0: float
    y0: float
    x1: float
    y1: float
    baseline: float
    size: float
    font: str
    bold: bool
    block: int
    """Number of the block on the page."""
    run_in: bool = False
    """It begins bold and goes on otherwise."""
    gaps: int = 0
    """Between its parts, so wide that they are likely cells of a table."""

    @property
    def is_upright(self) -> bool:
        """Whether the row is not turned, as a stamp in the margin is."""
        return self.y1 - self.y0 < UPRIGHT * self.size


@dataclass(slots=True)
class PageText:
    """The rows of one page in reading order."""

    number: int
    width: float
    height: float
    rows: list[Row] = field(default_factory=list)


def read_page(page: pymupdf.Page, number: int) -> PageText:
    """The rows of a page; `number` counts from 1."""
    text_page = page.get_textpage(flags=FLAGS)
    result = PageText(number, page.rect.width, page.rect.height)
    result.rows = [*_rows(_blocks(text_page))]
    if bold := [row for row in result.rows if row.bold]:
        _look_at_ends(text_page, bold)
    return result


def is_mono(font: str) -> bool:
    """Whether the font is a typewriter's, by its name."""
    return _MONO_NAME.search(font) is not None


@lru_cache(maxsize=1024)
def _is_bold(font: str, weight: str) -> bool:
    return weight == "bold" or _BOLD_NAME.search(font) is not None


def _blocks(text_page: pymupdf.TextPage) -> list[dict[str, Any]]:
    buffer = mupdf.FzBuffer(1 << 16)
    output = mupdf.FzOutput(buffer)
    mupdf.fz_print_stext_page_as_json(output, text_page.this, SCALE)
    output.fz_close_output()
    try:
        blocks: list[dict[str, Any]] = orjson.loads(buffer.fz_buffer_extract())["blocks"]
    except orjson.JSONDecodeError:
        return [_as_json(block) for block in text_page.extractDICT()["blocks"]]
    return blocks


def _as_json(block: dict[str, Any]) -> dict[str, Any]:
    """A block of PyMuPDF's dictionary in the shape of MuPDF's JSON."""
    lines = []
    for line in block.get("lines", ()):
        first = line["spans"][0]
        x0, y0, x1, y1 = (value * SCALE for value in line["bbox"])
        weight = "bold" if first["flags"] & pymupdf.TEXT_FONT_BOLD else "normal"
        lines.append(
            {
                "bbox": {"x": x0, "y": y0, "w": x1 - x0, "h": y1 - y0},
                "font": {"name": first["font"], "weight": weight, "size": first["size"] * SCALE},
                "y": first["origin"][1] * SCALE,
                "text": "".join(span["text"] for span in line["spans"]),
            }
        )
    return {"type": "text", "lines": lines}


def _rows(blocks: list[dict[str, Any]]) -> Iterator[Row]:
    point = 1 / SCALE
    for number, block in enumerate(blocks):
        last: Row | None = None
        for line in block.get("lines", ()):
            text = line["text"].strip()
            if not text:
                continue
            box, font = line["bbox"], line["font"]
            x0, y0 = box["x"] * point, box["y"] * point
            x1, y1 = x0 + box["w"] * point, y0 + box["h"] * point
            baseline = line["y"] * point
            if last is not None:
                if abs(baseline - last.baseline) < 1 and x0 >= last.x1 - 1:
                    last.gaps += x0 - last.x1 > WIDE_GAP * last.size
                    _append(last, text, x1, y1, font)
                    continue
                yield last
            name = font["name"]
            last = Row(
                text,
                x0,
                y0,
                x1,
                y1,
                baseline,
                font["size"] * point,
                name,
                _is_bold(name, font["weight"]),
                number,
            )
        if last is not None:
            yield last


def _append(row: Row, text: str, x1: float, y1: float, font: dict[str, Any]) -> None:
    if row.bold and not _is_bold(font["name"], font["weight"]):
        row.run_in = True
        row.bold = False
    elif len(text) > len(row.text):
        row.size = font["size"] / SCALE
        row.font = font["name"]
    row.text = f"{row.text} {text}"
    row.x1 = x1
    row.y1 = max(row.y1, y1)


def _look_at_ends(text_page: pymupdf.TextPage, bold: list[Row]) -> None:
    """The JSON has the font of a line's first character only: look at the last one's."""
    places = {(round(row.x0), round(row.y0)): row for row in bold}
    numbers = {row.block for row in bold}
    block = text_page.this.m_internal.first_block
    for number in range(max(numbers) + 1):
        if block is None:
            return
        if number in numbers:
            for line in mupdf.FzStextBlock(block):
                box = line.m_internal.bbox
                row = places.get((round(box.x0), round(box.y0)))
                if row and not _is_bold_font(line.m_internal.last_char.font):
                    row.run_in = True
                    row.bold = False
        block = block.next


def _is_bold_font(font: Any) -> bool:
    weight = "bold" if mupdf.ll_fz_font_is_bold(font) else "normal"
    return _is_bold(mupdf.ll_fz_font_name(font), weight)
