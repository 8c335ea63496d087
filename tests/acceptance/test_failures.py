"""What fails ends in its code, in the right list, with words that help; the next task runs."""

from __future__ import annotations

import json
import socket
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from tests.acceptance.go_side import CANCELLED
from tests.acceptance.system import System, key, running_system
from tests.http_server import Answer

pytestmark = pytest.mark.asyncio(loop_scope="session")


@pytest_asyncio.fixture(scope="module", loop_scope="session", autouse=True)
async def _next_task_runs(system: System) -> AsyncIterator[None]:
    yield
    task_id = await system.push()
    await system.reached(task_id, "SUCCEEDED")


async def died(system: System, task_id: str, code: str) -> str:
    """Wait until a task died of `code` in its first attempt; what its letter says."""
    event = await system.reached(task_id, "DEAD")
    letter = await system.dead(task_id)
    status = await system.status(task_id)
    assert (event["error_code"], event["attempt"]) == (code, 1)
    assert (letter["error_code"], letter["attempts"]) == (code, 1)
    assert letter["error_message"] == event["error_message"] == status["error_message"]
    assert "Traceback" not in letter["error_message"]
    return letter["error_message"]


# ------------------------------------------------------------------------ the payload

NO_TASKS = {
    "empty": b"",
    "words": b"hello",
    "binary": b"\x00\xff\xfe\x80PDF",
    "a number": b"42",
    "null": b"null",
    "a list": b'[{"task_id": "x", "URL": "http://example.org/x.pdf"}]',
    "cut short": b'{"task_id": "x", "URL": "http://examp',
    "no task_id": b'{"URL": "http://example.org/x.pdf"}',
    "no URL": b'{"task_id": "x"}',
    "an empty task_id": b'{"task_id": "", "URL": "http://example.org/x.pdf"}',
    "a task_id of two lines": b'{"task_id": "a\\nb", "URL": "http://example.org/x.pdf"}',
    "a task_id too long": json.dumps({"task_id": "x" * 201, "URL": "http://e.org/"}).encode(),
    "half a surrogate pair": b'{"task_id": "x", "URL": "http://e.org/", "UserID": "\\ud800"}',
    "nested too deep": b'{"task_id": "x", "URL": "http://e.org/", "a": ' + b"[" * 5000,
    "too few tokens": b'{"task_id": "x", "URL": "http://e.org/", "options": {"max_tokens": 1}}',
    "overlap too large": b'{"task_id": "x", "URL": "http://e.org/", "options": '
    b'{"max_tokens": 100, "overlap_tokens": 90}}',
    "unknown ocr": b'{"task_id": "x", "URL": "http://e.org/", "options": {"ocr": "please"}}',
}


@dataclass(frozen=True)
class Letters:
    """The invalid list, oldest first, and how long the dead list was before and after."""

    invalid: list[dict[str, Any]]
    dead: tuple[int, int]


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def letters(system: System) -> Letters:
    """What becomes of payloads that are no tasks, with good tasks among them."""
    dead_before = await system.redis.llen(key("dead"))
    known = await system.redis.llen(key("invalid"))
    for payload in NO_TASKS.values():
        await system.push_payload(payload)
    await system.reached(await system.push(), "SUCCEEDED")
    invalid = await system.redis.lrange(key("invalid"), 0, -1 - known)
    dead = (dead_before, await system.redis.llen(key("dead")))
    return Letters([json.loads(letter) for letter in reversed(invalid)], dead)


@pytest.mark.parametrize("what", NO_TASKS)
async def test_a_payload_that_is_no_task_stands_in_the_invalid_list(
    letters: Letters, what: str
) -> None:
    letter = letters.invalid[list(NO_TASKS).index(what)]

    assert letter.keys() == {"task", "error_code", "error_message", "attempts", "worker", "at_ms"}
    assert letter["error_code"] == "INVALID_TASK"
    assert letter["task"] == NO_TASKS[what][: 16 * 1024].decode(errors="replace")
    assert len(letter["error_message"]) > len("The payload is not a task: ")


async def test_payloads_that_are_no_tasks_push_out_no_dead_letter(letters: Letters) -> None:
    assert len(letters.invalid) == len(NO_TASKS)
    assert letters.dead[0] == letters.dead[1]


async def test_a_number_beyond_all_bounds_does_not_leave_the_task_in_limbo(
    system: System,
) -> None:
    """Python refuses to read whole numbers of more than 4,300 digits."""
    task = {"task_id": "many-digits", "URL": system.files.url("/nothing.pdf"), "provider": "none"}
    payload = json.dumps(task)[:-1] + ', "Note": ' + "1" * 5000 + "}"

    await system.push_payload(payload)

    await system.reached("many-digits", "DEAD")
    assert not [one for one in await system.taken() if "many-digits" in one]


async def test_an_unknown_provider_names_those_that_are_known(system: System) -> None:
    task_id = await system.push(provider="cohere")

    message = await died(system, task_id, "INVALID_TASK")

    assert "openai" in message
    assert "gemini" in message


