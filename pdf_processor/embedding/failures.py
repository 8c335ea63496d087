"""What a provider's failure means: any SDK's exception as one of our errors.

The SDKs differ in their exceptions, but all carry the HTTP answer. So it is the answer
that is judged, by status and by the reasons in its JSON body:

- OpenAI and those who speak its API: `{"error": {"message", "type", "code"}}`, where a 401
  repeats parts of the key in the message, and a 429 with `insufficient_quota` is no rate.
- Google: `{"error": {"code", "message", "status", "details"}}`, where a wrong key is a 400
  with the reason `API_KEY_INVALID`, the wish to wait is a detail called RetryInfo, and a
  429 whose quota counts per day does not pass in minutes.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from typing import Any

from pydantic import SecretStr

from pdf_processor.errors import (
    EmbeddingAuth,
    EmbeddingQuota,
    EmbeddingRateLimited,
    EmbeddingRejected,
    EmbeddingUnavailable,
    ProcessorError,
)

_KEY_REASONS = {"invalid_api_key", "API_KEY_INVALID", "API_KEY_EXPIRED", "API_KEY_SERVICE_BLOCKED"}
_QUOTA_REASONS = {"insufficient_quota", "billing_not_active", "billing_hard_limit_reached"}
_REFUSED = {HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN}
_TEMPORARY = {HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.CONFLICT, HTTPStatus.TOO_EARLY}
_MAX_WORDS = 300
_KEY_PIECE = 4
"""Characters of a key in a row that make a provider's sentence unfit to be passed on."""


@dataclass(frozen=True)
class _Answer:
    """An HTTP answer: `error` is the error object of its JSON body, {} without one."""

    status: int
    headers: Mapping[str, str] = field(default_factory=dict)
    error: Mapping[str, Any] = field(default_factory=dict)


def judge(error: Exception, *, provider: str, api_key: SecretStr | None) -> ProcessorError:
    """Return the error that stands for `error`, without a trace of key or body in it.

    Raise it outside of the `except` block, so that it does not drag the original along.
    """
    if isinstance(error, ProcessorError):
        return error
    answer = _answer_of(error)
    if answer is None:
        kind = type(error).__name__
        return EmbeddingUnavailable(f"{provider} gave no usable answer ({kind})")
    return _judge_answer(answer, provider, api_key)


def _judge_answer(answer: _Answer, provider: str, api_key: SecretStr | None) -> ProcessorError:
    said = f"{provider} answered HTTP {answer.status}"
    reasons = set(_reasons(answer.error))
    wait = _retry_after_seconds(answer)
    if reasons & _QUOTA_REASONS or _counts_per_day(answer.error):
        return EmbeddingQuota(
            f"The quota of the {provider} API key is used up: check plan and billing there"
        )
    if "html" in answer.headers.get("content-type", ""):
        return EmbeddingUnavailable(
            f"{said} with an HTML page: something in between answered, or the base URL is wrong",
            retry_after_seconds=wait,
        )
    if reasons & _KEY_REASONS or answer.status in _REFUSED:
        return EmbeddingAuth(f"{provider} refused the API key (HTTP {answer.status})")
    if answer.status == HTTPStatus.TOO_MANY_REQUESTS:
        return EmbeddingRateLimited(
            f"{provider} limits the rate of this API key", retry_after_seconds=wait
        )
    if 400 <= answer.status < 500 and answer.status not in _TEMPORARY:  # noqa: PLR2004 -- 4xx
        return EmbeddingRejected(said + _words(answer.error, api_key))
    return EmbeddingUnavailable(said, retry_after_seconds=wait)


def _answer_of(error: Exception) -> _Answer | None:
    response = getattr(error, "response", None)
    places = (
        getattr(error, "status_code", None),
        getattr(response, "status_code", None),
        getattr(error, "code", None),
    )
    status = next((place for place in places if isinstance(place, int)), None)
    if status is None:
        return None
    headers = getattr(response, "headers", None) or getattr(error, "headers", None) or {}
    lower = {str(name).lower(): str(value) for name, value in headers.items()}
    return _Answer(status, lower, _error_object(getattr(response, "text", "")))


def _error_object(body: Any) -> Mapping[str, Any]:
    try:
        parsed = json.loads(body)
    except (TypeError, ValueError):
        return {}
    if isinstance(parsed, list) and parsed:
        parsed = parsed[0]
    error = parsed.get("error", parsed) if isinstance(parsed, dict) else {}
    return error if isinstance(error, dict) else {"message": error}


def _details(error: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    details = error.get("details")
    if isinstance(details, list):
        yield from (detail for detail in details if isinstance(detail, dict))


def _reasons(error: Mapping[str, Any]) -> Iterator[str]:
    for found in (error, *_details(error)):
        yield from (str(found[name]) for name in ("code", "type", "reason") if name in found)


def _counts_per_day(error: Mapping[str, Any]) -> bool:
    violations = (detail.get("violations") for detail in _details(error))
    return any("PerDay" in str(violation) for violation in violations)


def _retry_after_seconds(answer: _Answer) -> float | None:
    milliseconds = _number(answer.headers.get("retry-after-ms"))
    if milliseconds is not None:
        return milliseconds / 1000
    header = answer.headers.get("retry-after")
    if header is not None:
        seconds = _number(header)
        return _until(header) if seconds is None else seconds
    delays = (detail.get("retryDelay") for detail in _details(answer.error))
    return next((_number(delay.rstrip("s")) for delay in delays if isinstance(delay, str)), None)


def _number(text: str | None) -> float | None:
    try:
        return max(0.0, float(text)) if text else None
    except ValueError:
        return None


def _until(date: str) -> float | None:
    try:
        return max(0.0, parsedate_to_datetime(date).timestamp() - time.time())
    except ValueError:
        return None


def _words(error: Mapping[str, Any], api_key: SecretStr | None) -> str:
    """Return the provider's own words, or nothing where they may repeat the key."""
    message = error.get("message")
    if not isinstance(message, str) or not message.strip():
        return ""
    key = api_key.get_secret_value() if api_key else ""
    pieces = (key[at : at + _KEY_PIECE] for at in range(len(key) - _KEY_PIECE + 1))
    if any(piece in message for piece in pieces):
        return ""
    return f": {' '.join(message.split())[:_MAX_WORDS]}"
