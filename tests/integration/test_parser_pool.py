from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from pdf_processor import parser_pool
from pdf_processor.document import Block, Heading, Page
from pdf_processor.errors import (
    DocumentCorrupt,
    DocumentEncrypted,
    NotAPdf,
    NoText,
    ParserCrashed,
    ParserOutOfMemory,
    ParseTimedOut,
    TooManyPages,
)
from pdf_processor.parser_pool import ParserPool
from tests import pdfs

MEBIBYTE = 1024 * 1024


def make_pool(**changes: float) -> ParserPool:
    settings = {
        "processes": 1,
        "memory_bytes": 512 * MEBIBYTE,
        "parse_timeout_seconds": 60,
        "page_timeout_seconds": 30,
        "max_pages": 400,
    }
    return ParserPool(**(settings | changes))  # type: ignore[arg-type]


@pytest.fixture
async def pool() -> AsyncIterator[ParserPool]:
    async with make_pool() as running:
        yield running


async def read_all(pool: ParserPool, path: Path, **options: str) -> list[Page]:
    async with pool.read(path, **options) as reader:
        return [page async for page in reader]


def text_of(pages: list[Page]) -> str:
    return "\n".join(element.text for page in pages for element in page.elements)


def pids(pool: ParserPool) -> list[int]:
    return [child._process.pid for child in pool._children]


def is_alive(pid: int) -> bool:
    try:
        status = Path(f"/proc/{pid}/stat").read_text()
    except FileNotFoundError:
        return False
    return status.rsplit(") ", 1)[1][0] not in "ZX"


def environment_of(pid: int) -> bytes:
    return Path(f"/proc/{pid}/environ").read_bytes()


async def until_gone(process_ids: list[int]) -> None:
    async with asyncio.timeout(20):
        while any(is_alive(pid) for pid in process_ids):  # noqa: ASYNC110
            await asyncio.sleep(0.01)  # a grandchild tells nobody when it ends


async def test_reads_headings_and_paragraphs_page_by_page(pool: ParserPool, tmp_path: Path) -> None:
    path = pdfs.write_report(tmp_path / "a.pdf", pages=3)
    async with pool.read(path) as reader:
        assert reader.info.page_count == 3
        assert reader.info.title == "Annual report"
        assert reader.info.author == "The Board"
        pages = [page async for page in reader]
        assert reader.warnings == []
    assert [page.number for page in pages] == [1, 2, 3]
    headings = [e for page in pages for e in page.elements if isinstance(e, Heading)]
    assert [(h.text, h.level, h.page) for h in headings] == [
        entry
        for n in (1, 2, 3)
        for entry in ((pdfs.chapter_title(n), 1, n), (pdfs.section_title(n), 2, n))
    ]
    blocks = [e for page in pages for e in page.elements if isinstance(e, Block)]
    assert [b.page for b in blocks] == [1, 1, 1, 2, 2, 2, 3, 3, 3]


async def test_the_first_page_comes_while_a_later_one_is_not_reachable(
    pool: ParserPool, tmp_path: Path
) -> None:
    path = pdfs.write_with_missing_page(tmp_path / "a.pdf", pages=60, missing=58)
    async with pool.read(path) as reader:
        numbers = [(await anext(reader)).number for _ in range(55)]
        assert numbers == list(range(1, 56))
        with pytest.raises(DocumentCorrupt, match="Page 58 of 60 is missing"):
            await anext(reader)


@pytest.mark.parametrize(
    ("write", "error", "words"),
    [
        (pdfs.write_html, NotAPdf, "looks like an HTML page"),
        (pdfs.write_encrypted, DocumentEncrypted, "options.password"),
        (pdfs.write_truncated, DocumentCorrupt, "PDF"),
        (pdfs.write_image_only, NoText, "scanned"),
    ],
)
async def test_verdicts(
    pool: ParserPool, tmp_path: Path, write: object, error: type[Exception], words: str
) -> None:
    path = write(tmp_path / "a.pdf")  # type: ignore[operator]
    before = pids(pool)
    with pytest.raises(error, match=words):
        await read_all(pool, path)
    assert "marker" in text_of(await read_all(pool, pdfs.write_report(tmp_path / "b.pdf")))
    assert pids(pool) == before, "a bad document is no reason for a new child"


