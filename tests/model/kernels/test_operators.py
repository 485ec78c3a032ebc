"""torch's private operators: their signatures are those that are called, and without them torch's own kernels are
used."""

import re
from pathlib import Path

import pytest
import torch
from torch import nn

from model.kernels import operators
from model.kernels.choosing import KernelChooser
from model.kernels.linear import linear_kernels
from model.kernels.packed_linear import PackedLinear

SIGNATURES = [signature for library in operators.SIGNATURES.values() for signature in library]


@pytest.mark.parametrize("signature", SIGNATURES)
def test_the_installed_torch_has_each_private_operator_with_the_expected_signature(signature: str) -> None:
    assert operators.signature_of(signature) == signature


def test_no_other_module_calls_an_operator_by_its_private_name() -> None:
    root = Path(operators.__file__).parents[2]
    callers = {
        path.name
        for layer in ("model", "stages", "flows")
        for path in (root / layer).rglob("*.py")
        if re.search(r"torch\.ops\.(mkldnn|quantized|mkl|onednn)\b|torch\.cpu\._", path.read_text())
    }
    assert callers == {"operators.py"}


@pytest.mark.parametrize("changed", ["mkldnn::_no_such_operator(Tensor X) -> Tensor Y", "mkldnn::_linear_pointwise()"])
def test_an_operator_with_another_signature_is_replaced_by_torchs_own_kernel(
    changed: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(operators.SIGNATURES, "onednn", (changed,))
    monkeypatch.setattr(operators, "available", operators.available.__wrapped__)
    assert not operators.available("onednn")
    linear, inputs = nn.Linear(16, 24), torch.randn(3, 16)
    with torch.no_grad():
        assert list(linear_kernels(linear.weight, linear.bias, "float32")) == ["torch"]
        torch.testing.assert_close(PackedLinear(linear, "float32", KernelChooser())(inputs), linear(inputs))
