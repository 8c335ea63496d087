from __future__ import annotations

import asyncio
import itertools
from contextlib import aclosing, asynccontextmanager

import grpc
import pytest
from pydantic import SecretStr

from pdf_processor.document import Box, Chunk, EmbeddedChunk, Kind
from pdf_processor.embedded.ingest_receiver import IngestReceiver
from pdf_processor.errors import IngestMismatch, IngestRejected, IngestUnavailable
from pdf_processor.ingest.client import DocumentHeader, IngestClient
from protos import cognicore_pb2 as pb
from protos import cognicore_pb2_grpc

CANARY = "token-canary-4711"
LONG_SECONDS = 1000.0
Code = grpc.StatusCode


def chunk(index: int, content: str = "text", vector: tuple[float, ...] = (0.5, 1.0)):
    return EmbeddedChunk(
        Chunk(
            id=f"id-{index}",
            index=index,
            chapter="2.1 Methods",
            section_path=("2 Work", "2.1 Methods"),
            page=3,
            page_end=4,
            content=content,
            token_count=7,
            boxes=(Box(page=3, x0=1.0, y0=2.0, x1=3.0, y1=4.5),),
            kind=Kind.TABLE,
        ),
        vector,
    )


async def chunks(count: int, content: str = "text"):
    for index in range(count):
        yield chunk(index, content)


def header(attempt: int = 1) -> DocumentHeader:
    return DocumentHeader(
        doc_id="doc",
        task_id="task",
        attempt=attempt,
        user_id="user",
        file_name="a.pdf",
        page_count=9,
        title="Title",
        author="Author",
        file_size=1234,
        sha256="ab" * 32,
        embedding_provider="openai",
        embedding_model="small",
    )


@asynccontextmanager
async def client_of(address: str, *, stall_seconds: float = LONG_SECONDS, **options):
    async with IngestClient(address=address, stall_seconds=stall_seconds, **options) as client:
        yield client


class Go(cognicore_pb2_grpc.IngestServiceServicer):
    """An ingest server that answers as the test says."""

    def __init__(self, handler) -> None:
        self._handler = handler

    async def IngestDocument(self, request_iterator, context):  # noqa: N802, the proto's name
        return await self._handler(request_iterator, context)


@asynccontextmanager
async def go(handler, *, port: int = 0, credentials: grpc.ServerCredentials | None = None):
    server = grpc.aio.server(options=[("grpc.so_reuseport", 0)])
    cognicore_pb2_grpc.add_IngestServiceServicer_to_server(Go(handler), server)
    address = f"127.0.0.1:{port}"
    if credentials:
        port = server.add_secure_port(address, credentials)
    else:
        port = server.add_insecure_port(address)
    await server.start()
    try:
        yield f"localhost:{port}"
    finally:
        await server.stop(grace=None)


@pytest.fixture
async def receiver():
    async with IngestReceiver() as receiver:
        yield receiver


# ------------------------------------------------------------------- a whole document


async def test_a_document_arrives_whole_with_every_field(receiver):
    async with client_of(receiver.address) as client:
        receipt = await client.send_document(chunks(3), header)
    assert receipt is not None
    assert receipt.chunks == 3
    document = receiver.documents["doc"]
    assert document.metadata == pb.DocumentMetadata(
        doc_id="doc",
        user_id="user",
        file_name="a.pdf",
        task_id="task",
        attempt=1,
        page_count=9,
        title="Title",
        author="Author",
        file_size=1234,
        sha256="ab" * 32,
        embedding_provider="openai",
        embedding_model="small",
        embedding_dimension=2,
    )
    assert document.chunks[2] == pb.DocumentChunk(
        chapter="2.1 Methods",
        page=3,
        content="text",
        embeddings=[0.5, 1.0],
        id="id-2",
        index=2,
        page_end=4,
        section_path=["2 Work", "2.1 Methods"],
        token_count=7,
        boxes=[pb.BoundingBox(page=3, x0=1.0, y0=2.0, x1=3.0, y1=4.5)],
        kind=pb.DocumentChunk.TABLE,
    )


