"""Where documents may come from: decisions about URLs and addresses, without any I/O.

The URL is read once, by the library that also sends the request, so that what is
judged is what is asked for. A host name says nothing about where it leads; whoever
connects asks `UrlPolicy.allows_address` about the address itself, for every connection.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from ipaddress import IPv6Network, ip_address, ip_network
from pathlib import Path
from urllib.parse import quote, unquote, urljoin

from yarl import URL

from pdf_processor.errors import DownloadForbidden

FIRST_UNPRIVILEGED_PORT = 1024
_WEB_PORTS = frozenset({80, 443})
_BUCKET_NAME = re.compile(r"[a-z0-9][a-z0-9.-]{2,62}")
"""Anything else may be a login or a signature, and is not repeated."""

_PRINTABLE_ASCII = "".join(map(chr, range(0x21, 0x7F)))

# https://www.iana.org/assignments/iana-ipv4-special-registry, multicast, and Azure's
# platform address, which answers only inside its machines
_REFUSED_IPV4 = """
    0.0.0.0/8 10.0.0.0/8 100.64.0.0/10 127.0.0.0/8 169.254.0.0/16 172.16.0.0/12 192.0.0.0/24
    192.0.2.0/24 192.88.99.0/24 192.168.0.0/16 198.18.0.0/15 198.51.100.0/24 203.0.113.0/24
    224.0.0.0/3 168.63.129.16/32
