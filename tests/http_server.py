"""A file server for tests that does what its script says.

Serves `files` by path, with strong ETags, Range and If-Range (RFC 9110, section 14). A
path's scripted `Answer`s come first, one a request; when they are used up the file is
served in the ordinary way. Every request is recorded.
"""

from __future__ import annotations

import asyncio
import hashlib
import re
from collections import defaultdict, deque
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from types import TracebackType
from typing import Self

from aiohttp import web
from multidict import CIMultiDict


@dataclass(frozen=True)
class Answer:
    """One scripted answer: what of it differs from serving the file in the ordinary way."""

    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes | None = None
    """In place of the file."""
    ranges: bool = True
    """False: Range is ignored, and the whole file served."""
    cut_after: int | None = None
    """The connection is cut after so many bytes of the body."""
    stall_after: int | None = None
    """After so many bytes of the body nothing comes until `FileServer.resume` is set."""
    stall_at_once: bool = False
    """Not even the headers come until then."""
    drip: int | None = None
    """The body comes in pieces of so many bytes, one every hundredth of a second."""
    chunked: bool = False
    """No Content-Length is sent."""


@dataclass(frozen=True)
class Request:
    path: str
    query: str
    headers: CIMultiDict[str]


class FileServer:
    """Listens on a free port of 127.0.0.1 while its context lasts."""

    def __init__(self, host: str = "127.0.0.1") -> None:
        self.files: dict[str, bytes] = {}
        self.requests: list[Request] = []
        self.stalled = asyncio.Event()
        self.resume = asyncio.Event()
        self._host = host
        self._scripts: defaultdict[str, deque[Answer]] = defaultdict(deque)

    async def __aenter__(self) -> Self:
        server = web.Server(self._serve, access_log=None)
        self._runner = web.ServerRunner(server, shutdown_timeout=0)
        await self._runner.setup()
        await web.TCPSite(self._runner, self._host, 0).start()
        self.port: int = self._runner.addresses[0][1]
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.resume.set()
        await self._runner.cleanup()

    @property
    def authority(self) -> str:
        """`host:port`, as ALLOWED_DOWNLOAD_HOSTS takes it."""
        return f"{self._host}:{self.port}"

    def url(self, path: str) -> str:
        return f"http://{self.authority}{path}"

    def script(self, path: str, *answers: Answer) -> None:
        """Answer the next requests for `path` so."""
        self._scripts[path].extend(answers)

    async def _serve(self, request: web.BaseRequest) -> web.StreamResponse:
        self.requests.append(
            Request(request.path, request.rel_url.raw_query_string, request.headers.copy())
        )
        script = self._scripts[request.path]
        answer = script.popleft() if script else Answer()
        body = self.files.get(request.path) if answer.body is None else answer.body
        if body is None:
            answer, body = (
                replace(answer, status=404 if answer.status == 200 else answer.status),
                b"",
            )
        if answer.stall_at_once:
            self.stalled.set()
            await self.resume.wait()
        status, headers, body = _select(request, answer, body)
        response = web.StreamResponse(status=status, headers=headers | dict(answer.headers))
        if answer.chunked:
            response.headers.popall("Content-Length", None)
            response.enable_chunked_encoding()
        await response.prepare(request)
        await self._send(request, response, answer, body)
        return response

    async def _send(
        self, request: web.BaseRequest, response: web.StreamResponse, answer: Answer, body: bytes
    ) -> None:
        marks = {len(body), answer.cut_after, answer.stall_after} - {None}
        marks |= set(range(0, len(body), answer.drip)) if answer.drip else set()
        sent = 0
        for mark in sorted(mark for mark in marks if mark is not None):
            await response.write(body[sent:mark])
            sent = mark
            if answer.drip is not None:
                await asyncio.sleep(0.01)
            if sent == answer.cut_after:
                assert request.transport is not None
                request.transport.close()
                return
            if sent == answer.stall_after:
                self.stalled.set()
                await self.resume.wait()


def etag_of(body: bytes) -> str:
    return f'"{hashlib.sha256(body).hexdigest()[:16]}"'


def _select(
    request: web.BaseRequest, answer: Answer, body: bytes
) -> tuple[int, dict[str, str], bytes]:
    headers = {"ETag": etag_of(body), "Content-Length": str(len(body))}
    match = re.fullmatch(r"bytes=(\d+)-", request.headers.get("Range", ""))
    same = request.headers.get("If-Range", headers["ETag"]) == headers["ETag"]
    if match is None or not same or not answer.ranges or answer.status != 200:
        return answer.status, headers, body
    start = int(match[1])
    if start >= len(body):
        return 416, {"Content-Range": f"bytes */{len(body)}", "Content-Length": "0"}, b""
    headers["Content-Range"] = f"bytes {start}-{len(body) - 1}/{len(body)}"
    headers["Content-Length"] = str(len(body) - start)
    return 206, headers, body[start:]