async def test_it_counts_the_chunks_as_they_are_sent(receiver):
    counts: list[int] = []
    async with client_of(receiver.address) as client:
        await client.send_document(chunks(3), header, counts.append)
    assert counts == [1, 2, 3]


async def test_a_chunk_arrives_before_the_next_one_is_made():
    arrived = asyncio.Event()

    async def handler(requests, _context):
        async for request in requests:
            if request.HasField("chunk"):
                arrived.set()
        return pb.IngestResponse(success=True)

    async def made():
        yield chunk(0)
        await arrived.wait()
        yield chunk(1)

    async with go(handler) as address, client_of(address) as client:
        receipt = await client.send_document(made(), header)
    assert receipt is not None
    assert receipt.chunks == 2


async def test_a_document_without_a_chunk_opens_no_call():
    async with client_of("localhost:1") as client:
        assert await client.send_document(chunks(0), lambda: pytest.fail("described")) is None


async def test_a_document_that_fails_before_its_first_chunk_opens_no_call():
    async def failing():
        raise LookupError("unreadable")
        yield

    async with client_of("localhost:1") as client:
        with pytest.raises(LookupError, match="unreadable"):
            await client.send_document(failing(), lambda: pytest.fail("described"))


async def test_a_second_attempt_replaces_the_document(receiver):
    async with client_of(receiver.address) as client:
        await client.send_document(chunks(3), header)
        await client.send_document(chunks(2), lambda: header(attempt=2))
    assert len(receiver.documents["doc"].chunks) == 2


async def test_documents_travel_side_by_side_over_one_channel(receiver):
    def named(number: int) -> DocumentHeader:
        return DocumentHeader(doc_id=str(number), task_id="t", attempt=1)

    async with client_of(receiver.address) as client:
        await asyncio.gather(
            *(client.send_document(chunks(5), lambda n=n: named(n)) for n in range(20))
        )
    assert len(receiver.documents) == 20


# ----------------------------------------------------------------- failures on our side


async def end_of_stream(requests, context) -> str:
    """How the server sees a stream end. An apparent end is checked, as in the receiver."""
    try:
        async for _ in requests:
            pass
        await context.send_initial_metadata(())
    except asyncio.CancelledError:
        return "cancelled"
    return "ended"


@asynccontextmanager
async def watching_ends():
    ends: asyncio.Queue[str] = asyncio.Queue()

    async def handler(requests, context):
        ends.put_nowait(await end_of_stream(requests, context))
        return pb.IngestResponse(success=True)

    async with go(handler) as address, client_of(address) as client:
        yield client, ends


async def test_the_watching_server_knows_a_whole_stream():
    async with watching_ends() as (client, ends):
        await client.send_document(chunks(3), header)
        assert await ends.get() == "ended"


async def test_when_a_document_fails_halfway_go_sees_a_cancelled_stream_and_no_end():
    async def failing():
        yield chunk(0)
        yield chunk(1)
        raise LookupError("page 200 is unreadable")

    async with watching_ends() as (client, ends):
        for _ in range(50):
            with pytest.raises(LookupError, match="page 200"):
                await client.send_document(failing(), header)
        assert {await ends.get() for _ in range(50)} == {"cancelled"}


async def test_when_our_task_is_cancelled_go_sees_a_cancelled_stream_and_no_end():
    never = asyncio.Event()

    async def endless(sent: asyncio.Event):
        yield chunk(0)
        sent.set()
        await never.wait()

    async with watching_ends() as (client, ends):
        for _ in range(50):
            sent = asyncio.Event()
            sending = asyncio.create_task(client.send_document(endless(sent), header))
            await sent.wait()
            sending.cancel()
            with pytest.raises(asyncio.CancelledError):
                await sending
        assert {await ends.get() for _ in range(50)} == {"cancelled"}


