"""When Go is away, refuses, miscounts, or restarts in the middle of a document."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import grpc
import pytest
import pytest_asyncio

from protos import cognicore_pb2 as pb
from tests.acceptance.go_side import CANCELLED, WHOLE
from tests.acceptance.system import System, running_system

pytestmark = pytest.mark.asyncio(loop_scope="session")


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def system(documents: Path) -> AsyncIterator[System]:
    """A system of its own: Go goes away here, and tasks have two attempts."""
    async with running_system(documents, MAX_ATTEMPTS="3", INGEST_STALL_SECONDS="0.5") as running:
        yield running


async def test_while_go_is_away_a_task_is_retried_and_arrives_when_it_is_back(
    system: System,
) -> None:
    await system.go.stop()
    task_id = await system.push(DocID="away")
    event = await system.reached(task_id, "RETRYING")

    await system.go.start()

    assert event["error_code"] == "INGEST_UNAVAILABLE"
    assert "ingest server" in event["error_message"]
    event = await system.reached(task_id, "SUCCEEDED")
    assert (event["error_code"], event["error_message"]) == ("", "")
    (stream,) = system.go.of("away")
    assert (stream.ending, stream.metadata.attempt) == (WHOLE, event["attempt"])


async def test_a_restart_of_go_in_mid_stream_is_made_good(system: System) -> None:
    hold = system.go.hold("restarted", after=3)
    task_id = await system.push("long.pdf", DocID="restarted")
    await hold.reached.wait()

    await system.go.stop()
    await system.go.start()

    await system.reached(task_id, "SUCCEEDED")
    cut, whole = system.go.of("restarted")
    assert (cut.ending, whole.ending) == (CANCELLED, WHOLE)
    assert whole.ids[:3] == cut.ids
    assert len(whole.ids) > 40


async def test_a_go_side_that_reads_no_further_is_given_up(system: System) -> None:
    hold = system.go.hold("stalled", after=3)
    task_id = await system.push("long.pdf", DocID="stalled")
    await hold.reached.wait()

    event = await system.reached(task_id, "RETRYING")

    assert event["error_code"] == "INGEST_UNAVAILABLE"
    assert "INGEST_STALL_SECONDS" in event["error_message"]
    assert (await system.go.ended("stalled")).ending == CANCELLED
    await system.reached(task_id, "SUCCEEDED")


async def test_a_document_that_go_refuses_is_dead_with_gos_own_words(system: System) -> None:
    refusal = pb.IngestResponse(success=False, message="collection 'books' is full")
    system.go.answer("refused", refusal)

    task_id = await system.push(DocID="refused")

    event = await system.reached(task_id, "DEAD")
    assert (event["error_code"], event["attempt"]) == ("INGEST_REJECTED", 1)
    assert "collection 'books' is full" in event["error_message"]
    assert (await system.dead(task_id))["error_code"] == "INGEST_REJECTED"


REFUSING = ("INVALID_ARGUMENT", "FAILED_PRECONDITION", "UNIMPLEMENTED", "PERMISSION_DENIED")
PASSING = ("UNAUTHENTICATED", "UNKNOWN", "INTERNAL", "RESOURCE_EXHAUSTED", "ALREADY_EXISTS")


async def test_gos_status_decides_between_dead_and_another_try(system: System) -> None:
    tasks = {}
    for name in (*REFUSING, *PASSING):
        system.go.answer(f"status-{name}", (grpc.StatusCode[name], f"because of {name}"))
        tasks[name] = await system.push(DocID=f"status-{name}")

    for name, task_id in tasks.items():
        event = await system.reached(task_id, "DEAD" if name in REFUSING else "RETRYING")

        code = "INGEST_REJECTED" if name in REFUSING else "INGEST_UNAVAILABLE"
        assert (name, event["error_code"]) == (name, code)
        assert f"because of {name}" in event["error_message"]


async def test_a_wrong_count_is_a_mismatch_and_tried_again(system: System) -> None:
    system.go.answer("miscounted", pb.IngestResponse(success=True, chunks_received=1))

    task_id = await system.push(DocID="miscounted")

    event = await system.reached(task_id, "RETRYING")
    assert event["error_code"] == "INGEST_MISMATCH"
    await system.reached(task_id, "SUCCEEDED")


async def test_a_go_side_that_does_not_count_is_believed(system: System) -> None:
    system.go.answer("uncounted", pb.IngestResponse(success=True))

    task_id = await system.push(DocID="uncounted")

    event = await system.reached(task_id, "SUCCEEDED")
    assert event["attempt"] == 1


async def test_what_an_earlier_attempt_brought_already_is_done(system: System) -> None:
    lost_reply = (grpc.StatusCode.UNAVAILABLE, "the reply was lost")
    system.go.answer("known", lost_reply, (grpc.StatusCode.ALREADY_EXISTS, "known"))

    task_id = await system.push(DocID="known")

    event = await system.reached(task_id, "SUCCEEDED")
    assert event["attempt"] == 2


async def test_after_the_last_attempt_the_task_is_dead(system: System) -> None:
    system.go.answer("hopeless", *[(grpc.StatusCode.INTERNAL, "out of order")] * 3)

    task_id = await system.push(DocID="hopeless")

    event = await system.reached(task_id, "DEAD")
    assert (event["error_code"], event["attempt"]) == ("INGEST_UNAVAILABLE", 3)
    assert len(system.go.of("hopeless")) == 3
    assert [stream.metadata.attempt for stream in system.go.of("hopeless")] == [1, 2, 3]
