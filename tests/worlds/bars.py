"""Progress bars of transformers, which nothing in this project may show."""

import io
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr

import pytest
from transformers.utils import logging


@contextmanager
def no_bars_of_transformers() -> Iterator[None]:
    """Check that transformers shows no bar within the block, even if bars are on."""
    shown = io.StringIO()
    with pytest.MonkeyPatch.context() as patch, redirect_stderr(shown):
        patch.setattr(logging, "_tqdm_active", True)  # an earlier command line in this process may have turned them off
        yield
    for bar in ("Loading weights", "Writing model shards"):
        assert bar not in shown.getvalue()
