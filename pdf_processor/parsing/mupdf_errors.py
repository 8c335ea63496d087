"""How MuPDF says that something failed; PyMuPDF lets some of it through untranslated."""

from __future__ import annotations

from typing import Final

import pymupdf
from pymupdf import mupdf

MUPDF_ERRORS: Final = (RuntimeError, ValueError, IndexError, TypeError, mupdf.FzErrorBase)
"""All that reading a damaged file was seen to raise."""

_ALLOCATION: Final = "alloc ("
"""As in "malloc (215265600 bytes) failed"."""


def is_out_of_memory(error: BaseException) -> bool:
    """Whether a failed malloc, calloc or realloc is behind an error."""
    if isinstance(error, mupdf.FzErrorBase):
        return _ALLOCATION in (error.m_text or "")
    return isinstance(error, MemoryError) or _ALLOCATION in str(error)


def raise_if_memory_failed() -> None:
    """Look through MuPDF's warnings since the last look, and forget them.

    Where an allocation fails in the middle of a page, MuPDF warns and goes on without the
    rest of the page's text.

    Raises:
        MemoryError: an allocation failed.
    """
    if _ALLOCATION in pymupdf.TOOLS.mupdf_warnings():
        raise MemoryError