"""
# https://www.iana.org/assignments/iana-ipv6-special-registry: Teredo (in the first),
# documentation, 6to4
_REFUSED_IPV6 = "2001::/23 2001:db8::/32 2002::/16 3fff::/20"
_REFUSED_NETWORKS = tuple(map(ip_network, f"{_REFUSED_IPV4} {_REFUSED_IPV6}".split()))
_IPV6_UNICAST = IPv6Network("2000::/3")
"""All public IPv6; IPv4-mapped, NAT64, link-local, unique local, multicast lie outside."""


@dataclass(frozen=True, slots=True)
class HttpTarget:
    """A document behind `http(s)://`. The URL may be presigned: it has no repr."""

    url: URL = field(repr=False)
    trusted: bool
    """True: the operator named this host, any address will do. Else: only public ones."""

    @property
    def host(self) -> str:
        """Host, and port where the URL names one; all of the URL that may be shown."""
        return self.url.host_port_subcomponent or ""

    @property
    def signed(self) -> bool:
        """Whether the query holds a signature: of S3, Google, Azure, Alibaba, CloudFront."""
        names = [name.lower() for name in self.url.query]
        return any(name == "sig" or name.endswith("signature") for name in names)


@dataclass(frozen=True, slots=True)
class S3Object:
    """A document in a bucket that the service reads with its own credentials."""

    bucket: str
    key: str


@dataclass(frozen=True, slots=True)
class LocalFile:
    """A document on this machine."""

    path: Path


Target = HttpTarget | S3Object | LocalFile


class UrlPolicy:
    """Decides what a task's URL may reach.

    1. The scheme: `http`, `https`, `s3`, and `file` where the operator allows it.
    2. The host: the configured bucket at its own host and port, and the allowed hosts,
       are trusted; every other host may be asked only at public addresses, on port 80, 443
       or from 1024 up.
    3. The address that is about to be connected to.
    4. A redirect, like a URL of its own that lacks the bucket's leave.

    Resolving names and connecting are left to others. Hosts are `host` (every port) or
    `host:port`. With no bucket named, the whole endpoint counts as the bucket.

    Raises:
        ValueError: an endpoint or allowed host cannot be read.
    """

    def __init__(
        self,
        *,
        bucket_endpoint: str = "",
        bucket_name: str = "",
        allowed_buckets: Sequence[str] = (),
        allowed_hosts: Sequence[str] = (),
        allow_file_urls: bool = False,
    ) -> None:
        self._buckets = frozenset(filter(None, (bucket_name, *allowed_buckets)))
        self._endpoint = _endpoint_authority(bucket_endpoint)
        self._allowed_hosts = frozenset(_authorities(allowed_hosts))
        self._allow_file_urls = allow_file_urls

    def judge(self, url: str) -> Target:
        """Decide about the URL of a task.

        Raises:
            DownloadForbidden: the URL points where documents may not come from.
        """
        text = url.strip()
        if not text.isprintable():
            raise DownloadForbidden("The URL holds a character that no URL may hold.")
        match text.partition("://")[0].lower():
            case "http" | "https":
                return self._judge_http(text, bucket_has_leave=True)
            case "s3":
                return self._judge_s3(text)
            case "file" if self._allow_file_urls:
                return _local_file(text)
            case "file":
                raise DownloadForbidden("file:// URLs are off; see ALLOW_FILE_URLS.")
        raise DownloadForbidden("The URL must begin with http://, https:// or s3://.")

    def judge_redirect(self, origin: HttpTarget, location: str) -> HttpTarget:
        """Decide about where `origin` says the document is.

        Raises:
            DownloadForbidden: documents may not come from there.
        """
        try:
            text = urljoin(str(origin.url), location.strip())
        except ValueError:
            text = ""
        if not text.isprintable() or not text.lower().startswith(("http://", "https://")):
            raise DownloadForbidden(f"{origin.host} redirects to what is no web address.")
        target = self._judge_http(text, bucket_has_leave=False)
        if (origin.url.scheme, target.url.scheme) == ("https", "http") and not target.trusted:
            raise DownloadForbidden(
                f"{origin.host} redirects from https to unencrypted http at {target.host}."
            )
        return target

    def allows_address(self, address: str) -> bool:
        """Whether `address`, an IP address in text form, is a public one."""
        try:
            parsed = ip_address(address)
        except ValueError:
            return False
        if parsed.version == 6 and parsed not in _IPV6_UNICAST:  # noqa: PLR2004 - IP's version
            return False
        return not any(parsed in network for network in _REFUSED_NETWORKS)

    def _judge_http(self, text: str, *, bucket_has_leave: bool) -> HttpTarget:
        url = _parse(text)
        host, port = url.raw_host or "", url.port or 0
        trusted = not self._allowed_hosts.isdisjoint({(host, None), (host, port)}) or (
            bucket_has_leave and self._is_in_bucket(url)
        )
        target = HttpTarget(url=url, trusted=trusted)
        if trusted:
            return target
        if _is_literal(host) and not self.allows_address(host):
            raise not_public(target)
        if port < FIRST_UNPRIVILEGED_PORT and port not in _WEB_PORTS:
            raise DownloadForbidden(
                f"Port {port} of {url.host} is no web port; see ALLOWED_DOWNLOAD_HOSTS."
            )
        return target

    def _is_in_bucket(self, url: URL) -> bool:
        if self._endpoint is None or url.port != self._endpoint[1]:
            return False
        host = url.raw_host or ""
        if host == self._endpoint[0]:
            bucket, *rest = unquote(url.raw_path).removeprefix("/").split("/")
            return not self._buckets or (bucket in self._buckets and ".." not in rest)
        return any(host == f"{bucket}.{self._endpoint[0]}" for bucket in self._buckets)

    def _judge_s3(self, text: str) -> S3Object:
        bucket, _, key = text.partition("://")[2].partition("/")
        if not bucket or not key:
            raise DownloadForbidden("An s3 URL must read s3://bucket/key.")
        if bucket not in self._buckets:
            shown = f" {bucket!r}" if _BUCKET_NAME.fullmatch(bucket) else ""
            raise DownloadForbidden(
                f"The bucket{shown} is neither BUCKET_NAME nor one of ALLOWED_BUCKETS."
            )
        return S3Object(bucket=bucket, key=key)


def not_public(target: HttpTarget) -> DownloadForbidden:
    """The error for a host that leads to an address which is not public."""
    return DownloadForbidden(
        f"{target.host} is not at a public address; see ALLOWED_DOWNLOAD_HOSTS."
    )


def endpoint_url(endpoint: str) -> str:
    """The endpoint with its scheme: `http` for a `host:port` without one, else `https`."""
    if not endpoint or "://" in endpoint:
        return endpoint
    port = URL(f"//{endpoint}").explicit_port
    return f"{'https' if port in (None, 443) else 'http'}://{endpoint}"


def _parse(text: str) -> URL:
    """Read a URL; path and query stay byte for byte, because a signature may cover them."""
    try:
        normal = URL(text)
        exact = URL(quote(text, safe=_PRINTABLE_ASCII), encoded=True)
        port = normal.port
    except ValueError:
        raise DownloadForbidden("The URL cannot be read: its host or port is wrong.") from None
    if normal.raw_user is not None or normal.raw_password is not None:
        raise DownloadForbidden("The URL holds a user name or password; sign the URL instead.")
    if not normal.raw_host or not port or "%" in normal.raw_host:
        raise DownloadForbidden("The URL cannot be read: its host or port is wrong.")
    return URL.build(
        scheme=normal.scheme,
        authority=normal.raw_authority,
        path=exact.raw_path,
        query_string=exact.raw_query_string,
        encoded=True,
    )


def _is_literal(host: str) -> bool:
    try:
        ip_address(host)
    except ValueError:
        return False
    return True


def _endpoint_authority(endpoint: str) -> tuple[str, int] | None:
    if not endpoint:
        return None
    url = _parsed(endpoint_url(endpoint))
    if url is None or not url.raw_host or not url.port:
        raise ValueError("BUCKET_ENDPOINT must be a URL or host:port")
    return url.raw_host, url.port


def _authorities(entries: Iterable[str]) -> Iterable[tuple[str, int | None]]:
    for entry in entries:
        bare_ipv6 = entry.count(":") > 1 and not entry.startswith("[")
        url = _parsed(f"//[{entry}]" if bare_ipv6 else f"//{entry}")
        if url is None or not url.raw_host or not set("/?#@").isdisjoint(entry):
            raise ValueError(f"ALLOWED_DOWNLOAD_HOSTS: {entry!r} is not host or host:port")
        yield url.raw_host, url.explicit_port


def _parsed(text: str) -> URL | None:
    try:
        return URL(text)
    except ValueError:
        return None


def _local_file(text: str) -> LocalFile:
    host, slash, path = text.partition("://")[2].partition("/")
    path = slash + unquote(path)
    if host not in ("", "localhost") or not path or "\0" in path:
        raise DownloadForbidden("A file URL must read file:///absolute/path.")
    return LocalFile(path=Path(path))
