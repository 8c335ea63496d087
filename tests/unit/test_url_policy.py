from __future__ import annotations

from pathlib import Path

import pytest

from pdf_processor.download.url_policy import (
    HttpTarget,
    LocalFile,
    S3Object,
    UrlPolicy,
    endpoint_url,
)
from pdf_processor.errors import DownloadForbidden

CANARY = "canary-5e1f"

PUBLIC = ["8.8.8.8", "1.1.1.1", "93.184.216.34", "2606:4700::1111", "2a00:1450:4001::200e"]

NOT_PUBLIC = [
    "0.0.0.0",
    "10.0.0.1",
    "100.64.0.1",
    "100.100.100.200",
    "127.0.0.1",
    "127.8.8.8",
    "168.63.129.16",
    "169.254.169.254",
    "172.16.0.1",
    "172.31.255.255",
    "192.0.0.192",
    "192.0.2.1",
    "192.88.99.1",
    "192.168.1.1",
    "198.18.0.1",
    "198.51.100.1",
    "203.0.113.1",
    "224.0.0.1",
    "239.255.255.250",
    "240.0.0.1",
    "255.255.255.255",
    "::",
    "::1",
    "::127.0.0.1",
    "::ffff:127.0.0.1",
    "::ffff:8.8.8.8",
    "::ffff:0:127.0.0.1",
    "64:ff9b::7f00:1",
    "64:ff9b:1::1",
    "100::1",
    "2001::1",
    "2001:db8::1",
    "2002:7f00:1::",
    "3fff::1",
    "5f00::1",
    "fc00::1",
    "fd00:ec2::254",
    "fe80::1",
    "fe80::1%eth0",
    "fec0::1",
    "ff02::1",
    "localhost",
    "127.1",
    "",
]


@pytest.mark.parametrize("address", PUBLIC)
def test_public_addresses_are_allowed(address: str) -> None:
    assert UrlPolicy().allows_address(address)


@pytest.mark.parametrize("address", NOT_PUBLIC)
def test_all_other_addresses_are_refused(address: str) -> None:
    assert not UrlPolicy().allows_address(address)


def judged_http(policy: UrlPolicy, url: str) -> HttpTarget:
    target = policy.judge(url)
    assert isinstance(target, HttpTarget)
    return target


@pytest.mark.parametrize(
    "url",
    [
        "http://127.0.0.1/x.pdf",
        "http://127.0.0.1:8080/x.pdf",
        "http://[::1]/x.pdf",
        "http://[::ffff:10.0.0.1]/x.pdf",
        "http://[::ffff:7f00:1]/x.pdf",
        "http://[64:ff9b::a9fe:a9fe]/x.pdf",
        "http://169.254.169.254/latest/meta-data/",
        "HTTP://10.0.0.1/x.pdf",
        "http://１２７.0.0.1/x.pdf",  # noqa: RUF001 - full-width digits
        "http://127。0。0。1/x.pdf",
        "http://[fe80::1%25eth0]/x.pdf",
        "http://%31%32%37.0.0.1/x.pdf",
        "http://user:secret@example.com/x.pdf",
        "http://user@example.com/x.pdf",
        "http://example.com\\@127.0.0.1/x.pdf",
        "http://example.com:22/x.pdf",
        "http://example.com:0/x.pdf",
        "http://example.com:65536/x.pdf",
        "http://example.com:http/x.pdf",
        "http:///x.pdf",
        "http://[::1/x.pdf",
        "http://example.com/x\r\nHost: evil",
        "http://example.com/x\0",
        "http:example.com",
        "//example.com/x.pdf",
        "/etc/passwd",
        "ftp://example.com/x.pdf",
        "gopher://example.com/x.pdf",
        "data:application/pdf,x",
        "file:///etc/passwd",
        "s3://bucket/key",
        "",
    ],
)
def test_a_bare_policy_refuses(url: str) -> None:
    with pytest.raises(DownloadForbidden):
        UrlPolicy().judge(url)


@pytest.mark.parametrize(
    "url",
    [
        "http://example.com/x.pdf",
        "https://example.com/x.pdf",
        "https://example.com:8443/x.pdf",
        "https://8.8.8.8/x.pdf",
        "https://[2606:4700::1111]/x.pdf",
    ],
)
def test_public_hosts_are_asked_without_being_trusted(url: str) -> None:
    assert not judged_http(UrlPolicy(), url).trusted


def test_path_and_query_stay_byte_for_byte_because_a_signature_covers_them() -> None:
    url = "https://example.com/a%28b%29/../c%2Fd+e?X-Amz-Signature=a%2Bb%7e&x=1+2"
    assert str(judged_http(UrlPolicy(), url).url) == url


