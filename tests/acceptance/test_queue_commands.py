"""`submit`, `status` and `dead`, beside a running daemon."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest
from moto.server import ThreadedMotoServer

from tests.acceptance.commands import Finished, run
from tests.acceptance.go_side import WHOLE
from tests.acceptance.system import System, key, running_system

pytestmark = pytest.mark.asyncio(loop_scope="session")


async def command(system: System, *arguments: str, **environment: str) -> Finished:
    return await run(*arguments, **system.settings | {"COLUMNS": "200"} | environment)


async def dead_task(system: System, **fields: Any) -> str:
    task_id = await system.push("nothing.pdf", **fields)
    await system.reached(task_id, "DEAD")
    return task_id


# ------------------------------------------------------------------------------ status


async def test_status_says_where_a_task_is(system: System) -> None:
    task_id = await system.push()
    await system.reached(task_id, "SUCCEEDED")

    ended = await command(system, "status", task_id)

    assert ended.code == 0
    assert ended.stdout.startswith(f"{task_id}: succeeded, 3/3 pages")


async def test_status_as_json_has_every_field(system: System) -> None:
    task_id = await dead_task(system)

    ended = await command(system, "status", task_id, "--json")

    (status,) = ended.json_lines()
    assert status.keys() >= {"state", "attempt", "pages_done", "pages_total"}
    assert (status["task_id"], status["state"]) == (task_id, "DEAD")
    assert status["error_code"] == "DOWNLOAD_NOT_FOUND"


async def test_status_of_an_unknown_task_is_unknown(system: System) -> None:
    ended = await command(system, "status", "never-heard-of", "--json")

    assert ended.json_lines()[0]["state"] == "UNKNOWN"


async def test_watching_a_status_ends_with_the_task_and_its_outcome(system: System) -> None:
    good, bad = await system.push(), await dead_task(system)

    watched = await command(system, "status", good, "--watch", "--json")
    failed = await command(system, "status", bad, "--watch")

    assert (watched.code, watched.json_lines()[-1]["state"]) == (0, "SUCCEEDED")
    assert failed.code == 1


async def test_status_of_the_queue_counts_what_is_where(system: System) -> None:
    await dead_task(system)

    ended = await command(system, "status", "--json")
    for_people = await command(system, "status")

    (counts,) = ended.json_lines()
    assert counts.keys() >= {"waiting", "in_flight", "delayed", "dead", "workers"}
    assert (counts["workers"], counts["waiting"]) == (1, 0)
    assert counts["dead"] == await system.redis.llen(key("dead"))
    assert "in flight" in for_people.stdout


# -------------------------------------------------------------------------------- dead


async def test_dead_list_names_task_code_and_message(system: System) -> None:
    task_id = await dead_task(system)

    ended = await command(system, "dead", "list")

    (line,) = [line for line in ended.stdout.splitlines() if task_id in line]
    assert "DOWNLOAD_NOT_FOUND" in line
    assert "404" in line


async def test_dead_list_shows_whole_ids_also_where_there_is_no_terminal(system: System) -> None:
    task_id = await dead_task(system)

    ended = await run("dead", "list", **system.settings)

    assert task_id in ended.stdout


async def test_dead_list_as_json_can_be_read_by_programs(system: System) -> None:
    task_id = await dead_task(system)

    ended = await command(system, "dead", "list", "--json")

    assert json.loads(ended.stdout)[0]["task"]["task_id"] == task_id


async def test_dead_show_masks_presigned_queries_and_passwords(system: System) -> None:
    url = system.files.url("/nothing.pdf?X-Amz-Signature=canary")
    task_id = await dead_task(system, URL=url, options={"password": "canary"})

    ended = await command(system, "dead", "show", task_id)

    letter = json.loads(ended.stdout)
    assert letter["task"]["URL"].startswith(system.files.url("/nothing.pdf?"))
    assert "canary" not in ended.stdout
    assert letter["error_code"] == "DOWNLOAD_NOT_FOUND"


async def test_dead_retry_gives_the_task_another_life_with_its_url_whole(system: System) -> None:
    task_id = await system.push("soon.pdf", URL=system.files.url("/soon.pdf?sig=needed"))
    await system.reached(task_id, "DEAD")
    system.files.files["/soon.pdf"] = system.files.files["/report.pdf"]

    ended = await command(system, "dead", "retry", task_id)

    assert ended.code == 0
    assert (await system.go.ended(task_id)).ending == WHOLE
    assert system.files.requests[-1].query == "sig=needed"
    await system.reached(task_id, "SUCCEEDED")
    assert not await system.dead(task_id)


async def test_dead_drop_forgets_the_task(system: System) -> None:
    task_id = await dead_task(system)

    ended = await command(system, "dead", "drop", task_id)

    assert ended.code == 0
    assert not await system.dead(task_id)


@pytest.mark.parametrize("verb", ["show", "retry", "drop"])
async def test_what_is_not_dead_is_not_found(system: System, verb: str) -> None:
    ended = await command(system, "dead", verb, "alive")

    assert ended.code == 1
    assert "alive" in ended.stderr
    assert ended.stdout == ""


# ------------------------------------------------------------------------------ submit


@pytest.fixture(scope="module")
def bucket() -> Iterator[dict[str, str]]:
    """A bucket of a fake S3; the settings that name it."""
    server = ThreadedMotoServer("127.0.0.1", port=0, verbose=False)
    server.start()
    endpoint = "http://{}:{}".format(*server.get_host_and_port())
    boto3.client(
        "s3",
        endpoint_url=endpoint,
        aws_access_key_id="id",
        aws_secret_access_key="secret",
        region_name="us-east-1",
    ).create_bucket(Bucket="documents")
    yield {
        "BUCKET_ENDPOINT": endpoint,
        "BUCKET_NAME": "documents",
        "BUCKET_ACCESS_ID": "id",
        "BUCKET_ACCESS_KEY": "secret",
        "EMBEDDING_PROVIDER": "none",
    }
    server.stop()


async def test_submitted_files_go_through_the_bucket_and_arrive(
    documents: Path, tmp_path: Path, bucket: dict[str, str]
) -> None:
    name = "50% off #1 ünïcödé 文書.pdf"
    (tmp_path / name).write_bytes((documents / "report.pdf").read_bytes())
    async with running_system(documents, **bucket) as system:
        settings = system.settings | bucket
        sources = (str(tmp_path / name), str(documents / "truncated.pdf"))

        ended = await run("submit", *sources, "--watch", **settings)

        good, bad = ended.stdout.splitlines()
        assert (await system.go.ended(good)).metadata.file_name == name
        assert ended.code == 1
        assert f"{bad}: PDF_CORRUPT: " in ended.stderr


async def test_a_submitted_url_needs_no_bucket_and_is_followed_to_success(system: System) -> None:
    ended = await command(system, "submit", system.files.url("/report.pdf"))

    (task_id,) = ended.stdout.split()
    assert ended.code == 0
    await system.client.give_key(task_id)
    await system.reached(task_id, "SUCCEEDED")
    assert system.states(task_id)[0] == "QUEUED"


async def test_without_a_bucket_a_file_cannot_be_submitted(system: System, documents: Path) -> None:
    ended = await command(system, "submit", str(documents / "report.pdf"))

    assert ended.code == 2
    assert "BUCKET_NAME" in ended.stderr


async def test_a_missing_file_is_not_submitted(system: System) -> None:
    ended = await command(system, "submit", f"{os.devnull}/nothing.pdf")

    assert ended.code == 1
    assert "nothing.pdf" in ended.stderr


@pytest.mark.parametrize(
    "arguments", [("status", "x"), ("dead", "list"), ("submit", "http://e.org/a.pdf")], ids=" ".join
)
async def test_without_redis_commands_say_so(arguments: tuple[str, ...]) -> None:
    ended = await run(*arguments, REDIS_URL="redis://:canary@127.0.0.1:1/0")

    assert ended.code == 1
    assert "REDIS_URL" in ended.stderr
    assert "Traceback" not in ended.stderr
    assert "canary" not in ended.text
