"""One document from its task to Go: what arrives, and what is said meanwhile."""

from __future__ import annotations

import json

import pytest

from tests import pdfs
from tests.acceptance.go_side import WHOLE
from tests.acceptance.system import System, key

pytestmark = pytest.mark.asyncio(loop_scope="session")


async def test_a_document_arrives_whole_and_in_order(system: System) -> None:
    task_id = await system.push("report.pdf", DocID="doc-1", UserID="user-1", FileName="a b.pdf")

    stream = await system.go.ended("doc-1")

    assert stream.ending == WHOLE
    assert [chunk.index for chunk in stream.chunks] == list(range(len(stream.chunks)))
    text = " ".join(chunk.content for chunk in stream.chunks)
    assert [text.count(pdfs.marker(page)) for page in (1, 2, 3)] == [2, 2, 2]
    metadata = stream.metadata
    assert (metadata.task_id, metadata.user_id, metadata.file_name) == (
        task_id,
        "user-1",
        "a b.pdf",
    )
    assert (metadata.attempt, metadata.page_count) == (1, 3)
    await system.reached(task_id, "SUCCEEDED")


async def test_chunks_carry_the_vectors_of_the_key_that_was_handed_over(system: System) -> None:
    task_id = await system.push(provider="", DocID="doc-vectors")
    await system.client.give_key(task_id, provider="hashing")

    stream = await system.go.ended("doc-vectors")

    assert stream.metadata.embedding_provider == "hashing"
    assert {len(chunk.embeddings) for chunk in stream.chunks} == {256}


async def test_the_status_hash_tells_how_it_went(system: System) -> None:
    task_id = await system.push(DocID="doc-status")
    await system.reached(task_id, "SUCCEEDED")

    status = await system.status(task_id)

    chunks = str(len(system.go.of("doc-status")[0].chunks))
    assert (
        status.items()
        >= {
            "state": "SUCCEEDED",
            "attempt": "1",
            "pages_done": "3",
            "pages_total": "3",
            "chunks_sent": chunks,
            "error_code": "",
            "error_message": "",
            "doc_id": "doc-status",
        }.items()
    )
    assert 0 < await system.redis.ttl(key("status", task_id)) <= 7 * 86_400


async def test_events_show_each_state_on_the_way(system: System) -> None:
    task_id = await system.push()

    await system.reached(task_id, "SUCCEEDED")

    assert system.states(task_id) == ["DOWNLOADING", "PROCESSING", "SUCCEEDED"]


async def test_nothing_of_a_settled_task_is_left_in_the_queue(system: System) -> None:
    task_id = await system.push()
    await system.reached(task_id, "SUCCEEDED")

    assert await system.redis.exists(key("done", task_id))
    assert not [payload for payload in await system.taken() if task_id in payload]
    assert not await system.redis.hexists(key("attempts"), task_id)
    assert not await system.redis.hexists(key("running"), task_id)


async def test_pushed_again_after_it_succeeded_it_is_not_processed_twice(system: System) -> None:
    task_id = await system.push(DocID="doc-twice")
    await system.reached(task_id, "SUCCEEDED")

    await system.push(task_id=task_id, DocID="doc-twice")
    await system.daemon.event("task not started", task_id=task_id, reason="done")

    assert len(system.go.of("doc-twice")) == 1


async def test_pushed_again_while_it_runs_it_is_not_processed_twice(system: System) -> None:
    hold = system.go.hold("doc-meanwhile", after=1)
    task_id = await system.push(DocID="doc-meanwhile")
    await hold.reached.wait()

    await system.push(task_id=task_id, DocID="doc-meanwhile")
    await system.daemon.event("task not started", task_id=task_id, reason="running")
    hold.released.set()

    await system.reached(task_id, "SUCCEEDED")
    assert len(system.go.of("doc-meanwhile")) == 1


async def test_forced_it_is_processed_again_with_the_same_chunk_ids(system: System) -> None:
    task_id = await system.push(DocID="doc-forced")
    await system.reached(task_id, "SUCCEEDED")

    await system.push(task_id=task_id, DocID="doc-forced", force=True)

    await system.reached(task_id, "SUCCEEDED", times=2)
    first, second = system.go.of("doc-forced")
    assert first.ids == second.ids


async def test_the_same_bytes_under_another_document_id_have_other_chunk_ids(
    system: System,
) -> None:
    tasks = [await system.push(DocID=doc_id) for doc_id in ("doc-a", "doc-b")]
    for task_id in tasks:
        await system.reached(task_id, "SUCCEEDED")

    (first,), (second,) = system.go.of("doc-a"), system.go.of("doc-b")

    assert not set(first.ids) & set(second.ids)


async def test_a_task_with_the_older_field_and_unknown_ones_is_processed(system: System) -> None:
    task = {"task_id": "older", "s3_url": system.files.url("/report.pdf"), "Priority": [1]}
    await system.push_payload(json.dumps(task | {"DocID": None, "provider": "none"}))

    stream = await system.go.ended("older")

    assert stream.metadata.file_name == "report.pdf"


async def test_a_download_is_deleted_when_its_document_has_arrived(system: System) -> None:
    task_id = await system.push()
    await system.reached(task_id, "SUCCEEDED")

    hold = system.go.hold("doc-held", after=1)
    held = await system.push(DocID="doc-held")
    await hold.reached.wait()
    while_it_runs = len(list(system.temp_dir.iterdir()))
    hold.released.set()
    await system.reached(held, "SUCCEEDED")

    assert while_it_runs == 1
    assert not list(system.temp_dir.iterdir())


async def test_chunks_arrive_long_before_the_last_page_is_read(system: System) -> None:
    hold = system.go.hold("doc-300", after=1)
    task_id = await system.push("pages-300.pdf", DocID="doc-300", provider="hashing")

    await hold.reached.wait()
    read_by_then = max(event["pages_done"] for event in [{"pages_done": 0}, *system.of(task_id)])
    hold.released.set()

    await system.reached(task_id, "SUCCEEDED")
    assert read_by_then < 150
    assert system.of(task_id)[-1]["pages_done"] == 300
