"""A whole system for tests: Redis, Go's side, files, providers, and the daemon itself."""

from __future__ import annotations

import asyncio
import json
import shutil
import uuid
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Self

import grpc
from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

from pdf_processor.embedded.valkey import EmbeddedValkey
from protos import cognicore_pb2 as pb
from protos import cognicore_pb2_grpc
from tests.acceptance.commands import PATIENCE_SECONDS
from tests.acceptance.daemon import Daemon, running_daemon
from tests.acceptance.go_side import GoSide
from tests.fake_providers import FakeProviders
from tests.http_server import FileServer

QUEUE = "queue:upload_tasks"
API_KEY = "sk-the-key-that-the-providers-accept"


def key(*parts: str) -> str:
    """The name of one of the queue's keys in Redis, as the contract has it."""
    return ":".join((f"{{{QUEUE}}}", *parts))


def server() -> EmbeddedValkey:
    """A Redis of one's own: the PATH's, else the embedded one."""
    installed = shutil.which("redis-server") or shutil.which("valkey-server")
    return EmbeddedValkey(binary=Path(installed) if installed else None)


class Around:
    """Everything around the daemon, while it is entered; `settings` point a daemon at it.

    `events` are all that came on the status channel.
    """

    def __init__(self, documents: Path, redis_url: str = "") -> None:
        self.documents = documents
        self.redis_url = redis_url
        self.events: list[dict[str, Any]] = []
        self._changed = asyncio.Condition()

    async def __aenter__(self) -> Self:
        async with AsyncExitStack() as stack:
            enter = stack.enter_async_context
            self.redis_url = self.redis_url or stack.enter_context(server()).url
            retry = Retry(NoBackoff(), 2)  # its connections may be from before an outage
            self.redis = await enter(
                Redis.from_url(self.redis_url, decode_responses=True, retry=retry)
            )
            self.go = await enter(GoSide())
            self.files = await enter(FileServer())
            for path in self.documents.iterdir():
                self.files.files[f"/{path.name}"] = path.read_bytes()
            self.providers = await enter(FakeProviders(api_key=API_KEY))
            self.temp_dir = Path(stack.enter_context(TemporaryDirectory()))
            await enter(self._listening())
            self._stack = stack.pop_all()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._stack.aclose()

    @property
    def settings(self) -> dict[str, str]:
        return {
            "REDIS_URL": self.redis_url,
            "GO_GRPC_INGEST_ADDR": self.go.address,
            "ALLOWED_DOWNLOAD_HOSTS": self.files.authority,
            "OPENAI_BASE_URL": self.providers.openai_url,
            "GEMINI_BASE_URL": self.providers.gemini_url,
            "TEMP_DIR": str(self.temp_dir),
        }

    # ------------------------------------------------------------------ what Go does

    async def push(self, document: str = "report.pdf", **fields: Any) -> str:
        """Push a task for a document, without vectors unless `fields` say else; its id."""
        task_id = fields.pop("task_id", str(uuid.uuid4()))
        task = {"task_id": task_id, "URL": self.files.url(f"/{document}"), "provider": "none"}
        await self.push_payload(json.dumps(task | fields))
        return task_id

    async def push_payload(self, payload: str | bytes) -> None:
        await self.redis.rpush(QUEUE, payload)

    # ------------------------------------------------------------------- what it sees

    async def reached(self, task_id: str, state: str, *, times: int = 1) -> dict[str, Any]:
        """Wait until the events said so often that the task is in this state; the event."""
        try:
            async with asyncio.timeout(PATIENCE_SECONDS), self._changed:
                while len(found := self._said(task_id, state)) < times:
                    await self._changed.wait()
                return found[times - 1]
        except TimeoutError:
            seen = "\n".join(map(str, self.of(task_id)))
            raise AssertionError(f"{task_id} is not {state}, it was:\n{seen}") from None

    def of(self, task_id: str) -> list[dict[str, Any]]:
        """All events of a task."""
        return [event for event in self.events if event["task_id"] == task_id]

    def states(self, task_id: str) -> list[str]:
        """The states that a task went through, without repetitions."""
        said = [event["state"] for event in self.of(task_id)]
        return [state for at, state in enumerate(said) if at == 0 or said[at - 1] != state]

    def _said(self, task_id: str, state: str) -> list[dict[str, Any]]:
        """The first event of each stay in a state."""
        events = self.of(task_id)
        return [
            event
            for at, event in enumerate(events)
            if event["state"] == state and (at == 0 or events[at - 1]["state"] != state)
        ]

    async def status(self, task_id: str) -> dict[str, str]:
        return await self.redis.hgetall(key("status", task_id))

    async def dead(self, task_id: str) -> dict[str, Any]:
        """The dead letter of a task; {} where there is none."""
        letters = map(json.loads, await self.redis.lrange(key("dead"), 0, -1))
        return next((one for one in letters if one["task"]["task_id"] == task_id), {})

    async def taken(self) -> list[str]:
        """Everything in any worker's hands."""
        lists = [name async for name in self.redis.scan_iter(match=key("proc", "*"))]
        return [payload for name in lists for payload in await self.redis.lrange(name, 0, -1)]

    async def waiting(self) -> list[dict[str, Any]]:
        return [json.loads(payload) for payload in await self.redis.lrange(QUEUE, 0, -1)]

    @asynccontextmanager
    async def _listening(self) -> AsyncIterator[None]:
        async with self.redis.pubsub(ignore_subscribe_messages=True) as pubsub:
            await pubsub.subscribe(key("events"))
            listening = asyncio.create_task(self._listen(pubsub))
            yield
            listening.cancel()
            await asyncio.gather(listening, return_exceptions=True)

    async def _listen(self, pubsub: Any) -> None:
        with suppress(RedisError):  # the server is gone, as some tests want it
            async for message in pubsub.listen():
                async with self._changed:
                    self.events.append(json.loads(message["data"]))
                    self._changed.notify_all()


