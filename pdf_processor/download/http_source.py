"""Documents behind `http(s)://`, streamed into a spool."""

from __future__ import annotations

import socket
from collections.abc import Callable
from contextlib import AsyncExitStack
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from types import TracebackType
from typing import Self

import aiohttp
from aiohttp.abc import AbstractResolver

from pdf_processor.download.spool import Spool
from pdf_processor.download.url_policy import HttpTarget, UrlPolicy, not_public
from pdf_processor.errors import (
    DownloadFailed,
    DownloadForbidden,
    DownloadNotFound,
    DownloadTimedOut,
    ProcessorError,
)

MAX_REDIRECTS = 5
MAX_RETRY_AFTER_SECONDS = 3600.0
_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_TEMPORARY = frozenset({408, 425, 429})
_SIGNATURE_REFUSED = frozenset({400, 401, 403})  # 400: Google's answer to an expired one


SocketFactory = Callable[[aiohttp.AddrInfoType], socket.socket]


class AddressRefused(OSError):
    """The policy forbids the address that was about to be connected to."""


class HttpSource:
    """Receives documents from web servers.

    1. Connects. Hosts that are not trusted have connections of their own, each to an
       address that the policy allowed at that moment; no proxy, no cookies.
    2. Follows redirects by hand, each judged by the policy.
    3. Streams the body into the spool: resumed where the server proves that it still has
       the same version, else from the start.

    Trying again is left to the caller.
    """

    def __init__(
        self,
        *,
        policy: UrlPolicy,
        connect_timeout_seconds: float,
        read_timeout_seconds: float,
        resolver: AbstractResolver | None = None,
    ) -> None:
        self._policy = policy
        self._timeout = aiohttp.ClientTimeout(
            total=None, connect=connect_timeout_seconds, sock_read=read_timeout_seconds
        )
        self._resolver = resolver
        self._exit_stack = AsyncExitStack()

    async def __aenter__(self) -> Self:
        self._trusted = await self._session(_plain_socket)
        self._public = await self._session(self._guarded_socket)
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self._exit_stack.aclose()

    async def receive(self, target: HttpTarget, spool: Spool) -> None:
        """Fill the spool with the document; what it already holds is used if it can be.

        Raises:
            DownloadFailed: the connection or the server failed; another try may help.
            DownloadTimedOut: connecting, or waiting for the next bytes, took too long.
            DownloadNotFound: the server has no such document for us.
            DownloadForbidden: the host or a redirect leads where it must not.
            TooLarge: the document is larger than the spool allows.
            StorageFull: there is no room for it.
        """
        for _ in range(MAX_REDIRECTS + 1):
            location = await self._visit(target, spool)
            if location is None:
                return
            target = self._policy.judge_redirect(target, location)
        raise DownloadNotFound(f"The URL was redirected more than {MAX_REDIRECTS} times.")

    async def _session(self, socket_factory: SocketFactory) -> aiohttp.ClientSession:
        connector = aiohttp.TCPConnector(
            limit=0,
            resolver=self._resolver,
            use_dns_cache=False,
            socket_factory=socket_factory,
        )
        session = aiohttp.ClientSession(
            connector=connector,
            timeout=self._timeout,
            cookie_jar=aiohttp.DummyCookieJar(),
            headers={"Accept-Encoding": "identity", "User-Agent": "pdf-processor"},
            trust_env=False,
        )
        return await self._exit_stack.enter_async_context(session)

    def _guarded_socket(self, addr_info: aiohttp.AddrInfoType) -> socket.socket:
        address, *_ = addr_info[4]
        if not self._policy.allows_address(str(address)):
            raise AddressRefused
        return _plain_socket(addr_info)

    async def _visit(self, target: HttpTarget, spool: Spool) -> str | None:
        """Receive the document, or return the location that the server names instead."""
        session = self._trusted if target.trusted else self._public
        try:
            async with session.get(
                target.url, headers=_continuation(target, spool), allow_redirects=False
            ) as response:
                if response.status in _REDIRECTS:
                    return response.headers.get("Location", "")
                if response.status not in (HTTPStatus.OK, HTTPStatus.PARTIAL_CONTENT):
                    await _refuse(response, target, spool)
                await _store(response, target, spool)
        except (aiohttp.ClientError, TimeoutError, UnicodeError) as error:
            raise _verdict(error, target) from None
        return None


