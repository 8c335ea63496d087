"""`process`: files straight to chunks, without Redis and Go."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests import pdfs
from tests.acceptance.commands import run
from tests.http_server import FileServer

pytestmark = pytest.mark.asyncio(loop_scope="session")

CHUNK_FIELDS = {
    "doc_id",
    "id",
    "index",
    "chapter",
    "section_path",
    "page",
    "page_end",
    "content",
    "token_count",
    "boxes",
    "kind",
}
SECTION_FIELDS = {"doc_id", "heading", "level", "page", "page_end", "path", "text"}


async def test_it_prints_one_json_object_a_chunk(documents: Path) -> None:
    ended = await run("process", str(documents / "report.pdf"))

    chunks = ended.json_lines()
    assert (ended.code, ended.stderr) == (0, "")
    assert {frozenset(chunk) for chunk in chunks} == {frozenset(CHUNK_FIELDS)}
    assert [chunk["index"] for chunk in chunks] == list(range(len(chunks)))
    assert {chunk["kind"] for chunk in chunks} == {"TEXT"}
    assert {chunk["doc_id"] for chunk in chunks} == {"report"}
    assert chunks[0]["boxes"][0].keys() == {"page", "x0", "y0", "x1", "y1"}
    assert chunks[0]["section_path"] == [chunks[0]["chapter"]]


async def test_with_a_provider_each_chunk_has_its_vector(documents: Path) -> None:
    ended = await run("process", str(documents / "report.pdf"), "--provider", "hashing")

    chunks = ended.json_lines()
    assert {frozenset(chunk) for chunk in chunks} == {frozenset(CHUNK_FIELDS | {"embeddings"})}
    assert {len(chunk["embeddings"]) for chunk in chunks} == {256}


async def test_sections_are_what_stands_before_chunking(documents: Path) -> None:
    ended = await run("process", str(documents / "report.pdf"), "--format", "sections")

    sections = ended.json_lines()
    assert {frozenset(section) for section in sections} == {frozenset(SECTION_FIELDS)}
    titles = [section["heading"] for section in sections]
    assert titles == [
        title(n) for n in (1, 2, 3) for title in (pdfs.chapter_title, pdfs.section_title)
    ]
    assert [section["level"] for section in sections] == [1, 2] * 3
    assert sections[1]["path"] == titles[:2]


async def test_what_stands_before_the_first_heading_is_a_section_without_one(
    tmp_path: Path,
) -> None:
    path = pdfs.write_lines(tmp_path / "plain.pdf", [[(72, 100, "helv", 11, "No heading here.")]])

    ended = await run("process", str(path), "--format", "sections")

    (section,) = ended.json_lines()
    assert (section["heading"], section["level"], section["path"]) == (None, 0, [])
    assert section["text"] == "No heading here."


async def test_markdown_is_one_clean_document(documents: Path) -> None:
    ended = await run("process", str(documents / "report.pdf"), "--format", "md")

    lines = ended.stdout.splitlines()
    assert lines[0] == f"# {pdfs.chapter_title(1)}"
    assert f"## {pdfs.section_title(3)}" in lines
    assert "\n\n\n" not in ended.stdout


async def test_it_writes_to_a_file_and_nothing_to_standard_output(
    documents: Path, tmp_path: Path
) -> None:
    out = tmp_path / "chunks.jsonl"

    ended = await run("process", str(documents / "report.pdf"), "--out", str(out))

    assert (ended.code, ended.stdout) == (0, "")
    assert [json.loads(line)["doc_id"] for line in out.read_text().splitlines()]


async def test_the_sources_that_can_be_read_are_written_though_others_fail(
    documents: Path,
) -> None:
    names = ("truncated", "report", "nothing", "encrypted", "page.html", "long")

    ended = await run("process", *(str(documents / f"{name}.pdf") for name in names))

    assert ended.code == 1
    assert {chunk["doc_id"] for chunk in ended.json_lines()} == {"report", "long"}
    said = ended.stderr.splitlines()
    for code in ("PDF_CORRUPT: ", "DOWNLOAD_NOT_FOUND: ", "PDF_ENCRYPTED: ", "NOT_A_PDF: "):
        assert [line for line in said if code in line]
    assert len(said) == 4


async def test_the_options_reach_the_document(documents: Path) -> None:
    encrypted = str(documents / "encrypted.pdf")
    small = ("--max-tokens", "64", "--overlap-tokens", "0")

    ended = await run("process", encrypted, "--password", pdfs.PASSWORD, *small)

    assert ended.code == 0
    assert max(chunk["token_count"] for chunk in ended.json_lines()) <= 64


async def test_an_url_is_fetched_under_the_rules_of_tasks(documents: Path) -> None:
    async with FileServer() as files:
        files.files["/a b.pdf"] = (documents / "report.pdf").read_bytes()
        url = files.url("/a%20b.pdf?sig=canary")

        allowed = await run("process", url, ALLOWED_DOWNLOAD_HOSTS=files.authority)
        forbidden = await run("process", url)

    assert {chunk["doc_id"] for chunk in allowed.json_lines()} == {"a b"}
    assert forbidden.code == 1
    assert "DOWNLOAD_FORBIDDEN: " in forbidden.stderr
    assert "canary" not in forbidden.text


@pytest.mark.parametrize("name", ["a b.pdf", "ünïcödé 文書.pdf", "50% off #1?.pdf", "'\"&;.pdf"])
async def test_any_file_name_will_do(documents: Path, tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.write_bytes((documents / "report.pdf").read_bytes())

    ended = await run("process", str(path))

    assert ended.code == 0
    assert {chunk["doc_id"] for chunk in ended.json_lines()} == {path.stem}


async def test_a_file_name_that_is_no_unicode_is_said(documents: Path, tmp_path: Path) -> None:
    path = tmp_path / "caf\udce9.pdf"
    path.write_bytes((documents / "report.pdf").read_bytes())

    ended = await run("process", str(path))

    assert "Traceback" not in ended.stderr
    assert ended.code == 1
    assert "not valid Unicode" in ended.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        ("process",),
        ("process", "x.pdf", "--max-tokens", "1"),
        ("process", "x.pdf", "--max-tokens", "many"),
        ("process", "x.pdf", "--max-tokens", "100", "--overlap-tokens", "90"),
        ("process", "x.pdf", "--format", "xml"),
        ("process", "x.pdf", "--ocr", "perhaps"),
        ("process", "x.pdf", "--provider", "nobody"),
        ("process", "x.pdf", "--out", "/nowhere/at/all.jsonl"),
        ("process", "x.pdf", "--unknown"),
    ],
    ids=" ".join,
)
async def test_wrong_usage_ends_with_two(arguments: tuple[str, ...]) -> None:
    ended = await run(*arguments)

    assert ended.code == 2
    assert ended.stdout == ""
    assert "Traceback" not in ended.stderr


async def test_a_key_that_is_missing_is_said(documents: Path) -> None:
    ended = await run("process", str(documents / "report.pdf"), "--provider", "openai")

    assert ended.code == 1
    assert "EMBEDDING_AUTH: " in ended.stderr


async def test_a_directory_is_no_document(documents: Path) -> None:
    ended = await run("process", str(documents))

    assert ended.code == 1
    assert "Traceback" not in ended.stderr
    assert len(ended.stderr.splitlines()) == 1
