"""Wrong settings and wrong usage end with 2 and words that help; help is everywhere."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest
import pytest_asyncio

from tests.acceptance.commands import Finished, run, run_together
from tests.acceptance.system import System

pytestmark = pytest.mark.asyncio(loop_scope="session")

WRONG = {
    "MAX_ATTEMPTS": "0",
    "LEASE_SECONDS": "soon",
    "LOG_FORMAT": "xml",
    "LOG_LEVEL": "LOUD",
    "GRPC_SERVER_PORT": "70000",
    "STORAGE_TYPE": "floppy",
    "KEY_ENCRYPTION_SECRET": "canary-too-short",
    "REDIS_QUEUE_NAME": "{a}",
    "GRPC_REFLECTION": "perhaps",
}


async def test_each_wrong_setting_has_a_line_and_secrets_are_masked() -> None:
    ended = await run("serve", **WRONG)

    said = ended.stderr.splitlines()
    assert (ended.code, ended.stdout) == (2, "")
    assert len(said) == len(WRONG)
    for name, value in WRONG.items():
        (line,) = [line for line in said if f"{name}=" in line]
        assert ("canary" in value) != (value in line)
    assert "canary" not in ended.stderr


UNUSABLE = {
    "open to all": ({"GRPC_BIND": "0.0.0.0"}, ["GRPC_AUTH_TOKEN", "GRPC_ALLOW_INSECURE"]),
    "half of TLS": ({"GRPC_TLS_CERT": __file__}, ["GRPC_TLS_KEY"]),
    "no PEM": ({"GRPC_TLS_CERT": __file__, "GRPC_TLS_KEY": __file__}, ["GRPC_TLS_CERT"]),
    "no OpenAI key": ({"EMBEDDING_PROVIDER": "openai"}, ["OPENAI_API_KEY"]),
    "no Gemini key": ({"EMBEDDING_PROVIDER": "gemini"}, ["GEMINI_API_KEY"]),
    "unknown provider": ({"EMBEDDING_PROVIDER": "nobody"}, ["EMBEDDING_PROVIDER", "openai"]),
    "no Redis URL": ({"REDIS_URL": "somewhere"}, ["REDIS_URL"]),
    "a slash in the password": (
        {"REDIS_URL": "redis://:canary/x@127.0.0.1:6379/0"},
        ["REDIS_URL"],
    ),
    "no Redis port": ({"REDIS_URL": "redis://:canary@127.0.0.1:port/0"}, ["REDIS_URL"]),
    "no endpoint": ({"BUCKET_ENDPOINT": "http://", "BUCKET_NAME": "b"}, ["BUCKET_ENDPOINT"]),
    "no endpoint's port": (
        {"BUCKET_ENDPOINT": "http://h:port", "BUCKET_NAME": "b"},
        ["BUCKET_ENDPOINT"],
    ),
    "an URL for a host": (
        {"ALLOWED_DOWNLOAD_HOSTS": "http://minio:9000"},
        ["ALLOWED_DOWNLOAD_HOSTS"],
    ),
    "no host's port": ({"ALLOWED_DOWNLOAD_HOSTS": "minio:port"}, ["ALLOWED_DOWNLOAD_HOSTS"]),
    "no certificate": ({"GRPC_TLS_CERT": "/no", "GRPC_TLS_KEY": "/no"}, ["GRPC_TLS_CERT"]),
    "no CA": ({"INGEST_TLS_CA": "/no.pem"}, ["INGEST_TLS_CA"]),
    "no place for files": ({"TEMP_DIR": "/proc/nowhere"}, ["TEMP_DIR"]),
    "no address": ({"GRPC_BIND": "not an address", "GRPC_AUTH_TOKEN": "canary"}, ["GRPC_BIND"]),
}


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def refusals(system: System) -> dict[str, Finished]:
    """How `serve` ends with settings that cannot be used."""
    base = system.settings | {
        "GRPC_SERVER_PORT": "0",
        "GRPC_EMBEDDING_PORT": "0",
        "REDIS_QUEUE_NAME": "nobody-pushes-here",
        "PARSER_PROCESSES": "1",
    }
    return await run_together(
        {case: (("serve",), base | settings) for case, (settings, _) in UNUSABLE.items()}
    )


@pytest.mark.parametrize("case", UNUSABLE)
async def test_settings_that_cannot_be_used_are_named(
    refusals: dict[str, Finished], case: str
) -> None:
    ended, (_, names) = refusals[case], UNUSABLE[case]

    errors = [line for line in ended.stderr.splitlines() if line.startswith("error: ")]
    assert "Traceback" not in ended.stderr
    assert ended.code in {1, 2}
    assert errors
    assert all(name in "\n".join(errors) for name in names)
    assert "canary" not in ended.text


async def test_a_dot_env_in_the_working_directory_is_read(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("MAX_ATTEMPTS=never\n")

    ended = await run("serve", directory=tmp_path)

    assert ended.code == 2
    assert "MAX_ATTEMPTS=never" in ended.stderr


async def test_the_environment_goes_before_dot_env(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("MAX_ATTEMPTS=never\nLOG_FORMAT=xml\n")

    ended = await run("serve", directory=tmp_path, MAX_ATTEMPTS="3")

    assert len(ended.stderr.splitlines()) == 1
    assert "LOG_FORMAT" in ended.stderr


@pytest.mark.parametrize("content", [b"\xff\xfe\x00binary", b"OPENAI_API_KEY=\xe9canary\n"])
async def test_a_dot_env_that_is_no_text_is_named(tmp_path: Path, content: bytes) -> None:
    (tmp_path / ".env").write_bytes(content)

    ended = await run("serve", directory=tmp_path)

    assert "Traceback" not in ended.stderr
    assert ended.code == 2
    assert ".env" in ended.stderr
    assert "canary" not in ended.stderr


async def test_a_port_that_is_taken_is_named(system: System) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        settings = {"GRPC_SERVER_PORT": port, "REDIS_QUEUE_NAME": "nobody-pushes-here"}

        ended = await run("serve", **system.settings | settings)

    assert ended.code == 1
    assert "GRPC_SERVER_PORT" in ended.stderr
    assert port in ended.stderr
    assert "Traceback" not in ended.stderr


WRONG_USAGES = (
    "unknown",
    "--unknown",
    "serve --only everything",
    "dead",
    "dead show",
    "dead bury x",
    "submit",
    "status one two",
    "doctor please",
)
COMMANDS = ("serve", "demo", "process", "submit", "status", "dead", "doctor")
HELPS = (*COMMANDS, "dead list", "dead show", "dead retry", "dead drop")


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def answers() -> dict[str, Finished]:
    """How commands end that only need to be read; the settings around them are wrong."""
    environment = {"REDIS_URL": "wrong", "MAX_ATTEMPTS": "wrong"}
    commands = [*WRONG_USAGES, "--help", *(f"{command} --help" for command in HELPS)]
    return await run_together({line: (line.split(), environment) for line in commands})


@pytest.mark.parametrize("usage", WRONG_USAGES)
async def test_wrong_usage_ends_with_two(answers: dict[str, Finished], usage: str) -> None:
    assert answers[usage].code == 2
    assert "Traceback" not in answers[usage].stderr


@pytest.mark.parametrize("command", HELPS)
async def test_each_command_explains_itself(answers: dict[str, Finished], command: str) -> None:
    ended = answers[f"{command} --help"]

    assert ended.code == 0
    assert f"main.py {command} " in ended.stdout


async def test_help_lists_all_commands(answers: dict[str, Finished]) -> None:
    ended = answers["--help"]

    assert ended.code == 0
    assert all(f" {command} " in ended.stdout for command in COMMANDS)
