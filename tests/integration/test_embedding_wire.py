"""OpenAI and Gemini, through their real SDKs, against a server that speaks their formats."""

from __future__ import annotations

import asyncio
import logging
import math
import traceback
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from pydantic import SecretStr

from pdf_processor.embedding.embedder import Embedder
from pdf_processor.embedding.providers import Providers, built_in
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
    GEMINI_DIMENSION,
    HTML,
    OPENAI_DIMENSION,
    OPENAI_NO_QUOTA,
    OPENAI_RATE_LIMITED,
    Altered,
    Cut,
    FakeProviders,
    Reply,
    Scripted,
    gemini_error,
    gemini_rate_limited,
    openai_error,
    vector_of,
)

# google-genai's own source has one; Python says so whenever it compiles the file anew.
pytestmark = pytest.mark.filterwarnings("ignore:invalid escape sequence")

KEY = "sk-canary-4f9a8b7c6d5e-tail"
WRONG_KEY = "sk-wrong-0a1b2c3d4e5f-tale"
TEXTS = ["first text", "second text", "第三"]

Open = Callable[..., Embedder]


@pytest.fixture
async def fake() -> AsyncIterator[FakeProviders]:
    async with FakeProviders(api_key=KEY) as server:
        yield server


@pytest.fixture
async def pauses() -> list[float]:
    return []


@pytest.fixture
async def open_embedder(fake: FakeProviders, pauses: list[float]) -> AsyncIterator[Open]:
    """Open an embedder on the fake: `open_embedder(name, key=..., dimension=...)`."""

    async def sleep(seconds: float) -> None:
        pauses.append(seconds)

    opened: list[Providers] = []

    def open_(name: str, *, key: str = KEY, dimension: int = 0, model: str = "") -> Embedder:
        factories = built_in(
            openai_base_url=fake.openai_url,
            openai_model="text-embedding-3-small",
            gemini_base_url=fake.gemini_url,
            gemini_model="gemini-embedding-001",
            local_model="none",
            dimension=dimension,
        )
        opened.append(Providers(factories, sleep=sleep))
        return opened[-1].open(name, api_key=SecretStr(key), model=model)

    yield open_
    for providers in opened:
        await providers.__aexit__(None, None, None)


def unit(vector: list[float]) -> list[float]:
    length = math.hypot(*vector)
    return [value / length for value in vector]


async def test_openai_returns_the_vector_of_each_text(
    fake: FakeProviders, open_embedder: Open
) -> None:
    vectors = await open_embedder("openai").embed(TEXTS)
    assert vectors == [tuple(vector_of(text, OPENAI_DIMENSION)) for text in TEXTS]
    [request] = fake.requests
    assert request.path == "/v1/embeddings"
    assert request.headers["Authorization"] == f"Bearer {KEY}"
    assert request.texts == TEXTS
    assert request.json["model"] == "text-embedding-3-small"
    assert request.json["encoding_format"] == "base64"
    assert "dimensions" not in request.json


async def test_gemini_returns_the_vector_of_each_text_scaled_to_length_one(
    fake: FakeProviders, open_embedder: Open
) -> None:
    vectors = await open_embedder("gemini").embed(TEXTS)
    for vector, text in zip(vectors, TEXTS, strict=True):
        assert vector == pytest.approx(unit(vector_of(text, GEMINI_DIMENSION)))
    [request] = fake.requests
    assert request.path.endswith("/models/gemini-embedding-001:batchEmbedContents")
    assert request.headers["x-goog-api-key"] == KEY
    assert request.texts == TEXTS


async def test_gemini_embedding_2_gets_each_text_as_a_content_of_its_own(
    fake: FakeProviders, open_embedder: Open
) -> None:
    vectors = await open_embedder("gemini", model="gemini-embedding-2").embed(TEXTS)
    assert len(vectors) == len(TEXTS)
    assert fake.requests[0].texts == TEXTS
    assert "gemini-embedding-2:" in fake.requests[0].path


