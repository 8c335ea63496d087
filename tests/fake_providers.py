"""A server on this machine that speaks the wire formats of OpenAI and Gemini.

    async with FakeProviders(api_key="secret") as fake:
        fake.script(Reply(429, {"Retry-After": "1"}))       # the next answer; then good ones
        ... OpenAIProvider(base_url=fake.openai_url, ...), GeminiProvider(base_url=fake.gemini_url)
        assert fake.requests[0].texts == ["..."]

Vectors come from the text alone (`vector_of`), so a test sees which text each belongs to.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import struct
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self

import orjson
from aiohttp import web

OPENAI_DIMENSION = 1536
GEMINI_DIMENSION = 3072
GEMINI_MAX_TEXTS = 100
OPENAI_MAX_TEXTS = 2048

HTML = "<html><head><title>502 Bad Gateway</title></head><body>nginx</body></html>"

Vectors = list[list[float]]
Alter = Callable[[Vectors], Vectors]


def vector_of(text: str, dimension: int) -> list[float]:
    """Return the vector that this server has for a text: numbers that float32 can hold."""
    seed = hashlib.sha256(text.encode()).digest()
    return [(seed[at % 32] - 127.5) / 128 + (at // 32) / 1024 for at in range(dimension)]


@dataclass(frozen=True)
class Reply:
    """A scripted answer. `body`: JSON if it is a mapping, else sent as it is."""

    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    body: Mapping[str, Any] | str = ""


@dataclass(frozen=True)
class Cut:
    """The connection is cut instead of an answer."""


@dataclass(frozen=True)
class Altered:
    """A good answer, but for what `alter` does to the vectors."""

    alter: Alter


Scripted = Reply | Cut | Altered


@dataclass(frozen=True)
class Recorded:
    """A request, as it came."""

    path: str
    headers: Mapping[str, str]
    json: dict[str, Any]
    texts: list[str]


@dataclass(frozen=True)
class _Call:
    """What one request asks for, and how its dialect wraps vectors."""

    texts: list[str]
    refusal: Reply | None
    vectors: Vectors
    wrap: Callable[[Vectors], dict[str, Any]]


class FakeProviders:
    """Both providers on one port.

    Duties: check the key; answer as scripted, then with vectors; record requests. While
    `gate` is cleared, requests are recorded and wait for it.
    """

    def __init__(self, *, api_key: str) -> None:
        self.api_key = api_key
        self.requests: list[Recorded] = []
        self.in_flight = 0
        self.most_in_flight = 0
        self.gate = asyncio.Event()
        self.gate.set()
        self._script: deque[Scripted] = deque()
        self._came = asyncio.Condition()
        app = web.Application(client_max_size=64 * 1024 * 1024)
        app.router.add_post("/v1/embeddings", self._openai)
        app.router.add_post("/{version}/models/{call}", self._gemini)
        self._runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=0.1)
        self._port = 0

    def script(self, *answers: Scripted) -> None:
        """Queue answers for the next requests; after them come good ones."""
        self._script.extend(answers)

    async def came(self, count: int) -> None:
        """Wait until this many requests have come."""
        async with self._came:
            await self._came.wait_for(lambda: len(self.requests) >= count)

    async def idle(self) -> None:
        """Wait until no request is being answered."""
        async with self._came:
            await self._came.wait_for(lambda: not self.in_flight)

    @property
    def openai_url(self) -> str:
        return f"http://127.0.0.1:{self._port}/v1"

    @property
    def gemini_url(self) -> str:
        return f"http://127.0.0.1:{self._port}"

    async def __aenter__(self) -> Self:
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        self._port = self._runner.addresses[0][1]
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.gate.set()
        await self._runner.cleanup()

    async def _openai(self, request: web.Request) -> web.StreamResponse:
        body = orjson.loads(await request.read())
        key = request.headers.get("Authorization", "").removeprefix("Bearer ")
        refusal = None if key == self.api_key else openai_wrong_key(key)
        return await self._answer(request, body, _openai_call(body, refusal))

    async def _gemini(self, request: web.Request) -> web.StreamResponse:
        body = orjson.loads(await request.read())
        key = request.headers.get("x-goog-api-key")
        refusal = None if key == self.api_key else GEMINI_WRONG_KEY
        return await self._answer(request, body, _gemini_call(body, refusal))

    async def _answer(
        self, request: web.Request, body: dict[str, Any], call: _Call
    ) -> web.StreamResponse:
        self.in_flight += 1
        self.most_in_flight = max(self.most_in_flight, self.in_flight)
        self.requests.append(Recorded(request.path, dict(request.headers), body, call.texts))
        scripted = self._script.popleft() if self._script else Reply()
        try:
            await self._tell()
            await self.gate.wait()
            return _respond(request, scripted, call)
        finally:
            self.in_flight -= 1
            await self._tell()

    async def _tell(self) -> None:
        async with self._came:
            self._came.notify_all()


def _respond(request: web.Request, scripted: Scripted, call: _Call) -> web.StreamResponse:
    if isinstance(scripted, Cut):
        assert request.transport
        request.transport.abort()
        return web.Response()
    if isinstance(scripted, Reply) and (scripted.status, scripted.body) != (200, ""):
        return _to_response(scripted)
    if call.refusal:
        return _to_response(call.refusal)
    alter = scripted.alter if isinstance(scripted, Altered) else list
    return _to_response(Reply(body=call.wrap(alter(call.vectors))))


def _to_response(reply: Reply) -> web.Response:
    if isinstance(reply.body, str):
        is_html = reply.body.startswith("<")
        kind = "text/html" if is_html else "text/plain"
        return web.Response(
            status=reply.status, headers=reply.headers, text=reply.body, content_type=kind
        )
    # The standard library's JSON knows NaN, as careless servers do.
    return web.json_response(reply.body, status=reply.status, headers=reply.headers)


# ---------------------------------------------------------------------- OpenAI


def openai_error(
    status: int, message: str, *, kind: str = "invalid_request_error", code: str | None = None
) -> Reply:
    """Return an error as OpenAI's API sends it."""
    error = {"message": message, "type": kind, "param": None, "code": code}
    return Reply(status, {"x-request-id": "req_fake"}, {"error": error})


