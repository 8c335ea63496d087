from __future__ import annotations

import asyncio
import threading
from contextlib import AsyncExitStack, asynccontextmanager

import grpc
import pytest
import structlog
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from pydantic import SecretStr

from pdf_processor.embedding.embedder import BatchLimits
from pdf_processor.errors import EmbeddingAuth, EmbeddingRejected, EmbeddingUnavailable
from pdf_processor.keys.inbox import ApiKey, KeyInbox, KeyNotKept
from pdf_processor.queue.connection import QueueUnavailable
from pdf_processor.rpc import server
from pdf_processor.rpc.api_key import ApiKeyServicer
from pdf_processor.rpc.bridge import WATCH_AHEAD, Bridge, LongCalls
from pdf_processor.rpc.embedding import EmbeddingServicer
from pdf_processor.rpc.server import SERVER_OPTIONS, CannotListen, RpcServer, Tls
from pdf_processor.rpc.task import TaskServicer
from pdf_processor.rpc.vectorizer import VectorizerServicer
from pdf_processor.task_state import State, TaskStatus
from protos import cognicore_pb2 as pb
from protos import cognicore_pb2_grpc
from tests.certificates import Authority

CANARY = "sk-canary-4711"
TOKEN = "token-canary-4711"
PING_INTERVAL = "grpc.http2.min_ping_interval_without_data_ms"
Code = grpc.StatusCode


# ------------------------------------------------------------------------------ fakes


class Embedder:
    """Vectors that say which text they are of; `hold` keeps every call waiting."""

    provider = "fake"
    limits = BatchLimits(max_texts=10, max_tokens=1000, max_tokens_per_text=100)

    def __init__(self, model: str = "small", error: Exception | None = None) -> None:
        self.model = model
        self.error = error
        self.calls = 0
        self.began = asyncio.Event()
        self.cancelled = asyncio.Event()
        self.go_on = asyncio.Event()
        self.go_on.set()
        self.entered = 0

    async def __aenter__(self):
        self.entered += 1
        return self

    async def __aexit__(self, *_):
        self.entered -= 1

    def count_tokens(self, text):
        return len(text)

    async def embed(self, texts):
        self.calls += 1
        self.began.set()
        try:
            await self.go_on.wait()
        except asyncio.CancelledError:
            self.cancelled.set()
            raise
        if self.error:
            raise self.error
        return [(float(len(text)), 0.5) for text in texts]


class Embedders:
    """Providers `fake`, which needs a key, and `free`."""

    def __init__(self) -> None:
        self.embedder = Embedder()
        self.opened: list[tuple[str, str | None, str]] = []

    def open(self, name, *, api_key, model=""):
        if name not in {"fake", "free"}:
            raise EmbeddingRejected("No provider of that name; known are fake, free")
        if name == "fake" and api_key is None:
            raise EmbeddingAuth("The provider fake needs an API key")
        self.opened.append((name, api_key.get_secret_value() if api_key else None, model))
        if model:
            self.embedder.model = model
        return self.embedder


class Statuses:
    """Statuses by task id, and changes to come."""

    def __init__(self) -> None:
        self.by_id: dict[str, TaskStatus] = {}
        self.changes: asyncio.Queue[TaskStatus] = asyncio.Queue()
        self.watchers = 0
        self.nobody_watches = asyncio.Event()

    async def read(self, task_id):
        return self.by_id.get(task_id, TaskStatus(task_id))

    async def watch(self, task_id):
        self.watchers += 1
        try:
            yield await self.read(task_id)
            while True:
                status = await self.changes.get()
                yield status
                if status.state.is_final:
                    return
        finally:
            self.watchers -= 1
            if not self.watchers:
                self.nobody_watches.set()


class Tasks:
    """What `RetryTask` and `CancelTask` ask for."""

    def __init__(self) -> None:
        self.dead = {"dead"}
        self.cancelled: list[str] = []

    async def retry_dead(self, task_id):
        return task_id in self.dead

    async def cancel(self, task_id):
        self.cancelled.append(task_id)


