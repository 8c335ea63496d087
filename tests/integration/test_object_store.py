"""The bucket: a real S3 server (moto), and a scripted one for what that never does."""

from __future__ import annotations

import asyncio
import hashlib
import random
import socket
import sys
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path

import boto3
import pytest
from moto.server import ThreadedMotoServer

from pdf_processor.download.downloader import Downloader
from pdf_processor.download.object_store import ObjectStore
from pdf_processor.download.spool import Spool
from pdf_processor.download.url_policy import UrlPolicy
from pdf_processor.errors import (
    DownloadFailed,
    DownloadNotFound,
    DownloadTimedOut,
    ProcessorError,
    ServiceCredentialsRejected,
    TooLarge,
)
from tests.http_server import Answer, FileServer

PDF = random.Random(1).randbytes(1_000_000)
SECRET = "canary-secret-3b9d"


async def no_pause(_seconds: float) -> None:
    pass


@pytest.fixture(scope="module")
def s3() -> Iterator[str]:
    """The endpoint of an S3 server with a bucket `docs`."""
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    endpoint = "http://{}:{}".format(*server.get_host_and_port())
    client = boto3.client(
        "s3",
        endpoint_url=endpoint,
        region_name="us-east-1",
        aws_access_key_id="id",
        aws_secret_access_key=SECRET,
    )
    client.create_bucket(Bucket="docs")
    client.put_object(Bucket="docs", Key="a b/目录#1?.pdf", Body=PDF)
    client.close()
    yield endpoint
    server.stop()


@pytest.fixture
async def scripted() -> AsyncIterator[FileServer]:
    async with FileServer() as server:
        server.files["/docs/doc.pdf"] = PDF
        server.files["/docs"] = b""
        yield server


def store_at(server: str, **settings: object) -> ObjectStore:
    defaults: dict[str, object] = {
        "endpoint": server,
        "bucket_name": "docs",
        "access_key_id": "id",
        "secret_access_key": SECRET,
    }
    return ObjectStore(**(defaults | settings))  # type: ignore[arg-type]


def spools_in(folder: Path) -> list[Path]:
    return list(folder.glob("pdf-processor-*"))


Make = Callable[..., AbstractAsyncContextManager[Downloader]]


@pytest.fixture
def make(tmp_path: Path) -> Make:
    """Make a downloader for a store, and see that it leaves nothing behind."""

    @asynccontextmanager
    async def make(store: ObjectStore, max_bytes: int = 10_000_000) -> AsyncIterator[Downloader]:
        policy = UrlPolicy(bucket_name="docs", allowed_buckets=["scans"])
        async with (
            store,
            Downloader(
                policy=policy,
                store=store,
                temp_dir=tmp_path,
                max_bytes=max_bytes,
                sleep=no_pause,
            ) as downloader,
        ):
            yield downloader
            assert spools_in(tmp_path) == []

    return make


async def fetched(downloader: Downloader, url: str = "s3://docs/doc.pdf") -> bytes:
    async with downloader.fetch(url) as file:
        body = file.path.read_bytes()
        assert file.sha256 == hashlib.sha256(body).hexdigest()
        return body


async def refused(
    downloader: Downloader, error: type[ProcessorError], url: str = "s3://docs/doc.pdf"
) -> ProcessorError:
    with pytest.raises(error) as caught:
        await fetched(downloader, url)
    assert type(caught.value) is error
    assert SECRET not in repr((caught.value, caught.value.__context__))
    return caught.value


def s3_error(status: int, code: str) -> Answer:
    body = f"<Error><Code>{code}</Code><Message>no</Message></Error>".encode()
    return Answer(status=status, body=body)


# ------------------------------------------------------------- a real server


async def test_an_object_is_had_as_a_file(make: Make, s3: str) -> None:
    async with make(store_at(s3)) as downloader:
        assert await fetched(downloader, "s3://docs/a b/目录#1?.pdf") == PDF


async def test_an_endpoint_may_lack_its_scheme(make: Make, s3: str) -> None:
    async with make(store_at(s3.removeprefix("http://"))) as downloader:
        assert await fetched(downloader, "s3://docs/a b/目录#1?.pdf") == PDF


async def test_what_is_put_can_be_fetched(make: Make, s3: str, tmp_path: Path) -> None:
    (tmp_path / "doc.pdf").write_bytes(PDF)
    store = store_at(s3)
    async with make(store) as downloader:
        url = await store.put(tmp_path / "doc.pdf", "in/doc.pdf")
        assert url == "s3://docs/in/doc.pdf"
        assert await fetched(downloader, url) == PDF


