"""Failures: which errors another try may avoid, and how each error is reported.

A wrong value, missing weights, a full disk or a lost store is reported in one line; a fault of Segue's own with its
traceback.
"""

import errno
import re
import traceback
from pathlib import Path

from pydantic import ValidationError

from schemas.storage.file_store import WriteRefused
from stages.pipeline.contract import Stopped
from stages.pipeline.runner import StageFailed

PASSING_ERRNOS = frozenset(
    {
        *(errno.ECONNRESET, errno.ECONNABORTED, errno.ECONNREFUSED, errno.EPIPE, errno.ETIMEDOUT, errno.EAGAIN),
        *(errno.EBUSY, errno.ENETUNREACH, errno.ENETDOWN, errno.ENETRESET, errno.EHOSTUNREACH, errno.ESTALE),
    }
)
"""Errors of the operating system that another try may not meet. A full disk is not among them."""

PASSING_STATUSES = frozenset({408, 425, 429, 500, 502, 503, 504})
"""HTTP statuses of throttling and of failing servers."""

PASSING_NAMES = frozenset(
    {
        *("TransportError", "ClientConnectionError", "ServerTimeoutError", "HTTPClientError", "ConnectionError"),
        *("ServiceUnavailable", "TooManyRequests", "SlowDown", "Throttling"),
    }
)
"""Class names of such errors in the clients of object stores, which need not be installed."""

CLIENTS = frozenset({"botocore", "aiobotocore", "boto3", "gcsfs", "google", "adlfs", "azure", "aiohttp"})
"""Packages of object stores' clients. What they raise is not a fault of Segue's: the service answered so, or could not
be asked (no credentials)."""

ADVICE = (
    (
        ("Unable to locate credentials", "NoCredentialsError"),
        "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE; a provider other than Amazon "
        "needs AWS_ENDPOINT_URL as well",
    ),
    (("bucket does not exist", "NoSuchBucket"), "create the bucket, or give --store one that exists"),
    (
        ("Access Denied", "AccessDenied", "Forbidden", "InvalidAccessKeyId", "SignatureDoesNotMatch"),
        "the keys in use need s3:ListBucket, s3:GetObject, s3:PutObject and s3:DeleteObject of this bucket; "
        "AWS_PROFILE or AWS_ACCESS_KEY_ID select others",
    ),
    (
        ("educe your request rate", "SlowDown", "Service Unavailable", "ServiceUnavailable"),
        "the object store throttles requests or has a fault: run the same command again later; what is done is kept",
    ),
)
"""What to do about an object store's answer, by words in it."""

UNFINISHED = re.compile(r"(?<=/)\.?([^/']+)\.[0-9a-f]{32}\.inprogress")
"""The name of a temporary file; the group is the file's final name, which a person knows."""

OWN_CODE = tuple(str(Path(__file__).resolve().parents[2] / layer) for layer in ("flows", "stages", "model", "schemas"))
"""Folders of Segue's modules. An error that is raised there has a message written for the user."""


def is_transient(error: BaseException) -> bool:
    """Return whether another try may succeed: lost connections, time-outs, throttling. Never for a wrong value, a full
    disk or missing weights, whatever caused them."""
    if isinstance(error, ValueError):
        return False
    if isinstance(error, WriteRefused):
        return error.__cause__ is not None and is_transient(error.__cause__)
    if isinstance(error, ConnectionError | TimeoutError):
        return True
    if isinstance(error, OSError) and error.errno is not None:
        return error.errno in PASSING_ERRNOS
    if {kind.__name__ for kind in type(error).__mro__} & PASSING_NAMES:
        return True
    return _http_status(error) in PASSING_STATUSES


def _http_status(error: BaseException) -> int | None:
    response = getattr(error, "response", None)
    if isinstance(response, dict):  # botocore
        status = response.get("ResponseMetadata", {}).get("HTTPStatusCode")
        return status if isinstance(status, int) else None
    for holder, name in ((response, "status_code"), (error, "status"), (error, "code")):
        status = getattr(holder, name, None)
        if isinstance(status, int):
            return status
    return None


def is_fault(error: BaseException) -> bool:
    """Return whether an error is a fault of Segue's own, so that its traceback helps, and not one that its message
    explains completely."""
    if isinstance(error, StageFailed):
        return error.__cause__ is not None and is_fault(error.__cause__)
    if isinstance(error, Stopped | KeyboardInterrupt | OSError | MemoryError) or is_transient(error):
        return False
    if type(error).__module__.partition(".")[0] in CLIENTS:
        return False
    if isinstance(error, ValueError) and not isinstance(error, ValidationError):
        frames = traceback.extract_tb(error.__traceback__)
        return bool(frames) and not frames[-1].filename.startswith(OWN_CODE)
    return True


def format_error(error: BaseException) -> str:
    """Return an error as one line, with what to do about it where that is known."""
    cause = error.__cause__ if isinstance(error, StageFailed) and error.__cause__ else error
    message = UNFINISHED.sub(r"\1", " ".join(str(error).split())) or type(error).__name__
    advice = next((advice for words, advice in ADVICE if any(word in message for word in words)), None)
    if advice is not None:
        return f"{message}: {advice}"
    if isinstance(cause, OSError) and cause.errno in (errno.ENOSPC, errno.EDQUOT):
        return f"the disk is full: {message}; make room, and run the same command again to continue"
    if isinstance(cause, OSError) and cause.errno in (errno.EROFS, errno.EACCES, errno.EPERM):
        return f"not permitted: {message}; mount the disk for writing, or use an account that may read and write there"
    if isinstance(cause, MemoryError):
        return (
            f"out of memory: {message}; lower settings.workers or settings.concurrency, and run the same command again"
        )
    if not isinstance(error, ValueError | OSError | StageFailed):
        return f"{type(error).__name__}: {message}"
    return message
