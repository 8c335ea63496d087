"""What each failure of a provider means."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from types import SimpleNamespace

import pytest
from pydantic import SecretStr

from pdf_processor.embedding.failures import judge
from pdf_processor.errors import (
    EmbeddingAuth,
    EmbeddingInvalid,
    EmbeddingQuota,
    EmbeddingRateLimited,
    EmbeddingRejected,
    EmbeddingUnavailable,
    ProcessorError,
)
from tests.fake_providers import (
    GEMINI_WRONG_KEY,
    HTML,
    OPENAI_NO_QUOTA,
    OPENAI_RATE_LIMITED,
    Reply,
    gemini_error,
    gemini_rate_limited,
    openai_error,
    openai_wrong_key,
)

KEY = SecretStr("sk-canary-1234567890-tail")


class SdkError(Exception):
    """An SDK's exception for an HTTP answer."""

    def __init__(self, reply: Reply) -> None:
        super().__init__("the whole body, key and all")
        body = reply.body if isinstance(reply.body, str) else json.dumps(reply.body)
        kind = "text/html" if body.startswith("<") else "application/json"
        self.response = SimpleNamespace(
            status_code=reply.status,
            headers={"Content-Type": kind, **reply.headers},
            text=body,
        )


def judged(reply: Reply) -> ProcessorError:
    return judge(SdkError(reply), provider="openai", api_key=KEY)


@pytest.mark.parametrize(
    ("reply", "expected"),
    [
        (openai_wrong_key(KEY.get_secret_value()), EmbeddingAuth),
        (openai_error(403, "You are not allowed to sample from this model"), EmbeddingAuth),
        (GEMINI_WRONG_KEY, EmbeddingAuth),
        (OPENAI_RATE_LIMITED, EmbeddingRateLimited),
        (OPENAI_NO_QUOTA, EmbeddingQuota),
        (
            gemini_rate_limited("EmbedContentRequestsPerMinutePerProject", "3s"),
            EmbeddingRateLimited,
        ),
        (gemini_rate_limited("EmbedContentRequestsPerDayPerProject", "3s"), EmbeddingQuota),
        (openai_error(400, "Invalid 'input'"), EmbeddingRejected),
        (openai_error(404, "The model `x` does not exist"), EmbeddingRejected),
        (gemini_error(400, "INVALID_ARGUMENT", "too many"), EmbeddingRejected),
        (openai_error(408, "timeout"), EmbeddingUnavailable),
        (openai_error(500, "The server had an error"), EmbeddingUnavailable),
        (gemini_error(503, "UNAVAILABLE", "overloaded"), EmbeddingUnavailable),
        (Reply(301, {"Location": "https://elsewhere.example"}), EmbeddingUnavailable),
        (Reply(502, body=HTML), EmbeddingUnavailable),
        (Reply(403, body=HTML), EmbeddingUnavailable),
        (Reply(401, body={"error": "Unauthorized"}), EmbeddingAuth),
        (Reply(400, body={"error": "just words"}), EmbeddingRejected),
        (Reply(422, body="plain words"), EmbeddingRejected),
    ],
)
def test_an_answer_is_judged_by_status_and_reasons(
    reply: Reply, expected: type[ProcessorError]
) -> None:
    assert type(judged(reply)) is expected


def test_an_exception_without_an_answer_is_a_provider_that_cannot_be_reached() -> None:
    error = judge(TimeoutError(KEY.get_secret_value()), provider="openai", api_key=KEY)
    assert type(error) is EmbeddingUnavailable
    assert error.message == "openai gave no usable answer (TimeoutError)"


def test_an_exception_that_only_has_a_status_is_judged_by_it() -> None:
    class Bare(Exception):
        status_code = 429
        headers = {"retry-after": "7"}  # noqa: RUF012

    error = judge(Bare(), provider="cohere", api_key=KEY)
    assert type(error) is EmbeddingRateLimited
    assert error.retry_after_seconds == 7


def test_our_own_errors_stay_as_they_are() -> None:
    error = EmbeddingInvalid("two vectors for three texts")
    assert judge(error, provider="openai", api_key=KEY) is error


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({"Retry-After": "12"}, 12),
        ({"retry-after": "0.5"}, 0.5),
        ({"retry-after-ms": "1500", "Retry-After": "2"}, 1.5),
        ({"Retry-After": "-3"}, 0),
        ({"Retry-After": "soon"}, None),
        ({}, None),
    ],
)
def test_a_wish_to_wait_is_read_from_the_headers(
    headers: dict[str, str], seconds: float | None
) -> None:
    assert judged(Reply(429, headers)).retry_after_seconds == seconds
    assert judged(Reply(503, headers)).retry_after_seconds == seconds


def test_a_wish_to_wait_may_be_a_date() -> None:
    date = format_datetime(datetime.now(UTC) + timedelta(seconds=3600), usegmt=True)
    seconds = judged(Reply(429, {"Retry-After": date})).retry_after_seconds
    assert seconds is not None
    assert 3000 < seconds <= 3600


def test_gemini_wishes_to_wait_in_the_details_of_the_body() -> None:
    error = judged(gemini_rate_limited("EmbedContentRequestsPerMinute", "39.5s"))
    assert error.retry_after_seconds == 39.5


def test_a_rejection_passes_on_the_providers_words_on_one_line() -> None:
    error = judged(openai_error(400, "Invalid 'input':\n  too long " + "x" * 500))
    assert error.message.startswith("openai answered HTTP 400: Invalid 'input': too long xxx")
    assert len(error.message) < 350


@pytest.mark.parametrize("status", [400, 401, 404, 429, 500])
@pytest.mark.parametrize("part", [slice(None), slice(0, 6), slice(-4, None), slice(8, 14)])
def test_no_part_of_the_key_is_passed_on(status: int, part: slice) -> None:
    key = KEY.get_secret_value()
    error = judged(openai_error(status, f"No such thing for {key[part]}!"))
    assert key[part] not in str(error)
    assert "No such thing" not in str(error)