async def test_a_missing_object_is_not_found(make: Make, s3: str) -> None:
    async with make(store_at(s3)) as downloader:
        await refused(downloader, DownloadNotFound, "s3://docs/missing.pdf")


async def test_a_large_object_is_refused(make: Make, s3: str) -> None:
    async with make(store_at(s3), max_bytes=len(PDF) - 1) as downloader:
        await refused(downloader, TooLarge, "s3://docs/a b/目录#1?.pdf")


async def test_a_large_object_is_refused_before_its_body(make: Make, scripted: FileServer) -> None:
    scripted.script("/docs/doc.pdf", Answer(stall_after=10))
    async with make(store_at(scripted.url("")), max_bytes=len(PDF) - 1) as downloader:
        await refused(downloader, TooLarge)


async def test_a_missing_bucket_is_the_service_s_fault(make: Make, s3: str) -> None:
    async with make(store_at(s3)) as downloader:
        error = await refused(downloader, ServiceCredentialsRejected, "s3://scans/doc.pdf")
    assert "scans" in error.message


async def test_a_bucket_in_order_passes_its_check(s3: str) -> None:
    async with store_at(s3) as store:
        await store.check()


async def test_a_missing_bucket_fails_its_check(s3: str) -> None:
    async with store_at(s3, bucket_name="other") as store:
        with pytest.raises(ServiceCredentialsRejected, match="other"):
            await store.check()


async def test_a_file_cannot_be_put_into_a_missing_bucket(s3: str, tmp_path: Path) -> None:
    (tmp_path / "doc.pdf").write_bytes(PDF)
    async with store_at(s3, bucket_name="other") as store:
        with pytest.raises(ServiceCredentialsRejected):
            await store.put(tmp_path / "doc.pdf", "doc.pdf")


# ------------------------------------------------------------ a scripted one


async def test_an_object_that_broke_off_is_resumed(make: Make, scripted: FileServer) -> None:
    scripted.script("/docs/doc.pdf", Answer(cut_after=700_000))
    async with make(store_at(scripted.url(""))) as downloader:
        assert await fetched(downloader) == PDF
    again = scripted.requests[1].headers
    assert 0 < int(again["Range"].removeprefix("bytes=").removesuffix("-")) <= 700_000
    assert again["If-Match"].startswith('"')


async def test_a_storage_without_ranges_sends_it_all_again(
    make: Make, scripted: FileServer
) -> None:
    scripted.script("/docs/doc.pdf", Answer(cut_after=700_000), Answer(ranges=False))
    async with make(store_at(scripted.url(""))) as downloader:
        assert await fetched(downloader) == PDF
    assert len(scripted.requests) == 2


@pytest.mark.parametrize(("status", "code"), [(412, "PreconditionFailed"), (416, "InvalidRange")])
async def test_an_object_that_changed_meanwhile_is_taken_whole(
    make: Make, scripted: FileServer, status: int, code: str
) -> None:
    scripted.script("/docs/doc.pdf", Answer(cut_after=700_000), s3_error(status, code))
    async with make(store_at(scripted.url(""))) as downloader:
        assert await fetched(downloader) == PDF
    assert "Range" not in scripted.requests[2].headers


@pytest.mark.parametrize(("status", "code"), [(503, "SlowDown"), (500, "InternalError")])
async def test_a_temporary_answer_is_tried_again(
    make: Make, scripted: FileServer, status: int, code: str
) -> None:
    scripted.script("/docs/doc.pdf", *[s3_error(status, code)] * 2)
    async with make(store_at(scripted.url(""))) as downloader:
        assert await fetched(downloader) == PDF


@pytest.mark.parametrize(
    "code", ["InvalidAccessKeyId", "SignatureDoesNotMatch", "RequestTimeTooSkewed"]
)
async def test_refused_credentials_are_the_service_s_fault(
    make: Make, scripted: FileServer, code: str
) -> None:
    scripted.script("/docs/doc.pdf", s3_error(403, code))
    async with make(store_at(scripted.url(""))) as downloader:
        error = await refused(downloader, ServiceCredentialsRejected)
    assert "BUCKET_ACCESS_KEY" in error.message
    assert len(scripted.requests) == 1


