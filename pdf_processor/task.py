"""A task, as a Go backend writes it onto the list."""

from __future__ import annotations

import json
import posixpath
from typing import Annotated, Any, Literal, Self
from urllib.parse import unquote, urlsplit

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SecretStr,
    StringConstraints,
    ValidationError,
    field_validator,
    model_validator,
)

from pdf_processor.errors import InvalidTask

MAX_ID_CHARACTERS = 200

OcrMode = Literal["auto", "off", "force"]


def _without_nulls(data: Any) -> Any:
    """Go marshals an unset pointer as null: the field's default is meant."""
    if isinstance(data, dict):
        return {name: value for name, value in data.items() if value is not None}
    return data


class TaskOptions(BaseModel):
    """How the document is to be read and cut; every field has a default."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    max_tokens: int = Field(default=512, ge=32, le=8191)
    overlap_tokens: int = Field(default=64, ge=0)
    ocr: OcrMode = "auto"
    password: SecretStr = SecretStr("")
    max_embedding_tokens: int | None = Field(default=None, ge=1)

    @model_validator(mode="before")
    @classmethod
    def _null_is_absent(cls, data: Any) -> Any:
        return _without_nulls(data)

    @classmethod
    def of(cls, **values: object) -> TaskOptions:
        """Make options of values that a person typed.

        Raises:
            InvalidTask: one of them is out of range.
        """
        try:
            return cls.model_validate(values)
        except ValidationError as error:
            raise InvalidTask("Wrong options: " + _problems(error)) from None

    @model_validator(mode="after")
    def _overlap_leaves_room(self) -> Self:
        if self.overlap_tokens * 2 > self.max_tokens:
            message = "overlap_tokens may be at most half of max_tokens"
            raise ValueError(message)
        return self


class Task(BaseModel):
    """One document to process, from the list; unknown fields are ignored.

    The URL may be presigned, so it is a secret: it has no repr.
    """

    model_config = ConfigDict(frozen=True, extra="ignore", populate_by_name=True)

    task_id: Annotated[str, StringConstraints(min_length=1, max_length=MAX_ID_CHARACTERS)]
    doc_id: str = Field(default="", alias="DocID")
    user_id: str = Field(default="", alias="UserID")
    file_name: str = Field(default="", alias="FileName")
    url: str = Field(default="", alias="URL", repr=False)
    s3_url: str = Field(default="", repr=False)
    file_size: int = Field(default=0, alias="FileSize")
    provider: str = ""
    options: TaskOptions = TaskOptions()
    force: bool = False

    @model_validator(mode="before")
    @classmethod
    def _null_is_absent(cls, data: Any) -> Any:
        return _without_nulls(data)

    @field_validator("task_id")
    @classmethod
    def _printable(cls, value: str) -> str:
        if not value.isprintable():
            message = "only printable characters are allowed"
            raise ValueError(message)
        return value

    @model_validator(mode="after")
    def _has_source(self) -> Self:
        if not self.source:
            message = "one of URL and s3_url is required"
            raise ValueError(message)
        return self

    @property
    def source(self) -> str:
        """Where the document is: `http(s)://`, `s3://` or `file://`. A secret."""
        return self.url or self.s3_url

    @property
    def document_id(self) -> str:
        """`DocID`, or the task's own id."""
        return self.doc_id or self.task_id

    @property
    def display_name(self) -> str:
        """`FileName`, or the last part of the URL's path. Never a path to open."""
        return self.file_name or last_part(self.source)

    @staticmethod
    def id_of(payload: bytes) -> str:
        """Return the id that a payload names although it is no task; "" if none can be told."""
        try:
            fields = json.loads(payload, parse_int=str)
        except (ValueError, RecursionError):
            return ""
        task_id = fields.get("task_id") if isinstance(fields, dict) else None
        if not isinstance(task_id, str) or len(task_id) > MAX_ID_CHARACTERS:
            return ""
        return task_id if task_id.isprintable() else ""

    @classmethod
    def parse(cls, payload: bytes) -> Task:
        """Read a payload from the list.

        Raises:
            InvalidTask: it is not JSON, or a field is missing or out of range. The
                message names the fields and never repeats their values.
        """
        try:
            return cls.model_validate_json(payload)
        except ValidationError as error:
            raise InvalidTask("The payload is not a task: " + _problems(error)) from None


def last_part(url: str) -> str:
    """Return the last part of a URL's path, decoded; "" where the URL cannot be read."""
    try:
        return posixpath.basename(unquote(urlsplit(url).path))
    except ValueError:
        return ""


def _problems(error: ValidationError) -> str:
    problems = []
    for detail in error.errors(include_url=False, include_input=False, include_context=False):
        where = ".".join(str(part) for part in detail["loc"])
        what = detail["msg"].removeprefix("Value error, ")
        problems.append(f"{where}: {what}" if where else what)
    return "; ".join(problems)
