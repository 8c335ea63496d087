"""The download from web servers and from this machine."""

from __future__ import annotations

import asyncio
import gzip
import hashlib
import logging
import os
import random
import socket
import stat
import traceback
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path

import pytest
import structlog
from aiohttp.abc import AbstractResolver, ResolveResult

from pdf_processor.download.downloader import MAX_PAUSE_SECONDS, DownloadedFile, Downloader
from pdf_processor.download.http_source import MAX_REDIRECTS
from pdf_processor.download.object_store import ObjectStore
from pdf_processor.download.spool import CHUNK_BYTES
from pdf_processor.download.url_policy import UrlPolicy
from pdf_processor.errors import (
    DownloadFailed,
    DownloadForbidden,
    DownloadNotFound,
    DownloadTimedOut,
    ProcessorError,
    TooLarge,
)
from tests.http_server import Answer, FileServer, Request, etag_of

PDF = random.Random(1).randbytes(1_000_000)
OTHER_PDF = random.Random(2).randbytes(300_000)
CANARY = "canary-7c0de"
SIGNED = f"?X-Amz-Signature={CANARY}"


class Pauses:
    """Stands in for asyncio.sleep: remembers how long it was asked to sleep."""

    def __init__(self) -> None:
        self.seconds: list[float] = []

    async def __call__(self, seconds: float) -> None:
        self.seconds.append(seconds)


class Names(AbstractResolver):
    """Resolves every name to the next of the scripted lists of addresses."""

    def __init__(self, *answers: list[str]) -> None:
        self._answers = list(answers)

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        addresses = self._answers.pop(0) if len(self._answers) > 1 else self._answers[0]
        return [
            ResolveResult(hostname=host, host=address, port=port, family=family, proto=0, flags=0)
            for address in addresses
        ]

    async def close(self) -> None:
        pass


class Silence(Names):
    """Never resolves a name."""

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        await asyncio.Event().wait()
        return await super().resolve(host, port, family)


class OneAddressIsPublic(UrlPolicy):
    def allows_address(self, address: str) -> bool:
        return address == "127.0.0.1"


@pytest.fixture
async def server() -> AsyncIterator[FileServer]:
    async with FileServer() as server:
        server.files["/doc.pdf"] = PDF
        yield server


@pytest.fixture
def temp_dir(tmp_path: Path) -> Path:
    return tmp_path / "private" / "downloads"


@pytest.fixture
def pauses() -> Pauses:
    return Pauses()


def names_in(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir()]


