"""What parent and child say to each other: length-prefixed JSON, never pickle.

A frame is four bytes of length, big-endian, and a JSON array whose first item is its
name. The parent sends `["read", request]`; the child answers

    ["ready"]                              once, when everything is imported
    ["opened", page_count, title, author]  the document's verdict is good
    ["working"]                            a sign of life between pages
    ["page", number, elements]             page after page
    ["done", warnings]                     or
    ["failed", code, message]
"""

from __future__ import annotations

import struct
from typing import Any, BinaryIO, Final

import orjson

from pdf_processor.document import Block, Box, Element, Heading, Kind, Page

MAX_FRAME_BYTES: Final = 64 * 1024 * 1024
"""A page of text is some kilobytes; a child that announces more is not to be trusted."""

READY: Final = "ready"
OPENED: Final = "opened"
WORKING: Final = "working"
PAGE: Final = "page"
DONE: Final = "done"
FAILED: Final = "failed"

LENGTH: Final = struct.Struct(">I")


def encode(*items: Any) -> bytes:
    """One frame, ready to be written; texts may hold lone surrogates, which JSON cannot."""
    try:
        body = orjson.dumps(items)
    except TypeError:
        body = orjson.dumps(_without_surrogates(items))
    return LENGTH.pack(len(body)) + body


def decode(body: bytes) -> list[Any]:
    """The items of a frame's body.

    Raises:
        ValueError: it is no frame.
    """
    items = orjson.loads(body)
    if not isinstance(items, list) or not items:
        raise ValueError("a frame is a JSON array that begins with its name")
    return items


def read_frame(stream: BinaryIO) -> list[Any] | None:
    """The next frame of a blocking stream; None at its end."""
    prefix = stream.read(LENGTH.size)
    if len(prefix) < LENGTH.size:
        return None
    return decode(stream.read(*LENGTH.unpack(prefix)))


def encode_page(page: Page) -> bytes:
    """The frame of a page."""
    return encode(PAGE, page.number, [_pack(element) for element in page.elements])


def _without_surrogates(value: Any) -> Any:
    if isinstance(value, str):
        return value.encode("utf-8", "replace").decode("utf-8")
    return [_without_surrogates(it) for it in value] if isinstance(value, list | tuple) else value


def decode_page(number: int, packed: list[Any]) -> Page:
    """The page that `encode_page` put into a frame."""
    return Page(number, tuple(_unpack(item) for item in packed))


_HEADING: Final = 0
_BLOCK: Final = 1


def _pack(element: Element) -> list[Any]:
    boxes = [(box.page, box.x0, box.y0, box.x1, box.y1) for box in element.boxes]
    if isinstance(element, Heading):
        return [_HEADING, element.text, element.level, element.page, boxes]
    return [_BLOCK, element.text, int(element.kind), element.page, element.page_end, boxes]


def _unpack(item: list[Any]) -> Element:
    boxes = tuple(Box(*box) for box in item[-1])
    if item[0] == _HEADING:
        _, text, level, page, _ = item
        return Heading(text, level, page, boxes)
    _, text, kind, page, page_end, _ = item
    return Block(text, page, page_end, boxes, Kind(kind))
