from __future__ import annotations

import io

import pytest

from pdf_processor.document import Block, Box, Heading, Kind, Page
from pdf_processor.parsing import frames


def carried(page: Page) -> Page:
    items = frames.read_frame(io.BytesIO(frames.encode_page(page)))
    assert items
    assert items[0] == frames.PAGE
    return frames.decode_page(*items[1:])


def test_a_page_arrives_as_it_was_sent() -> None:
    page = Page(
        7,
        (
            Heading("2 Über 計画", 2, 7, (Box(7, 1, 2, 3.5, 4),)),
            Block("text", 6, 7, (Box(6, 0, 0, 1, 1), Box(7, 0, 0, 1, 1)), Kind.TABLE),
            Block("no boxes", 7, 7),
        ),
    )
    assert carried(page) == page


def test_text_that_is_no_unicode_is_mended() -> None:
    assert carried(Page(1, (Block("a\ud800b", 1, 1),))).elements[0].text == "a?b"


def test_the_end_of_the_stream_is_none() -> None:
    assert frames.read_frame(io.BytesIO()) is None


@pytest.mark.parametrize("body", [b"{}", b"[]", b"1", b"not json"])
def test_what_is_no_frame_is_refused(body: bytes) -> None:
    with pytest.raises(ValueError, match=r"."):
        frames.decode(body)