@pytest.mark.parametrize("keep", [0.3, 0.6, 0.9])
async def test_a_file_cut_short_is_never_a_success(
    pool: ParserPool, tmp_path: Path, keep: float
) -> None:
    with pytest.raises(DocumentCorrupt):
        await read_all(pool, pdfs.write_truncated(tmp_path / "a.pdf", keep=keep))


async def test_a_password_opens_an_encrypted_document(pool: ParserPool, tmp_path: Path) -> None:
    path = pdfs.write_encrypted(tmp_path / "a.pdf", password="open sesame")
    assert pdfs.marker(1) in text_of(await read_all(pool, path, password="open sesame"))
    with pytest.raises(DocumentEncrypted, match="does not open it") as caught:
        await read_all(pool, path, password="friend")
    assert "friend" not in str(caught.value)


async def test_an_empty_user_password_needs_none(pool: ParserPool, tmp_path: Path) -> None:
    path = pdfs.write_encrypted(tmp_path / "a.pdf", password="")
    assert pdfs.marker(1) in text_of(await read_all(pool, path))


async def test_too_many_pages_names_both_numbers(tmp_path: Path) -> None:
    async with make_pool(max_pages=2) as pool:
        with pytest.raises(TooManyPages, match=r"3 pages, and 2 are allowed"):
            await read_all(pool, pdfs.write_report(tmp_path / "a.pdf", pages=3))


async def test_pages_without_text_are_named(pool: ParserPool, tmp_path: Path) -> None:
    path = pdfs.write_lines(tmp_path / "a.pdf", [[(72, 90, "helv", 11, "Some words.")], [], []])
    async with pool.read(path) as reader:
        assert [page async for page in reader]
        assert len(reader.warnings) == 1
        assert "2, 3" in reader.warnings[0]


async def test_memory_beyond_the_limit_fails_this_document_only(tmp_path: Path) -> None:
    async with make_pool(memory_bytes=256 * MEBIBYTE) as pool:
        before = pids(pool)
        with pytest.raises(ParserOutOfMemory):
            await read_all(pool, pdfs.write_bomb(tmp_path / "bomb.pdf"))
        assert await read_all(pool, pdfs.write_report(tmp_path / "b.pdf"))
        assert not set(before) & set(pids(pool))
        await until_gone(before)


@pytest.mark.parametrize(
    ("limits", "name"),
    [
        ({"page_timeout_seconds": 0.2}, "PAGE_TIMEOUT_SECONDS"),
        ({"parse_timeout_seconds": 0.2}, "PARSE_TIMEOUT_SECONDS"),
    ],
)
async def test_a_document_that_takes_too_long_is_stopped(
    tmp_path: Path, limits: dict[str, float], name: str
) -> None:
    bomb = pdfs.write_bomb(tmp_path / "bomb.pdf", characters=400_000_000)
    async with make_pool(memory_bytes=4096 * MEBIBYTE, **limits) as pool:
        before = pids(pool)
        with pytest.raises(ParseTimedOut, match=name):
            await read_all(pool, bomb)
        await until_gone(before)
        assert await read_all(pool, pdfs.write_report(tmp_path / "b.pdf", pages=1))


async def test_the_limits_rest_while_the_consumer_is_slow(tmp_path: Path) -> None:
    path = pdfs.write_report(tmp_path / "a.pdf", pages=60)
    async with (
        make_pool(parse_timeout_seconds=5, page_timeout_seconds=5) as pool,
        pool.read(path) as reader,
    ):
        numbers = [(await anext(reader)).number]
        loop = asyncio.get_running_loop()
        now = loop.time
        loop.time = lambda: now() + 3600  # type: ignore[method-assign]
        try:
            numbers += [page.number async for page in reader]
        finally:
            loop.time = now  # type: ignore[method-assign]
    assert numbers[-1] == 60


async def test_a_crash_fails_its_own_document_and_the_next_is_read(tmp_path: Path) -> None:
    path = pdfs.write_report(tmp_path / "a.pdf", pages=300)
    async with make_pool(processes=2) as pool:

        async def crash() -> None:
            async with pool.read(path) as reader:
                await anext(reader)
                os.kill(reader._child._process.pid, signal.SIGSEGV)
                async for _ in reader:
                    pass

        async def neighbour() -> list[Page]:
            return await read_all(pool, path)

        crashed, pages = await asyncio.gather(crash(), neighbour(), return_exceptions=True)
        assert isinstance(crashed, ParserCrashed)
        assert "signal 11" in str(crashed)
        assert isinstance(pages, list)
        assert pdfs.marker(300) in text_of(pages)
        assert await asyncio.gather(neighbour(), neighbour())


