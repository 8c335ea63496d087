"""Opening a file and judging it: is it a PDF, may it be read, is it whole.

MuPDF mends what it can, silently. A file cut short must not become a document that
lacks its last pages, so a file that ends too early is looked at twice: is every page
that the page tree lists there, with its content?
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import pymupdf
from pymupdf import mupdf

from pdf_processor.errors import DocumentCorrupt, DocumentEncrypted, NotAPdf, TooManyPages
from pdf_processor.parsing.mupdf_errors import MUPDF_ERRORS, is_out_of_memory

HEADER_BYTES: Final = 1024
TAIL_BYTES: Final = 256 * 1024

_LAST_OBJECT: Final = re.compile(rb"(?:^|[\r\n])(\d{1,10})[ ]+\d{1,5}[ ]+obj\b")
_LINEARIZED_LENGTH: Final = re.compile(rb"/Linearized\b.{0,200}?/L[ ]+(\d+)", re.DOTALL)

_SIGNATURES: Final = {
    b"<!doctype html": "an HTML page, perhaps a login or an error page",
    b"<html": "an HTML page, perhaps a login or an error page",
    b"<?xml": "XML, perhaps a storage server's error answer",
    b"<error": "XML, perhaps a storage server's error answer",
    b"{\\rtf": "an RTF document",
    b"{": "JSON, perhaps an error answer",
    b"[": "JSON, perhaps an error answer",
    b"pk\x03\x04": "a ZIP archive or an Office document",
    b"\x89png": "a PNG picture",
    b"\xff\xd8\xff": "a JPEG picture",
    b"gif8": "a GIF picture",
    b"%!ps": "PostScript",
    b"\x1f\x8b": "a gzip file",
    b"\xd0\xcf\x11\xe0": "an old Office document",
}


class Source:
    """An open document: hands out its pages and says what is wrong with it."""

    def __init__(self, document: pymupdf.Document, warnings: list[str]) -> None:
        self.document = document
        self.page_count: int = document.page_count
        self.warnings = warnings
        self._pdf = pymupdf._as_pdf_document(document)  # noqa: SLF001  the only way to MuPDF's own

    def page(self, index: int) -> pymupdf.Page:
        """Page `index`, from 0.

        Raises:
            DocumentCorrupt: the page tree lists it, but it is not there.
        """
        try:
            if mupdf.pdf_is_dict(mupdf.pdf_lookup_page_obj(self._pdf, index)):
                return self.document.load_page(index)
        except MUPDF_ERRORS as error:
            if is_out_of_memory(error):
                raise
        raise self.missing(index)

    def missing(self, index: int) -> DocumentCorrupt:
        """The verdict when page `index` cannot be read."""
        return DocumentCorrupt(
            f"Page {index + 1} of {self.page_count} is missing: the PDF is damaged or was cut"
            " short. Upload it again."
        )

    def check_pages(self, cut_object: int) -> None:
        """Look whether all pages and their contents are in a file that ends too early.

        Args:
            cut_object: number of the object that the end of the file cuts in two, or 0.

        Raises:
            DocumentCorrupt: a page or its content is missing.
        """
        for index in range(self.page_count):
            page = mupdf.pdf_lookup_page_obj(self._pdf, index)
            if not mupdf.pdf_is_dict(page) or self._is_cut(page, cut_object):
                raise self.missing(index)

    def _is_cut(self, page: mupdf.PdfObj, cut_object: int) -> bool:
        contents = mupdf.pdf_dict_gets(page, "Contents")
        parts = [contents]
        if mupdf.pdf_is_array(contents):
            parts = [mupdf.pdf_array_get(contents, i) for i in range(mupdf.pdf_array_len(contents))]
        fonts = mupdf.pdf_dict_gets(
            mupdf.pdf_dict_get_inheritable(page, mupdf.PdfObj(mupdf.PDF_ENUM_NAME_Resources)),
            "Font",
        )
        parts += [mupdf.pdf_dict_get_val(fonts, i) for i in range(mupdf.pdf_dict_len(fonts))]
        return any(_dangles(part, cut_object) for part in parts)


def _dangles(reference: mupdf.PdfObj, cut_object: int) -> bool:
    if not mupdf.pdf_is_indirect(reference):
        return False
    if cut_object and mupdf.pdf_to_num(reference) == cut_object:
        return True
    return bool(mupdf.pdf_is_null(mupdf.pdf_resolve_indirect(reference)))


@contextmanager
def open_document(path: Path, *, password: str, max_pages: int) -> Iterator[Source]:
    """Open a PDF and make sure that it can be read.

    Raises:
        NotAPdf: the file does not begin like a PDF.
        DocumentEncrypted: it needs a password and this is not it.
        DocumentCorrupt: it cannot be opened, or pages that it lists are missing.
        TooManyPages: it has more than `max_pages`.
    """
    _require_pdf(path)
    try:
        document = pymupdf.open(path, filetype="pdf")
    except MUPDF_ERRORS as error:
        if is_out_of_memory(error):
            raise
        raise DocumentCorrupt(
            "The PDF is damaged beyond repair and cannot be opened. Upload it again."
        ) from error
    try:
        if document.needs_pass and not document.authenticate(password):
            raise DocumentEncrypted(_wrong_password(password))
        yield _judged(document, path, max_pages)
    finally:
        document.close()


def _judged(document: pymupdf.Document, path: Path, max_pages: int) -> Source:
    if document.page_count > max_pages:
        raise TooManyPages(
            f"The document has {document.page_count:,} pages, and {max_pages:,} are allowed"
            " (MAX_PAGES)."
        )
    if document.page_count < 1:
        raise DocumentCorrupt(
            "The PDF has no pages: it is damaged or was cut short. Upload it again."
        )
    source = Source(document, [])
    if document.is_repaired:
        cut_short, cut_object = _end_of(path)
        if cut_short:
            source.check_pages(cut_object)
        source.warnings.append("The file is damaged; it was mended before reading.")
    return source


def _require_pdf(path: Path) -> None:
    with path.open("rb") as file:
        start = file.read(HEADER_BYTES)
    if b"%PDF-" not in start:
        raise NotAPdf(f"The file is not a PDF: it {_looks_like(start)}.")


def _looks_like(start: bytes) -> str:
    """What the first bytes are instead of a PDF's, in words."""
    text = start.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if not text:
        return "is empty"
    for signature, name in _SIGNATURES.items():
        if text.startswith(signature):
            return f"looks like {name}"
    return "does not begin with %PDF-"


def _wrong_password(password: str) -> str:
    if password:
        return "The PDF is encrypted and the password in `options.password` does not open it."
    return "The PDF is encrypted: give its password in `options.password`."


def _end_of(path: Path) -> tuple[bool, int]:
    """Whether the file ends too early, and the number of the object it ends in, or 0."""
    size = path.stat().st_size
    with path.open("rb") as file:
        start = file.read(HEADER_BYTES)
        file.seek(max(0, size - TAIL_BYTES))
        tail = file.read()
    announced = _LINEARIZED_LENGTH.search(start)
    cut_short = b"startxref" not in tail[-2048:] or (
        announced is not None and int(announced[1]) > size
    )
    last = max(_LAST_OBJECT.finditer(tail), key=re.Match.end, default=None)
    is_cut = last is not None and b"endobj" not in tail[last.end() :]
    return cut_short, int(last[1]) if last and is_cut else 0