class System:
    """One server with every service, over fakes, and stubs that call it from the loop."""

    def __init__(self) -> None:
        self.embedders = Embedders()
        self.statuses = Statuses()
        self.tasks = Tasks()
        self.local: Embedder | None = Embedder("local-model")
        self.inbox: KeyInbox

    @asynccontextmanager
    async def serving(self, **options):
        bridge = Bridge(asyncio.get_running_loop())
        long_calls = LongCalls(limit=6)
        with KeyInbox(ttl_seconds=60) as self.inbox:
            services = {
                "APIKeyService": ApiKeyServicer(self.inbox, providers={"openai", "gemini"}),
                "EmbeddingService": EmbeddingServicer(self.embedders, bridge),
                "VectorizerService": VectorizerServicer(self.local, bridge, long_calls),
                "TaskService": TaskServicer(
                    self.statuses,
                    bridge,
                    long_calls,
                    retry_dead=self.tasks.retry_dead,
                    cancel=self.tasks.cancel,
                ),
            }
            options = {"threads": 10, "port": 0, "port_setting": "GRPC_SERVER_PORT"} | options
            async with RpcServer(services, **options) as self.server:
                channel = grpc.aio.insecure_channel(f"127.0.0.1:{self.server.port}")
                async with channel:
                    self.connect(channel)
                    yield self

    def connect(self, channel: grpc.aio.Channel) -> None:
        self.keys = cognicore_pb2_grpc.APIKeyServiceStub(channel)
        self.embedding = cognicore_pb2_grpc.EmbeddingServiceStub(channel)
        self.vectors = cognicore_pb2_grpc.VectorizerServiceStub(channel)
        self.task = cognicore_pb2_grpc.TaskServiceStub(channel)
        self.health = health_pb2_grpc.HealthStub(channel)
        self.reflection = reflection_pb2_grpc.ServerReflectionStub(channel)


@pytest.fixture
async def system():
    async with System().serving() as system:
        yield system


async def refusal(call) -> grpc.aio.AioRpcError:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return caught.value


def key_request(**changes) -> pb.APIKeyRequest:
    return pb.APIKeyRequest(**({"task_id": "t", "api_key": CANARY, "provider": "openai"} | changes))


# -------------------------------------------------------------------------- ProvideAPIKey


async def test_a_key_provided_is_received_by_its_task(system):
    response = await system.keys.ProvideAPIKey(key_request())
    assert response.success
    key = await system.inbox.receive("t", timeout_seconds=0)
    assert key == ApiKey("openai", SecretStr(CANARY))


async def test_a_key_provided_wakes_the_task_that_waits(system):
    receiving = asyncio.create_task(system.inbox.receive("t", timeout_seconds=1000))
    await system.keys.ProvideAPIKey(key_request(provider="gemini"))
    assert (await receiving).provider == "gemini"


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"task_id": ""}, "task_id is missing"),
        ({"task_id": "x" * 201}, "1 to 200 printable"),
        ({"task_id": "a\nb"}, "1 to 200 printable"),
        ({"api_key": ""}, "api_key is empty"),
        ({"api_key": " \n"}, "api_key is empty"),
        ({"api_key": CANARY + "\nx"}, "printable ASCII"),
        ({"api_key": CANARY + "é"}, "printable ASCII"),
        ({"api_key": CANARY * 1000}, "at most 8192"),
        ({"provider": ""}, "provider is missing; known are gemini, openai"),
        ({"provider": "cohere"}, "provider is unknown; known are gemini, openai"),
    ],
)
async def test_bad_input_is_said_in_words_and_never_the_key(system, changes, words):
    response = await system.keys.ProvideAPIKey(key_request(**changes))
    assert not response.success
    assert words in response.message
    assert CANARY not in response.message


async def test_blanks_around_a_key_are_no_part_of_it(system):
    await system.keys.ProvideAPIKey(key_request(api_key=f" {CANARY}\n"))
    key = await system.inbox.receive("t", timeout_seconds=0)
    assert key.secret.get_secret_value() == CANARY


async def test_a_key_that_cannot_be_kept_is_unavailable(system):
    system.inbox.close()
    error = await refusal(system.keys.ProvideAPIKey(key_request()))
    assert error.code() is Code.UNAVAILABLE
    assert "provide it again" in error.details()