# ----------------------------------------------------------------------- the download


async def test_what_is_not_there_is_not_found(system: System) -> None:
    task_id = await system.push("nothing.pdf")

    message = await died(system, task_id, "DOWNLOAD_NOT_FOUND")

    assert "404" in message


async def test_an_expired_signature_asks_for_a_fresh_url(system: System) -> None:
    system.files.script("/expired.pdf", Answer(status=403))
    url = system.files.url("/expired.pdf?X-Amz-Signature=c0ffee&X-Amz-Expires=60")
    task_id = await system.push(URL=url)

    message = await died(system, task_id, "DOWNLOAD_NOT_FOUND")

    assert "expired" in message
    assert "c0ffee" not in message


FORBIDDEN = (
    "http://169.254.169.254/latest/meta-data/",
    "http://[::ffff:169.254.169.254]/latest/meta-data/",
    "http://0xa9fea9fe/latest/",
    "http://10.0.0.1:8080/a.pdf",
    "http://localhost:{port}/a.pdf",
    "http://127.0.0.1:{port}/a.pdf",
    "http://127.1:{port}/a.pdf",
    "http://[::1]:{port}/a.pdf",
    "http://0.0.0.0:{port}/a.pdf",
    "http://user:secret@127.0.0.1:{port}/a.pdf",
    "file:///etc/passwd",
    "s3://somebody-elses-bucket/a.pdf",
    "ftp://127.0.0.1/a.pdf",
    "gopher://127.0.0.1:{port}/",
    "/etc/passwd",
)


async def test_a_forbidden_place_is_refused_without_a_connection(system: System) -> None:
    with socket.create_server(("127.0.0.1", 0)) as trap:
        trap.setblocking(False)
        port = trap.getsockname()[1]
        tasks = [await system.push(URL=url.format(port=port)) for url in FORBIDDEN]

        messages = [await died(system, task_id, "DOWNLOAD_FORBIDDEN") for task_id in tasks]

        with pytest.raises(BlockingIOError):
            trap.accept()
    assert "secret" not in " ".join(messages)


async def test_a_redirect_to_a_forbidden_place_is_refused(system: System) -> None:
    with socket.create_server(("127.0.0.1", 0)) as trap:
        trap.setblocking(False)
        location = f"http://127.0.0.1:{trap.getsockname()[1]}/inside"
        system.files.script("/moved.pdf", Answer(status=302, headers={"Location": location}))
        task_id = await system.push("moved.pdf")

        await died(system, task_id, "DOWNLOAD_FORBIDDEN")

        with pytest.raises(BlockingIOError):
            trap.accept()


async def test_a_file_that_says_it_is_too_large_is_not_even_asked_for(system: System) -> None:
    asked = len(system.files.requests)
    task_id = await system.push(FileSize=256 * 1024 * 1024 + 1)

    message = await died(system, task_id, "TOO_LARGE")

    assert "MAX_FILE_BYTES" in message
    assert len(system.files.requests) == asked


async def test_a_file_that_turns_out_too_large_is_not_kept(documents: Path) -> None:
    async with running_system(documents, MAX_FILE_BYTES="1000") as system:
        task_id = await system.push("report.pdf", FileSize=10)

        message = await died(system, task_id, "TOO_LARGE")

        assert "MAX_FILE_BYTES" in message
        assert not list(system.temp_dir.iterdir())


# ----------------------------------------------------------------------- the document


@pytest.mark.parametrize(
    ("document", "code"),
    [
        ("page.html.pdf", "NOT_A_PDF"),
        ("truncated.pdf", "PDF_CORRUPT"),
        ("encrypted.pdf", "PDF_ENCRYPTED"),
    ],
)
async def test_a_bad_document_opens_no_stream(system: System, document: str, code: str) -> None:
    task_id = await system.push(document)

    await died(system, task_id, code)

    assert not system.go.of(task_id)
    assert not list(system.temp_dir.iterdir())


async def test_the_password_opens_an_encrypted_document(system: System) -> None:
    task_id = await system.push("encrypted.pdf", options={"password": "open sesame"})

    await system.reached(task_id, "SUCCEEDED")


async def test_a_scan_without_ocr_has_no_text(system: System) -> None:
    task_id = await system.push("scan.pdf", options={"ocr": "off"})

    await died(system, task_id, "NO_TEXT")

    assert not system.go.of(task_id)


async def test_a_parse_that_fails_at_page_200_cancels_the_stream(system: System) -> None:
    task_id = await system.push("page-missing.pdf", DocID="fails-at-200")

    stream = await system.go.ended("fails-at-200")

    assert stream.ending == CANCELLED
    assert stream.chunks
    assert max(chunk.page_end for chunk in stream.chunks) < 200
    message = await died(system, task_id, "PDF_CORRUPT")
    assert "200" in message
    assert len(system.go.of("fails-at-200")) == 1