@pytest.mark.parametrize("name", ["openai", "gemini"])
async def test_the_configured_dimension_is_asked_for(name: str, open_embedder: Open) -> None:
    vectors = await open_embedder(name, dimension=256).embed(TEXTS)
    assert [len(vector) for vector in vectors] == [256, 256, 256]


async def test_embedders_of_several_keys_use_their_own(
    fake: FakeProviders, open_embedder: Open
) -> None:
    for name in ("openai", "gemini"):
        with pytest.raises(EmbeddingAuth):
            await open_embedder(name, key=WRONG_KEY).embed(["a"])
        await open_embedder(name).embed(["a"])
    keys = [
        request.headers.get("x-goog-api-key") or request.headers["Authorization"].split()[-1]
        for request in fake.requests
    ]
    assert keys == [WRONG_KEY, KEY, WRONG_KEY, KEY]


OPENAI_SHORT = Altered(lambda vectors: vectors[:-1])
NAN = Altered(lambda vectors: [*vectors[:-1], [math.nan] * len(vectors[-1])])
SHORTER = Altered(lambda vectors: [*vectors[:-1], vectors[-1][:-1]])
NO_VECTORS: Any = Altered(lambda _: [])
MINUTE = "EmbedContentRequestsPerMinutePerProjectPerModel"
DAY = "EmbedContentRequestsPerDayPerProjectPerModel-FreeTier"

Row = tuple[str, list[Scripted], type[ProcessorError] | None, int]

BEHAVIOUR: list[Row] = [
    # provider, answers in turn, what comes of it (None: vectors), calls made
    ("openai", [OPENAI_RATE_LIMITED], None, 2),
    ("openai", [OPENAI_RATE_LIMITED] * 4, EmbeddingRateLimited, 4),
    ("openai", [OPENAI_NO_QUOTA], EmbeddingQuota, 1),
    ("openai", [openai_error(500, "The server had an error")], None, 2),
    ("openai", [openai_error(503, "Slow down")] * 4, EmbeddingUnavailable, 4),
    ("openai", [Cut()], None, 2),
    ("openai", [Cut()] * 4, EmbeddingUnavailable, 4),
    ("openai", [Reply(502, body=HTML)], None, 2),
    ("openai", [Reply(200, body=HTML)] * 4, EmbeddingUnavailable, 4),
    ("openai", [Reply(307, {"Location": "/v1/embeddings"})] * 4, EmbeddingUnavailable, 4),
    ("openai", [openai_error(404, "The model `x` does not exist")], EmbeddingRejected, 1),
    ("openai", [openai_error(400, "Invalid 'input'")], EmbeddingRejected, 1),
    ("openai", [OPENAI_SHORT], EmbeddingInvalid, 1),
    ("openai", [NAN], EmbeddingInvalid, 1),
    ("openai", [SHORTER], EmbeddingInvalid, 1),
    ("openai", [NO_VECTORS] * 4, EmbeddingUnavailable, 4),
    ("gemini", [gemini_rate_limited(MINUTE, "2s")], None, 2),
    ("gemini", [gemini_rate_limited(MINUTE, "47s")], EmbeddingRateLimited, 1),
    ("gemini", [gemini_rate_limited(DAY, "2s")], EmbeddingQuota, 1),
    ("gemini", [gemini_error(503, "UNAVAILABLE", "The model is overloaded.")], None, 2),
    ("gemini", [Cut()], None, 2),
    ("gemini", [Reply(200, body=HTML)] * 4, EmbeddingUnavailable, 4),
    ("gemini", [Reply(502, body=HTML)] * 4, EmbeddingUnavailable, 4),
    ("gemini", [Reply(307, {"Location": "/x"})] * 4, EmbeddingUnavailable, 4),
    ("gemini", [gemini_error(404, "NOT_FOUND", "models/x is not found")], EmbeddingRejected, 1),
    ("gemini", [OPENAI_SHORT], EmbeddingInvalid, 1),
    ("gemini", [NAN], EmbeddingInvalid, 1),
    ("gemini", [SHORTER], EmbeddingInvalid, 1),
    ("gemini", [NO_VECTORS], EmbeddingInvalid, 1),
]


