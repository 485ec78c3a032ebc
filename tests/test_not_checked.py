"""The last lines of a test run say what was not checked, and why."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

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
"""


@pytest.mark.parametrize("workers", ["0", "2"])
def test_skipped_and_slow_tests_are_counted_by_their_reasons(tmp_path: Path, workers: str) -> None:
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
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    *_, slow, skipped, closing = run.stdout.splitlines()
    assert {slow, skipped} == {
        "NOT CHECKED: 3 tests: there is no such machine",
        "NOT CHECKED: 1 test: slow, `make test-slow` runs them",
    }
    assert closing.startswith("1 passed, 3 skipped")
