"""More than one process: keys taken at one, used at another."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from tests.acceptance.commands import run
from tests.acceptance.daemon import running_daemon
from tests.acceptance.system import API_KEY, Around, Client, key

pytestmark = pytest.mark.asyncio(loop_scope="session")

SECRET = "a secret of 32 characters or more for tests"


async def test_a_key_given_to_the_key_server_reaches_the_worker(documents: Path) -> None:
    async with Around(documents) as around:
        settings = around.settings | {"KEY_ENCRYPTION_SECRET": SECRET}
        async with (
            running_daemon("--only", "keys", **settings) as keys,
            running_daemon("--only", "worker", **settings) as worker,
            Client(keys) as client,
        ):
            assert await worker.listening() == {}
            assert (await keys.listening()).keys() == {"keys"}
            task_id = await around.push(provider="")
            await around.reached(task_id, "WAITING_FOR_KEY")

            answer = await client.give_key(task_id)

            assert answer.success
            await around.reached(task_id, "SUCCEEDED")
            async with asyncio.timeout(10):
                while await around.redis.exists(key("key", task_id)):
                    pass


async def test_a_key_given_to_the_other_replica_is_found(documents: Path) -> None:
    async with Around(documents) as around:
        settings = around.settings | {"KEY_ENCRYPTION_SECRET": SECRET}
        async with (
            running_daemon(**settings) as one,
            running_daemon(**settings) as other,
            Client(one) as client_of_one,
            Client(other) as client_of_other,
        ):
            task_id = await around.push(provider="")
            holder = (await around.reached(task_id, "WAITING_FOR_KEY"))["worker"]
            one_has_it = any(event.get("task_id") == task_id for event in one.events)

            await (client_of_other if one_has_it else client_of_one).give_key(task_id)

            assert (await around.reached(task_id, "SUCCEEDED"))["worker"] == holder


async def test_a_key_early_at_one_replica_is_found_after_that_one_is_gone(
    documents: Path,
) -> None:
    async with Around(documents) as around:
        settings = around.settings | {"KEY_ENCRYPTION_SECRET": SECRET}
        async with running_daemon("--only", "keys", **settings) as keys, Client(keys) as client:
            await client.give_key("orphaned")
        stored = await around.redis.execute_command("GET", key("key", "orphaned"), NEVER_DECODE=[])
        async with running_daemon("--only", "worker", **settings):
            await around.push(task_id="orphaned", provider="")

            await around.reached("orphaned", "SUCCEEDED")

        assert API_KEY.encode() not in stored


async def test_a_key_sealed_with_an_unknown_secret_is_said_to_be_unreadable(
    documents: Path,
) -> None:
    async with Around(documents) as around:
        sealing = around.settings | {"KEY_ENCRYPTION_SECRET": "another " + SECRET}
        async with running_daemon("--only", "keys", **sealing) as keys, Client(keys) as client:
            await client.give_key("sealed")
        settings = around.settings | {"KEY_ENCRYPTION_SECRET": SECRET}
        async with running_daemon("--only", "worker", **settings):
            await around.push(task_id="sealed", provider="")

            event = await around.reached("sealed", "RETRYING")

        assert event["error_code"] == "KEY_UNREADABLE"
        assert "sealed with a secret" in event["error_message"]


@pytest.mark.parametrize("part", ["keys", "worker"])
async def test_parts_alone_need_the_secret(part: str) -> None:
    ended = await run("serve", "--only", part)

    assert ended.code == 2
    assert "KEY_ENCRYPTION_SECRET" in ended.stderr
    assert len(ended.stderr.splitlines()) == 1


async def test_the_embedding_server_alone_needs_no_secret(documents: Path) -> None:
    async with (
        Around(documents) as around,
        running_daemon("--only", "embedding", **around.settings) as daemon,
    ):
        assert (await daemon.listening()).keys() == {"embedding"}
