"""Cross-entropy by chunks: the loss and gradient of torch, with no more memory than the logits take."""

import pytest
import torch
from torch.nn import functional as F

from model import kernels
from model.kernels import cross_entropy
from model.kernels.cross_entropy import IGNORED, summed_cross_entropy


def _logits_and_targets() -> tuple[torch.Tensor, torch.Tensor]:
    torch.manual_seed(0)
    targets = torch.randint(300, (70,))
    targets[::7] = IGNORED
    return (3 * torch.randn(70, 300)).bfloat16(), targets


@pytest.mark.parametrize("chunk", [1, 1000, 2**17])
def test_the_loss_and_its_gradient_equal_those_of_a_copy_in_single_precision(
    chunk: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cross_entropy, "CHUNK", chunk)
    logits, targets = _logits_and_targets()
    fast, plain = logits.clone().requires_grad_(), logits.clone().requires_grad_()
    found = summed_cross_entropy(fast, targets)
    expected = F.cross_entropy(plain.float(), targets, ignore_index=IGNORED, reduction="sum")
    (found / 63).backward()
    (expected / 63).backward()
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=0)
    assert fast.grad is not None
    assert plain.grad is not None
    torch.testing.assert_close(fast.grad, plain.grad, rtol=2**-7, atol=1e-9)
    assert not fast.grad[::7].any()


def test_rows_without_targets_have_no_loss_and_no_gradient() -> None:
    logits = _logits_and_targets()[0].requires_grad_()
    loss = summed_cross_entropy(logits, torch.full((70,), IGNORED))
    loss.backward()
    assert float(loss) == 0
    assert logits.grad is not None
    assert not logits.grad.any()


def test_a_nan_in_the_logits_gives_a_nan_loss() -> None:
    logits, targets = _logits_and_targets()
    logits[3, 5] = float("nan")
    assert summed_cross_entropy(logits, targets).isnan()


def test_nothing_else_as_large_as_the_logits_is_kept() -> None:
    logits, targets = _logits_and_targets()
    kept: list[torch.Tensor] = []

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        kept.append(tensor)
        return tensor

    leaf = logits.requires_grad_()
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        summed_cross_entropy(leaf * 1, targets)
    assert [tensor.dtype for tensor in kept if tensor.numel() >= logits.numel()] == [torch.bfloat16]


def test_single_precision_and_disabled_kernels_use_torchs_own_loss() -> None:
    logits, targets = _logits_and_targets()
    expected = F.cross_entropy(logits.float(), targets, ignore_index=IGNORED, reduction="sum")
    assert torch.equal(summed_cross_entropy(logits.float(), targets), expected)
    with kernels.disabled():
        assert torch.equal(summed_cross_entropy(logits, targets), expected)
