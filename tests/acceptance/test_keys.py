"""A task and its key, whichever comes first; and what happens when the key never comes."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from pdf_processor.errors import KeyNotDelivered
from tests.acceptance.system import API_KEY, System, running_system
from tests.fake_providers import OPENAI_DIMENSION, Reply, openai_error

pytestmark = pytest.mark.asyncio(loop_scope="session")

OTHER_KEY = "sk-another-key-that-nobody-accepts"


async def test_a_key_may_come_before_its_task(system: System) -> None:
    await system.client.give_key("early", provider="openai")

    await system.push(task_id="early", provider="")

    await system.reached("early", "SUCCEEDED")
    assert "WAITING_FOR_KEY" not in system.states("early")


async def test_a_task_waits_for_its_key(system: System) -> None:
    await system.push(task_id="late", provider="")
    await system.reached("late", "WAITING_FOR_KEY")

    await system.client.give_key("late", provider="openai")

    await system.reached("late", "SUCCEEDED")
    assert system.states("late")[:2] == ["WAITING_FOR_KEY", "DOWNLOADING"]


async def test_of_two_keys_the_newest_wins(system: System) -> None:
    await system.client.give_key("renewed", OTHER_KEY)
    await system.client.give_key("renewed", API_KEY)

    await system.push(task_id="renewed", provider="openai")

    await system.reached("renewed", "SUCCEEDED")


async def test_a_key_for_another_provider_than_the_task_names_is_refused(system: System) -> None:
    await system.client.give_key("crossed", provider="gemini")

    await system.push(task_id="crossed", provider="openai")

    event = await system.reached("crossed", "DEAD")
    assert event["error_code"] == "EMBEDDING_AUTH"
    assert "gemini" in event["error_message"]


async def test_a_key_given_for_one_attempt_is_there_for_the_next(system: System) -> None:
    refused = openai_error(500, "the server had an error", kind="server_error")
    system.providers.script(*[Reply(503, {"Retry-After": "60"}, refused.body)])
    await system.client.give_key("kept")

    await system.push(task_id="kept", provider="openai")

    await system.reached("kept", "RETRYING")
    await system.redis.zadd("{queue:upload_tasks}:delayed", {await _delayed(system, "kept"): 0})
    event = await system.reached("kept", "SUCCEEDED")
    assert event["attempt"] == 2


async def _delayed(system: System, task_id: str) -> str:
    members = await system.redis.zrange("{queue:upload_tasks}:delayed", 0, -1)
    return next(member for member in members if member.startswith(f"{task_id}\n"))


async def test_a_dead_task_takes_its_key_along(system: System) -> None:
    await system.client.give_key("forgotten", OTHER_KEY)
    await system.push(task_id="forgotten", provider="openai")
    await system.reached("forgotten", "DEAD")

    await system.push(task_id="forgotten", provider="openai")

    await system.reached("forgotten", "WAITING_FOR_KEY")
    await system.client.give_key("forgotten")
    await system.reached("forgotten", "SUCCEEDED")


@pytest.mark.parametrize(
    ("task_id", "api_key", "provider", "said"),
    [
        ("", API_KEY, "openai", "task_id"),
        ("bad", "", "openai", "api_key"),
        ("bad", " \n", "openai", "api_key"),
        ("bad", API_KEY, "nobody", "provider"),
        ("bad", API_KEY, "", "provider"),
        ("bad\n", API_KEY, "openai", "task_id"),
        ("bad", "sk-ключ", "openai", "api_key"),
    ],
)
async def test_what_is_wrong_with_a_key_is_said_without_repeating_it(
    system: System, task_id: str, api_key: str, provider: str, said: str
) -> None:
    answer = await system.client.give_key(task_id, api_key, provider)

    assert not answer.success
    assert said in answer.message
    assert not api_key.strip() or api_key not in answer.message


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def impatient(documents: Path) -> AsyncIterator[System]:
    """A system whose tasks wait for their keys but for a moment."""
    async with running_system(
        documents, API_KEY_TIMEOUT_SECONDS="0.2", MAX_ATTEMPTS="2"
    ) as running:
        yield running


async def test_without_a_key_a_task_is_retried_and_then_delivered(impatient: System) -> None:
    await impatient.push(task_id="patient", provider="")
    event = await impatient.reached("patient", "RETRYING")

    await impatient.client.give_key("patient")

    assert (event["error_code"], event["attempt"]) == ("API_KEY_TIMEOUT", 1)
    assert event["error_message"] == str(KeyNotDelivered())
    event = await impatient.reached("patient", "SUCCEEDED")
    assert (event["attempt"], event["error_code"]) == (2, "")
    (stream,) = impatient.go.of("patient")
    assert stream.metadata.attempt == 2
    assert {len(chunk.embeddings) for chunk in stream.chunks} == {OPENAI_DIMENSION}


async def test_a_task_whose_key_never_comes_dies_after_its_attempts(impatient: System) -> None:
    await impatient.push(task_id="orphan", provider="gemini")

    event = await impatient.reached("orphan", "DEAD")

    assert (event["error_code"], event["attempt"]) == ("API_KEY_TIMEOUT", 2)
    letter = await impatient.dead("orphan")
    assert (letter["error_code"], letter["attempts"]) == ("API_KEY_TIMEOUT", 2)
    assert "ProvideAPIKey" in letter["error_message"]