async def test_a_cancelled_document_is_never_kept(receiver):
    async def failing():
        yield chunk(0)
        raise LookupError

    async with client_of(receiver.address) as client:
        for _ in range(100):
            with pytest.raises(LookupError):
                await client.send_document(failing(), header)
        await client.send_document(chunks(2), lambda: header(attempt=2))
    assert len(receiver.documents["doc"].chunks) == 2
    assert receiver.documents["doc"].metadata.attempt == 2


# ------------------------------------------------------------------------- Go is slow


async def test_a_server_that_does_not_read_holds_us_back_and_is_given_up_in_the_end():
    counts = [0]

    async def handler(_requests, _context):
        await asyncio.Event().wait()

    async with (
        go(handler) as address,
        client_of(address, stall_seconds=0.3) as client,
        aclosing(chunks(10_000, content="x" * 100_000)) as endless,  # 1 GB
    ):
        with pytest.raises(IngestUnavailable, match=r"no progress for 0\.3 s"):
            await client.send_document(endless, header, counts.append)
    assert counts[-1] * 100_000 < 16 * 1024 * 1024


async def test_a_server_that_never_answers_is_given_up():
    async def handler(requests, _context):
        async for _ in requests:
            pass
        await asyncio.Event().wait()

    async with go(handler) as address, client_of(address, stall_seconds=0.3) as client:
        with pytest.raises(IngestUnavailable, match="after 2 chunks"):
            await client.send_document(chunks(2), header)


async def test_a_document_that_is_slow_in_the_making_is_no_stall(receiver):
    async def slow():
        for index in range(4):
            await asyncio.sleep(0.1)  # together longer than the stall
            yield chunk(index)

    async with client_of(receiver.address, stall_seconds=0.25) as client:
        receipt = await client.send_document(slow(), header)
    assert receipt is not None
    assert receipt.chunks == 4


# ----------------------------------------------------------------------------- verdicts


async def answered(address: str, *, attempt: int = 1, count: int = 2):
    async with client_of(address) as client:
        return await client.send_document(chunks(count), lambda: header(attempt))


def responding(**fields):
    async def handler(requests, _context):
        async for _ in requests:
            pass
        return pb.IngestResponse(**fields)

    return handler


def aborting(code: grpc.StatusCode, words: str = "because"):
    async def handler(requests, context):
        async for _ in requests:
            pass
        await context.abort(code, words)

    return handler


@pytest.mark.parametrize("counted", [2, 0])
async def test_success_with_the_count_sent_or_without_one_is_done(counted):
    async with go(responding(success=True, chunks_received=counted, message="ok")) as address:
        receipt = await answered(address)
    assert (receipt.chunks, receipt.message) == (2, "ok")


async def test_another_count_is_a_mismatch():
    async with go(responding(success=True, chunks_received=1)) as address:
        with pytest.raises(IngestMismatch, match="counted 1 chunks, 2 were sent"):
            await answered(address)


async def test_success_false_is_a_rejection_with_gos_words():
    async with go(responding(success=False, message="unknown user")) as address:
        with pytest.raises(IngestRejected, match="unknown user"):
            await answered(address)


@pytest.mark.parametrize(
    "code",
    [
        Code.INVALID_ARGUMENT,
        Code.FAILED_PRECONDITION,
        Code.UNIMPLEMENTED,
        Code.PERMISSION_DENIED,
    ],
)
async def test_a_code_that_another_attempt_cannot_change_is_a_rejection(code):
    async with go(aborting(code)) as address:
        with pytest.raises(IngestRejected, match=f"{code.name}: because"):
            await answered(address)


