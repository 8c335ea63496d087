"""Secrets appear nowhere: not in logs, in Redis, in dead letters, or in what commands print."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import grpc
import pytest
import pytest_asyncio
from redis.asyncio import Redis

from protos import cognicore_pb2 as pb
from tests.acceptance.commands import Finished, run
from tests.acceptance.daemon import DEFAULTS
from tests.acceptance.system import QUEUE, System, key, running_system, server
from tests.fake_providers import Cut, Reply, gemini_error, openai_error
from tests.http_server import Answer

pytestmark = pytest.mark.asyncio(loop_scope="session")

PASSWORD = "canary-redis-password"
TOKEN = "canary-grpc-token"
INGEST_TOKEN = "canary-ingest-token"
SECRET = "canary-secret-of-32-characters-or-more"
BUCKET_KEY = "canary-bucket-secret-key"
GOOD_KEY = "sk-canary-good-key-0123456789abcdef"
BAD_KEY = "sk-canary-bad-key-fedcba9876543210"
SIGNATURE = "canary-presigned-signature"
USERINFO = "canary-userinfo"
PDF_PASSWORD = "canary-pdf-password"

IN_PAYLOADS = (SIGNATURE, USERINFO, PDF_PASSWORD)
NOWHERE = (PASSWORD, TOKEN, INGEST_TOKEN, SECRET, BUCKET_KEY, GOOD_KEY, BAD_KEY)


@dataclass
class Written:
    """Everything that was written while tasks succeeded and failed in every cheap way."""

    log: str
    redis: dict[str, str]
    events: list[dict[str, Any]]
    tasks: list[str]
    commands: dict[str, Finished]
    answers: str


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def written(documents: Path) -> AsyncIterator[Written]:
    with server() as valkey:
        async with Redis.from_url(valkey.url) as redis:
            await redis.config_set("requirepass", PASSWORD)
        url = valkey.url.replace("redis://", f"redis://:{PASSWORD}@")
        settings = {
            "GRPC_AUTH_TOKEN": TOKEN,
            "INGEST_AUTH_TOKEN": INGEST_TOKEN,
            "KEY_ENCRYPTION_SECRET": SECRET,
            "BUCKET_ACCESS_ID": "somebody",
            "BUCKET_ACCESS_KEY": BUCKET_KEY,
            "MAX_ATTEMPTS": "1",
        }
        async with running_system(documents, redis_url=url, token=TOKEN, **settings) as system:
            system.providers.api_key = GOOD_KEY
            tasks = await _live_through_everything(system)
            answers = await _provoked_answers(system)
            environment = DEFAULTS | system.settings | settings
            yield Written(
                log=system.daemon.text,
                redis=await _dump(system),
                events=system.events,
                tasks=tasks,
                commands=await _shown(environment, tasks),
                answers=answers,
            )


async def _live_through_everything(system: System) -> list[str]:
    signed = {"URL": system.files.url(f"/report.pdf?X-Amz-Signature={SIGNATURE}")}
    tasks = [await _with_key(system, provider, GOOD_KEY) for provider in ("openai", "gemini")]
    for provider in ("openai", "gemini", "openai", "gemini", "openai", "gemini", "openai"):
        task_id = await _with_key(system, provider, BAD_KEY)
        tasks.append(task_id)
        await system.reached(task_id, "DEAD")
        system.providers.script(*_answers_that_echo(provider, len(tasks)))
    for _ in range(2):
        tasks.append(await _with_key(system, "gemini", GOOD_KEY))
        await system.reached(tasks[-1], "DEAD" if system.providers._script else "SUCCEEDED")
    system.files.script("/forbidden.pdf", Answer(status=403))
    tasks += [
        await system.push(**signed, options={"password": PDF_PASSWORD}),
        await system.push("encrypted.pdf", options={"password": PDF_PASSWORD}),
        await system.push("truncated.pdf", options={"password": PDF_PASSWORD}),
        await system.push(URL=signed["URL"].replace("report", "nothing")),
        await system.push(URL=signed["URL"].replace("report", "forbidden")),
        await system.push(URL=f"http://169.254.169.254/x?X-Amz-Signature={SIGNATURE}"),
        await system.push(URL=f"http://u:{USERINFO}@127.0.0.1/x.pdf?sig={SIGNATURE}"),
        await system.push(URL=f"http://[broken/x.pdf?sig={SIGNATURE}"),
        await system.push(URL=f"HTTPS://127.0.0.1/x.pdf?sig={SIGNATURE}"),
        await system.push(URL=f"http://127.0.0.1/it's a report.pdf?sig={SIGNATURE}"),
        await system.push(URL=f"nonsense://x?sig={SIGNATURE}", provider="nobody"),
        await system.push(URL=f"s3://bucket/key?sig={SIGNATURE}"),
    ]
    for doc_id, answer in _ingest_answers().items():
        system.go.answer(doc_id, answer)
        tasks.append(await system.push(DocID=doc_id))
    for payload in _garbage(signed["URL"]):
        await system.push_payload(payload)
    tasks.append(await system.push(provider="openai"))
    await system.reached(tasks[-1], "WAITING_FOR_KEY")
    await system.client.cancel(tasks.pop())
    await asyncio.gather(*(_settled(system, task_id) for task_id in tasks))
    await system.client.retry(tasks[-1])
    await system.reached(tasks[-1], "SUCCEEDED")
    return tasks


async def _settled(system: System, task_id: str) -> None:
    state = asyncio.create_task(system.reached(task_id, "SUCCEEDED"))
    dead = asyncio.create_task(system.reached(task_id, "DEAD"))
    done, pending = await asyncio.wait({state, dead}, return_when=asyncio.FIRST_COMPLETED)
    for task in pending:
        task.cancel()
    await asyncio.gather(*done, *pending, return_exceptions=True)


async def _with_key(system: System, provider: str, api_key: str) -> str:
    task_id = await system.push(provider="")
    await system.client.give_key(task_id, api_key, provider)
    return task_id


def _answers_that_echo(provider: str, number: int) -> list[Reply | Cut]:
    echo = f"Incorrect API key provided: {BAD_KEY}; {GOOD_KEY}"
    if provider == "openai":
        return [
            [openai_error(400, echo)],
            [openai_error(401, echo, code="invalid_api_key")],
            [openai_error(403, echo)],
            [openai_error(429, echo, code="insufficient_quota", kind="insufficient_quota")],
        ][number % 4]
    return [
        [gemini_error(400, "INVALID_ARGUMENT", echo)],
        [gemini_error(403, "PERMISSION_DENIED", echo)],
        [Reply(404, {"X-Key": BAD_KEY}, echo)],
        [Reply(400, {}, f"<html>{echo}</html>")],
    ][number % 4]


def _ingest_answers() -> dict[str, Any]:
    said = f"not authorized: got 'Bearer {INGEST_TOKEN}'"
    return {
        "refusal": pb.IngestResponse(success=False, message=said),
        "denied": (grpc.StatusCode.PERMISSION_DENIED, said),
        "unauthenticated": (grpc.StatusCode.UNAUTHENTICATED, said),
        "broken": (grpc.StatusCode.INTERNAL, said),
    }


def _garbage(url: str) -> list[str]:
    """Payloads that are no tasks, but hold secrets: as Go's JSON encoder writes them, too."""
    task = {
        "task_id": "no-task",
        "URL": url,
        "options": {"password": PDF_PASSWORD, "max_tokens": 1},
    }
    escaped = {
        "task_id": "x" * 300,
        "URL": f"https://b.example/x.pdf?a=1&X-Amz-Signature={SIGNATURE}",
    }
    return [
        json.dumps(task),
        json.dumps(task, indent=1),
        json.dumps(escaped).replace("&", "\\u0026"),
        json.dumps(escaped).replace("/", "\\/"),
        json.dumps(task)[:-3],
        url,
    ]