async def test_an_unexpected_failure_is_internal_and_its_text_is_nowhere(system, monkeypatch):
    def fail(*_):
        raise ZeroDivisionError(CANARY)

    monkeypatch.setattr(system.inbox, "deliver", fail)
    with structlog.testing.capture_logs() as logs:
        error = await refusal(system.keys.ProvideAPIKey(key_request()))
    assert error.code() is Code.INTERNAL
    assert [log["error"] for log in logs] == ["ZeroDivisionError"]
    assert CANARY not in error.details() + repr(logs)


async def test_no_key_is_logged(system, caplog):
    caplog.set_level("DEBUG")
    with structlog.testing.capture_logs() as logs:
        await system.keys.ProvideAPIKey(key_request())
        await system.keys.ProvideAPIKey(key_request(provider="nobody"))
        await system.embedding.GetEmbedding(
            pb.EmbeddingRequest(text="hello", api_key=CANARY, provider="nobody")
        )
    assert CANARY not in repr(logs) + caplog.text


# --------------------------------------------------------------------------- GetEmbedding


def embedding_request(**changes) -> pb.EmbeddingRequest:
    fields = {"task_id": "t", "text": "hello", "api_key": CANARY, "provider": "fake"}
    return pb.EmbeddingRequest(**(fields | changes))


async def test_a_text_is_embedded_with_the_callers_key(system):
    response = await system.embedding.GetEmbedding(embedding_request())
    assert response == pb.EmbeddingResponse(
        success=True, embeddings=[5.0, 0.5], dimension=2, model="small"
    )
    assert system.embedders.opened == [("fake", CANARY, "")]
    assert system.embedders.embedder.entered == 0  # it was closed again


async def test_the_caller_may_name_the_model(system):
    response = await system.embedding.GetEmbedding(embedding_request(model="large"))
    assert response.model == "large"


async def test_a_provider_without_keys_needs_none(system):
    response = await system.embedding.GetEmbedding(embedding_request(provider="free", api_key=""))
    assert response.success


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"text": ""}, "text is missing"),
        ({"text": " \n"}, "text is missing"),
        ({"api_key": ""}, "needs an API key"),
        ({"api_key": CANARY + "é"}, "printable ASCII"),
        ({"provider": "nobody"}, "known are fake, free"),
        ({"provider": ""}, "known are fake, free"),
    ],
)
async def test_what_is_wrong_with_an_embedding_request_is_said_in_words(system, changes, words):
    response = await system.embedding.GetEmbedding(embedding_request(**changes))
    assert not response.success
    assert words in response.message
    assert CANARY not in response.message
    assert system.embedders.embedder.calls == 0


async def test_a_providers_error_is_said_in_words(system):
    system.embedders.embedder.error = EmbeddingAuth("The provider refused the API key")
    response = await system.embedding.GetEmbedding(embedding_request())
    assert response == pb.EmbeddingResponse(
        success=False, message="The provider refused the API key"
    )


async def test_an_unexpected_error_of_an_embedder_is_internal(system):
    system.embedders.embedder.error = ZeroDivisionError(CANARY)
    error = await refusal(system.embedding.GetEmbedding(embedding_request()))
    assert error.code() is Code.INTERNAL
    assert CANARY not in error.details()


async def test_several_texts_are_embedded_in_their_order(system):
    response = await system.embedding.GetEmbeddings(
        pb.BatchEmbeddingRequest(texts=["a", "bcd"], api_key=CANARY, provider="fake")
    )
    assert [list(vector.values) for vector in response.vectors] == [[1.0, 0.5], [3.0, 0.5]]
    assert (response.success, response.dimension, response.model) == (True, 2, "small")


@pytest.mark.parametrize("texts", [[], ["a", ""]])
async def test_a_batch_with_a_text_missing_is_refused_in_words(system, texts):
    response = await system.embedding.GetEmbeddings(
        pb.BatchEmbeddingRequest(texts=texts, api_key=CANARY, provider="fake")
    )
    assert not response.success
    assert "text is missing" in response.message


