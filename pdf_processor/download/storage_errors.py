"""What the errors of S3 and boto3 mean: one object's fault, the service's, or nobody's."""

from __future__ import annotations

from http import HTTPStatus

from botocore.exceptions import (
    ClientError,
    ConnectTimeoutError,
    CredentialRetrievalError,
    EndpointConnectionError,
    NoCredentialsError,
    PartialCredentialsError,
    ReadTimeoutError,
)

from pdf_processor.download.url_policy import S3Object
from pdf_processor.errors import (
    DownloadFailed,
    DownloadNotFound,
    DownloadTimedOut,
    ProcessorError,
    ServiceCredentialsRejected,
)

# https://docs.aws.amazon.com/AmazonS3/latest/API/ErrorResponses.html
_CREDENTIALS_REFUSED = frozenset(
    {
        "ExpiredToken",
        "InvalidAccessKeyId",
        "InvalidToken",
        "RequestTimeTooSkewed",
        "SignatureDoesNotMatch",
        "TokenRefreshRequired",
    }
)
_BUCKET_MISSING = frozenset({"NoSuchBucket", "InvalidBucketName"})
_TEMPORARY = frozenset({"RequestTimeout", "SlowDown", "Throttling", "TooManyRequests"})
_CHANGED = frozenset({"InvalidRange", "PreconditionFailed"})


def code_of(error: ClientError) -> str:
    """S3's error code; for an answer without a body, the HTTP status."""
    return error.response.get("Error", {}).get("Code", "")


def object_changed(error: ClientError) -> bool:
    """Whether the object is no longer the version that a download was to be resumed in."""
    return code_of(error) in _CHANGED


def is_ambiguous(error: ClientError) -> bool:
    """Whether access is denied, to the object or to all of the bucket."""
    return _status(error) == HTTPStatus.FORBIDDEN and code_of(error) not in _CREDENTIALS_REFUSED


def object_verdict(error: ClientError, target: S3Object) -> ProcessorError:
    """What it means that one object was not answered with."""
    code = code_of(error)
    if code in _CREDENTIALS_REFUSED | _BUCKET_MISSING:
        return bucket_verdict(error, target.bucket)
    if object_changed(error):
        return DownloadFailed("The object changed while it was downloaded.")
    if _is_temporary(error):
        return DownloadFailed(f"The storage of bucket {target.bucket} answered {code}.")
    return DownloadNotFound(
        f"Bucket {target.bucket} has no such object for this service; it answered {code}."
    )


def bucket_verdict(error: ClientError, bucket: str) -> ProcessorError:
    """What it means that a request about a whole bucket was refused."""
    code = code_of(error)
    if _is_temporary(error):
        return DownloadFailed(f"The storage of bucket {bucket} answered {code}.")
    if code in _BUCKET_MISSING or _status(error) == HTTPStatus.NOT_FOUND:
        return ServiceCredentialsRejected(
            f"Bucket {bucket} does not exist; see BUCKET_NAME, BUCKET_ENDPOINT."
        )
    return ServiceCredentialsRejected(
        f"Bucket {bucket} refuses BUCKET_ACCESS_ID with BUCKET_ACCESS_KEY; it answered {code}."
    )


def connection_verdict(error: Exception) -> ProcessorError:
    """What it means that the storage could not be spoken to."""
    match error:
        case NoCredentialsError() | PartialCredentialsError() | CredentialRetrievalError():
            return ServiceCredentialsRejected(
                "The bucket needs BUCKET_ACCESS_ID, BUCKET_ACCESS_KEY."
            )
        case ConnectTimeoutError() | ReadTimeoutError():
            return DownloadTimedOut("The storage at BUCKET_ENDPOINT did not answer in time.")
        case EndpointConnectionError():
            return DownloadFailed("The storage at BUCKET_ENDPOINT cannot be reached.")
    return DownloadFailed("The storage at BUCKET_ENDPOINT broke the connection off.")


def _status(error: ClientError) -> int:
    return error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)


def _is_temporary(error: ClientError) -> bool:
    return _status(error) >= HTTPStatus.INTERNAL_SERVER_ERROR or code_of(error) in _TEMPORARY