async def _provoked_answers(system: System) -> str:
    """What the servers say to callers who make mistakes."""
    said = [
        (await system.client.give_key("", BAD_KEY)).message,
        (await system.client.give_key("x", BAD_KEY, "nobody")).message,
        (await system.client.give_key("x", BAD_KEY + "\n" + BAD_KEY)).message,
    ]
    system.client.token = "wrong"
    try:
        await system.client.give_key("x", BAD_KEY)
    except grpc.aio.AioRpcError as error:
        said.append(str(error.details()))
    system.client.token = TOKEN
    return "\n".join(said)


async def _dump(system: System) -> dict[str, str]:
    """Every key of every type; the letters without the tasks in them."""
    dump: dict[str, str] = {}
    async with Redis.from_url(system.redis_url) as redis:
        async for name in redis.scan_iter():
            kind = (await redis.type(name)).decode()
            read = {
                "string": redis.get,
                "hash": redis.hgetall,
                "list": partial(redis.lrange, start=0, end=-1),
                "zset": partial(redis.zrange, start=0, end=-1),
                "set": redis.smembers,
            }[kind]
            dump[name.decode(errors="replace")] = repr(await read(name))
        for letters in (key("dead"), key("invalid")):
            found = [json.loads(one) for one in await redis.lrange(letters, 0, -1)]
            dump[f"{letters} without tasks"] = repr([one | {"task": ""} for one in found])
    return dump


