"""Attention directly on the cache: Triton's kernel, interpreted on a CPU, and compiled for GPUs."""

import os
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest
import torch

from model import kernels
from model.kernels import cached_attention
from model.kernels.cached_attention import WIDEST, attends_in_cache

ROOT = Path(__file__).resolve().parents[3]


@pytest.mark.parametrize("how", ["interpreted", "compiled"])
def test_the_kernel_equals_torch_in_attention_and_whole_clips_and_compiles_for_gpus(how: str) -> None:
    environment = os.environ | {"TRITON_INTERPRET": str(int(how == "interpreted")), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-m", "tests.worlds.cached_attention", how],
        **{"capture_output": True, "text": True, "cwd": ROOT, "env": environment},  # type: ignore[call-overload]
    )
    assert done.returncode == 0, done.stderr[-4000:]


def test_the_kernel_is_used_only_on_cuda_for_heads_that_fit_with_kernels_enabled() -> None:
    cuda = torch.device("cuda")
    assert attends_in_cache(cuda, 64)
    assert not attends_in_cache(cuda, WIDEST + 1)
    assert not attends_in_cache(torch.device("cpu"), 64)
    with kernels.disabled():
        assert not attends_in_cache(cuda, 64)


@pytest.mark.skipif(torch.cuda.is_available(), reason="Triton finds the CUDA device that this machine has")
def test_a_triton_that_cannot_launch_kernels_is_reported_once_and_torch_reads_the_cache(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(cached_attention, "_triton_launches", cache(cached_attention._triton_launches.__wrapped__))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)  # as with a driver, but with a missing part beside it
    assert not attends_in_cache(torch.device("cuda"), 64)
    assert not attends_in_cache(torch.device("cuda"), 64)
    (record,) = caplog.records
    assert "expected a C compiler and Python's headers" in record.getMessage()
