"""How documents on their way are shown to people: on stderr, a bar each."""

from __future__ import annotations

from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    SpinnerColumn,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
)

from pdf_processor.task_state import State, TaskStatus

NAME_CHARACTERS = 32


class DocumentBars:
    """A bar a document: its name, pages read, and what happens; the time left.

    Where stderr is no terminal, a line at each change of state instead.
    """

    def __init__(self) -> None:
        self._console = Console(stderr=True, highlight=False)
        self._progress = Progress(
            SpinnerColumn(finished_text=" "),
            TextColumn("{task.fields[name]}", markup=False),
            BarColumn(bar_width=24),
            TextColumn("{task.fields[what]}", markup=False),
            TimeRemainingColumn(),
            console=self._console,
            disable=not self._console.is_terminal,
        )
        self._bars: dict[str, TaskID] = {}
        self._last: dict[str, State] = {}

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._progress.stop()

    def pages(self, name: str, done: int, total: int) -> None:
        """Show that so many pages of a document are read."""
        self._show(name, f"{done}/{total} pages", done, total)

    def status(self, name: str, status: TaskStatus) -> None:
        """Show the status of a task."""
        what = describe(status)
        self._show(name, what, status.pages_done, status.pages_total)
        if not self._console.is_terminal and self._last.get(name) != status.state:
            self._console.print(f"{name}: {what}", markup=False, soft_wrap=True)
        self._last[name] = status.state

    def _show(self, name: str, what: str, done: int, total: int) -> None:
        if name not in self._bars:
            shown = name if len(name) <= NAME_CHARACTERS else name[: NAME_CHARACTERS - 1] + "…"
            self._bars[name] = self._progress.add_task("", name=shown, what="", total=None)
        self._progress.update(self._bars[name], completed=done, total=total or None, what=what)


def describe(status: TaskStatus) -> str:
    """Say in a line where a task is."""
    words = [status.state.replace("_", " ").lower()]
    if status.attempt > 1:
        words.append(f"attempt {status.attempt}")
    if status.pages_total:
        words.append(f"{status.pages_done}/{status.pages_total} pages")
        words.append(f"{status.chunks_sent} chunks sent")
    if status.error_code:
        words.append(f"{status.error_code}: {status.error_message}")
    return ", ".join(words)