class Client:
    """Go's calls to one daemon, while it is entered."""

    def __init__(self, daemon: Daemon, *, token: str = "") -> None:
        self._daemon = daemon
        self.token = token

    async def __aenter__(self) -> Self:
        ports = await self._daemon.listening()
        async with AsyncExitStack() as stack:
            if "keys" in ports:
                channel = await stack.enter_async_context(_channel(ports["keys"]))
                self._keys = cognicore_pb2_grpc.APIKeyServiceStub(channel)
                self._tasks = cognicore_pb2_grpc.TaskServiceStub(channel)
            self._stack = stack.pop_all()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._stack.aclose()

    @property
    def _metadata(self) -> tuple[tuple[str, str], ...]:
        return (("authorization", f"Bearer {self.token}"),) if self.token else ()

    async def give_key(
        self, task_id: str, api_key: str = API_KEY, provider: str = "openai"
    ) -> pb.APIKeyResponse:
        request = pb.APIKeyRequest(task_id=task_id, api_key=api_key, provider=provider)
        return await self._keys.ProvideAPIKey(request, metadata=self._metadata)

    async def cancel(self, task_id: str) -> pb.TaskStatus:
        return await self._tasks.CancelTask(self._of(task_id), metadata=self._metadata)

    async def retry(self, task_id: str) -> pb.TaskStatus:
        return await self._tasks.RetryTask(self._of(task_id), metadata=self._metadata)

    async def watch(self, task_id: str) -> list[str]:
        """Every state that WatchTask showed, until it ended."""
        call = self._tasks.WatchTask(self._of(task_id), metadata=self._metadata)
        return [pb.TaskStatus.State.Name(status.state) async for status in call]

    def _of(self, task_id: str) -> pb.TaskRequest:
        return pb.TaskRequest(task_id=task_id)


def _channel(port: int) -> grpc.aio.Channel:
    return grpc.aio.insecure_channel(f"127.0.0.1:{port}")


class System(Around):
    """Everything, and one daemon in its midst."""

    daemon: Daemon
    client: Client

    def another_daemon(self, **settings: str) -> AbstractAsyncContextManager[Daemon]:
        """Have a second daemon beside, or after, the first."""
        return running_daemon(**self.settings | settings)


@asynccontextmanager
async def running_system(
    documents: Path, *, redis_url: str = "", token: str = "", **settings: str
) -> AsyncIterator[System]:
    """Have a whole system of one's own; `settings` are the daemon's, `token` its callers'."""
    async with (
        System(documents, redis_url) as system,
        running_daemon(**system.settings | settings) as system.daemon,
        Client(system.daemon, token=token) as system.client,
    ):
        yield system
