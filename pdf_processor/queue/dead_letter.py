"""What is kept of a task that failed for good, or of a payload that was no task."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass, field
from typing import Any, Self

from pdf_processor.errors import ProcessorError

MAX_PAYLOAD_BYTES = 16 * 1024
MAX_MESSAGE_CHARACTERS = 1000
MAX_DIGITS = 100


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """One entry of the dead or the invalid list.

    `task` is the task's JSON object; of a payload that was no task, its first 16 KiB as a
    string. It may hold a presigned URL and a password, so it has no repr. `worker` and
    `attempts` are empty and 0 for what was never started.
    """

    task: dict[str, Any] | str = field(repr=False)
    error_code: str
    error_message: str
    attempts: int
    worker: str
    at_ms: int

    @classmethod
    def of_task(cls, payload: bytes, error: ProcessorError, *, attempts: int, worker: str) -> Self:
        """Write a letter for a payload that is a task."""
        task = json.loads(payload, parse_constant=lambda _: None, parse_int=_whole_number)
        return cls._now(task, error, attempts, worker)

    @classmethod
    def of_garbage(cls, payload: bytes, error: ProcessorError, *, worker: str) -> Self:
        """Write a letter for a payload that is no task."""
        text = payload[:MAX_PAYLOAD_BYTES].decode(errors="replace")
        return cls._now(text, error, 0, worker)

    @classmethod
    def _now(
        cls, task: dict[str, Any] | str, error: ProcessorError, attempts: int, worker: str
    ) -> Self:
        message = error.message[:MAX_MESSAGE_CHARACTERS]
        return cls(task, error.code, message, attempts, worker, time.time_ns() // 1_000_000)

    @property
    def task_id(self) -> str:
        """The task's id; "" for a payload that was no task."""
        return str(self.task.get("task_id", "")) if isinstance(self.task, dict) else ""

    @property
    def payload(self) -> bytes:
        """The task as it goes back to the queue."""
        return _json(self.task)

    def to_json(self) -> bytes:
        """Return the entry as it stands in the list."""
        return _json({name: getattr(self, name) for name in self.__slots__})

    @classmethod
    def from_json(cls, entry: bytes) -> Self:
        """Read an entry; one that somebody else wrote is shown as what it is, a string."""
        try:
            fields = json.loads(entry)
            return cls(
                task=fields["task"] if isinstance(fields["task"], dict) else str(fields["task"]),
                error_code=str(fields["error_code"]),
                error_message=str(fields["error_message"]),
                attempts=int(fields["attempts"]),
                worker=str(fields["worker"]),
                at_ms=int(fields["at_ms"]),
            )
        except (ValueError, TypeError, LookupError, RecursionError):
            return cls(entry.decode(errors="replace"), "", "Not a dead letter.", 0, "", 0)


def _whole_number(digits: str) -> int | str:
    """Python reads no whole number of more than 4,300 digits: leave a long one as it is."""
    return int(digits) if len(digits) <= MAX_DIGITS else digits


def _json(value: object) -> bytes:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()