async def test_embedding_is_cancelled_with_its_rpc(system):
    system.embedders.embedder.go_on.clear()
    call = system.embedding.GetEmbedding(embedding_request())
    await system.embedders.embedder.began.wait()
    call.cancel()
    await system.embedders.embedder.cancelled.wait()


async def test_embedding_is_cancelled_at_the_rpcs_deadline(system):
    system.embedders.embedder.go_on.clear()
    error = await refusal(system.embedding.GetEmbedding(embedding_request(), timeout=0.2))
    assert error.code() is Code.DEADLINE_EXCEEDED
    await system.embedders.embedder.cancelled.wait()


async def test_calls_wait_for_a_thread_and_the_257th_is_refused():
    system = System()
    system.embedders.embedder.go_on.clear()
    async with system.serving(threads=2):
        calls = [system.embedding.GetEmbedding(embedding_request()) for _ in range(2 + 256 + 40)]
        done, _ = await asyncio.wait(
            [asyncio.ensure_future(refused(call)) for call in calls],
            return_when=asyncio.FIRST_COMPLETED,
        )
        system.embedders.embedder.go_on.set()
        codes = [await call.code() for call in calls]
    assert all(task.result() is Code.RESOURCE_EXHAUSTED for task in done)
    assert codes.count(Code.OK) >= 2 + 256
    assert codes.count(Code.RESOURCE_EXHAUSTED) == len(codes) - codes.count(Code.OK) > 0


async def refused(call):
    return await call.code()


# ------------------------------------------------------------------------------ GetVector


async def test_the_local_model_embeds_without_a_key(system):
    response = await system.vectors.GetVector(pb.TextRequest(text="abc"))
    assert list(response.vector) == [3.0, 0.5]


async def test_a_vector_of_nothing_is_an_invalid_argument(system):
    error = await refusal(system.vectors.GetVector(pb.TextRequest(text="")))
    assert error.code() is Code.INVALID_ARGUMENT


async def test_without_a_local_model_vectors_fail_their_precondition():
    system = System()
    system.local = None
    async with system.serving():
        error = await refusal(system.vectors.GetVector(pb.TextRequest(text="abc")))
    assert error.code() is Code.FAILED_PRECONDITION
    assert "LOCAL_EMBEDDING_MODEL" in error.details()


async def test_a_local_model_that_cannot_be_had_is_a_failed_precondition(system):
    system.local.error = EmbeddingUnavailable("There is no local model")
    error = await refusal(system.vectors.GetVector(pb.TextRequest(text="abc")))
    assert error.code() is Code.FAILED_PRECONDITION
    assert error.details() == "There is no local model"


async def test_long_calls_leave_threads_to_the_keys(system):
    system.local.go_on.clear()
    vectors = [system.vectors.GetVector(pb.TextRequest(text="a")) for _ in range(3)]
    watching = [system.task.WatchTask(pb.TaskRequest(task_id="t")) for _ in range(3)]
    for call in watching:
        await call.read()
    while system.local.calls < 3:  # noqa: ASYNC110, the calls are on their way
        await asyncio.sleep(0)
    one_more = await refusal(system.vectors.GetVector(pb.TextRequest(text="a")))
    assert one_more.code() is Code.RESOURCE_EXHAUSTED
    assert (await system.keys.ProvideAPIKey(key_request())).success
    system.local.go_on.set()
    for call in vectors:
        await call
    assert (await system.vectors.GetVector(pb.TextRequest(text="a"))).vector
    for call in watching:
        call.cancel()


# ---------------------------------------------------------------------------- TaskService


STATUS = TaskStatus(
    "t",
    state=State.PROCESSING,
    attempt=2,
    pages_done=3,
    pages_total=9,
    chunks_sent=7,
    error_code="PARSE_CRASHED",
    error_message="It crashed",
    doc_id="doc",
    tokens=100,
    provider_calls=4,
    cache_hits=5,
    warnings=("page 2 was skipped",),
    updated_at_ms=1_700_000_000_000,
)


