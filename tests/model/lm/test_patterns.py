"""Patterns against AudioCraft's layouts, and the properties that every pattern has."""

from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from model.lm import patterns
from model.lm.patterns import Pattern
from tests.worlds.oracles import read_pack

SPECIAL = 1000


def _pattern_of(case: dict) -> Pattern:
    provider, arguments, frames, codebooks = case["provider"], case["args"], case["timesteps"], case["n_q"]
    if provider == "parallel":
        return patterns.delayed(frames, (0,) * codebooks)
    if provider == "musiclm":
        return patterns.grouped(frames, codebooks, arguments["group_by"])
    if provider.startswith("unroll"):
        return patterns.unrolled(frames, tuple(arguments["flattening"]), tuple(arguments["delays"]))
    if provider.startswith("coarse_first"):
        return patterns.coarse_first(frames, tuple(arguments["delays"]))
    others = {name: arguments[name] for name in ("flatten_first", "empty_initial") if name in arguments}
    return patterns.delayed(frames, tuple(arguments["delays"]), **others)


def test_layouts_equal_the_oracle(oracles: Path) -> None:
    for case in read_pack(oracles, "patterns").cases:
        pattern = _pattern_of(case)
        layout = [[list(coordinate) for coordinate in step] for step in pattern.layout]
        assert layout == case["layout"], case["key"]
        assert pattern.delay == case["max_delay"], case["key"]
        assert list(pattern.first_steps) == case["first_step_with_timestep"], case["key"]


def test_sequences_and_their_reverted_codes_equal_the_oracle(oracles: Path) -> None:
    pack = read_pack(oracles, "patterns")
    for case in pack.cases:
        pattern, special = _pattern_of(case), case["special_token"]
        for mode in ("full", "valid"):
            key = f"{case['key']}.{mode}"
            sequence = pattern.build(pack.tensors[f"{case['key']}.codes"], special, mode)
            there = pattern.sequence_placement(mode)
            back = pattern.frame_placement(sequence.shape[-1])
            found = {
                "seq": sequence,
                "seq_indexes": there.indexes,
                "seq_mask": there.mask,
                "rev": pattern.revert(sequence, -1),
                "rev_indexes": back.indexes,
                "rev_mask": back.mask,
            }
            for name, value in found.items():
                assert torch.equal(value, pack.tensors[f"{key}.{name}"]), f"{key}.{name}"


def test_outputs_reverted_to_frames_equal_the_oracle(oracles: Path) -> None:
    pack = read_pack(oracles, "patterns")
    compared = 0
    for case in pack.cases:
        pattern = _pattern_of(case)
        lengths = {"full": pattern.steps(), "valid": pattern.steps("valid"), "short": pattern.steps("valid") - 1}
        for name, steps in lengths.items():
            key, mode = f"{case['key']}.{name}", "valid" if name == "valid" else "full"
            if f"{key}.logits_rev" not in pack.tensors:
                continue
            ramp = torch.arange(2.0 * 3 * pattern.codebooks * steps).view(2, 3, pattern.codebooks, steps)
            values, mask = pattern.revert_outputs(ramp.permute(0, 2, 3, 1), mode)
            expected = pack.tensors[f"{key}.logits_rev"]
            torch.testing.assert_close(values.permute(0, 3, 1, 2), expected, rtol=0, atol=0, equal_nan=True, msg=key)
            assert torch.equal(mask, pack.tensors[f"{key}.logits_rev_mask"]), key
            placement = pattern.frame_placement(steps, True, mode)
            assert torch.equal(placement.indexes, pack.tensors[f"{key}.logits_rev_indexes"]), key
            compared += 1
    assert compared >= 2 * len(pack.cases)


@pytest.mark.parametrize("delays", [(1, 2, 3), (2, 2, 4), (0, 1, 1), (3, 3, 3)])
@pytest.mark.parametrize("flatten_first", [0, 2])
def test_steps_before_the_least_delay_are_empty_as_audiocraft_lays_them_out(
    delays: tuple[int, ...], flatten_first: int
) -> None:
    """The loops of `DelayedPatternProvider` and `CoarseFirstPattern` (`audiocraft/modules/codebooks_patterns.py`)."""
    frames, runs_on = 5, max(delays)
    delayed: list[tuple[tuple[int, int], ...]] = [()]
    delayed += [((frame, codebook),) for frame in range(flatten_first) for codebook in range(len(delays))]
    for step in range(flatten_first, frames + runs_on):
        places = [(step - delay, codebook) for codebook, delay in enumerate(delays)]
        delayed.append(tuple(place for place in places if place[0] >= flatten_first))
    assert patterns.delayed(frames, delays, flatten_first).layout == tuple(delayed)
    coarse: list[tuple[tuple[int, int], ...]] = [(), *(((frame, 0),) for frame in range(frames))]
    for step in range(frames + runs_on):
        places = [(step - delay, codebook + 1) for codebook, delay in enumerate(delays)]
        coarse.append(tuple(place for place in places if place[0] >= 0))
    assert patterns.coarse_first(frames, delays).layout == tuple(coarse)