async def test_leaving_early_ends_the_child(pool: ParserPool, tmp_path: Path) -> None:
    path = pdfs.write_report(tmp_path / "a.pdf", pages=300)
    before = pids(pool)
    async with pool.read(path) as reader:
        await anext(reader)
    await until_gone(before)
    assert await read_all(pool, pdfs.write_report(tmp_path / "b.pdf", pages=1))


async def test_a_child_is_replaced_after_its_share_of_documents(tmp_path: Path) -> None:
    path = pdfs.write_report(tmp_path / "a.pdf", pages=1)
    async with make_pool(documents_per_child=2) as pool:
        used = set()
        for _ in range(4):
            async with pool.read(path) as reader:
                used.add(reader._child._process.pid)
                assert [page async for page in reader]
        assert len(used) == 2


async def test_more_documents_than_children_wait_their_turn(
    pool: ParserPool, tmp_path: Path
) -> None:
    path = pdfs.write_report(tmp_path / "a.pdf", pages=2)
    read = await asyncio.gather(*(read_all(pool, path) for _ in range(8)))
    assert all(pdfs.marker(2) in text_of(pages) for pages in read)


async def test_leaving_the_pool_leaves_no_process_behind(tmp_path: Path) -> None:
    async with make_pool(processes=2) as pool:
        children = pids(pool)
        async with pool.read(pdfs.write_report(tmp_path / "a.pdf")) as reader:
            await anext(reader)
        children += pids(pool)
    assert not any(is_alive(pid) for pid in children)


@pytest.mark.skipif(sys.platform != "linux", reason="PR_SET_PDEATHSIG is Linux's")
async def test_children_die_with_a_killed_daemon_and_start_from_anywhere(tmp_path: Path) -> None:
    program = textwrap.dedent(
        """
        import asyncio
        from pdf_processor.parser_pool import ParserPool

        async def main():
            async with ParserPool(processes=2, memory_bytes=1 << 29, parse_timeout_seconds=9,
                                  page_timeout_seconds=9, max_pages=9) as pool:
                print(*(child._process.pid for child in pool._children), flush=True)
                await asyncio.Event().wait()

        asyncio.run(main())
        """
    )
    daemon = await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        program,
        cwd=tmp_path,
        env={"PYTHONPATH": str(parser_pool.PACKAGE_ROOT)},
        stdout=subprocess.PIPE,
    )
    assert daemon.stdout
    children = [int(pid) for pid in (await daemon.stdout.readline()).split()]
    assert len(children) == 2
    daemon.kill()
    await daemon.wait()
    await until_gone(children)


async def test_a_child_knows_nothing_of_the_daemons_environment(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-very-secret")
    async with make_pool() as pool:
        environment = environment_of(pids(pool)[0])
    assert b"sk-very-secret" not in environment
    assert b"PYTHONPATH" in environment


async def test_a_child_is_free_as_soon_as_the_last_page_is_taken(
    pool: ParserPool, tmp_path: Path
) -> None:
    """However long the chunks then take to arrive."""
    path = pdfs.write_report(tmp_path / "a.pdf")
    async with pool.read(path) as slow:
        assert len([page async for page in slow]) == 3
        assert len(await read_all(pool, path)) == 3


async def test_a_child_that_died_idle_costs_nobody_a_document(
    pool: ParserPool, tmp_path: Path
) -> None:
    [child] = pool._children
    os.kill(child._process.pid, signal.SIGKILL)
    await child._process.wait()
    assert len(await read_all(pool, pdfs.write_report(tmp_path / "a.pdf"))) == 3


async def test_a_title_that_is_no_unicode_is_repaired(pool: ParserPool, tmp_path: Path) -> None:
    path = pdfs.write_report(tmp_path / "a.pdf", title="TITLE")
    path.write_bytes(path.read_bytes().replace(b"(TITLE)", b"<FEFF0041D83D>"))
    async with pool.read(path) as reader:
        assert reader.info.title.startswith("A?")