async def test_access_denied_to_one_object_is_the_task_s_fault(
    make: Make, scripted: FileServer
) -> None:
    scripted.script("/docs/doc.pdf", s3_error(403, "AccessDenied"))
    async with make(store_at(scripted.url(""))) as downloader:
        error = await refused(downloader, DownloadNotFound)
    assert "AccessDenied" in error.message


async def test_access_denied_to_the_bucket_is_the_service_s_fault(
    make: Make, scripted: FileServer
) -> None:
    scripted.script("/docs/doc.pdf", s3_error(403, "AccessDenied"))
    scripted.script("/docs", Answer(status=403))
    async with make(store_at(scripted.url(""))) as downloader:
        await refused(downloader, ServiceCredentialsRejected)


async def test_an_object_that_cannot_be_had_is_not_tried_again(
    make: Make, scripted: FileServer
) -> None:
    scripted.script("/docs/doc.pdf", s3_error(400, "KeyTooLongError"))
    async with make(store_at(scripted.url(""))) as downloader:
        await refused(downloader, DownloadNotFound)


async def test_a_storage_that_stops_sending_times_out(make: Make, scripted: FileServer) -> None:
    scripted.script("/docs/doc.pdf", *[Answer(stall_after=700_000, ranges=False)] * 3)
    store = store_at(scripted.url(""), read_timeout_seconds=0.05)
    async with make(store) as downloader:
        await refused(downloader, DownloadTimedOut)


async def test_a_storage_that_cannot_be_reached_fails(make: Make) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    async with make(store_at(f"http://127.0.0.1:{port}")) as downloader:
        await refused(downloader, DownloadFailed)


def a_thread_waits_for_the_storage() -> bool:
    frames = sys._current_frames()
    threads = [thread for thread in threading.enumerate() if "object-store" in thread.name]
    return any(
        frames[thread.ident].f_code is socket.SocketIO.readinto.__code__
        for thread in threads
        if thread.ident in frames
    )


async def test_a_cancelled_download_wakes_the_thread_that_reads(
    make: Make, scripted: FileServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    scripted.script("/docs/doc.pdf", Answer(stall_after=10))
    reading = asyncio.Event()
    monkeypatch.setattr(Spool, "announce", lambda _spool, _bytes: reading.set())
    store = store_at(scripted.url(""), read_timeout_seconds=1000)
    async with make(store) as downloader:
        download = asyncio.create_task(fetched(downloader))
        await reading.wait()
        while not a_thread_waits_for_the_storage():  # noqa: ASYNC110 - a thread sets no event
            await asyncio.sleep(0)
        download.cancel()
        with pytest.raises(asyncio.CancelledError):
            await download
        await asyncio.to_thread(store._threads.shutdown)


async def test_a_cancelled_download_does_not_wait_for_the_storage(
    make: Make, scripted: FileServer
) -> None:
    scripted.script("/docs/doc.pdf", Answer(stall_at_once=True))
    async with make(store_at(scripted.url(""), read_timeout_seconds=1000)) as downloader:
        download = asyncio.create_task(fetched(downloader))
        await scripted.stalled.wait()
        download.cancel()
        with pytest.raises(asyncio.CancelledError):
            await download


async def test_an_allowed_bucket_needs_no_bucket_of_ones_own(
    make: Make, scripted: FileServer
) -> None:
    async with make(store_at(scripted.url(""), bucket_name="")) as downloader:
        assert await fetched(downloader) == PDF


async def test_putting_a_file_needs_a_bucket_of_ones_own(tmp_path: Path) -> None:
    async with store_at("http://127.0.0.1:1", bucket_name="") as store:
        with pytest.raises(ServiceCredentialsRejected, match="BUCKET_NAME"):
            await store.put(tmp_path / "a.pdf", "a.pdf")


@pytest.mark.parametrize("name", ["endpoint", "access_key_id", "secret_access_key"])
async def test_a_missing_setting_is_named(make: Make, name: str) -> None:
    async with make(store_at("http://127.0.0.1:1", **{name: ""})) as downloader:
        error = await refused(downloader, ServiceCredentialsRejected)
    assert "BUCKET_" in error.message


async def test_no_proxy_is_taken_from_the_environment(
    make: Make, scripted: FileServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with FileServer() as proxy:
        monkeypatch.setenv("http_proxy", proxy.url("/"))
        monkeypatch.delenv("no_proxy", raising=False)
        async with make(store_at(scripted.url(""))) as downloader:
            assert await fetched(downloader) == PDF
    assert proxy.requests == []
