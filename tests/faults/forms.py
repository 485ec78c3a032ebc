"""The two forms of the fault tests: a short one among all tests, and a long one by `make test-faults`."""

import os

import pytest

SEED = int(os.environ.get("SEGUE_FAULTS_SEED", "0"))
"""From which every choice of a fault follows."""

long_form = (pytest.mark.slow, pytest.mark.faults)
"""Marks of a test, or of a parameter of one, that belongs to the long form alone."""
