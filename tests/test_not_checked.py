"""The last lines of a test run list what was not checked, and why."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import LONGEST_FIRST

ROOT = Path(__file__).resolve().parents[1]

TESTS = """
import pytest


def test_that_runs():
    pass


@pytest.mark.parametrize("number", range(3))
def test_that_needs_more(number):
    pytest.skip("there is no such machine")


@pytest.mark.slow
def test_that_takes_long():
    pass


@pytest.mark.slow
@pytest.mark.faults
def test_that_injects_faults():
    pass


def test_that_survives(record_property):
    record_property("faults survived", 7)
"""


@pytest.mark.parametrize("workers", ["0", "2"])
def test_skipped_slow_and_fault_tests_are_counted_by_their_reasons(tmp_path: Path, workers: str) -> None:
    (tmp_path / "test_some.py").write_text(TESTS)
    words = [
        "-p",
        "tests.conftest",
        "-m",
        "not slow",
        "-n",
        workers,
        "-c",
        str(ROOT / "pyproject.toml"),
        "test_some.py",
    ]
    run = subprocess.run(
        [sys.executable, "-m", "pytest", *words, "--rootdir", str(tmp_path)],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT), "SEGUE_FAULTS_SEED": "0"},
        capture_output=True,
        text=True,
        check=False,
    )
    *_, survived, faults, slow, skipped, closing = run.stdout.splitlines()
    assert survived == "FAULTS SURVIVED: 7, of seed 0"
    assert {faults, slow, skipped} == {
        "NOT CHECKED: 3 tests: there is no such machine",
        "NOT CHECKED: 1 test: many faults, `make test-faults` injects them",
        "NOT CHECKED: 1 test: slow, `make test-slow` runs them",
    }
    assert closing.startswith("2 passed, 3 skipped")


def test_the_test_files_that_are_run_first_exist():
    assert [name for name in LONGEST_FIRST if not (ROOT / "tests" / name).exists()] == []
