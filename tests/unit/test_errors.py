from __future__ import annotations

from pathlib import Path

import pytest

from pdf_processor.errors import ERROR_BY_CODE, NotAPdf, ProcessorError

README = Path(__file__).resolve().parents[2] / "README.md"


@pytest.mark.parametrize("cls", ERROR_BY_CODE.values(), ids=ERROR_BY_CODE)
def test_every_error_says_in_a_sentence_what_happened(cls):
    message = cls().message
    assert message.endswith(".")
    assert len(message) > 20


def test_a_given_message_replaces_the_default():
    assert str(NotAPdf("It is a web page.")) == "It is a web page."


def test_codes_are_unique():
    assert len(ERROR_BY_CODE) == len(ProcessorError.__subclasses__())


def test_the_readme_lists_every_code_under_its_verdict():
    [row] = [line for line in README.read_text().splitlines() if "`INVALID_TASK`" in line]
    permanent, retried = (set(cell.replace("`", "").split()) for cell in row.strip("| ").split("|"))
    shown = {code: cls for code, cls in ERROR_BY_CODE.items() if code != "SERVICE_CREDENTIALS"}
    assert permanent == {code for code, cls in shown.items() if cls.permanent}
    assert retried == {code for code, cls in shown.items() if not cls.permanent}


def test_a_peer_s_broken_words_can_be_written_down():
    assert NotAPdf("cut \ud83d").message.encode() == b"cut ?"
