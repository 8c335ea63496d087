"""How one run of a task ended: what the worker settles its lease by."""

from __future__ import annotations

from dataclasses import dataclass

from pdf_processor.errors import ProcessorError


@dataclass(frozen=True, slots=True)
class Done:
    """The document arrived whole."""

    chunks: int


@dataclass(frozen=True, slots=True)
class Retry:
    """It failed, and may work another time."""

    error: ProcessorError


@dataclass(frozen=True, slots=True)
class Dead:
    """It failed, and trying again cannot help."""

    error: ProcessorError


@dataclass(frozen=True, slots=True)
class Released:
    """It was given up through no fault of its own: shutdown, or the service's credentials."""

    reason: str


@dataclass(frozen=True, slots=True)
class Cancelled:
    """Somebody did not want it any more."""


@dataclass(frozen=True, slots=True)
class Lost:
    """The task went to another worker: nothing may be written any more."""


Outcome = Done | Retry | Dead | Released | Cancelled | Lost


def judge(error: ProcessorError) -> Retry | Dead:
    """Turn a failure into an outcome, by the verdict that its class carries."""
    return Dead(error) if error.permanent else Retry(error)
