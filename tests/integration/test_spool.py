"""Temporary files: their room, and what a crash leaves behind."""

from __future__ import annotations

import fcntl
import subprocess
import sys
from pathlib import Path
from typing import BinaryIO

import pytest

from pdf_processor.download.spool import CHUNK_BYTES, Spool, SpoolFolder
from pdf_processor.errors import InternalError, StorageFull

FULL = Path("/dev/full")

HOLD_A_SPOOL = """
import sys
from pathlib import Path
from pdf_processor.download.spool import SpoolFolder

with SpoolFolder(Path(sys.argv[1])).spool(max_bytes=1) as spool:
    print(spool.path, flush=True)
    sys.stdin.read()
"""


async def test_no_room_to_write_is_storage_full() -> None:
    with FULL.open("wb", buffering=0) as full:  # noqa: ASYNC230 - never waits
        spool = Spool(FULL, full, max_bytes=10 * CHUNK_BYTES)
        with pytest.raises(StorageFull):
            await spool.append(bytes(CHUNK_BYTES))


async def test_no_room_for_the_last_bytes_is_storage_full() -> None:
    with FULL.open("wb", buffering=0) as full:  # noqa: ASYNC230 - never waits
        spool = Spool(FULL, full, max_bytes=10)
        await spool.append(b"last")
        with pytest.raises(StorageFull):
            await spool.finish()


@pytest.mark.parametrize(
    ("content_range", "total"),
    [
        ("bytes 4-9/10", 10),
        ("bytes 0-9/10", None),
        ("bytes 5-9/10", None),
        ("bytes 4-8/10", None),
        ("bytes 4-9/*", None),
        ("bytes */10", None),
        ("bytes 4-9/10, 10-11/12", None),
        ("octets 4-9/10", None),
        ("bytes 4-9/1\u0660", None),
        (f"bytes 4-9/{'9' * 5000}", None),
        ("", None),
    ],
)
async def test_only_the_rest_of_a_document_continues_it(
    tmp_path: Path, content_range: str, total: int | None
) -> None:
    with SpoolFolder(tmp_path).spool(max_bytes=100) as spool:
        await spool.append(b"four")
        assert spool.resumed_total(content_range) == total


def test_a_folder_that_cannot_be_written_says_so(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with (
        pytest.raises(InternalError, match="TEMP_DIR"),
        SpoolFolder(tmp_path / "file").spool(max_bytes=1),
    ):
        pass


def test_a_folder_that_was_cleaned_away_is_made_again(tmp_path: Path) -> None:
    folder = SpoolFolder(tmp_path / "spools")
    folder.prepare()
    (tmp_path / "spools").rmdir()
    with folder.spool(max_bytes=1) as spool:
        assert spool.path.exists()


def test_a_file_that_another_process_took_for_a_leftover_is_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lock = fcntl.flock

    def sweep_first(file: BinaryIO, operation: int) -> None:
        monkeypatch.undo()
        SpoolFolder(tmp_path).prepare()
        lock(file, operation)

    monkeypatch.setattr(fcntl, "flock", sweep_first)
    with SpoolFolder(tmp_path).spool(max_bytes=1) as spool:
        assert spool.path.exists()


def test_what_a_crash_left_is_removed_and_what_others_use_is_not(tmp_path: Path) -> None:
    (tmp_path / "somebody-else-s.pdf").touch()
    command = [sys.executable, "-c", HOLD_A_SPOOL, str(tmp_path)]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout is not None
        spool = Path(other.stdout.readline().strip())
        SpoolFolder(tmp_path).prepare()
        assert spool.exists()
        other.kill()
        other.wait()
    assert spool.exists()
    SpoolFolder(tmp_path).prepare()
    assert [path.name for path in tmp_path.iterdir()] == ["somebody-else-s.pdf"]