@pytest.mark.parametrize(
    "code",
    [
        Code.UNAVAILABLE,
        Code.INTERNAL,
        Code.UNKNOWN,
        Code.RESOURCE_EXHAUSTED,
        Code.ABORTED,
        Code.CANCELLED,
        Code.DEADLINE_EXCEEDED,
        Code.UNAUTHENTICATED,
        Code.NOT_FOUND,
    ],
)
async def test_any_other_code_is_tried_again(code):
    async with go(aborting(code)) as address:
        with pytest.raises(IngestUnavailable, match=f"{code.name}: because"):
            await answered(address)


async def test_a_document_that_an_earlier_attempt_brought_there_is_done():
    async with go(aborting(Code.ALREADY_EXISTS)) as address:
        assert (await answered(address, attempt=2)).chunks == 2


async def test_a_document_that_exists_before_the_first_attempt_is_tried_again():
    async with go(aborting(Code.ALREADY_EXISTS)) as address:
        with pytest.raises(IngestUnavailable, match="ALREADY_EXISTS"):
            await answered(address, attempt=1)


async def test_gos_words_become_one_printable_line_of_bounded_length():
    async with go(responding(success=False, message="a\n\x1b[31mb" + "x" * 10_000)) as address:
        with pytest.raises(IngestRejected) as caught:
            await answered(address)
    assert caught.value.message.isprintable()
    assert len(caught.value.message) < 400


# ------------------------------------------------------------------------ early answers


class Endless:
    """Chunks that stop coming after the first: only an interruption ends the waiting."""

    def __init__(self) -> None:
        self.waited_for = asyncio.Event()
        self.interrupted = False

    async def chunks(self):
        async with asyncio.TaskGroup() as group:  # as a pipeline may have one open
            group.create_task(asyncio.sleep(0))
            yield chunk(0)
            self.waited_for.set()
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                self.interrupted = True
                raise


def early(code: grpc.StatusCode | None, **fields):
    async def handler(requests, context):
        await anext(aiter(requests))
        if code:
            await context.abort(code, "early")
        return pb.IngestResponse(**fields)

    return handler


async def test_an_early_refusal_ends_the_making_of_chunks_at_once():
    source = Endless()

    async def handler(_requests, context):
        await source.waited_for.wait()
        await context.abort(Code.PERMISSION_DENIED, "early")

    async with go(handler) as address, client_of(address) as client:
        with pytest.raises(IngestRejected, match="PERMISSION_DENIED: early"):
            await client.send_document(source.chunks(), header)
    assert source.interrupted
    assert asyncio.current_task().cancelling() == 0


async def test_the_task_goes_on_as_usual_after_an_early_answer():
    async with go(early(Code.INTERNAL)) as address, client_of(address) as client:
        with pytest.raises(IngestUnavailable):
            await client.send_document(Endless().chunks(), header)
        async with asyncio.timeout(LONG_SECONDS):
            await asyncio.sleep(0.01)


async def test_an_early_already_exists_on_a_later_attempt_is_done():
    async with go(early(Code.ALREADY_EXISTS)) as address, client_of(address) as client:
        receipt = await client.send_document(Endless().chunks(), lambda: header(attempt=2))
    assert receipt is not None


async def test_an_early_success_is_no_success():
    async with go(early(None, success=True)) as address, client_of(address) as client:
        with pytest.raises(IngestMismatch, match="before the document was complete"):
            await client.send_document(Endless().chunks(), header)


async def test_an_early_refusal_is_heard_though_a_write_was_under_way():
    async with go(early(Code.PERMISSION_DENIED)) as address, client_of(address) as client:
        for _ in range(10):
            async with aclosing(chunks(1000, content="x" * 400_000)) as source:
                with pytest.raises(IngestRejected, match="PERMISSION_DENIED: early"):
                    await client.send_document(source, header)


