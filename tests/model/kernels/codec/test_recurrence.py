"""Recurrent layers computed in segments give PyTorch's results, whatever the length of their memory."""

from collections.abc import Sequence

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from model.kernels.codec import recurrence
from model.kernels.codec.recurrence import Recurrence

WIDTH = 12


def recurrent(layers: int = 2, memory: float = 0.0) -> nn.LSTM:
    """Random layers; `memory` is added to the bias of the forget gates: with 20 nothing is ever forgotten."""
    torch.manual_seed(0)
    lstm = nn.LSTM(WIDTH, WIDTH, layers)
    with torch.no_grad():
        for number in range(layers):
            getattr(lstm, f"bias_ih_l{number}")[WIDTH : 2 * WIDTH] += memory
    return lstm


def noise(batch: int, frames: int) -> Tensor:
    return torch.randn(batch, frames, WIDTH, generator=torch.Generator().manual_seed(1))


@torch.no_grad()
def check(lstm: nn.LSTM, inputs: Tensor, warm_up: int = recurrence.WARM_UP_FRAMES) -> None:
    expected = lstm(inputs.transpose(0, 1))[0].transpose(0, 1) + inputs
    found = Recurrence(lstm, warm_up, narrowest=WIDTH)(list(inputs))
    torch.testing.assert_close(torch.stack(found), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("layers", [1, 2])
@pytest.mark.parametrize(("batch", "frames"), [(1, 1), (1, 127), (1, 256), (1, 1_001), (2, 600), (3, 300), (5, 40)])
def test_any_number_of_sequences_of_any_length_equals_pytorchs_result(layers: int, batch: int, frames: int) -> None:
    check(recurrent(layers), noise(batch, frames))


@pytest.mark.parametrize("memory", [0.0, 2.0, 5.0, 20.0])
@pytest.mark.parametrize("warm_up", [1, 8, 64])
@pytest.mark.parametrize(("batch", "frames"), [(1, 1_003), (2, 515)])
def test_segments_give_the_whole_result_whatever_the_length_of_the_memory(
    memory: float, warm_up: int, batch: int, frames: int
) -> None:
    check(recurrent(memory=memory), noise(batch, frames), warm_up)


def counted(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Lengths, in frames, of the longest segment of each later run."""
    lengths: list[int] = []
    run = recurrence._run_segments

    def counting(
        layer: recurrence._LstmLayer, sequences: Sequence[Tensor], initial: Sequence[recurrence._State]
    ) -> list[recurrence._Run]:
        lengths.append(max(each.shape[1] for each in sequences))
        return run(layer, sequences, initial)

    monkeypatch.setattr(recurrence, "_run_segments", counting)
    return lengths


def test_layers_that_forget_run_once_and_others_until_all_segments_agree(monkeypatch: pytest.MonkeyPatch) -> None:
    lengths = counted(monkeypatch)
    check(recurrent(1), noise(1, 1_000))
    assert lengths == [recurrence.WARM_UP_FRAMES, 250]
    lengths.clear()
    check(recurrent(1, memory=20.0), noise(1, 1_000))
    assert lengths == [recurrence.WARM_UP_FRAMES, 250, 250, 250, 250]


def test_an_input_with_nan_terminates_and_spoils_only_later_frames() -> None:
    inputs = noise(1, 1_000)
    inputs[0, 500] = torch.nan
    with torch.no_grad():
        found = Recurrence(recurrent(), narrowest=WIDTH)(list(inputs))[0]
    assert found[:500].isfinite().all()
    assert found[500:].isnan().all()


def test_narrow_layers_run_in_pytorch_and_wide_ones_here(monkeypatch: pytest.MonkeyPatch) -> None:
    lengths = counted(monkeypatch)
    inputs = noise(1, 200)
    with torch.no_grad():
        lstm = recurrent()
        torch.testing.assert_close(Recurrence(lstm)(list(inputs))[0], lstm(inputs[0])[0] + inputs[0])
        assert lengths == []
        Recurrence(nn.LSTM(recurrence.NARROWEST, recurrence.NARROWEST))([torch.zeros(3, recurrence.NARROWEST)])
    assert lengths == [3]


@given(st.lists(st.integers(1, 300), min_size=1, max_size=8), st.sampled_from([0.0, 3.0, 20.0]))
@settings(max_examples=10, deadline=None)
def test_sequences_of_any_lengths_have_the_same_bits_as_each_alone(lengths: list[int], memory: float) -> None:
    inputs = [noise(1, frames)[0] * (number + 1) for number, frames in enumerate(lengths)]
    with torch.no_grad():
        lstm = recurrent(memory=memory)
        layers = Recurrence(lstm, narrowest=WIDTH)
        together = layers(inputs)
        for alone, found in zip(inputs, together, strict=True):
            assert torch.equal(found, layers([alone])[0])
        torch.testing.assert_close(together[0], lstm(inputs[0])[0] + inputs[0], rtol=1e-5, atol=1e-5)


def test_sequences_in_wide_layers_have_the_same_bits_as_each_alone() -> None:
    width = recurrence.NARROWEST
    generator = torch.Generator().manual_seed(0)
    inputs = [torch.randn(frames, width, generator=generator) for frames in (1, 7, 200, 50, 410, 50, 3, 120)]
    with torch.no_grad():
        torch.manual_seed(0)
        layers = Recurrence(nn.LSTM(width, width))
        for alone, found in zip(inputs, layers(inputs), strict=True):
            assert torch.equal(found, layers([alone])[0])


def test_too_many_sequences_for_one_run_are_split_into_several(monkeypatch: pytest.MonkeyPatch) -> None:
    layers = Recurrence(recurrent(1), narrowest=WIDTH)
    lengths = counted(monkeypatch)
    layers([noise(1, frames)[0] for frames in [30] * 100 + [10]])
    assert lengths == [30, 30]
    lengths.clear()
    monkeypatch.setattr(recurrence, "MOST_STEPS", 100)
    layers([noise(1, frames)[0] for frames in (30, 90, 30, 30)])
    assert lengths == [90, 30]