@pytest.mark.parametrize("row", BEHAVIOUR, ids=map(str, range(len(BEHAVIOUR))))
async def test_what_comes_of_each_failure(
    row: Row, fake: FakeProviders, open_embedder: Open
) -> None:
    name, script, expected, calls = row
    fake.script(*script)
    embedder = open_embedder(name)
    if expected is None:
        assert len(await embedder.embed(TEXTS)) == len(TEXTS)
    else:
        with pytest.raises(ProcessorError) as caught:
            await embedder.embed(TEXTS)
        assert type(caught.value) is expected
    assert len(fake.requests) == calls


async def test_a_server_that_is_not_there_is_unavailable(
    fake: FakeProviders, open_embedder: Open
) -> None:
    embedders = [open_embedder("openai"), open_embedder("gemini")]
    await fake.__aexit__(None, None, None)
    for embedder in embedders:
        with pytest.raises(EmbeddingUnavailable):
            await embedder.embed(["a"])


async def test_retry_after_is_kept(
    fake: FakeProviders, open_embedder: Open, pauses: list[float]
) -> None:
    fake.script(Reply(429, {"Retry-After": "7"}, OPENAI_RATE_LIMITED.body))
    await open_embedder("openai").embed(["a"])
    fake.script(gemini_rate_limited(MINUTE, "9s"))
    await open_embedder("gemini").embed(["a"])
    first, second = pauses
    assert 7 <= first < 8
    assert 9 <= second < 10


async def test_a_rejection_passes_on_the_providers_words(
    fake: FakeProviders, open_embedder: Open
) -> None:
    fake.script(openai_error(404, "The model `x` does not exist"))
    with pytest.raises(EmbeddingRejected, match="HTTP 404: The model `x` does not exist"):
        await open_embedder("openai").embed(["a"])


@pytest.mark.parametrize("name", ["openai", "gemini"])
async def test_a_cancelled_call_is_cancelled_at_the_provider(
    name: str, fake: FakeProviders, open_embedder: Open
) -> None:
    fake.gate.clear()
    task = asyncio.create_task(open_embedder(name).embed(["a"]))
    await fake.came(1)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await fake.idle()


@pytest.mark.parametrize("name", ["openai", "gemini"])
async def test_a_thread_that_gives_up_cancels_the_call(
    name: str, fake: FakeProviders, open_embedder: Open
) -> None:
    fake.gate.clear()
    future = asyncio.run_coroutine_threadsafe(
        open_embedder(name).embed(["a"]), asyncio.get_running_loop()
    )
    await fake.came(1)
    future.cancel()
    await fake.idle()


@pytest.mark.parametrize("name", ["openai", "gemini"])
@pytest.mark.parametrize("key", [KEY, WRONG_KEY])
async def test_the_key_is_in_no_log_at_debug_and_in_no_traceback(
    name: str,
    key: str,
    fake: FakeProviders,
    open_embedder: Open,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.DEBUG)
    fake.script(OPENAI_RATE_LIMITED, openai_error(500, f"oops {key}"), Cut())
    embedder = open_embedder(name, key=key)
    [outcome] = await asyncio.gather(embedder.embed(TEXTS), return_exceptions=True)
    assert len(fake.requests) == 4
    assert caplog.text
    written = [caplog.text, repr(embedder), repr(vars(embedder))]
    if key == WRONG_KEY:
        assert isinstance(outcome, EmbeddingAuth)
        assert outcome.__context__ is None
        written += traceback.format_exception(outcome)
    assert not any(part in text for part in (key, key[:12], key[-6:]) for text in written)