async def _shown(environment: dict[str, str], tasks: list[str]) -> dict[str, Finished]:
    commands = [
        ("dead", "list"),
        ("dead", "list", "--json"),
        ("status",),
        ("doctor",),
        *(("dead", "show", task_id) for task_id in tasks[-8:]),
        *(("status", task_id, "--json") for task_id in tasks[2:4]),
    ]
    wide = environment | {"COLUMNS": "1000"}
    ended = await asyncio.gather(*(run(*command, **wide) for command in commands))
    return {" ".join(command): one for command, one in zip(commands, ended, strict=True)}


async def test_the_tasks_did_go_through_everything(written: Written) -> None:
    codes = {event["error_code"] for event in written.events}
    assert codes >= {
        "DOWNLOAD_FORBIDDEN",
        "DOWNLOAD_NOT_FOUND",
        "EMBEDDING_AUTH",
        "EMBEDDING_REJECTED",
        "INGEST_REJECTED",
        "INGEST_UNAVAILABLE",
        "INVALID_TASK",
        "PDF_CORRUPT",
        "PDF_ENCRYPTED",
    }
    assert "SUCCEEDED" in {event["state"] for event in written.events}
    assert len(written.redis[key("invalid")]) > 100


@pytest.mark.parametrize("secret", [*NOWHERE, *IN_PAYLOADS])
async def test_no_secret_is_logged(written: Written, secret: str) -> None:
    assert not [line for line in written.log.splitlines() if secret in line]


@pytest.mark.parametrize("secret", [*NOWHERE, *IN_PAYLOADS])
async def test_no_secret_is_in_an_event(written: Written, secret: str) -> None:
    assert not [event for event in written.events if secret in json.dumps(event)]


@pytest.mark.parametrize("secret", NOWHERE)
async def test_no_key_and_no_token_is_in_redis_in_the_clear(written: Written, secret: str) -> None:
    assert not [name for name, value in written.redis.items() if secret in name + value]


@pytest.mark.parametrize("secret", IN_PAYLOADS)
async def test_only_the_tasks_themselves_hold_urls_and_passwords(
    written: Written, secret: str
) -> None:
    payloads = {QUEUE, key("dead"), key("invalid")}
    assert not [
        name
        for name, value in written.redis.items()
        if name not in payloads and secret in name + value
    ]


@pytest.mark.parametrize("secret", [*NOWHERE, *IN_PAYLOADS])
async def test_no_command_shows_a_secret(written: Written, secret: str) -> None:
    assert {
        name: [line for line in ended.text.splitlines() if secret in line]
        for name, ended in written.commands.items()
        if secret in ended.text
    } == {}


@pytest.mark.parametrize("secret", [*NOWHERE, *IN_PAYLOADS])
async def test_no_answer_repeats_a_secret(written: Written, secret: str) -> None:
    assert secret not in written.answers


async def test_what_is_shown_of_a_dead_task_still_helps(written: Written) -> None:
    shown = [
        json.loads(ended.stdout)
        for name, ended in written.commands.items()
        if name.startswith("dead show") and ended.code == 0
    ]
    assert any("/x.pdf" in letter["task"]["URL"] for letter in shown)