async def test_the_status_of_a_task_has_every_field(system):
    system.statuses.by_id["t"] = STATUS
    assert await system.task.GetTask(pb.TaskRequest(task_id="t")) == pb.TaskStatus(
        task_id="t",
        state=pb.TaskStatus.PROCESSING,
        attempt=2,
        pages_done=3,
        pages_total=9,
        chunks_sent=7,
        error_code="PARSE_CRASHED",
        error_message="It crashed",
        updated_at_ms=1_700_000_000_000,
        doc_id="doc",
        warnings=["page 2 was skipped"],
        tokens=100,
        provider_calls=4,
        cache_hits=5,
    )


@pytest.mark.parametrize("state", list(State))
async def test_every_state_has_its_name_in_the_proto(system, state):
    system.statuses.by_id["t"] = TaskStatus("t", state=state)
    status = await system.task.GetTask(pb.TaskRequest(task_id="t"))
    assert pb.TaskStatus.State.Name(status.state) == state


async def test_a_task_that_nobody_took_is_unknown_and_no_error(system):
    status = await system.task.GetTask(pb.TaskRequest(task_id="new"))
    assert status == pb.TaskStatus(task_id="new", state=pb.TaskStatus.UNKNOWN)


@pytest.mark.parametrize("rpc", ["GetTask", "CancelTask", "RetryTask"])
@pytest.mark.parametrize("task_id", ["", "x" * 201, "a\nb"])
async def test_an_impossible_task_id_is_an_invalid_argument(system, rpc, task_id):
    error = await refusal(getattr(system.task, rpc)(pb.TaskRequest(task_id=task_id)))
    assert error.code() is Code.INVALID_ARGUMENT
    assert "task_id" in error.details()


async def test_watching_an_impossible_task_id_is_an_invalid_argument(system):
    error = await refusal(system.task.WatchTask(pb.TaskRequest()).read())
    assert error.code() is Code.INVALID_ARGUMENT


async def test_watching_shows_every_change_and_ends_with_the_final_one(system):
    for state in (State.DOWNLOADING, State.PROCESSING, State.SUCCEEDED):
        system.statuses.changes.put_nowait(TaskStatus("t", state=state))
    seen = [
        pb.TaskStatus.State.Name(status.state)
        async for status in system.task.WatchTask(pb.TaskRequest(task_id="t"))
    ]
    assert seen == ["UNKNOWN", "DOWNLOADING", "PROCESSING", "SUCCEEDED"]
    assert system.statuses.watchers == 0


async def test_a_watcher_that_goes_away_frees_what_it_held(system):
    call = system.task.WatchTask(pb.TaskRequest(task_id="t"))
    await call.read()
    call.cancel()
    await system.statuses.nobody_watches.wait()


async def test_cancelling_passes_the_wish_on_and_shows_the_status(system):
    system.statuses.by_id["t"] = STATUS
    status = await system.task.CancelTask(pb.TaskRequest(task_id="t"))
    assert system.tasks.cancelled == ["t"]
    assert status.pages_done == 3


async def test_a_dead_task_is_retried(system):
    status = await system.task.RetryTask(pb.TaskRequest(task_id="dead"))
    assert status.task_id == "dead"


async def test_a_task_that_is_not_dead_cannot_be_retried(system):
    error = await refusal(system.task.RetryTask(pb.TaskRequest(task_id="alive")))
    assert error.code() is Code.NOT_FOUND


async def test_an_outage_of_redis_is_unavailable(system, monkeypatch):
    async def fail(_task_id):
        raise QueueUnavailable("Redis cannot be used")

    monkeypatch.setattr(system.statuses, "read", fail)
    error = await refusal(system.task.GetTask(pb.TaskRequest(task_id="t")))
    assert error.code() is Code.UNAVAILABLE
    assert error.details() == "Redis cannot be used"


# ----------------------------------------------------------------------------- the server


async def test_a_second_server_on_a_port_is_refused_with_the_settings_name(system):
    port = system.server.port
    with pytest.raises(CannotListen, match=rf"127\.0\.0\.1:{port}.*GRPC_EMBEDDING_PORT"):
        async with RpcServer({}, threads=1, port=port, port_setting="GRPC_EMBEDDING_PORT"):
            pass


async def test_health_is_answered_for_the_server_and_each_service(system):
    for service in ("", "cognicore.APIKeyService", "cognicore.TaskService"):
        response = await system.health.Check(health_pb2.HealthCheckRequest(service=service))
        assert response.status == health_pb2.HealthCheckResponse.SERVING


