"""OpenAI and Gemini through their SDKs: vectors, wrong keys, and the service's own key."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from tests.acceptance.system import API_KEY, System, running_system
from tests.fake_providers import GEMINI_DIMENSION, OPENAI_DIMENSION, vector_of

pytestmark = pytest.mark.asyncio(loop_scope="session")

WRONG_KEY = "sk-wrong-and-therefore-refused-0123456789"


@pytest.mark.parametrize(
    ("provider", "dimension"), [("openai", OPENAI_DIMENSION), ("gemini", GEMINI_DIMENSION)]
)
async def test_each_chunk_has_the_vector_of_its_own_text(
    system: System, provider: str, dimension: int
) -> None:
    doc_id = f"vectors-of-{provider}"
    await system.client.give_key(doc_id, provider=provider)
    await system.push(task_id=doc_id, provider="")

    stream = await system.go.ended(doc_id)

    assert stream.metadata.embedding_provider == provider
    for chunk in stream.chunks:
        expected = vector_of(chunk.content, dimension)
        scale = math.hypot(*chunk.embeddings) / math.hypot(*expected)  # some come at unit length
        assert list(chunk.embeddings) == pytest.approx([scale * number for number in expected])


@pytest.mark.parametrize("provider", ["openai", "gemini"])
async def test_a_wrong_key_is_dead_at_once(system: System, provider: str) -> None:
    task_id = f"wrong-key-of-{provider}"
    await system.client.give_key(task_id, WRONG_KEY, provider)
    await system.push(task_id=task_id, provider="")

    event = await system.reached(task_id, "DEAD")

    assert (event["error_code"], event["attempt"]) == ("EMBEDDING_AUTH", 1)
    assert provider in event["error_message"]
    assert (await system.dead(task_id))["error_code"] == "EMBEDDING_AUTH"
    assert not system.go.of(task_id)


async def test_a_configured_key_needs_no_hand_off(documents: Path) -> None:
    settings = {"EMBEDDING_PROVIDER": "openai", "OPENAI_API_KEY": API_KEY}
    async with running_system(documents, **settings) as system:
        await system.push(task_id="own-key", provider="")

        stream = await system.go.ended("own-key")

        assert {len(chunk.embeddings) for chunk in stream.chunks} == {OPENAI_DIMENSION}


async def test_the_services_own_wrong_key_pauses_intake_and_costs_no_task(documents: Path) -> None:
    settings = {"EMBEDDING_PROVIDER": "openai", "OPENAI_API_KEY": WRONG_KEY}
    async with running_system(documents, **settings) as system:
        task_id = await system.push(provider="")

        said = await system.daemon.event("intake paused", level="error")
        event = await system.reached(task_id, "QUEUED")

        assert WRONG_KEY not in said["error"]
        assert event["attempt"] == 0
        held = [json.loads(payload) for payload in await system.taken()]
        assert {task["task_id"] for task in [*await system.waiting(), *held]} == {task_id}
        assert not await system.dead(task_id)
        assert not system.go.streams
