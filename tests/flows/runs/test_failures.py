"""Which failures are tried again, and how each is reported."""

import errno
import ipaddress
import os
from types import SimpleNamespace

import botocore.exceptions
import pytest

from flows.runs.failures import format_error, is_fault, is_transient
from schemas.weights import MissingWeights
from stages.pipeline.runner import StageFailed


class ClientError(Exception):
    """A stand-in for botocore's error."""

    def __init__(self, status):
        super().__init__("the service answered")
        self.response = {"ResponseMetadata": {"HTTPStatusCode": status}}


class HTTPError(Exception):
    """A stand-in for the error of HTTP clients."""

    def __init__(self, status):
        super().__init__("the service answered")
        self.response = SimpleNamespace(status_code=status)


def raised(error):
    try:
        raise error
    except Exception as caught:
        return caught


@pytest.mark.parametrize(
    "error",
    [
        ConnectionResetError("reset"),
        BrokenPipeError("broken"),
        TimeoutError("late"),
        OSError(errno.ETIMEDOUT, "late"),
        OSError(errno.EHOSTUNREACH, "no way there"),
        ClientError(503),
        HTTPError(429),
    ],
)
def test_lost_connections_timeouts_and_throttling_are_tried_again(error):
    assert is_transient(error)


@pytest.mark.parametrize(
    "error",
    [
        ValueError("expected a number"),
        MissingWeights("missing weights"),
        OSError(errno.ENOSPC, "No space left on device"),
        PermissionError(errno.EACCES, "denied"),
        FileNotFoundError(errno.ENOENT, "gone"),
        ClientError(403),
        HTTPError(404),
        RuntimeError("a fault"),
        MemoryError(),
    ],
)
def test_wrong_values_full_disks_and_faults_are_not_tried_again(error):
    assert not is_transient(error)


def test_missing_weights_are_not_tried_again_even_if_a_lost_connection_caused_them():
    error = MissingWeights("missing weights")
    error.__cause__ = ConnectionResetError("reset")
    assert not is_transient(error)


def test_an_error_of_our_own_is_not_a_fault_and_a_librarys_error_is():
    from schemas import Store

    with pytest.raises(ValueError, match="relative path") as ours:
        Store("memory://x").path("/etc/passwd")
    with pytest.raises(ValueError, match="does not appear") as theirs:
        ipaddress.ip_address("nonsense")
    assert not is_fault(ours.value)
    assert is_fault(theirs.value)
    assert is_fault(raised(KeyError("column")))
    assert not is_fault(raised(OSError(errno.ENOSPC, "No space left on device")))


def test_the_error_of_an_object_stores_client_is_one_line_with_what_to_do():
    error = raised(botocore.exceptions.NoCredentialsError())
    assert not is_fault(error)
    assert not is_transient(error)
    told = format_error(error)
    assert told.startswith("Unable to locate credentials: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY")
    assert "\n" not in told


@pytest.mark.parametrize("number", [errno.EROFS, errno.EACCES])
def test_a_path_that_may_not_be_written_is_reported_with_what_to_do(number):
    line = format_error(OSError(number, os.strerror(number), "/store/publications"))
    assert "/store/publications" in line
    assert "mount the disk for writing, or use an account" in line


def test_a_file_that_could_not_be_written_is_reported_with_its_final_name():
    unfinished = f"/music/store/clips/.shard=0.parquet.{'a1' * 16}.inprogress"
    told = format_error(OSError(errno.EROFS, "Read-only file system", unfinished))
    assert "'/music/store/clips/shard=0.parquet'" in told
    assert "inprogress" not in told


def test_a_full_disk_in_a_shard_is_reported_as_such_in_one_line():
    failed = StageFailed("chroma: 1 of its shards failed;\nshard 1: no space")
    failed.__cause__ = OSError(errno.ENOSPC, "No space left on device")
    assert "disk is full" in format_error(failed)
    assert "\n" not in format_error(failed)
    assert not is_fault(failed)