async def test_health_watchers_are_told_before_the_server_stops():
    async with AsyncExitStack() as stack:
        system = await stack.enter_async_context(System().serving())
        channel = grpc.aio.insecure_channel(f"127.0.0.1:{system.server.port}")
        watching = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest())
        assert (await watching.read()).status == health_pb2.HealthCheckResponse.SERVING
        await stack.aclose()
        assert (await watching.read()).status == health_pb2.HealthCheckResponse.NOT_SERVING
        await channel.close()


async def test_a_call_that_still_runs_when_the_server_stops_is_cancelled():
    system = System()
    system.embedders.embedder.go_on.clear()
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(system.serving())
        channel = grpc.aio.insecure_channel(f"127.0.0.1:{system.server.port}")
        stub = cognicore_pb2_grpc.EmbeddingServiceStub(channel)
        call = asyncio.ensure_future(refused(stub.GetEmbedding(embedding_request())))
        await system.embedders.embedder.began.wait()
        await stack.aclose()
        assert system.embedders.embedder.cancelled.is_set()
        assert await call is not Code.OK
        await channel.close()
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("rpc")]


def test_a_go_client_may_ping_every_ten_seconds_while_idle():
    options = dict(SERVER_OPTIONS)
    assert options["grpc.keepalive_permit_without_calls"] == 1
    assert 0 < options[PING_INTERVAL] < 10_000


async def test_an_idle_client_that_pings_is_not_dropped(monkeypatch):
    """Ten times faster than in earnest; a server with other options drops it after 2 s."""
    faster = [(name, 500 if name == PING_INTERVAL else value) for name, value in SERVER_OPTIONS]
    impatient = ("grpc.http2.max_ping_strikes", 1)
    monkeypatch.setattr(server, "SERVER_OPTIONS", [*faster, impatient])
    pinging = [
        ("grpc.keepalive_time_ms", 1000),
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.http2.max_pings_without_data", 0),
    ]
    async with (
        System().serving() as system,
        grpc.aio.insecure_channel(f"127.0.0.1:{system.server.port}", pinging) as channel,
    ):
        await health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest())
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(3):
                await channel.wait_for_state_change(grpc.ChannelConnectivity.READY)


async def test_messages_may_have_50_mib(system):
    options = [("grpc.max_send_message_length", -1), ("grpc.max_receive_message_length", -1)]
    address = f"127.0.0.1:{system.server.port}"
    async with grpc.aio.insecure_channel(address, options) as channel:
        stub = cognicore_pb2_grpc.EmbeddingServiceStub(channel)
        response = await stub.GetEmbedding(embedding_request(text="x" * 49 * 1024 * 1024))
        assert response.success
        error = await refusal(stub.GetEmbedding(embedding_request(text="x" * 51 * 1024 * 1024)))
    assert error.code() is Code.RESOURCE_EXHAUSTED


async def test_reflection_is_there_only_where_it_is_wanted():
    wanted = reflection_pb2.ServerReflectionRequest(list_services="")
    async with System().serving(use_reflection=True) as system:
        call = system.reflection.ServerReflectionInfo(iter([wanted]))
        names = {service.name for service in (await call.read()).list_services_response.service}
        assert "cognicore.APIKeyService" in names
    async with System().serving() as system:
        error = await refusal(system.reflection.ServerReflectionInfo().read())
        assert error.code() is Code.UNIMPLEMENTED


# -------------------------------------------------------------------------- who is let in


def bearer(token: str):
    return (("authorization", f"Bearer {token}"),)


@pytest.fixture
async def guarded():
    async with System().serving(auth_token=SecretStr(TOKEN)) as system:
        yield system


async def test_the_right_token_is_let_in(guarded):
    response = await guarded.keys.ProvideAPIKey(key_request(), metadata=bearer(TOKEN))
    assert response.success


