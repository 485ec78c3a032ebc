"""Timed commands: their own time and memory, and their own error output if they fail."""

import sys

import pytest

from tests.benchmarks.commands import timed


def test_a_process_is_measured_with_its_own_time_and_memory() -> None:
    work = "import time\nheld = bytearray(150_000_000)\nend = time.process_time() + 0.2\n"
    run = timed([sys.executable, "-S", "-c", f"{work}while time.process_time() < end: pass"], threads=1)
    assert run.seconds >= run.processor_seconds >= 0.2
    assert 150 < run.megabytes < 250


def test_a_failing_command_ends_the_benchmark_with_its_error_output() -> None:
    with pytest.raises(SystemExit, match=r"to end well, got .*no such model"):
        timed([sys.executable, "-S", "-c", "raise SystemExit('no such model')"], threads=1)
