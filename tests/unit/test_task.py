from __future__ import annotations

import json

import pytest

from pdf_processor.errors import InvalidTask
from pdf_processor.task import Task, TaskOptions

SIGNED = "https://bucket.example/in/My%20Report.pdf?X-Amz-Signature=canary-4711"


def parse(**fields: object) -> Task:
    return Task.parse(json.dumps({"task_id": "t-1", "URL": SIGNED} | fields).encode())


def refused(payload: bytes) -> str:
    with pytest.raises(InvalidTask) as caught:
        Task.parse(payload)
    return caught.value.message


def test_the_description_s_task_is_read():
    task = parse(DocID="d", UserID="u", FileName="f.pdf", FileSize=12)
    assert (task.document_id, task.user_id, task.display_name, task.file_size) == (
        "d",
        "u",
        "f.pdf",
        12,
    )
    assert task.source == SIGNED


def test_what_is_missing_has_its_default():
    task = parse()
    assert (task.document_id, task.display_name, task.options) == (
        "t-1",
        "My Report.pdf",
        TaskOptions(),
    )


def test_null_is_what_go_writes_for_what_is_not_set():
    assert parse(DocID=None, options=None, provider=None) == parse()
    assert parse(options={"max_tokens": None, "password": None}) == parse()


def test_unknown_fields_are_ignored():
    assert parse(Tenant="x", options={"colour": "red"}) == parse()


def test_the_older_name_of_the_url_is_understood():
    assert Task.parse(b'{"task_id":"t","s3_url":"s3://b/k.pdf"}').source == "s3://b/k.pdf"


@pytest.mark.parametrize(
    ("payload", "says"),
    [
        (b"", "Invalid JSON"),
        (b"\xff\xfe", "Invalid JSON"),
        (b"[]", "object"),
        (b'"task"', "object"),
        (b"{}", "task_id"),
        (b'{"task_id":"t"}', "one of URL and s3_url"),
        (b'{"task_id":"","URL":"http://x/"}', "task_id"),
        (b'{"task_id":"a\\nb","URL":"http://x/"}', "printable"),
        (b'{"task_id":7,"URL":"http://x/"}', "task_id"),
        (b'{"task_id":"t","URL":"http://x/","FileSize":"big"}', "FileSize"),
    ],
)
def test_what_is_no_task_is_refused_with_what_is_wrong(payload, says):
    assert says in refused(payload)


def test_a_task_id_may_have_200_characters_and_no_more():
    assert parse(task_id="é" * 200).task_id == "é" * 200
    assert "200" in refused(json.dumps({"task_id": "x" * 201, "URL": SIGNED}).encode())


@pytest.mark.parametrize(
    "options",
    [
        {"max_tokens": 0},
        {"max_tokens": 100_000},
        {"overlap_tokens": -1},
        {"max_tokens": 100, "overlap_tokens": 51},
        {"ocr": "sometimes"},
        {"max_embedding_tokens": 0},
        {"max_tokens": "many"},
    ],
)
def test_options_out_of_range_are_refused(options):
    message = refused(json.dumps({"task_id": "t", "URL": SIGNED, "options": options}).encode())
    assert "options" in message


def test_a_refusal_never_repeats_a_value():
    payload = json.dumps({"task_id": 1, "URL": SIGNED, "options": {"password": 4711}}).encode()
    assert "4711" not in refused(payload)


def test_neither_url_nor_password_stand_in_the_repr():
    task = parse(options={"password": "secret-4711"})
    assert "4711" not in repr(task) + str(task)
    assert task.options.password.get_secret_value() == "secret-4711"