def openai_wrong_key(key: str) -> Reply:
    """Return OpenAI's answer to a wrong key: it repeats both ends of it."""
    masked = key[:8] + "*" * max(0, len(key) - 12) + key[-4:]
    return openai_error(
        401,
        f"Incorrect API key provided: {masked}. You can find your API key at "
        "https://platform.openai.com/account/api-keys.",
        code="invalid_api_key",
    )


OPENAI_RATE_LIMITED = openai_error(
    429,
    "Rate limit reached for text-embedding-3-small in organization org-fake on tokens per min "
    "(TPM): Limit 1000000, Used 999000, Requested 4000. Please try again in 180ms.",
    kind="tokens",
    code="rate_limit_exceeded",
)
OPENAI_NO_QUOTA = openai_error(
    429,
    "You exceeded your current quota, please check your plan and billing details. For more "
    "information on this error, read the docs: "
    "https://platform.openai.com/docs/guides/error-codes/api-errors.",
    kind="insufficient_quota",
    code="insufficient_quota",
)


def _openai_call(body: dict[str, Any], refusal: Reply | None) -> _Call:
    texts = [body["input"]] if isinstance(body["input"], str) else body["input"]
    if len(texts) > OPENAI_MAX_TEXTS:
        refusal = openai_error(400, "Invalid 'input': maximum array length is 2048.")
    if not all(texts):
        refusal = openai_error(400, "Invalid 'input': input cannot be an empty string.")
    encode = _base64 if body.get("encoding_format") == "base64" else list
    return _Call(
        texts=texts,
        refusal=refusal,
        vectors=[vector_of(text, body.get("dimensions", OPENAI_DIMENSION)) for text in texts],
        wrap=lambda vectors: {
            "object": "list",
            "data": [
                {"object": "embedding", "index": index, "embedding": encode(vector)}
                for index, vector in enumerate(vectors)
            ],
            "model": body["model"],
            "usage": {"prompt_tokens": len(texts), "total_tokens": len(texts)},
        },
    )


def _base64(vector: Sequence[float]) -> str:
    return base64.b64encode(struct.pack(f"<{len(vector)}f", *vector)).decode()


# ---------------------------------------------------------------------- Gemini


def gemini_error(status: int, name: str, message: str, *details: Mapping[str, Any]) -> Reply:
    """Return an error as Google's APIs send it."""
    error = {"code": status, "message": message, "status": name, "details": list(details)}
    return Reply(status, {}, {"error": error})


GEMINI_WRONG_KEY = gemini_error(
    400,
    "INVALID_ARGUMENT",
    "API key not valid. Please pass a valid API key.",
    {
        "@type": "type.googleapis.com/google.rpc.ErrorInfo",
        "reason": "API_KEY_INVALID",
        "domain": "googleapis.com",
        "metadata": {"service": "generativelanguage.googleapis.com"},
    },
)


def gemini_rate_limited(quota_id: str, retry_delay: str) -> Reply:
    """Return Gemini's 429, which names the quota and the delay in its details."""
    return gemini_error(
        429,
        "RESOURCE_EXHAUSTED",
        "You exceeded your current quota, please check your plan and billing details.",
        {
            "@type": "type.googleapis.com/google.rpc.QuotaFailure",
            "violations": [
                {
                    "quotaMetric": "generativelanguage.googleapis.com/embed_content_requests",
                    "quotaId": quota_id,
                }
            ],
        },
        {"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": retry_delay},
    )


def _gemini_call(body: dict[str, Any], refusal: Reply | None) -> _Call:
    calls = body.get("requests", [body])
    if len(calls) > GEMINI_MAX_TEXTS:
        message = "* BatchEmbedContentsRequest.requests: at most 100 requests can be in one batch"
        refusal = gemini_error(400, "INVALID_ARGUMENT", message)
    # However many parts a content has, it has one vector.
    texts = ["".join(part["text"] for part in call["content"]["parts"]) for call in calls]
    sizes = [call.get("outputDimensionality", GEMINI_DIMENSION) for call in calls]
    return _Call(
        texts=texts,
        refusal=refusal,
        vectors=[vector_of(text, size) for text, size in zip(texts, sizes, strict=True)],
        wrap=lambda vectors: (
            {"embeddings": [{"values": vector} for vector in vectors]}
            if "requests" in body
            else {"embedding": {"values": vectors[0]}}
        ),
    )