def test_what_no_url_may_hold_is_escaped() -> None:
    url = judged_http(UrlPolicy(), " https://bücher.example/a b/目录.pdf?q=ü ").url
    assert str(url) == ("https://xn--bcher-kva.example/a%20b/%E7%9B%AE%E5%BD%95.pdf?q=%C3%BC")


@pytest.mark.parametrize(
    ("entry", "url", "trusted"),
    [
        ("files.internal", "http://files.internal/x", True),
        ("files.internal", "https://FILES.internal:8443/x", True),
        ("Files.Internal:8443", "https://files.internal:8443/x", True),
        ("files.internal:8443", "https://files.internal/x", False),
        ("files.internal:80", "http://files.internal/x", True),
        ("files.internal", "http://files.internal.example.com/x", False),
        ("internal", "http://files.internal/x", False),
        ("127.0.0.1:9000", "http://127.0.0.1:9000/x", True),
        ("::1", "http://[::1]:9000/x", True),
        ("[::1]:9000", "http://[0:0:0:0:0:0:0:1]:9000/x", True),
    ],
)
def test_an_allowed_host_is_trusted_at_its_port(entry: str, url: str, trusted: bool) -> None:
    assert judged_http(UrlPolicy(allowed_hosts=[entry]), url).trusted is trusted


@pytest.mark.parametrize("entry", ["http://host", "host/path", "user@host", "host:x", ""])
def test_an_allowed_host_that_cannot_be_read_stops_the_start(entry: str) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - each in the words of what is wrong
        UrlPolicy(allowed_hosts=[entry])


def bucket_policy() -> UrlPolicy:
    return UrlPolicy(
        bucket_endpoint="http://10.0.0.5:9000", bucket_name="docs", allowed_buckets=["scans"]
    )


@pytest.mark.parametrize(
    "url",
    [
        "http://10.0.0.5:9000/docs/x.pdf?X-Amz-Signature=1",
        "http://10.0.0.5:9000/scans/x.pdf",
    ],
)
def test_the_bucket_is_trusted_at_its_own_host_and_port(url: str) -> None:
    assert judged_http(bucket_policy(), url).trusted


@pytest.mark.parametrize(
    "url",
    [
        "http://10.0.0.5/docs/x.pdf",
        "http://10.0.0.5:9001/docs/x.pdf",
        "http://10.0.0.6:9000/docs/x.pdf",
        "http://10.0.0.5:9000/other/x.pdf",
        "http://10.0.0.5:9000/docs/../other/x.pdf",
        "http://10.0.0.5:9000/docs/%2e%2e/other/x.pdf",
        "http://10.0.0.5:9000/docs%2f..%2fother/x.pdf",
        "http://10.0.0.5:9000/minio/admin",
    ],
)
def test_nothing_else_at_the_bucket_s_host_is(url: str) -> None:
    with pytest.raises(DownloadForbidden):
        bucket_policy().judge(url)


def test_a_bucket_in_the_host_name_is_trusted() -> None:
    policy = UrlPolicy(bucket_endpoint="https://s3.internal", bucket_name="docs")
    assert judged_http(policy, "https://docs.s3.internal/x.pdf").trusted
    assert not judged_http(policy, "https://other.s3.internal/x.pdf").trusted


def test_an_endpoint_without_a_named_bucket_is_trusted_as_a_whole() -> None:
    policy = UrlPolicy(bucket_endpoint="10.0.0.5:9000")
    assert judged_http(policy, "http://10.0.0.5:9000/any/x.pdf").trusted


@pytest.mark.parametrize(
    ("endpoint", "url"),
    [
        ("", ""),
        ("localhost:9000", "http://localhost:9000"),
        ("s3.example.com", "https://s3.example.com"),
        ("s3.example.com:443", "https://s3.example.com:443"),
        ("https://s3.example.com", "https://s3.example.com"),
    ],
)
def test_an_endpoint_may_lack_its_scheme(endpoint: str, url: str) -> None:
    assert endpoint_url(endpoint) == url


def test_a_redirect_does_not_inherit_the_bucket_s_leave() -> None:
    policy = bucket_policy()
    origin = judged_http(policy, "http://10.0.0.5:9000/docs/x.pdf")
    for location in ("http://10.0.0.5:9001/", "/docs/y.pdf", "http://10.0.0.5:9000/docs/y.pdf"):
        with pytest.raises(DownloadForbidden):
            policy.judge_redirect(origin, location)


