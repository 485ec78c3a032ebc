"""Sampling: AudioCraft's distributions, and samples that follow them."""

from pathlib import Path

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from model.decoding.sampling import next_code_probabilities, sample_by_inversion
from tests.worlds.oracles import read_pack


def _probabilities(logits: torch.Tensor, temperature: float, top_k: int, top_p: float) -> torch.Tensor:
    rows = len(logits)
    return next_code_probabilities(
        logits, torch.full((rows,), temperature), torch.full((rows,), top_k), torch.full((rows,), top_p)
    )


def test_distributions_equal_the_oracle(oracles: Path) -> None:
    pack = read_pack(oracles, "sampling")
    for case in pack.cases:
        found = _probabilities(pack.tensors["logits"], case["temperature"], case["top_k"], case["top_p"])
        torch.testing.assert_close(found, pack.tensors[f"{case['key']}.probs"], rtol=1e-5, atol=1e-7, msg=case["key"])
        assert torch.equal((found > 0).sum(-1), pack.tensors[f"{case['key']}.kept"].long()), case["key"]


def test_temperature_zero_is_the_argmax_of_the_oracle(oracles: Path) -> None:
    pack = read_pack(oracles, "sampling")
    found = _probabilities(pack.tensors["logits"], 0.0, 5, 0.5)
    assert torch.equal(sample_by_inversion(found, torch.rand(pack.tensors["argmax"].shape)), pack.tensors["argmax"])


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**31), st.floats(0.1, 3), st.integers(0, 12), st.floats(0, 1))
def test_the_kept_entries_are_those_that_a_plain_loop_keeps(
    seed: int, temperature: float, top_k: int, top_p: float
) -> None:
    # Multiples of a quarter, so that there are ties.
    logits = (torch.randn(1, 1, 10, generator=torch.Generator().manual_seed(seed)) * 4).round() / 4
    found = _probabilities(logits, temperature, top_k, top_p)[0, 0]
    plain = (logits[0, 0] / temperature).softmax(-1).tolist()
    order = sorted(range(10), key=lambda entry: -plain[entry])
    limit = torch.tensor(top_p).item()
    if limit > 0:
        kept, before = set(), 0.0
        for entry in order:
            if abs(before - limit) < 1e-5:
                return  # the sum is on the border, where rounding decides
            if before <= limit:
                kept.add(entry)
            before += plain[entry]
    else:
        smallest = plain[order[min(top_k or 10, 10) - 1]]
        kept = {entry for entry in range(10) if plain[entry] >= smallest}
    assert set(found.nonzero().flatten().tolist()) == kept


def test_rows_with_different_settings_do_not_affect_each_other() -> None:
    logits = torch.randn(4, 3, 30, generator=torch.Generator().manual_seed(1))
    temperature, top_k, top_p = torch.tensor([1, 0, 0.5, 2]), torch.tensor([0, 3, 7, 5]), torch.tensor([0, 0, 0.8, 0])
    together = next_code_probabilities(logits, temperature, top_k, top_p)
    for row in range(4):
        part = slice(row, row + 1)
        alone = next_code_probabilities(logits[part], temperature[part], top_k[part], top_p[part])
        assert torch.equal(alone[0], together[row])


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**31), st.floats(0, 1, exclude_max=True))
def test_an_entry_of_probability_0_is_never_sampled(seed: int, uniform: float) -> None:
    probabilities = torch.rand(1, 1, 12, generator=torch.Generator().manual_seed(seed))
    probabilities[probabilities < 0.6] = 0
    probabilities[..., 5] = 0.25
    sampled = sample_by_inversion(probabilities, torch.tensor([[uniform]], dtype=torch.float64))
    assert probabilities[0, 0, sampled.item()] > 0


def test_the_ends_of_the_unit_interval_sample_the_first_and_the_last_entry() -> None:
    probabilities = torch.tensor([[[0.0, 0.3, 0.7, 0.0]]])
    assert sample_by_inversion(probabilities, torch.zeros(1, 1)).item() == 1
    largest = torch.nextafter(torch.ones(1, 1, dtype=torch.float64), torch.zeros(1, 1, dtype=torch.float64))
    assert sample_by_inversion(probabilities, largest).item() == 2


def test_entries_are_sampled_as_often_as_they_are_probable() -> None:
    probabilities = torch.tensor([0.05, 0.4, 0.0, 0.25, 0.3]).expand(1, 20_000, 5)
    uniform = torch.rand(1, 20_000, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    share = torch.bincount(sample_by_inversion(probabilities, uniform).flatten(), minlength=5) / 20_000
    # Four standard deviations of the largest share.
    assert (share - probabilities[0, 0]).abs().max() < 4 * (0.4 * 0.6 / 20_000) ** 0.5


def test_without_top_p_the_distribution_is_the_same_whether_entries_are_sorted_or_not() -> None:
    logits = torch.randn(5, 3, 40).round(decimals=1)
    temperature, top_k = torch.tensor([1.0, 0.0, 0.5, 2.0, 1.0]), torch.tensor([7, 30, 0, 1, 60])
    nothing = torch.zeros(5)
    expected = next_code_probabilities(logits, temperature, top_k, nothing)
    assert torch.equal(next_code_probabilities(logits, temperature, top_k, nothing, largest=60), expected)
    few = next_code_probabilities(logits[:2], temperature[:2], top_k[:2], nothing[:2], largest=7)
    assert torch.equal(few, expected[:2])
