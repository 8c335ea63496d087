"""The embedded Valkey: up at once, and never left behind."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from redis import Redis

from pdf_processor.embedded.valkey import EmbeddedValkey, ValkeyNotStarted

ROOT = Path(__file__).resolve().parents[2]

PARENT = """
import threading, time
from pdf_processor.embedded.valkey import EmbeddedValkey
server = EmbeddedValkey()
server.__enter__()
print(server.port, flush=True)
time.sleep(600)
"""


def test_it_answers_as_soon_as_it_is_entered() -> None:
    with EmbeddedValkey() as server, Redis.from_url(server.url) as redis:
        assert redis.blmove("a", "b", 0.01, "LEFT", "RIGHT") is None


def test_it_is_gone_after_the_block() -> None:
    with EmbeddedValkey() as server:
        port = server.port
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port))


@pytest.mark.parametrize("ending", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_it_dies_with_its_parent(ending: signal.Signals) -> None:
    parent = subprocess.Popen(
        [sys.executable, "-c", PARENT], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, cwd=ROOT
    )
    assert parent.stdout is not None
    with (
        parent,
        socket.create_connection(
            ("127.0.0.1", int(parent.stdout.readline())), timeout=10
        ) as connection,
    ):
        connection.sendall(b"PING\r\n")
        assert connection.recv(64) == b"+PONG\r\n"
        parent.send_signal(ending)
        assert connection.recv(64) == b""


def test_it_outlives_the_thread_that_started_it() -> None:
    server = EmbeddedValkey()
    starter = threading.Thread(target=server.__enter__)
    starter.start()
    starter.join()
    with Redis.from_url(server.url) as redis:
        assert redis.ping()
    server.__exit__(None, None, None)


def test_it_survives_an_interrupt_of_the_terminal() -> None:
    """Ctrl-C goes to the whole process group: the daemon still needs its queue to drain."""
    with EmbeddedValkey() as server, Redis.from_url(server.url) as redis:
        assert os.getpgid(redis.info("server")["process_id"]) != os.getpgid(0)


def test_it_keeps_nothing_unless_asked() -> None:
    with EmbeddedValkey() as server, Redis.from_url(server.url) as redis:
        assert redis.config_get("save", "appendonly") == {"save": "", "appendonly": "no"}


def test_a_directory_outlives_the_server(tmp_path: Path) -> None:
    with EmbeddedValkey(directory=tmp_path) as server, Redis.from_url(server.url) as redis:
        redis.rpush("list", "kept")
    with EmbeddedValkey(directory=tmp_path) as server, Redis.from_url(server.url) as redis:
        assert redis.lrange("list", 0, -1) == [b"kept"]


def test_a_port_that_is_taken_is_named() -> None:
    with (
        EmbeddedValkey() as server,
        pytest.raises(ValkeyNotStarted, match="Address already in use"),
        EmbeddedValkey(port=server.port),
    ):
        pass
