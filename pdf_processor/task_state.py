"""How far a task is, as a value: one hash in Redis, one event on the channel."""

from __future__ import annotations

import time
from dataclasses import dataclass, fields, replace
from enum import StrEnum
from typing import Any, Self, TypedDict

import orjson

from pdf_processor.errors import ProcessorError

MAX_MESSAGE_CHARACTERS = 1000
MAX_WARNINGS = 100
ADDED_UP = frozenset({"tokens", "provider_calls", "cache_hits"})
"""What counts over all attempts of a task."""


class State(StrEnum):
    """Where a task is; names as in `TaskStatus.State` of the proto."""

    UNKNOWN = "UNKNOWN"
    QUEUED = "QUEUED"
    WAITING_FOR_KEY = "WAITING_FOR_KEY"
    DOWNLOADING = "DOWNLOADING"
    PROCESSING = "PROCESSING"
    RETRYING = "RETRYING"
    SUCCEEDED = "SUCCEEDED"
    DEAD = "DEAD"
    CANCELLED = "CANCELLED"

    @property
    def is_final(self) -> bool:
        """Nothing will change by itself any more."""
        return self in {State.SUCCEEDED, State.DEAD, State.CANCELLED}


@dataclass(frozen=True, slots=True)
class TaskStatus:
    """What is known of a task; fields as in the proto, and the worker that has or had it."""

    task_id: str
    state: State = State.UNKNOWN
    attempt: int = 0
    pages_done: int = 0
    pages_total: int = 0
    chunks_sent: int = 0
    error_code: str = ""
    error_message: str = ""
    worker: str = ""
    doc_id: str = ""
    tokens: int = 0
    provider_calls: int = 0
    cache_hits: int = 0
    warnings: tuple[str, ...] = ()
    updated_at_ms: int = 0

    def to_event(self) -> bytes:
        """Return the JSON object that is published: every field, numbers as numbers."""
        return orjson.dumps(self)

    @classmethod
    def from_event(cls, event: bytes) -> Self:
        """Read what was published.

        Raises:
            ValueError: it is no status.
        """
        values = orjson.loads(event)
        if not isinstance(values, dict):
            raise ValueError("not a status")  # noqa: TRY004 - the value is wrong, not its type
        return cls.from_values(values)

    def to_hash(self) -> list[str]:
        """Return the values of `HASH_FIELDS`; warnings as a JSON array."""
        warnings = orjson.dumps(self.warnings).decode()
        return [
            warnings if name == "warnings" else str(getattr(self, name)) for name in HASH_FIELDS
        ]

    @classmethod
    def from_hash(cls, task_id: str, values: dict[bytes, bytes]) -> Self:
        """Read the hash; what somebody else damaged has its default."""
        texts: dict[str, Any] = {
            name.decode(errors="replace"): value.decode(errors="replace")
            for name, value in values.items()
        }
        try:
            texts["warnings"] = orjson.loads(texts.get("warnings", "[]"))
        except ValueError:
            texts["warnings"] = []
        return cls.from_values(texts | {"task_id": task_id})

    @classmethod
    def from_values(cls, values: dict[str, Any]) -> Self:
        """Read fields whose values may be of any type."""
        known = {field.name: field.default for field in fields(cls)} | {"task_id": ""}
        return cls(
            **{name: _like(default, values.get(name, default)) for name, default in known.items()}
        )


HASH_FIELDS = [field.name for field in fields(TaskStatus) if field.name != "task_id"]


def _like(default: Any, value: Any) -> Any:
    """Return `value` as what `default` is, or else `default`."""
    try:
        if isinstance(default, tuple):
            return tuple(map(str, value)) if isinstance(value, list) else default
        return type(default)(value)
    except (ValueError, TypeError):
        return default


class Progress(TypedDict, total=False):
    """How far one attempt is. Of warnings, all so far."""

    pages_done: int
    pages_total: int
    chunks_sent: int
    tokens: int
    provider_calls: int
    cache_hits: int
    warnings: tuple[str, ...]


def begun(before: TaskStatus, *, doc_id: str, attempt: int, worker: str) -> TaskStatus:
    """Return the status of a new attempt: what was paid for adds up, the rest begins anew."""
    paid = before if attempt > 1 else TaskStatus(before.task_id)
    return TaskStatus(
        before.task_id,
        attempt=attempt,
        worker=worker,
        doc_id=doc_id,
        tokens=paid.tokens,
        provider_calls=paid.provider_calls,
        cache_hits=paid.cache_hits,
    )


def advanced(begin: TaskStatus, status: TaskStatus, progress: Progress) -> TaskStatus:
    """Return `status` after this progress; `begin` is where the attempt began."""
    changes: dict[str, Any] = dict(progress)
    for name in ADDED_UP & changes.keys():
        changes[name] += getattr(begin, name)
    if "warnings" in changes:
        warnings = changes["warnings"][:MAX_WARNINGS]
        changes["warnings"] = tuple(text[:MAX_MESSAGE_CHARACTERS] for text in warnings)
    return stamped(replace(status, **changes))


def entered(status: TaskStatus, state: State, error: ProcessorError | None = None) -> TaskStatus:
    """Return `status` in another state; the error fields are those of `error`, or empty."""
    released = state is State.QUEUED
    return stamped(
        replace(
            status,
            state=state,
            attempt=max(0, status.attempt - 1) if released else status.attempt,
            error_code=error.code if error else "",
            error_message=error.message[:MAX_MESSAGE_CHARACTERS] if error else "",
        )
    )


def stamped(status: TaskStatus) -> TaskStatus:
    """Return `status` as of now, and later than before."""
    now_ms = time.time_ns() // 1_000_000
    return replace(status, updated_at_ms=max(status.updated_at_ms + 1, now_ms))