def mode_of(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


Make = Callable[..., AbstractAsyncContextManager[Downloader]]


@pytest.fixture
def make(server: FileServer, temp_dir: Path, pauses: Pauses) -> Make:
    """Make a downloader that trusts the server, and see that it leaves nothing behind."""

    @asynccontextmanager
    async def make(**settings: object) -> AsyncIterator[Downloader]:
        defaults: dict[str, object] = {
            "policy": UrlPolicy(allowed_hosts=[server.authority]),
            "temp_dir": temp_dir,
            "max_bytes": 10_000_000,
            "sleep": pauses,
        }
        async with (
            ObjectStore() as store,
            Downloader(store=store, **(defaults | settings)) as downloader,  # type: ignore[arg-type]
        ):
            yield downloader
            assert names_in(temp_dir) == []

    return make


async def fetched(downloader: Downloader, url: str, **options: int) -> bytes:
    async with downloader.fetch(url, **options) as file:
        return file.path.read_bytes()


async def refused(
    downloader: Downloader, url: str, error: type[ProcessorError], **options: int
) -> ProcessorError:
    with pytest.raises(error) as caught:
        await fetched(downloader, url, **options)
    assert type(caught.value) is error
    return caught.value


# ------------------------------------------------------------------ the file


async def test_a_document_is_had_as_a_private_file(
    make: Make, server: FileServer, temp_dir: Path
) -> None:
    async with make() as downloader, downloader.fetch(server.url("/doc.pdf")) as file:
        assert file.path.read_bytes() == PDF
        assert file == DownloadedFile(file.path, len(PDF), hashlib.sha256(PDF).hexdigest())
        assert file.path.parent == temp_dir
        assert mode_of(file.path) == 0o600
        assert mode_of(temp_dir) == 0o700


async def test_no_name_from_the_url_touches_the_file_system(make: Make, server: FileServer) -> None:
    server.files["/../../evil.pdf"] = server.files["/evil.pdf"] = PDF
    url = server.url("/%2e%2e/%2e%2e/evil.pdf")
    async with make() as downloader, downloader.fetch(url) as file:
        assert "evil" not in file.path.name


async def test_the_file_is_gone_when_its_user_failed(
    make: Make, server: FileServer, temp_dir: Path
) -> None:
    async with make() as downloader:
        with pytest.raises(ZeroDivisionError):
            async with downloader.fetch(server.url("/doc.pdf")):
                raise ZeroDivisionError
        assert names_in(temp_dir) == []


async def test_the_file_is_gone_when_the_download_is_cancelled(
    make: Make, server: FileServer
) -> None:
    server.script("/doc.pdf", Answer(stall_after=600_000))
    async with make() as downloader:
        download = asyncio.create_task(fetched(downloader, server.url("/doc.pdf")))
        await server.stalled.wait()
        download.cancel()
        with pytest.raises(asyncio.CancelledError):
            await download


async def test_downloads_side_by_side_have_files_of_their_own(
    make: Make, server: FileServer
) -> None:
    server.files["/other.pdf"] = OTHER_PDF
    async with (
        make() as downloader,
        downloader.fetch(server.url("/doc.pdf")) as one,
        downloader.fetch(server.url("/other.pdf")) as other,
    ):
        assert (one.path.read_bytes(), other.path.read_bytes()) == (PDF, OTHER_PDF)


@pytest.mark.parametrize("size", [0, 1, CHUNK_BYTES, CHUNK_BYTES + 1])
async def test_no_byte_is_missing_at_the_end(make: Make, server: FileServer, size: int) -> None:
    server.files["/doc.pdf"] = PDF[:size]
    async with make() as downloader:
        assert await fetched(downloader, server.url("/doc.pdf")) == PDF[:size]


# -------------------------------------------------------------------- limits


async def test_a_file_as_large_as_allowed_is_taken(make: Make, server: FileServer) -> None:
    async with make(max_bytes=len(PDF)) as downloader:
        assert await fetched(downloader, server.url("/doc.pdf")) == PDF


async def test_a_declared_size_over_the_limit_is_refused_without_a_request(
    make: Make, server: FileServer
) -> None:
    async with make(max_bytes=1000) as downloader:
        await refused(downloader, server.url("/doc.pdf"), TooLarge, declared_bytes=1001)
    assert server.requests == []


async def test_an_announced_size_over_the_limit_is_refused_before_the_body(
    make: Make, server: FileServer
) -> None:
    server.script("/doc.pdf", Answer(stall_after=0))
    async with make(max_bytes=len(PDF) - 1) as downloader:
        await refused(downloader, server.url("/doc.pdf"), TooLarge)
    assert len(server.requests) == 1


async def test_bytes_are_counted_where_no_size_is_announced(make: Make, server: FileServer) -> None:
    server.script("/doc.pdf", Answer(chunked=True))
    async with make(max_bytes=len(PDF) - 1) as downloader:
        await refused(downloader, server.url("/doc.pdf"), TooLarge)


async def test_a_decompression_bomb_is_counted_as_it_unfolds(
    make: Make, server: FileServer
) -> None:
    bomb = gzip.compress(bytes(50_000_000))
    server.script("/doc.pdf", Answer(body=bomb, headers={"Content-Encoding": "gzip"}))
    async with make(max_bytes=1_000_000) as downloader:
        await refused(downloader, server.url("/doc.pdf"), TooLarge)
    assert server.requests[0].headers["Accept-Encoding"] == "identity"


async def test_a_body_encoded_against_our_wish_is_decoded(make: Make, server: FileServer) -> None:
    body = gzip.compress(PDF)
    server.script("/doc.pdf", Answer(body=body, headers={"Content-Encoding": "gzip"}))
    async with make() as downloader:
        assert await fetched(downloader, server.url("/doc.pdf")) == PDF
    assert len(server.requests) == 1


async def test_a_server_that_stops_sending_times_out(make: Make, server: FileServer) -> None:
    server.script("/doc.pdf", Answer(stall_after=600_000))
    async with make(read_timeout_seconds=0.05, max_tries=1) as downloader:
        await refused(downloader, server.url("/doc.pdf"), DownloadTimedOut)


async def test_a_server_that_does_not_answer_times_out(make: Make, server: FileServer) -> None:
    server.script("/doc.pdf", Answer(stall_at_once=True))
    async with make(read_timeout_seconds=0.05, max_tries=1) as downloader:
        await refused(downloader, server.url("/doc.pdf"), DownloadTimedOut)


async def test_connecting_times_out(make: Make) -> None:
    silence = Silence([])
    async with make(connect_timeout_seconds=0.05, max_tries=1, resolver=silence) as downloader:
        await refused(downloader, "https://docs.example/doc.pdf", DownloadTimedOut)


async def test_a_server_that_drips_is_left_after_the_total_time(
    make: Make, server: FileServer, pauses: Pauses
) -> None:
    server.script("/doc.pdf", Answer(drip=100))
    async with make(total_timeout_seconds=0.1) as downloader:
        await refused(downloader, server.url("/doc.pdf"), DownloadTimedOut)
    assert pauses.seconds == []


# ------------------------------------------------------------ trying again


@pytest.mark.parametrize("status", [408, 425, 429, 500, 502, 503, 504])
async def test_a_temporary_answer_is_tried_again(
    make: Make, server: FileServer, pauses: Pauses, status: int
) -> None:
    server.script("/doc.pdf", Answer(status=status), Answer(status=status))
    async with make() as downloader:
        assert await fetched(downloader, server.url("/doc.pdf")) == PDF
    first, second = pauses.seconds
    assert 0.5 <= first <= 1 <= second <= 2


async def test_tries_come_to_an_end(make: Make, server: FileServer) -> None:
    server.script("/doc.pdf", *[Answer(status=503)] * 4)
    async with make() as downloader:
        error = await refused(downloader, server.url("/doc.pdf"), DownloadFailed)
    assert len(server.requests) == 3
    assert not error.permanent
    assert error.message == f"{server.authority} answered 503."


@pytest.mark.parametrize("status", [400, 401, 403, 404, 405, 410, 451, 204, 304])
async def test_a_final_answer_is_not_tried_again(
    make: Make, server: FileServer, status: int
) -> None:
    server.script("/doc.pdf", Answer(status=status, body=b""))
    async with make() as downloader:
        error = await refused(downloader, server.url("/doc.pdf"), DownloadNotFound)
    assert len(server.requests) == 1
    assert str(status) in error.message


@pytest.mark.parametrize("status", [400, 401, 403])
async def test_a_refused_signature_is_named_as_the_cause(
    make: Make, server: FileServer, status: int
) -> None:
    server.script("/doc.pdf", Answer(status=status), Answer(status=status))
    async with make() as downloader:
        signed = await refused(downloader, server.url(f"/doc.pdf{SIGNED}"), DownloadNotFound)
        unsigned = await refused(downloader, server.url("/doc.pdf"), DownloadNotFound)
    assert "expired" in signed.message
    assert "expired" not in unsigned.message


async def test_the_pause_a_server_asks_for_is_kept(
    make: Make, server: FileServer, pauses: Pauses
) -> None:
    soon = format_datetime(datetime.now(UTC) - timedelta(hours=1), usegmt=True)
    server.script(
        "/doc.pdf",
        Answer(status=429, headers={"Retry-After": "7"}),
        Answer(status=503, headers={"Retry-After": soon}),
    )
    async with make() as downloader:
        await fetched(downloader, server.url("/doc.pdf"))
    assert pauses.seconds == [7, 0]


async def test_a_longer_pause_is_left_to_the_next_attempt(
    make: Make, server: FileServer, pauses: Pauses
) -> None:
    server.script("/doc.pdf", Answer(status=429, headers={"Retry-After": "120"}))
    async with make() as downloader:
        error = await refused(downloader, server.url("/doc.pdf"), DownloadFailed)
    assert error.retry_after_seconds == 120 > MAX_PAUSE_SECONDS
    assert pauses.seconds == []


@pytest.mark.parametrize("value", ["soon", "-1", "1e9", "²", "", "9" * 500])
async def test_an_odd_wish_for_a_pause_does_no_harm(
    make: Make, server: FileServer, value: str
) -> None:
    server.script("/doc.pdf", *[Answer(status=503, headers={"Retry-After": value})] * 3)
    async with make() as downloader:
        error = await refused(downloader, server.url("/doc.pdf"), DownloadFailed)
    assert (error.retry_after_seconds or 0) <= 3600


async def test_a_refused_connection_is_tried_again(make: Make, pauses: Pauses) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    async with make(policy=UrlPolicy(allowed_hosts=["127.0.0.1"])) as downloader:
        await refused(downloader, f"http://127.0.0.1:{port}/doc.pdf", DownloadFailed)
    assert len(pauses.seconds) == 2


# ------------------------------------------------------------------- resuming


def start_of(request: Request) -> int:
    """Where the client asks to go on. What came just before a cut may be lost to it."""
    return int(request.headers["Range"].removeprefix("bytes=").removesuffix("-"))


async def test_a_download_that_broke_off_is_resumed(make: Make, server: FileServer) -> None:
    server.script("/doc.pdf", Answer(cut_after=700_000), Answer(cut_after=200_000))
    async with make() as downloader, downloader.fetch(server.url("/doc.pdf")) as file:
        assert file.sha256 == hashlib.sha256(PDF).hexdigest()
        assert file.path.read_bytes() == PDF
    whole, second, third = server.requests
    assert "Range" not in whole.headers
    assert 0 < start_of(second) <= 700_000
    assert start_of(second) <= start_of(third) <= 900_000
    assert second.headers["If-Range"].startswith('"')


async def test_a_server_without_ranges_sends_it_all_again(make: Make, server: FileServer) -> None:
    server.script("/doc.pdf", Answer(cut_after=700_000), Answer(ranges=False))
    async with make() as downloader:
        assert await fetched(downloader, server.url("/doc.pdf")) == PDF
    assert len(server.requests) == 2


async def test_a_document_that_changed_meanwhile_is_taken_whole(
    make: Make, server: FileServer
) -> None:
    server.script("/doc.pdf", Answer(cut_after=700_000))
    async with make() as downloader:
        download = downloader.fetch(server.url("/doc.pdf"))
        server.script("/doc.pdf", Answer(body=OTHER_PDF))
        async with download as file:
            assert file.path.read_bytes() == OTHER_PDF
    assert len(server.requests) == 2


@pytest.mark.parametrize(
    "headers",
    [
        {"ETag": etag_of(PDF)},
        {"ETag": etag_of(PDF), "Content-Range": "bytes 0-299999/1000000"},
        {"ETag": '"another"', "Content-Range": "bytes 700000-999999/1000000"},
    ],
)
async def test_a_wrong_continuation_is_thrown_away(
    make: Make, server: FileServer, headers: dict[str, str]
) -> None:
    wrong = Answer(status=206, headers=headers, body=b"x" * 300_000)
    server.script("/doc.pdf", Answer(cut_after=700_000), wrong)
    async with make() as downloader:
        assert await fetched(downloader, server.url("/doc.pdf")) == PDF
    assert "Range" not in server.requests[2].headers


async def test_a_refused_range_starts_over(make: Make, server: FileServer) -> None:
    server.script("/doc.pdf", Answer(cut_after=700_000), Answer(status=416, body=b""))
    async with make() as downloader:
        assert await fetched(downloader, server.url("/doc.pdf")) == PDF
    assert "Range" not in server.requests[2].headers


@pytest.mark.parametrize(
    "answer",
    [
        Answer(cut_after=700_000, headers={"ETag": 'W/"weak"'}),
        Answer(cut_after=700_000, headers={"ETag": ""}),
        Answer(cut_after=700_000, headers={"Content-Encoding": "gzip"}, body=gzip.compress(PDF)),
    ],
)
async def test_what_has_no_exact_version_is_not_resumed(
    make: Make, server: FileServer, answer: Answer
) -> None:
    server.script("/doc.pdf", answer)
    async with make() as downloader:
        assert await fetched(downloader, server.url("/doc.pdf")) == PDF
    assert "Range" not in server.requests[1].headers


async def test_an_unasked_part_of_a_document_is_not_taken_for_it(
    make: Make, server: FileServer
) -> None:
    part = Answer(status=206, headers={"Content-Range": "bytes 5-9/10"}, body=b"xxxxx")
    server.script("/doc.pdf", part)
    async with make() as downloader:
        assert await fetched(downloader, server.url("/doc.pdf")) == PDF


async def test_a_body_shorter_than_announced_is_no_document(make: Make, server: FileServer) -> None:
    server.script(
        "/doc.pdf", *[Answer(body=b"x", headers={"Content-Length": "9"}, cut_after=1)] * 3
    )
    async with make() as downloader:
        await refused(downloader, server.url("/doc.pdf"), DownloadFailed)


async def test_a_chunked_body_that_breaks_off_is_no_document(
    make: Make, server: FileServer
) -> None:
    server.script("/doc.pdf", *[Answer(chunked=True, ranges=False, cut_after=700_000)] * 3)
    async with make() as downloader:
        await refused(downloader, server.url("/doc.pdf"), DownloadFailed)


# ------------------------------------------------------------------ redirects


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_a_redirect_is_followed(make: Make, server: FileServer, status: int) -> None:
    server.script("/a/old", Answer(status=status, headers={"Location": "../doc.pdf?x=%2B"}))
    async with make() as downloader:
        assert await fetched(downloader, server.url("/a/old")) == PDF
    assert server.requests[1].query == "x=%2B"


async def test_redirects_come_to_an_end(make: Make, server: FileServer) -> None:
    loop = Answer(status=302, headers={"Location": "/loop"})
    server.script("/loop", *[loop] * (MAX_REDIRECTS + 2))
    async with make() as downloader:
        await refused(downloader, server.url("/loop"), DownloadNotFound)
    assert len(server.requests) == MAX_REDIRECTS + 1


async def test_a_redirect_to_nowhere_is_no_document(make: Make, server: FileServer) -> None:
    server.script("/doc.pdf", *[Answer(status=302)] * (MAX_REDIRECTS + 1))
    async with make() as downloader:
        error = await refused(downloader, server.url("/doc.pdf"), DownloadNotFound)
    assert error.permanent


async def test_a_redirect_is_judged_anew(make: Make, server: FileServer) -> None:
    async with FileServer() as inner, make() as downloader:
        inner.files["/secret"] = PDF
        server.script("/doc.pdf", Answer(status=302, headers={"Location": inner.url("/secret")}))
        await refused(downloader, server.url("/doc.pdf"), DownloadForbidden)
    assert inner.requests == []


async def test_a_redirect_to_the_bucket_lacks_its_leave_even_on_an_open_connection(
    make: Make, server: FileServer
) -> None:
    async with FileServer() as bucket:
        bucket.files["/docs/x.pdf"] = PDF
        policy = UrlPolicy(
            bucket_endpoint=bucket.url(""),
            bucket_name="docs",
            allowed_hosts=[server.authority],
        )
        to_bucket = Answer(status=302, headers={"Location": bucket.url("/docs/x.pdf")})
        server.script("/doc.pdf", to_bucket)
        async with make(policy=policy) as downloader:
            assert await fetched(downloader, bucket.url("/docs/x.pdf")) == PDF
            await refused(downloader, server.url("/doc.pdf"), DownloadForbidden)
    assert len(bucket.requests) == 1


async def test_a_download_resumes_only_where_it_broke_off(make: Make, server: FileServer) -> None:
    server.files["/new.pdf"] = PDF
    server.script("/doc.pdf", Answer(cut_after=700_000))
    server.script("/doc.pdf", Answer(status=302, headers={"Location": "/new.pdf"}))
    async with make() as downloader:
        assert await fetched(downloader, server.url("/doc.pdf")) == PDF
    assert "Range" not in server.requests[2].headers


# --------------------------------------------------------- where it may connect


@pytest.mark.parametrize(
    "host",
    [
        "127.0.0.1",
        "127.1",
        "2130706433",
        "0x7f000001",
        "0x7f.1",
        "0177.0.0.1",
        "127.0.0.1.",
        "0",
        "0.0.0.0",
        "[::1]",
        "[::ffff:127.0.0.1]",
        "[::ffff:7f00:1]",
        "[0:0:0:0:0:ffff:7f00:0001]",
        "localhost",
        "LOCALHOST",
        "①②⑦.⓪.⓪.①",
    ],
)
async def test_no_form_of_loopback_is_connected_to(
    make: Make, server: FileServer, host: str
) -> None:
    async with make(policy=UrlPolicy()) as downloader:
        await refused(downloader, f"http://{host}:{server.port}/doc.pdf", DownloadForbidden)
    assert server.requests == []


@pytest.mark.parametrize(
    "addresses",
    [
        ["127.0.0.1"],
        ["127.0.0.1", "::1"],
        ["169.254.169.254"],
        ["10.0.0.1", "192.168.0.1", "fd00::1"],
        ["64:ff9b::7f00:1"],
    ],
)
async def test_a_name_that_leads_to_no_public_address_is_refused(
    make: Make, server: FileServer, addresses: list[str]
) -> None:
    async with make(policy=UrlPolicy(), resolver=Names(addresses)) as downloader:
        url = f"http://docs.example:{server.port}/doc.pdf"
        error = await refused(downloader, url, DownloadForbidden)
    assert "docs.example" in error.message
    assert server.requests == []


async def test_a_name_that_changes_its_address_meanwhile_is_refused(
    make: Make, server: FileServer
) -> None:
    server.script("/doc.pdf", Answer(cut_after=700_000))
    names = Names(["127.0.0.1"], ["127.0.0.2"])
    async with make(policy=OneAddressIsPublic(), resolver=names) as downloader:
        url = f"http://docs.example:{server.port}/doc.pdf"
        await refused(downloader, url, DownloadForbidden)
    assert len(server.requests) == 1


async def test_an_address_that_is_refused_does_not_hide_one_that_is_not(
    make: Make, server: FileServer
) -> None:
    names = Names(["127.0.0.2", "127.0.0.1"])
    async with make(policy=OneAddressIsPublic(), resolver=names) as downloader:
        assert await fetched(downloader, f"http://docs.example:{server.port}/doc.pdf") == PDF


async def test_an_allowed_name_may_lead_anywhere(make: Make, server: FileServer) -> None:
    policy = UrlPolicy(allowed_hosts=["docs.example"])
    async with make(policy=policy, resolver=Names(["127.0.0.1"])) as downloader:
        assert await fetched(downloader, f"http://docs.example:{server.port}/doc.pdf") == PDF


async def test_a_name_that_no_server_can_have_is_refused(make: Make) -> None:
    async with make() as downloader:
        await refused(downloader, f"http://{'a' * 64}.example/doc.pdf", DownloadForbidden)


async def test_no_proxy_is_taken_from_the_environment(
    make: Make, server: FileServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with FileServer() as proxy:
        monkeypatch.setenv("http_proxy", proxy.url("/"))
        monkeypatch.delenv("no_proxy", raising=False)
        async with make() as downloader:
            assert await fetched(downloader, server.url("/doc.pdf")) == PDF
    assert proxy.requests == []


async def test_a_cookie_is_not_carried_into_the_next_download(
    make: Make, server: FileServer
) -> None:
    server.script("/doc.pdf", Answer(headers={"Set-Cookie": "tenant=1"}))
    policy = UrlPolicy(allowed_hosts=["docs.example"])
    async with make(policy=policy, resolver=Names(["127.0.0.1"])) as downloader:
        for _ in range(2):
            await fetched(downloader, f"http://docs.example:{server.port}/doc.pdf")
    assert "Cookie" not in server.requests[1].headers


# --------------------------------------------------------------------- secrets


@pytest.mark.parametrize(
    "answer",
    [
        Answer(status=403, body=b""),
        Answer(status=404, body=b""),
        Answer(status=503, body=b""),
        Answer(cut_after=0),
        Answer(stall_after=10),
        Answer(status=302, headers={"Location": f"http://127.0.0.2/{SIGNED}"}),
        Answer(status=302, headers={"Location": f"http://127.1/{SIGNED}"}),
        Answer(status=302, headers={"Location": f"http://[/{SIGNED}"}),
    ],
)
async def test_a_presigned_query_appears_nowhere(
    make: Make, server: FileServer, caplog: pytest.LogCaptureFixture, answer: Answer
) -> None:
    caplog.set_level(logging.DEBUG)
    server.script("/doc.pdf", *[answer] * 2)
    with structlog.testing.capture_logs() as logs:
        async with make(read_timeout_seconds=0.05, max_tries=2) as downloader:
            with pytest.raises(ProcessorError) as caught:
                await fetched(downloader, server.url(f"/doc.pdf{SIGNED}"))
    assert server.requests[0].query == SIGNED.removeprefix("?")
    trace = "".join(traceback.format_exception(caught.value))
    assert CANARY not in repr((str(caught.value), trace, caught.value, logs, caplog.messages))


async def test_an_answer_that_is_not_http_shows_no_presigned_query(make: Make) -> None:
    async def babble(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n")
        writer.close()

    async with await asyncio.start_server(babble, "127.0.0.1", 0) as babbler:
        port = babbler.sockets[0].getsockname()[1]
        async with make(policy=UrlPolicy(allowed_hosts=["127.0.0.1"])) as downloader:
            url = f"http://127.0.0.1:{port}/doc.pdf{SIGNED}"
            error = await refused(downloader, url, DownloadFailed)
    assert CANARY not in "".join(traceback.format_exception(error))


# ----------------------------------------------------------- files of this machine


@pytest.fixture
def files_allowed() -> UrlPolicy:
    return UrlPolicy(allow_file_urls=True)


async def test_a_local_file_is_copied_and_left_in_place(
    make: Make, tmp_path: Path, files_allowed: UrlPolicy
) -> None:
    source = tmp_path / "a b.pdf"
    source.write_bytes(PDF)
    async with make(policy=files_allowed) as downloader:
        async with downloader.fetch(source.as_uri()) as file:
            assert file.path != source
            assert file.path.read_bytes() == PDF
            assert file.sha256 == hashlib.sha256(PDF).hexdigest()
        assert source.read_bytes() == PDF


async def test_a_local_file_has_the_same_limit(
    make: Make, tmp_path: Path, files_allowed: UrlPolicy
) -> None:
    source = tmp_path / "doc.pdf"
    source.write_bytes(PDF)
    async with make(policy=files_allowed, max_bytes=len(PDF) - 1) as downloader:
        await refused(downloader, source.as_uri(), TooLarge)


async def test_a_missing_local_file_is_not_found(
    make: Make, tmp_path: Path, files_allowed: UrlPolicy
) -> None:
    async with make(policy=files_allowed) as downloader:
        await refused(downloader, (tmp_path / "no.pdf").as_uri(), DownloadNotFound)
        await refused(downloader, tmp_path.as_uri(), DownloadNotFound)


async def test_pipes_and_devices_are_no_documents(
    make: Make, tmp_path: Path, files_allowed: UrlPolicy
) -> None:
    os.mkfifo(tmp_path / "pipe")
    async with make(policy=files_allowed) as downloader:
        await refused(downloader, (tmp_path / "pipe").as_uri(), DownloadForbidden)
        await refused(downloader, "file:///dev/zero", DownloadForbidden)
