"""Everything that can go wrong with a task, each with its code and its verdict.

A class is named for what happened. Its docstring is the default message, written
for the Go developer who finds it in a dead letter: it says what happened and what
to do, and never holds a key, a token, a presigned query or a stack trace.
"""

from __future__ import annotations

import inspect
from typing import ClassVar


class ProcessorError(Exception):
    """Something unexpected went wrong inside the processor."""

    code: ClassVar[str] = "INTERNAL"
    permanent: ClassVar[bool] = False
    """True: trying again cannot help, the task is dead at once."""

    def __init__(
        self, message: str | None = None, *, retry_after_seconds: float | None = None
    ) -> None:
        """Keep the message, or the class's own; `retry_after_seconds` is a peer's wish."""
        message = message or inspect.cleandoc(type(self).__doc__ or self.code)
        self.message = message.encode(errors="replace").decode()  # a peer's words may be broken
        self.retry_after_seconds = retry_after_seconds
        super().__init__(self.message)


class InternalError(ProcessorError):
    """Something unexpected went wrong inside the processor."""


# ------------------------------------------------------------------- the task


class InvalidTask(ProcessorError):
    """The payload is not a task: it must be a JSON object with `task_id` and `URL` or `s3_url`."""

    code = "INVALID_TASK"
    permanent = True


class WorkerCrashed(ProcessorError):
    """This document took the whole worker process down each time it was tried."""

    code = "WORKER_CRASHED"
    permanent = True


# -------------------------------------------------------------------- the key


class KeyNotDelivered(ProcessorError):
    """No API key arrived for this task in time: call ProvideAPIKey with its task_id."""

    code = "API_KEY_TIMEOUT"


class KeyUnreadable(ProcessorError):
    """The stored API key was sealed with a secret that this replica does not have."""

    code = "KEY_UNREADABLE"


# --------------------------------------------------------------- the download


class DownloadForbidden(ProcessorError):
    """The URL points where documents may not come from; see ALLOWED_DOWNLOAD_HOSTS."""

    code = "DOWNLOAD_FORBIDDEN"
    permanent = True


class DownloadNotFound(ProcessorError):
    """The document is not there, or the URL that Go signed for it has expired."""

    code = "DOWNLOAD_NOT_FOUND"
    permanent = True


class TooLarge(ProcessorError):
    """The file is larger than MAX_FILE_BYTES."""

    code = "TOO_LARGE"
    permanent = True


class DownloadFailed(ProcessorError):
    """The document could not be downloaded."""

    code = "DOWNLOAD_FAILED"


class DownloadTimedOut(ProcessorError):
    """The server that has the document did not send it in time."""

    code = "DOWNLOAD_TIMEOUT"


class StorageFull(ProcessorError):
    """There is no room left under TEMP_DIR."""

    code = "STORAGE_FULL"


# --------------------------------------------------------------- the document


class TooManyPages(ProcessorError):
    """The document has more pages than MAX_PAGES."""

    code = "TOO_MANY_PAGES"
    permanent = True


class NotAPdf(ProcessorError):
    """The file is not a PDF."""

    code = "NOT_A_PDF"
    permanent = True


class DocumentEncrypted(ProcessorError):
    """The PDF needs a password, or the one in `options.password` is wrong."""

    code = "PDF_ENCRYPTED"
    permanent = True


class DocumentCorrupt(ProcessorError):
    """The PDF is damaged: it cannot be opened, or pages that it lists are missing."""

    code = "PDF_CORRUPT"
    permanent = True


class NoText(ProcessorError):
    """The document has no text to extract."""

    code = "NO_TEXT"
    permanent = True


class ParseTimedOut(ProcessorError):
    """Reading the document took too long; see PARSE_TIMEOUT_SECONDS, PAGE_TIMEOUT_SECONDS."""

    code = "PARSE_TIMEOUT"


class ParserCrashed(ProcessorError):
    """The parser process died while reading the document."""

    code = "PARSE_CRASHED"


class ParserOutOfMemory(ProcessorError):
    """Reading the document needs more memory than PARSER_MEMORY_BYTES."""

    code = "PARSE_MEMORY"


# ------------------------------------------------------------- the embeddings


class EmbeddingAuth(ProcessorError):
    """The provider refused the API key."""

    code = "EMBEDDING_AUTH"
    permanent = True


class EmbeddingRejected(ProcessorError):
    """The provider refused the request."""

    code = "EMBEDDING_REJECTED"
    permanent = True


class EmbeddingQuota(ProcessorError):
    """The quota of the API key is used up: check plan and billing at the provider."""

    code = "EMBEDDING_QUOTA"
    permanent = True


class EmbeddingBudget(ProcessorError):
    """The document needs more tokens than `options.max_embedding_tokens` allows."""

    code = "EMBEDDING_BUDGET"
    permanent = True


class EmbeddingRateLimited(ProcessorError):
    """The provider limits the rate of this API key."""

    code = "EMBEDDING_RATE_LIMITED"


class EmbeddingUnavailable(ProcessorError):
    """The embedding provider cannot be reached or fails."""

    code = "EMBEDDING_UNAVAILABLE"


class EmbeddingInvalid(ProcessorError):
    """The provider's answer has the wrong number, size or values of vectors."""

    code = "EMBEDDING_INVALID"


# ------------------------------------------------------------------ the ingest


class IngestRejected(ProcessorError):
    """The ingest server refused the document."""

    code = "INGEST_REJECTED"
    permanent = True


class IngestUnavailable(ProcessorError):
    """The ingest server at GO_GRPC_INGEST_ADDR cannot be reached or does not make progress."""

    code = "INGEST_UNAVAILABLE"


class IngestMismatch(ProcessorError):
    """The ingest server counted other chunks than were sent."""

    code = "INGEST_MISMATCH"


# -------------------------------------------------------- the service's own


class ServiceCredentialsRejected(ProcessorError):
    """Credentials from the service's own configuration were refused; no task is to blame."""

    code = "SERVICE_CREDENTIALS"


def _codes(base: type[ProcessorError]) -> dict[str, type[ProcessorError]]:
    return {cls.code: cls for cls in base.__subclasses__()}


ERROR_BY_CODE: dict[str, type[ProcessorError]] = _codes(ProcessorError)
"""code → class: how an error crosses a process boundary."""
