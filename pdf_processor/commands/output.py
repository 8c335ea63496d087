"""Where commands write, and how wide."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

from rich.console import Console

from pdf_processor.config import ConfigurationError

UNBOUNDED_COLUMNS = 10_000


@contextmanager
def open_output(path: Path) -> Iterator[TextIO]:
    """Open a file that a person named with `--out`.

    Raises:
        ConfigurationError: it cannot be written.
    """
    try:
        file = path.open("w", encoding="utf-8")
    except OSError as error:
        raise ConfigurationError(f"--out {path} cannot be written: {error.strerror}") from None
    with file:
        yield file


def open_console() -> Console:
    """Return standard output; nothing is cut where no terminal limits the width."""
    width = None if sys.stdout.isatty() else UNBOUNDED_COLUMNS
    return Console(highlight=False, width=width)
