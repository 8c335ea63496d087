"""One document through the real parts, and in which order things happen."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr

from pdf_processor.download.downloader import Downloader
from pdf_processor.download.object_store import ObjectStore
from pdf_processor.download.url_policy import UrlPolicy
from pdf_processor.embedded.ingest_receiver import IngestReceiver
from pdf_processor.embedding.providers import Providers, built_in
from pdf_processor.errors import (
    DocumentCorrupt,
    EmbeddingAuth,
    EmbeddingBudget,
    ServiceCredentialsRejected,
)
from pdf_processor.ingest.client import IngestClient, Receipt
from pdf_processor.keys.inbox import ApiKey, KeyInbox
from pdf_processor.parser_pool import ParserPool
from pdf_processor.pipeline import Pipeline
from pdf_processor.provider_choice import ProviderChoice
from pdf_processor.queue.task_status import State
from pdf_processor.slot import Slot
from pdf_processor.task import Task
from pdf_processor.tokens import estimate_tokens
from tests import pdfs
from tests.fake_providers import FakeProviders

KEY = "sk-right"


class Receiver(IngestReceiver):
    """Notes each message as it is read, in one list with what the pipeline reports."""

    events: list[tuple[str, Any]]

    async def IngestDocument(self, request_iterator, context):  # noqa: N802 - the proto's name
        async def noted():
            async for request in request_iterator:
                if request.WhichOneof("payload") == "chunk":
                    self.events.append(("arrived", request.chunk.page))
                yield request

        return await super().IngestDocument(noted(), context)


@dataclass
class Bench:
    """A pipeline of real parts, and everything that happened, in order."""

    pipeline: Pipeline
    inbox: KeyInbox
    receiver: Receiver
    provider: FakeProviders
    temp_dir: Path
    events: list[tuple[str, Any]] = field(default_factory=list)

    async def state(self, state: State) -> None:
        self.events.append(("state", state))

    def progress(self, **progress: Any) -> None:
        self.events += progress.items()

    async def run(self, pdf: Path, **fields: Any) -> Receipt:
        values = {"task_id": "t", "url": pdf.as_uri(), "provider": "none"} | fields
        task = Task.model_validate(values)
        slot = await Slot.acquire(asyncio.Semaphore(1))
        return await self.pipeline.run(task, 1, slot, self)

    def seen(self, name: str) -> list[Any]:
        return [value for event, value in self.events if event == name]


@asynccontextmanager
async def opened(tmp_path: Path, *, default_provider: str = "handoff", own_key: str = KEY):
    temp_dir = tmp_path / "temp"
    async with AsyncExitStack() as stack:
        enter = stack.enter_async_context
        provider = await enter(FakeProviders(api_key=KEY))
        providers = await enter(
            Providers(
                built_in(
                    openai_base_url=provider.openai_url,
                    openai_model="text-embedding-3-small",
                    gemini_base_url=provider.gemini_url,
                    gemini_model="gemini-embedding-001",
                    local_model="/nowhere",
                )
            )
        )
        inbox = stack.enter_context(KeyInbox(ttl_seconds=60))
        receiver = await enter(Receiver())
        policy = UrlPolicy(allow_file_urls=True)
        store = await enter(ObjectStore())
        pipeline = Pipeline(
            choice=ProviderChoice(
                inbox=inbox,
                providers=providers,
                default_provider=default_provider,
                service_keys={"openai": SecretStr(own_key)},
                key_timeout_seconds=10,
            ),
            providers=providers,
            downloader=await enter(
                Downloader(policy=policy, store=store, temp_dir=temp_dir, max_bytes=10**8)
            ),
            parsers=await enter(
                ParserPool(
                    processes=1,
                    memory_bytes=2**30,
                    parse_timeout_seconds=60,
                    page_timeout_seconds=30,
                    max_pages=5000,
                )
            ),
            ingest=await enter(IngestClient(address=receiver.address, stall_seconds=30)),
        )
        bench = Bench(pipeline, inbox, receiver, provider, temp_dir)
        receiver.events = bench.events
        yield bench


async def test_chunks_arrive_long_before_the_last_page_is_read(tmp_path):
    pdf = pdfs.write_report(tmp_path / "long.pdf", pages=300)
    async with opened(tmp_path) as bench:
        receipt = await bench.run(pdf)
    names = [name for name, _ in bench.events]
    read_before = names[: names.index("arrived")].count("pages_done")
    assert read_before < 100
    assert bench.seen("pages_done")[-1] == 300
    assert receipt.chunks == names.count("arrived") == bench.seen("chunks_sent")[-1]


async def test_every_page_of_the_document_arrives_in_order(tmp_path):
    pdf = pdfs.write_report(tmp_path / "report.pdf", pages=12)
    async with opened(tmp_path) as bench:
        await bench.run(pdf, doc_id="d", user_id="u")
        document = bench.receiver.documents["d"]
    text = "\n".join(chunk.content for chunk in document.chunks)
    places = [text.index(pdfs.marker(page)) for page in range(1, 13)]
    assert places == sorted(places)
    assert [chunk.index for chunk in document.chunks] == list(range(len(document.chunks)))
    metadata = document.metadata
    assert (metadata.user_id, metadata.file_name, metadata.page_count) == ("u", "report.pdf", 12)
    assert (metadata.title, metadata.file_size) == ("Annual report", pdf.stat().st_size)


async def test_the_steps_are_reported_as_they_begin(tmp_path):
    pdf = pdfs.write_report(tmp_path / "report.pdf")
    async with opened(tmp_path) as bench:
        bench.inbox.deliver("t", ApiKey("none", SecretStr("x")))
        await bench.run(pdf, provider="")
        assert bench.seen("state") == [State.DOWNLOADING, State.PROCESSING]


async def test_what_fails_halfway_is_cancelled_and_leaves_no_file(tmp_path):
    pdf = pdfs.write_with_missing_page(tmp_path / "cut.pdf", pages=300, missing=200)
    async with opened(tmp_path) as bench:
        with pytest.raises(DocumentCorrupt):
            await bench.run(pdf)
        assert bench.seen("arrived")
        assert bench.receiver.documents == {}
        assert list(bench.temp_dir.iterdir()) == []


async def test_vectors_come_from_the_provider_with_the_key_that_was_handed_over(tmp_path):
    pdf = pdfs.write_report(tmp_path / "report.pdf")
    async with opened(tmp_path) as bench:
        bench.inbox.deliver("t", ApiKey("openai", SecretStr(KEY)))
        await bench.run(pdf, provider="", doc_id="d")
        document = bench.receiver.documents["d"]
    assert document.metadata.embedding_provider == "openai"
    assert document.metadata.embedding_model == "text-embedding-3-small"
    dimension = document.metadata.embedding_dimension
    assert {len(chunk.embeddings) for chunk in document.chunks} == {dimension} != {0}


async def test_a_tenant_s_wrong_key_is_the_task_s_failure(tmp_path):
    pdf = pdfs.write_report(tmp_path / "report.pdf")
    async with opened(tmp_path) as bench:
        bench.inbox.deliver("t", ApiKey("openai", SecretStr("sk-wrong")))
        with pytest.raises(EmbeddingAuth):
            await bench.run(pdf, provider="openai")


async def test_the_service_s_wrong_key_is_no_task_s_failure(tmp_path):
    pdf = pdfs.write_report(tmp_path / "report.pdf")
    async with opened(tmp_path, default_provider="openai", own_key="sk-wrong-4711") as bench:
        with pytest.raises(ServiceCredentialsRejected) as caught:
            await bench.run(pdf, provider="")
    assert "4711" not in caught.value.message


async def test_a_budget_ends_the_document_before_it_is_overspent(tmp_path):
    pdf = pdfs.write_report(tmp_path / "report.pdf", pages=20)
    async with opened(tmp_path, default_provider="openai") as bench:
        with pytest.raises(EmbeddingBudget):
            await bench.run(pdf, provider="", options={"max_embedding_tokens": 300})
    texts = [text for request in bench.provider.requests for text in request.texts]
    assert sum(map(estimate_tokens, texts)) <= 300