@st.composite
def any_pattern(draw: st.DrawFn) -> Pattern:
    codebooks, frames = draw(st.integers(1, 8)), draw(st.integers(1, 20))
    delays = tuple(draw(st.lists(st.integers(0, 6), min_size=codebooks, max_size=codebooks)))
    match draw(st.sampled_from(["delay", "stereo", "unroll", "coarse first", "grouped"])):
        case "stereo":
            return patterns.delayed(frames, (0, 0, 1, 1, 2, 2, 3, 3))
        case "delay":
            return patterns.delayed(frames, delays, draw(st.integers(0, 4)), draw(st.integers(0, 3)))
        case "unroll":
            flattening = draw(st.lists(st.integers(0, 3), min_size=codebooks, max_size=codebooks))
            return patterns.unrolled(frames, tuple(flattening), delays)
        case "coarse first":
            return patterns.coarse_first(frames, delays[1:])
    return patterns.grouped(frames, codebooks, draw(st.sampled_from([n for n in range(1, 9) if codebooks % n == 0])))


@settings(max_examples=80, deadline=None)
@given(any_pattern(), st.integers(1, 3))
def test_a_built_sequence_is_reverted_to_the_same_codes(pattern: Pattern, batch: int) -> None:
    codes = torch.arange(batch * pattern.codebooks * pattern.frames).view(batch, pattern.codebooks, -1)
    sequence = pattern.build(codes, 10**6)
    assert torch.equal(pattern.revert(sequence, -1), codes)
    assert (sequence[..., 0] == 10**6).all()
    assert int((sequence != 10**6).sum()) == codes.numel()


@settings(max_examples=80, deadline=None)
@given(any_pattern())
def test_a_valid_sequence_is_the_beginning_of_the_full_one_and_is_reverted_to_its_codes(pattern: Pattern) -> None:
    codes = torch.arange(pattern.codebooks * pattern.frames).view(1, pattern.codebooks, -1)
    full, valid = pattern.build(codes, SPECIAL), pattern.build(codes, SPECIAL, "valid")
    assert torch.equal(full[..., : valid.shape[-1]], valid)
    assert valid.shape[-1] == pattern.steps("valid")
    found = pattern.revert(valid, -1)
    assert torch.equal(found[found >= 0], codes[found >= 0])


@settings(max_examples=80, deadline=None)
@given(any_pattern())
def test_a_frame_is_upcoming_just_before_its_first_code(pattern: Pattern) -> None:
    upcoming = pattern.upcoming_frames
    assert len(upcoming) == pattern.steps()
    assert upcoming[torch.tensor(pattern.first_steps) - 1].tolist() == list(range(pattern.frames))
    assert upcoming.max() == pattern.frames - 1


def test_upcoming_frames_follow_the_first_codebook_and_stay_at_the_last_frame() -> None:
    assert patterns.delayed(4, (0, 1, 2)).upcoming_frames.tolist() == [0, 1, 2, 3, 3, 3, 3]
    assert patterns.delayed(3, (0, 0)).upcoming_frames.tolist() == [0, 1, 2, 2]
    assert patterns.coarse_first(3, (0,)).upcoming_frames.tolist() == [0, 1, 2, 0, 1, 2, 2]
    assert patterns.unrolled(2, (0, 1), (0, 0)).upcoming_frames.tolist() == [0, 0, 1, 1, 1]


@settings(max_examples=80, deadline=None)
@given(any_pattern())
def test_the_codes_of_a_codebook_come_in_the_order_of_their_frames(pattern: Pattern) -> None:
    steps = pattern.frame_placement(len(pattern.layout)).indexes % len(pattern.layout)
    assert (steps.diff(dim=1) > 0).all()


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(0, 6), min_size=1, max_size=8), st.integers(7, 30))
def test_a_valid_delay_sequence_predicts_all_but_the_last_frames_of_late_codebooks(
    delays: list[int], frames: int
) -> None:
    least = min(delays)
    pattern = patterns.delayed(frames, tuple(delay - least for delay in delays))
    assert pattern.steps("valid") == frames + 1
    _, mask = pattern.revert_outputs(torch.zeros(1, len(delays), frames + 1, 1), "valid")
    assert mask.sum(1).tolist() == [frames - delay + least for delay in delays]


def test_invalid_patterns_are_refused() -> None:
    with pytest.raises(ValueError, match=r"expected 4 delays.*got \(0, 1\)"):
        patterns.unrolled(5, (0, 1, 2, 3), (0, 1))
    with pytest.raises(ValueError, match=r"each 0 or more, got \(0, -1\)"):
        patterns.delayed(5, (0, -1))
    with pytest.raises(ValueError, match="at least one codebook and one frame, got 2 and 0"):
        patterns.delayed(0, (0, 1))
    with pytest.raises(ValueError, match="divides 4 codebooks, got 3"):
        patterns.grouped(5, 4, 3)


def test_codes_of_another_shape_are_refused() -> None:
    pattern = patterns.delayed(5, (0, 1))
    with pytest.raises(ValueError, match=r"expected codes \[B, 2, 5\], got \[1, 2, 4\]"):
        pattern.build(torch.zeros(1, 2, 4, dtype=torch.long), SPECIAL)
    with pytest.raises(ValueError, match="expected 2 codebooks and at most 7 steps, got 2 and 8"):
        pattern.revert(torch.zeros(1, 2, 8, dtype=torch.long), SPECIAL)
