"""The bucket, read and written with the service's own credentials."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Literal, Self, TypeVar

import boto3
import urllib3.exceptions
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError
from botocore.response import StreamingBody

from pdf_processor.download import storage_errors
from pdf_processor.download.spool import CHUNK_BYTES, Spool
from pdf_processor.download.url_policy import S3Object, endpoint_url
from pdf_processor.errors import ServiceCredentialsRejected

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client
    from mypy_boto3_s3.type_defs import GetObjectRequestTypeDef

T = TypeVar("T")


class ObjectStore:
    """The bucket behind BUCKET_ENDPOINT, spoken to by boto3 in threads of its own.

    1. Makes one client, when it is first needed.
    2. `receive` streams an object into a spool, resumed while it is the same version.
    3. `put` uploads a file; `check` says whether the bucket can be used.
    4. Tells what is wrong with one object from what is wrong with the service's credentials.

    Which buckets a task may name, and trying again, are left to others. The credentials
    must allow listing the bucket: to whoever may not list, S3 denies access to an object
    that is not there, instead of saying so.

    `storage_type`: `minio` puts the bucket into the path, and needs endpoint and
    credentials; `s3` puts it into the host name, and finds what is not given as boto3
    does (an instance's role, for one).
    """

    def __init__(
        self,
        *,
        bucket_name: str = "",
        endpoint: str = "",
        access_key_id: str = "",
        secret_access_key: str = "",
        storage_type: Literal["minio", "s3"] = "minio",
        connect_timeout_seconds: float = 10,
        read_timeout_seconds: float = 30,
        max_connections: int = 16,
    ) -> None:
        self._bucket_name = bucket_name
        self._endpoint = endpoint_url(endpoint)
        self._credentials = (access_key_id, secret_access_key)
        self._in_path = storage_type == "minio"
        self._config = Config(
            connect_timeout=connect_timeout_seconds,
            read_timeout=read_timeout_seconds,
            max_pool_connections=max_connections,
            retries={"total_max_attempts": 1},
            proxies={},
            signature_version="s3v4",
            s3={"addressing_style": "path" if self._in_path else "virtual"},
            # what is newer than these checks of S3's, older MinIO servers refuse
            request_checksum_calculation="when_required",
            response_checksum_validation="when_required",
        )
        self._client: S3Client | None = None
        self._connecting = asyncio.Lock()
        self._threads = ThreadPoolExecutor(max_connections, "object-store")

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Leave without waiting for threads: each ends at the latest with its timeouts."""
        self._threads.shutdown(wait=False, cancel_futures=True)
        if self._client is not None:
            self._client.close()

    async def receive(self, target: S3Object, spool: Spool) -> None:
        """Fill the spool with the object; what it already holds is used if it can be.

        Raises:
            DownloadFailed, DownloadTimedOut: another try may help.
            DownloadNotFound: the bucket has no such object for us.
            ServiceCredentialsRejected: no object of the bucket can be had.
            TooLarge, StorageFull: as the spool raises them.
        """
        try:
            await self._stream(target, spool)
        except ClientError as error:
            if storage_errors.object_changed(error):
                await spool.restart()
            if storage_errors.is_ambiguous(error):
                await self._head(target.bucket)
            raise storage_errors.object_verdict(error, target) from None
        except (BotoCoreError, urllib3.exceptions.HTTPError) as error:
            raise storage_errors.connection_verdict(error) from None

    async def put(self, path: Path, key: str) -> str:
        """Upload a file into the configured bucket and return its `s3://` URL.

        Raises:
            OSError: the file cannot be read.
            DownloadFailed, DownloadTimedOut: the storage cannot be reached.
            ServiceCredentialsRejected: the bucket is not there or may not be written.
        """
        bucket = self._own_bucket()
        client = await self._connected()
        try:
            await self._in_thread(partial(_upload, client, bucket, key, path))
        except ClientError as error:
            raise storage_errors.bucket_verdict(error, self._bucket_name) from None
        except BotoCoreError as error:
            raise storage_errors.connection_verdict(error) from None
        return f"s3://{self._bucket_name}/{key}"

    async def check(self) -> None:
        """Ask whether the configured bucket is there and the credentials are accepted.

        Raises:
            DownloadFailed, DownloadTimedOut: the storage cannot be reached.
            ServiceCredentialsRejected: it refuses, or a setting is missing.
        """
        await self._head(self._own_bucket())

    def _own_bucket(self) -> str:
        if not self._bucket_name:
            raise ServiceCredentialsRejected("The bucket cannot be used without BUCKET_NAME.")
        return self._bucket_name

    async def _head(self, bucket: str) -> None:
        client = await self._connected()
        try:
            await self._in_thread(partial(client.head_bucket, Bucket=bucket))
        except ClientError as error:
            raise storage_errors.bucket_verdict(error, bucket) from None
        except BotoCoreError as error:
            raise storage_errors.connection_verdict(error) from None

    async def _stream(self, target: S3Object, spool: Spool) -> None:
        client = await self._connected()
        response = await self._in_thread(partial(client.get_object, **_request(target, spool)))
        body = response["Body"]
        try:
            if spool.resumed_total(response.get("ContentRange", "")) is None:
                await spool.restart(version=response.get("ETag", ""))
            spool.announce(spool.size_bytes + response["ContentLength"])
            while chunk := await self._in_thread(partial(body.read, CHUNK_BYTES)):
                await spool.append(chunk)
        finally:
            _wake(body)
            self._threads.submit(body.close)

    async def _connected(self) -> S3Client:
        async with self._connecting:
            if self._client is None:
                self._require_settings()
                self._client = await self._in_thread(self._make_client)
            return self._client

    def _require_settings(self) -> None:
        needed = {}
        if self._in_path:
            needed["BUCKET_ENDPOINT"] = self._endpoint
            needed["BUCKET_ACCESS_ID"], needed["BUCKET_ACCESS_KEY"] = self._credentials
        missing = ", ".join(name for name, value in needed.items() if not value)
        if missing:
            raise ServiceCredentialsRejected(f"The bucket cannot be used without {missing}.")

    def _make_client(self) -> S3Client:
        access_key_id, secret_access_key = self._credentials
        return boto3.session.Session().client(
            "s3",
            endpoint_url=self._endpoint or None,
            aws_access_key_id=access_key_id or None,
            aws_secret_access_key=secret_access_key or None,
            region_name="us-east-1" if self._in_path else None,
            config=self._config,
        )

    async def _in_thread(self, call: Callable[[], T]) -> T:
        """Call off the loop. Cancelled, the call goes on, and nobody gets what it returns."""
        return await asyncio.wrap_future(self._threads.submit(call))


def _request(target: S3Object, spool: Spool) -> GetObjectRequestTypeDef:
    request: GetObjectRequestTypeDef = {"Bucket": target.bucket, "Key": target.key}
    if spool.size_bytes and spool.version:
        request["Range"] = f"bytes={spool.size_bytes}-"
        request["IfMatch"] = spool.version
    return request


def _wake(body: StreamingBody) -> None:
    """Make a thread that still waits for the body return at once."""
    with suppress(ValueError, RuntimeError, OSError):  # read to its end: nothing to wake
        # botocore has no way of its own that wakes a reader
        body._raw_stream.shutdown()  # type: ignore[attr-defined]  # noqa: SLF001


def _upload(client: S3Client, bucket: str, key: str, path: Path) -> None:
    with path.open("rb") as file:
        client.put_object(Bucket=bucket, Key=key, Body=file, ContentType="application/pdf")
