"""The two forms of the fault tests: a short one among all tests, and a long one by `make test-faults`."""

import os

import pytest

SEED = int(os.environ.get("SEGUE_FAULTS_SEED", "0"))
"""Seed of every choice of a fault."""

long_form = (pytest.mark.slow, pytest.mark.faults)
"""Marks of a test, or of a parameter, of the long form only."""