def _plain_socket(addr_info: aiohttp.AddrInfoType) -> socket.socket:
    family, kind, protocol, _, _ = addr_info
    return socket.socket(family, kind, protocol)


def _version(target: HttpTarget, response: aiohttp.ClientResponse) -> str:
    """Place and strong ETag; empty if the document could not be resumed by it."""
    etag = response.headers.get("ETag", "")
    if not etag.startswith('"') or "Content-Encoding" in response.headers:
        return ""
    return f"{_place(target)} {etag}"


def _place(target: HttpTarget) -> str:
    return f"{target.url.origin()}{target.url.raw_path}"


def _continuation(target: HttpTarget, spool: Spool) -> dict[str, str]:
    place, _, etag = spool.version.partition(" ")
    if not spool.size_bytes or place != _place(target):
        return {}
    return {"Range": f"bytes={spool.size_bytes}-", "If-Range": etag}


async def _store(response: aiohttp.ClientResponse, target: HttpTarget, spool: Spool) -> None:
    if response.status == HTTPStatus.PARTIAL_CONTENT:
        total = spool.resumed_total(response.headers.get("Content-Range", ""))
        if total is None or _version(target, response) != spool.version:
            await spool.restart()
            raise DownloadFailed(f"{target.host} resumed the document at the wrong place.")
    else:
        await spool.restart(version=_version(target, response))
        encoded = "Content-Encoding" in response.headers
        total = None if encoded else response.content_length
    spool.announce(total or 0)
    async for chunk in response.content.iter_any():
        await spool.append(chunk)
    if total is not None and spool.size_bytes != total:
        raise DownloadFailed(f"{target.host} sent {spool.size_bytes} of {total} bytes.")


async def _refuse(response: aiohttp.ClientResponse, target: HttpTarget, spool: Spool) -> None:
    status = response.status
    answer = f"{target.host} answered {status}"
    if status == HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE and spool.size_bytes:
        await spool.restart()
        raise DownloadFailed(f"{answer}: the document changed while it was downloaded.")
    if status in _TEMPORARY or status >= HTTPStatus.INTERNAL_SERVER_ERROR:
        raise DownloadFailed(f"{answer}.", retry_after_seconds=_retry_after_seconds(response))
    if target.signed and status in _SIGNATURE_REFUSED:
        raise DownloadNotFound(
            f"{answer}: the signed URL has probably expired. Push the task with a fresh one."
        )
    if status in (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN):
        raise DownloadNotFound(f"{answer}: the URL is not signed and the document not public.")
    raise DownloadNotFound(f"{answer}: the document is not there.")


def _retry_after_seconds(response: aiohttp.ClientResponse) -> float | None:
    """The `Retry-After` header: seconds, or a date (RFC 9110, section 10.2.3)."""
    value = response.headers.get("Retry-After", "").strip()
    try:
        if value.isdecimal():
            return min(float(value), MAX_RETRY_AFTER_SECONDS)
        date = parsedate_to_datetime(value).astimezone(UTC)
    except (ValueError, OverflowError):
        return None
    wait_seconds = (date - datetime.now(UTC)).total_seconds()
    return min(max(wait_seconds, 0.0), MAX_RETRY_AFTER_SECONDS)


def _verdict(error: Exception, target: HttpTarget) -> ProcessorError:
    if isinstance(error, aiohttp.InvalidURL | UnicodeError):
        return DownloadForbidden(f"{target.host} is no host name.")
    if isinstance(getattr(error, "os_error", None), AddressRefused):
        return not_public(target)
    if isinstance(error, TimeoutError):
        return DownloadTimedOut(f"{target.host} did not answer, or send on, in time.")
    return DownloadFailed(f"{target.host} {_failure(error)}.")


def _failure(error: Exception) -> str:
    match error:
        case aiohttp.ClientConnectorDNSError():
            return "has no address: the name cannot be resolved"
        case aiohttp.ClientConnectorCertificateError():
            return "has a TLS certificate that cannot be verified"
        case aiohttp.ClientConnectorError():
            return "cannot be connected to"
    return "broke the connection off"
