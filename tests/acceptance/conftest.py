"""What acceptance tests share: the launcher of commands, documents, and one whole system."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import pytest_asyncio

from tests import pdfs
from tests.acceptance.commands import Launcher, launcher
from tests.acceptance.system import System, running_system


@pytest.fixture(scope="session", autouse=True)
def _launcher() -> Iterator[Launcher]:
    with launcher() as running:
        yield running


@pytest.fixture(scope="session")
def documents(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of PDFs, good and bad, by telling names."""
    folder = tmp_path_factory.mktemp("documents")
    pdfs.write_report(folder / "report.pdf")
    pdfs.write_report(folder / "long.pdf", pages=40)
    pdfs.write_report(folder / "pages-300.pdf", pages=300)
    pdfs.write_with_missing_page(folder / "page-missing.pdf", pages=300, missing=200)
    pdfs.write_truncated(folder / "truncated.pdf")
    pdfs.write_encrypted(folder / "encrypted.pdf")
    pdfs.write_image_only(folder / "scan.pdf")
    pdfs.write_html(folder / "page.html.pdf")
    return folder


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def system(documents: Path) -> AsyncIterator[System]:
    """A whole system that many tests share: each uses tasks of its own."""
    async with running_system(documents) as running:
        yield running