@pytest.mark.parametrize(
    "metadata",
    [
        (),
        bearer("wrong"),
        bearer(""),
        bearer(TOKEN + "x"),
        (("authorization", TOKEN),),
        (("authorization-bin", f"Bearer {TOKEN}".encode()),),
    ],
)
async def test_without_the_right_token_nobody_is_let_in(guarded, metadata):
    error = await refusal(guarded.keys.ProvideAPIKey(key_request(), metadata=metadata))
    assert error.code() is Code.UNAUTHENTICATED
    assert TOKEN not in error.details()
    assert "GRPC_AUTH_TOKEN" in error.details()
    error = await refusal(guarded.task.WatchTask(pb.TaskRequest(task_id="t")).read())
    assert error.code() is Code.UNAUTHENTICATED


async def test_health_needs_no_token(guarded):
    response = await guarded.health.Check(health_pb2.HealthCheckRequest())
    assert response.status == health_pb2.HealthCheckResponse.SERVING


@pytest.fixture(scope="module")
def authority(tmp_path_factory):
    return Authority(tmp_path_factory.mktemp("certificates"), "authority")


@pytest.fixture(scope="module")
def stranger(tmp_path_factory):
    return Authority(tmp_path_factory.mktemp("certificates"), "stranger")


async def provided(system: System, credentials: grpc.ChannelCredentials) -> pb.APIKeyResponse:
    address = f"localhost:{system.server.port}"
    async with grpc.aio.secure_channel(address, credentials) as channel:
        return await cognicore_pb2_grpc.APIKeyServiceStub(channel).ProvideAPIKey(key_request())


async def test_tls_serves_who_trusts_its_authority(authority, stranger):
    pair = authority.issue("server")
    async with System().serving(tls=Tls(pair.cert, pair.key)) as system:
        trusting = grpc.ssl_channel_credentials(authority.cert.read_bytes())
        assert (await provided(system, trusting)).success
        doubting = grpc.ssl_channel_credentials(stranger.cert.read_bytes())
        assert (await refusal(provided(system, doubting))).code() is Code.UNAVAILABLE
        plain = await refusal(system.keys.ProvideAPIKey(key_request()))
        assert plain.code() is Code.UNAVAILABLE


async def test_with_a_client_authority_only_its_clients_are_let_in(authority, stranger):
    def client(issuer: Authority) -> grpc.ChannelCredentials:
        pair = issuer.issue("client")
        return grpc.ssl_channel_credentials(
            authority.cert.read_bytes(), pair.key.read_bytes(), pair.cert.read_bytes()
        )

    pair = authority.issue("server")
    tls = Tls(pair.cert, pair.key, client_ca=authority.cert)
    async with System().serving(tls=tls) as system:
        assert (await provided(system, client(authority))).success
        assert (await refusal(provided(system, client(stranger)))).code() is Code.UNAVAILABLE
        nobody = grpc.ssl_channel_credentials(authority.cert.read_bytes())
        assert (await refusal(provided(system, nobody))).code() is Code.UNAVAILABLE


# ----------------------------------------------------------------------------- the bridge


class Context:
    """A servicer context of an RPC that is alive, or over."""

    def __init__(self, *, over: bool = False) -> None:
        self._over = over

    def add_callback(self, _callback):
        return not self._over


def test_a_bridge_over_a_closed_loop_refuses_in_words():
    loop = asyncio.new_event_loop()
    loop.close()
    with pytest.raises(Exception, match="The processor is stopping"):
        Bridge(loop).wait(asyncio.sleep(0), Context())


async def test_changes_are_not_made_faster_than_a_watcher_reads_them():
    made = []

    async def endless():
        while True:
            made.append(len(made))
            yield made[-1]

    values = Bridge(asyncio.get_running_loop()).iterate(endless(), Context())
    first = await asyncio.to_thread(next, values)
    for _ in range(1000):
        await asyncio.sleep(0)
    assert first == 0
    assert len(made) <= WATCH_AHEAD + 2
    await asyncio.to_thread(next, values)


async def test_an_rpc_that_is_over_starts_nothing():
    bridge = Bridge(asyncio.get_running_loop())
    with pytest.raises(Exception, match="The call ended"):
        await asyncio.to_thread(bridge.wait, asyncio.sleep(1000), Context(over=True))


def test_the_words_for_a_key_not_kept_hold_no_key():
    assert "provide it again" in str(KeyNotKept())
