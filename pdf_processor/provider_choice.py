"""Which provider embeds a task, and with whose key.

The task's own `provider` decides; else the one handed over with the key; else
`EMBEDDING_PROVIDER`. A key that was handed over goes before the service's own.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass

from pydantic import SecretStr

from pdf_processor.embedding.providers import Providers
from pdf_processor.errors import EmbeddingAuth, InvalidTask, KeyNotDelivered
from pdf_processor.keys.inbox import KeyInbox
from pdf_processor.task import Task

HANDOFF = "handoff"

Waiting = Callable[[], AbstractAsyncContextManager[None]]
"""Entered while a task waits for its key."""


@dataclass(frozen=True)
class Choice:
    """A provider, its key (None where it needs none), and whether the key is the service's."""

    provider: str
    api_key: SecretStr | None = None
    service_key: bool = False


class ProviderChoice:
    """Chooses the provider of a task.

    Duties: look for a key that was handed over; fall back to the configured provider;
    else wait for the hand-off. Leaves the embedding to the embedder.
    """

    def __init__(
        self,
        *,
        inbox: KeyInbox,
        providers: Providers,
        default_provider: str,
        service_keys: Mapping[str, SecretStr],
        key_timeout_seconds: float,
    ) -> None:
        self._inbox = inbox
        self._providers = providers
        self._default = default_provider
        self._service_keys = service_keys
        self._key_timeout_seconds = key_timeout_seconds

    async def choose(self, task: Task, waiting: Waiting) -> Choice:
        """Return the provider for this task, waiting for its key where one is due.

        Raises:
            InvalidTask: the task names a provider that does not exist.
            EmbeddingAuth: the key was handed over for another provider.
            KeyNotDelivered: no key came in time.
            KeyUnreadable: a key is there, sealed with an unknown secret.
        """
        self._check_known(task.provider)
        if task.provider and not self._providers.needs_key(task.provider):
            return Choice(task.provider)
        return (
            await self._handed_over(task)
            or self._configured(task)
            or await self._hand_off(task, waiting)
        )

    def _check_known(self, provider: str) -> None:
        if provider and provider not in self._providers.names():
            known = ", ".join(sorted(self._providers.names()))
            raise InvalidTask(f"The task's provider is unknown; known are {known}")

    async def _handed_over(self, task: Task) -> Choice | None:
        try:
            return await self._receive(task, timeout_seconds=0)
        except KeyNotDelivered:
            return None

    def _configured(self, task: Task) -> Choice | None:
        if self._default == HANDOFF or task.provider not in ("", self._default):
            return None
        key = self._service_keys.get(self._default)
        return Choice(self._default, key, service_key=key is not None)

    async def _hand_off(self, task: Task, waiting: Waiting) -> Choice:
        async with waiting():
            return await self._receive(task, timeout_seconds=self._key_timeout_seconds)

    async def _receive(self, task: Task, *, timeout_seconds: float) -> Choice:
        key = await self._inbox.receive(task.task_id, timeout_seconds=timeout_seconds)
        if task.provider and key.provider != task.provider:
            raise EmbeddingAuth(
                f"The task asks for {task.provider}, the key was handed over for {key.provider}"
            )
        if not self._providers.needs_key(key.provider):
            return Choice(key.provider)
        return Choice(key.provider, key.secret)
