from __future__ import annotations

from contextlib import asynccontextmanager

import pytest
from pydantic import SecretStr

from pdf_processor.embedding.providers import Providers, built_in
from pdf_processor.errors import EmbeddingAuth, InvalidTask, KeyNotDelivered
from pdf_processor.keys.inbox import ApiKey, KeyInbox
from pdf_processor.provider_choice import Choice, ProviderChoice
from pdf_processor.task import Task

TENANT, OWN = SecretStr("tenant-key"), SecretStr("own-key")


def task(provider: str = "") -> Task:
    return Task(task_id="t", url="http://x/", provider=provider)


class Bench:
    """A choice over a real inbox; `waited` tells whether the task had to wait."""

    def __init__(self, default: str) -> None:
        self.waited = False
        self.inbox = KeyInbox(ttl_seconds=60)
        providers = Providers(
            built_in(
                openai_base_url="",
                openai_model="m",
                gemini_base_url="",
                gemini_model="m",
                local_model="/nowhere",
            )
        )
        self._choice = ProviderChoice(
            inbox=self.inbox,
            providers=providers,
            default_provider=default,
            service_keys={"openai": OWN, "gemini": SecretStr("")},
            key_timeout_seconds=0.01,
        )

    async def choose(self, provider: str = "") -> Choice:
        return await self._choice.choose(task(provider), self._waiting)

    @asynccontextmanager
    async def _waiting(self):
        self.waited = True
        yield


async def test_a_task_that_names_a_provider_without_keys_waits_for_none():
    bench = Bench("handoff")
    assert await bench.choose("local") == Choice("local")
    assert await bench.choose("none") == Choice("none")
    assert not bench.waited


async def test_with_a_configured_key_a_task_waits_for_none():
    bench = Bench("openai")
    assert await bench.choose() == Choice("openai", OWN, service_key=True)
    assert await bench.choose("openai") == Choice("openai", OWN, service_key=True)
    assert not bench.waited


async def test_a_configured_provider_without_keys_is_no_key_of_the_service():
    assert await Bench("local").choose() == Choice("local")


async def test_a_key_that_was_handed_over_goes_before_the_service_s_own():
    bench = Bench("openai")
    bench.inbox.deliver("t", ApiKey("gemini", TENANT))
    assert await bench.choose() == Choice("gemini", TENANT)


async def test_a_key_for_a_provider_without_keys_names_the_provider():
    bench = Bench("handoff")
    bench.inbox.deliver("t", ApiKey("local", TENANT))
    assert await bench.choose() == Choice("local")


async def test_the_service_s_key_is_not_lent_to_another_provider():
    bench = Bench("openai")
    with pytest.raises(KeyNotDelivered):
        await bench.choose("gemini")
    assert bench.waited


async def test_without_any_key_the_task_waits_and_then_fails():
    bench = Bench("handoff")
    with pytest.raises(KeyNotDelivered):
        await bench.choose()
    assert bench.waited


async def test_a_key_for_another_provider_than_the_task_s_is_refused():
    bench = Bench("handoff")
    bench.inbox.deliver("t", ApiKey("gemini", TENANT))
    with pytest.raises(EmbeddingAuth, match="asks for openai"):
        await bench.choose("openai")


async def test_an_unknown_provider_is_refused_with_the_known_ones():
    with pytest.raises(InvalidTask, match="gemini"):
        await Bench("handoff").choose("cohere")
