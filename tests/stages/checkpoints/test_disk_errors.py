"""A disk that refuses to write weights raises an operating system error, whichever library writes."""

import errno
import resource
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import save_file

from flows.runs.failures import format_error, is_fault
from stages.checkpoints.audiocraft.package import write_package
from stages.checkpoints.disk_errors import disk_errors
from tests.worlds.world_of_sound import save_clap, save_separator

LARGEST_FILE = 4096
"""Bytes: less than any of the weights written here, more than their configuration."""

WEIGHTS = {"a": torch.zeros(10_000)}


@pytest.fixture
def small_files() -> Iterator[None]:
    """Let the system refuse larger files, like it refuses any on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (LARGEST_FILE, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)


@pytest.mark.parametrize(
    "write",
    [
        pytest.param(lambda folder: disk_errors()(save_file)(WEIGHTS, folder / "a.safetensors"), id="safetensors"),
        pytest.param(lambda folder: write_package(folder / "a.bin", WEIGHTS, {}), id="audiocraft"),
        pytest.param(save_clap, id="clap"),
        pytest.param(save_separator, id="separator"),
    ],
)
def test_a_file_that_the_system_refuses_raises_an_oserror(
    tmp_path: Path, small_files: None, write: Callable[[Path], object]
) -> None:
    with pytest.raises(OSError, match=r"File too large") as caught:
        write(tmp_path)
    assert caught.value.errno == errno.EFBIG
    assert not is_fault(caught.value)


def save_to_full_disk() -> None:
    with open("/dev/full", "wb") as file:
        torch.save(WEIGHTS, file)


def fail_as_safetensors() -> None:
    """Fail like safetensors on a full disk."""
    raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")


@pytest.mark.parametrize("write", [save_to_full_disk, fail_as_safetensors])
def test_a_full_disk_is_reported_in_one_line_with_advice(write: Callable[[], None]) -> None:
    with pytest.raises(OSError, match=r"No space left") as caught:
        disk_errors()(write)()
    assert caught.value.errno == errno.ENOSPC
    assert not is_fault(caught.value)
    assert format_error(caught.value).startswith("the disk is full: ")


def test_other_errors_are_raised_unchanged() -> None:
    with pytest.raises(RuntimeError, match=r"^another$"), disk_errors():
        raise RuntimeError("another")