@pytest.mark.parametrize(
    "location",
    [
        "http://169.254.169.254/",
        "//127.0.0.1/",
        "file:///etc/passwd",
        "s3://docs/x.pdf",
        "https://user@example.org/",
        "https://example.org:25/",
        "http://[::1",
        "http://example.org/",  # unencrypted, from https
    ],
)
def test_a_redirect_is_judged_like_a_url_of_its_own(location: str) -> None:
    policy = UrlPolicy(allow_file_urls=True, bucket_name="docs")
    origin = judged_http(policy, "https://example.com/a/b?c")
    with pytest.raises(DownloadForbidden):
        policy.judge_redirect(origin, location)


@pytest.mark.parametrize(
    ("location", "url"),
    [
        ("https://example.org/x", "https://example.org/x"),
        ("../x?y=%2B", "https://example.com/x?y=%2B"),
        ("//example.org/x", "https://example.org/x"),
        ("http://files.internal/x", "http://files.internal/x"),
    ],
)
def test_a_redirect_may_lead_where_a_url_may(location: str, url: str) -> None:
    policy = UrlPolicy(allowed_hosts=["files.internal"])
    origin = judged_http(policy, "https://example.com/a/b?c")
    assert str(policy.judge_redirect(origin, location).url) == url


@pytest.mark.parametrize(
    ("url", "key"),
    [
        ("s3://docs/a/b.pdf", "a/b.pdf"),
        ("S3://docs/a b#1?2%20.pdf", "a b#1?2%20.pdf"),
    ],
)
def test_an_object_of_the_bucket_keeps_its_key_as_it_stands(url: str, key: str) -> None:
    assert bucket_policy().judge(url) == S3Object(bucket="docs", key=key)


@pytest.mark.parametrize("url", ["s3://other/x", "s3://docs", "s3://docs/", "s3:///x", "s3://"])
def test_other_buckets_and_half_s3_urls_are_refused(url: str) -> None:
    with pytest.raises(DownloadForbidden):
        bucket_policy().judge(url)


def test_a_local_file_where_it_is_allowed() -> None:
    policy = UrlPolicy(allow_file_urls=True)
    assert policy.judge("file:///a%20b/c.pdf") == LocalFile(Path("/a b/c.pdf"))
    assert policy.judge("file://localhost/c.pdf") == LocalFile(Path("/c.pdf"))


@pytest.mark.parametrize("url", ["file://host/c.pdf", "file://", "file:///a%00b"])
def test_a_file_url_must_name_a_path_on_this_machine(url: str) -> None:
    with pytest.raises(DownloadForbidden):
        UrlPolicy(allow_file_urls=True).judge(url)


@pytest.mark.parametrize(
    ("query", "signed"),
    [
        ("X-Amz-Signature=1", True),
        ("x-goog-signature=1", True),
        ("AWSAccessKeyId=1&Signature=1", True),
        ("sv=1&sig=1", True),
        ("page=1", False),
        ("", False),
    ],
)
def test_a_signed_url_is_known_by_its_query(query: str, signed: bool) -> None:
    assert judged_http(UrlPolicy(), f"https://example.com/x?{query}").signed is signed


@pytest.mark.parametrize(
    "url",
    [
        f"http://10.0.0.1/{CANARY}?sig={CANARY}",
        f"http://example.com:22/{CANARY}?sig={CANARY}",
        f"http://u:{CANARY}@example.com/?sig={CANARY}",
        f"http://example.com:x/?sig={CANARY}",
        f"ftp://example.com/?sig={CANARY}",
        f"http://example.com/\n?sig={CANARY}",
    ],
)
def test_a_refusal_shows_nothing_of_the_url_but_its_host(url: str) -> None:
    with pytest.raises(DownloadForbidden) as refusal:
        UrlPolicy().judge(url)
    assert CANARY not in str(refusal.value)
    assert refusal.value.__cause__ is None
    assert refusal.value.__suppress_context__ or refusal.value.__context__ is None


def test_a_target_shows_nothing_of_the_url_but_its_host() -> None:
    target = judged_http(UrlPolicy(), f"https://example.com:8443/x?sig={CANARY}")
    assert CANARY not in repr(target)
    assert target.host == "example.com:8443"


@pytest.mark.parametrize("url", ["s3://AKIA:canary@bucket/key", "s3://bucket?sig=canary/key"])
def test_what_stands_in_place_of_a_bucket_is_not_repeated(url: str) -> None:
    with pytest.raises(DownloadForbidden) as caught:
        UrlPolicy(bucket_name="mine").judge(url)
    assert "canary" not in caught.value.message
