"""The training objective: a step in micro-batches, and a step that never waits for the device."""

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from model.objective import Batch, LossModule, accumulate_gradients
from model.optim.config import OptimizationConfig
from model.optim.train_state import TrainState
from tests.worlds.every_condition import ITEMS, config, music_model
from tests.worlds.steps import micro_batches_of
from tests.worlds.tiny_model import random_codes


class NoWaiting(TorchDispatchMode):
    """Counts copies from the host to the model's device, and fails on a copy that waits."""

    def __init__(self) -> None:
        super().__init__()
        self.copied = 0

    def __torch_dispatch__(self, operation: Callable, types: object, arguments: tuple = (), named: dict | None = None):  # type: ignore[no-untyped-def]
        named = named or {}
        made = operation(*arguments, **named)
        if operation is torch.ops.aten._to_copy.default and made.device.type == "meta" != arguments[0].device.type:
            assert named.get("non_blocking"), "the host waits for a copy"
            self.copied += 1
        assert operation is not torch.ops.aten._local_scalar_dense.default or arguments[0].device.type == "cpu"
        return made


@pytest.mark.parametrize("checkpointing", [False, True])
def test_computing_gradients_never_waits_for_the_device(checkpointing: bool) -> None:
    # Tensors on `meta` have no values: code that read one would fail. Codes and conditions begin on the host.
    crossing = ("description", "genre", "keywords", "bpm", "chroma")
    model = music_model(config(quantized=False, prepend=("clap",), cross=crossing))
    model.language_model.transformer.checkpointing = checkpointing
    batch = Batch(random_codes(7, 6, codebooks=2, cardinality=11), torch.tensor([6, 6, 5, 6, 6, 4, 6]), ITEMS)
    model.train().to("meta")
    micro_batches = [
        replace(micro_batch, batch=micro_batch.batch.prepared(model))
        for micro_batch in micro_batches_of(model, batch, 3)
    ]
    with NoWaiting() as watched:
        losses = accumulate_gradients(LossModule(model, "float32"), micro_batches)
    assert losses.device.type == "meta"
    assert watched.copied >= 3 * len(micro_batches)
    assert all(value.grad is not None for value in model.parameters() if value.requires_grad)


def test_an_update_never_waits_for_the_device() -> None:
    with FakeTensorMode():
        model = torch.nn.Linear(3, 2)
        train_state = TrainState(model, OptimizationConfig(ema_interval=1))
        model(torch.randn(4, 3)).sum().backward()
        stats = train_state.step()
        with pytest.raises(DataDependentOutputException):  # so reading any value would have been noticed
            float(stats.gradient_norm)
        with pytest.raises(DataDependentOutputException):
            train_state.check_finite()


def test_dropout_in_a_micro_batch_depends_on_its_seed_and_not_on_earlier_micro_batches() -> None:
    model = music_model(config(quantized=False, dropout=0.5)).train()
    batch = Batch(random_codes(4, 6, codebooks=2, cardinality=11), torch.tensor([6, 6, 6, 6]), ITEMS[:4])
    first, second = micro_batches_of(model, batch, 2)
    loss_module = LossModule(model, "float32")
    alone = accumulate_gradients(loss_module, [second])
    assert torch.equal(accumulate_gradients(loss_module, [second]), alone)
    together = accumulate_gradients(loss_module, [first, second])
    torch.testing.assert_close(together, accumulate_gradients(loss_module, [first]) + alone)
    assert not torch.equal(accumulate_gradients(loss_module, [replace(second, seed=99)]), alone)
