"""The precision of a training's products follows from the processor's instructions."""

from collections.abc import Iterator

import pytest
import torch

from model.kernels.processor import multiplies_bfloat16
from model.optim.muon import orthogonalised
from model.optim.precision import in_precision

PROCESSORS = [
    ({"avx512_bf16": True}, torch.bfloat16),
    ({"amx_bf16": True}, torch.bfloat16),
    ({"avx2": True}, torch.float32),
]


@pytest.fixture
def dtype(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[torch.dtype]:
    """The type expected on a processor with these capabilities, while torch reports them for this one."""
    capabilities, expected = request.param
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities)
    multiplies_bfloat16.cache_clear()
    yield expected
    multiplies_bfloat16.cache_clear()


@pytest.mark.parametrize("dtype", PROCESSORS, indirect=True)
def test_bfloat16_is_multiplied_only_if_the_processor_has_instructions_for_it(dtype: torch.dtype) -> None:
    with in_precision(torch.device("cpu"), "bfloat16"):
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == dtype


@pytest.mark.parametrize("dtype", PROCESSORS, indirect=True)
def test_muon_multiplies_bfloat16_only_if_the_processor_has_instructions_for_it(dtype: torch.dtype) -> None:
    assert orthogonalised(torch.eye(4)[None]).dtype == dtype