async def test_a_cancellation_wins_over_an_early_answer():
    waiting = asyncio.Event()

    async def handler(_requests, context):
        await waiting.wait()
        await context.abort(Code.INTERNAL, "early")

    async def cancelling():
        yield chunk(0)
        waiting.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:  # the early answer
            asyncio.current_task().cancel()
            raise

    async with go(handler) as address, client_of(address) as client:
        with pytest.raises(asyncio.CancelledError):
            await asyncio.create_task(client.send_document(cancelling(), header))


# ----------------------------------------------------------------------------- Go is away


async def test_nobody_listening_is_unavailable():
    async with client_of("localhost:1") as client:
        with pytest.raises(IngestUnavailable, match="UNAVAILABLE"):
            await client.send_document(chunks(2), header)


async def test_a_server_that_restarts_in_mid_stream_is_unavailable_and_then_used_again():
    stopping = IngestReceiver()

    async def interrupted():
        yield chunk(0)
        await stopping.__aexit__(None, None, None)
        for index in itertools.count(1):
            yield chunk(index)
            await asyncio.sleep(0)

    await stopping.__aenter__()
    async with client_of(stopping.address) as client:
        async with aclosing(interrupted()) as source:
            with pytest.raises(IngestUnavailable, match="UNAVAILABLE"):
                await client.send_document(source, header)
        async with IngestReceiver(port=stopping.port) as again:
            await until_sent(client)
            assert len(again.documents["doc"].chunks) == 2
    assert not stopping.documents


async def until_sent(client: IngestClient) -> None:
    """The channel waits a little before it connects again."""
    while True:
        try:
            await client.send_document(chunks(2), header)
        except IngestUnavailable:
            await asyncio.sleep(0.05)
        else:
            return


# ------------------------------------------------------------------------- credentials


async def test_the_token_travels_as_metadata_and_shows_nowhere():
    seen = []

    async def handler(requests, context):
        seen.append(dict(context.invocation_metadata())["authorization"])
        async for _ in requests:
            pass
        await context.abort(Code.UNAUTHENTICATED, "no")

    token = SecretStr(CANARY)
    async with go(handler) as address, client_of(address, auth_token=token) as client:
        with pytest.raises(IngestUnavailable, match="INGEST_AUTH_TOKEN") as caught:
            await client.send_document(chunks(1), header)
    assert seen == [f"Bearer {CANARY}"]
    assert CANARY not in repr((client, caught.value, caught.value.__cause__))


async def test_no_token_no_metadata():
    async def handler(requests, context):
        async for _ in requests:
            pass
        return pb.IngestResponse(success="authorization" not in dict(context.invocation_metadata()))

    async with go(handler) as address:
        assert (await answered(address)).chunks == 2


# ------------------------------------------------------------------------ the receiver


def requests(*payloads) -> list[pb.IngestRequest]:
    return [
        pb.IngestRequest(metadata=payload)
        if isinstance(payload, pb.DocumentMetadata)
        else pb.IngestRequest(chunk=pb.DocumentChunk(index=payload))
        for payload in payloads
    ]


@pytest.mark.parametrize(
    ("payloads", "words"),
    [
        ((), "empty"),
        ((0,), "metadata comes first"),
        ((pb.DocumentMetadata(), pb.DocumentMetadata()), "metadata comes first, once"),
        ((pb.DocumentMetadata(), 0, 2), "chunk 1 is missing"),
    ],
)
async def test_the_receiver_refuses_what_is_no_whole_document(receiver, payloads, words):
    async with grpc.aio.insecure_channel(receiver.address) as channel:
        stub = cognicore_pb2_grpc.IngestServiceStub(channel)
        response = await stub.IngestDocument(iter(requests(*payloads)))
    assert not response.success
    assert words in response.message
    assert not receiver.documents


async def test_the_receiver_hands_documents_over():
    handed_over = []
    async with (
        IngestReceiver(on_document=handed_over.append) as receiver,
        client_of(receiver.address) as client,
    ):
        await client.send_document(chunks(1), header)
    assert [document.metadata.doc_id for document in handed_over] == ["doc"]
