"""Clips longer than a window: AudioCraft's calls and tokens, and each window equals a request of its own."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as some
from torch import Tensor

from model.conditioning.config import MelodyConfig
from model.decoding import DecodingOptions, GenerationStoppedError, MemoryPlan
from model.decoding.generation import GenerationRequest, generate
from model.decoding.windows import (
    WindowRequest,
    decode_in_windows,
    generate_long,
    plan_windows,
    window_melody,
    window_seed,
)
from model.lm.fuser import Condition
from model.music_model import Attributes, MusicModel
from tests.worlds import beats_and_chords
from tests.worlds.generation_oracles import long_case
from tests.worlds.generation_requests import assert_batch_invariant, long_requests
from tests.worlds.tiny_model import CLAP_WIDTH, config, melody, music_model, random_codes

WINDOW, STRIDE, RATE = 16, 10, 25.0
LAID = {"window": WINDOW, "stride": STRIDE, "frame_rate": RATE}


def in_windows(model: MusicModel, requests: Sequence[GenerationRequest], **changes: Any) -> list[Tensor]:
    """The codes of all clips, in the order of the requests."""
    codes_of = dict(generate_long(model, requests, **(LAID | changes)))
    return [codes_of[number] for number in range(len(requests))]


@pytest.mark.parametrize("key", ["ext_cross", "ext_cross_prompt", "ext_melody", "short_cross", "exact_max"])
def test_calls_and_greedy_tokens_equal_the_oracle(oracles: Path, key: str) -> None:
    case = long_case(oracles, key)
    window, stride = (
        int(case.facts[name] * case.facts["frame_rate"]) for name in ("max_duration_s", "extend_stride_s")
    )
    calls = []

    def passes(asked: WindowRequest) -> Sequence[Mapping[str, Condition]]:
        if asked.index == 0:
            calls.append({"prompt_len": asked.request.prompt_frames, "max_gen_len": asked.request.frames})
        return case.passes[asked.index]

    codes_of = dict(decode_in_windows(case.model, case.requests, window, stride, passes))
    found = [codes_of[number] for number in range(len(case.requests))]
    assert torch.equal(torch.stack(found), case.tokens)
    assert calls == case.facts["calls"]


@given(some.integers(1, 400), some.integers(0, 300), some.integers(2, 60), some.integers(1, 59))
def test_windows_cover_a_clip_without_gaps(frames: int, prompt: int, window: int, stride: int) -> None:
    assume(stride < window and prompt < frames)
    plan = plan_windows(frames, prompt, window, stride)
    made = prompt
    for one in plan:
        assert one.start == one.number * stride or len(plan) == 1
        assert one.start + one.known == made, "it knows all up to where the one before ended"
        assert one.known < one.frames <= window
        assert one.known > 0 or made == 0, "it has something to go on from"
        made = one.start + one.frames
    assert made == frames
    assert all(one.frames == window for one in plan[:-1])


@given(some.integers(1, 400), some.integers(0, 59), some.integers(2, 60), some.integers(1, 59))
def test_windows_equal_those_of_the_published_loop(frames: int, prompt: int, window: int, stride: int) -> None:
    assume(stride < window and prompt < min(frames, window))
    calls, offset, known = [], 0, prompt
    while offset + known < frames:
        length = min(frames - offset, window)
        calls.append((offset, length, known))
        known = length - stride
        offset += stride
    assert [(one.start, one.frames, one.known) for one in plan_windows(frames, prompt, window, stride)] == calls


def test_a_long_clip_is_the_same_alone_and_in_any_batch() -> None:
    requests = long_requests()
    for request, codes in zip(
        requests, assert_batch_invariant(partial(in_windows, music_model()), requests), strict=True
    ):
        if request.prompt is not None:
            assert torch.equal(codes[:, : request.prompt_frames], request.prompt)


def test_a_clip_that_fits_into_one_window_equals_a_plain_one() -> None:
    model = music_model()
    requests = [request for request in long_requests() if request.frames <= WINDOW]
    requests += [replace(requests[0], frames=WINDOW), GenerationRequest(Attributes(chroma=melody(3, 1)), WINDOW, 4)]
    assert len(requests) > 2
    for long, plain in zip(in_windows(model, requests), generate(model, requests), strict=True):
        assert torch.equal(long, plain)


@pytest.mark.parametrize("match_length", [True, False])
@pytest.mark.parametrize("prompt_frames", [0, 4, 13, 30])
def test_each_window_equals_a_plain_request_with_the_melody_from_its_own_second(
    match_length: bool, prompt_frames: int
) -> None:
    chroma = MelodyConfig(frames=6, frame_rate=8.0, match_length=match_length)
    model = music_model(config().model_copy(update={"chroma": chroma}))
    whole = melody(0, 3, 8, 1, 5, 10, 2)
    attributes = Attributes("calm piano", whole, torch.ones(CLAP_WIDTH))
    prompt = random_codes(1, prompt_frames)[0] if prompt_frames else None
    request = GenerationRequest(attributes, 45, seed=7, prompt=prompt)
    (found,) = in_windows(model, [request])

    made = torch.zeros((3, 0), dtype=torch.long) if prompt is None else prompt
    number = next(number for number in range(9) if prompt_frames < number * STRIDE + WINDOW)
    while made.shape[1] < 45:
        begin = number * STRIDE
        places = [(round(begin / RATE * 8.0) + frame) % 7 for frame in range(6)]
        window = replace(
            request,
            attributes=replace(attributes, chroma=whole[places]),
            frames=min(45 - begin, WINDOW),
            seed=window_seed(7, number),
            prompt=made[:, begin:],
        )
        made = torch.cat([made[:, :begin], generate(model, [window])[0]], dim=1)
        number += 1
    assert torch.equal(found, made)


def test_clips_with_beat_and_chords_are_the_same_alone_and_in_any_batch() -> None:
    whole = beats_and_chords.item(45)
    attributes = [whole, whole.without(["beat"]), Attributes(), beats_and_chords.item(30, seed=1)]
    forms = ["one_pass", "two_pass", "one_pass", "two_pass"]
    requests = [
        GenerationRequest(item, frames, seed=frames, guidance_form=form)
        for item, frames, form in zip(attributes, (45, 40, 12, 30), forms, strict=True)
    ]
    assert_batch_invariant(partial(in_windows, beats_and_chords.music_model()), requests)


@pytest.mark.parametrize("prompt_frames", [0, 4, 30])
def test_each_window_gets_its_own_frames_of_beat_and_chords(prompt_frames: int) -> None:
    """Bars and chords keep their places in the whole clip, for any windows and after a prompt."""
    model, attributes = beats_and_chords.music_model(), beats_and_chords.item(45)
    prompt = random_codes(1, prompt_frames)[0] if prompt_frames else None
    request = GenerationRequest(attributes, 45, seed=7, prompt=prompt)
    (found,) = in_windows(model, [request])
    for window in plan_windows(45, prompt_frames, WINDOW, STRIDE):
        part = slice(window.start, window.start + window.frames)
        cut = replace(attributes, beat=attributes.beat[part], chords=attributes.chords[part])
        known = found[:, window.start : window.start + window.known] if window.known else None
        plain = GenerationRequest(cut, window.frames, window_seed(7, window.number), prompt=known)
        assert torch.equal(found[:, part], generate(model, [plain])[0])
    other = replace(request, attributes=beats_and_chords.item(45, seed=1))
    assert not torch.equal(in_windows(model, [other])[0][:, 30:], found[:, 30:])


def test_a_melody_starts_again_after_its_end() -> None:
    short, long = melody(0, 1, 2, 3, 4), torch.eye(12).repeat(30, 1)
    settings = MelodyConfig(frames=7)
    assert torch.equal(window_melody(short, 0.0, settings), short[[0, 1, 2, 3, 4, 0, 1]])
    assert torch.equal(window_melody(short, 8 / 7.8125, settings), short[[3, 4, 0, 1, 2, 3, 4]])
    assert torch.equal(window_melody(long, 30.0, settings), long[234:241])


def test_a_later_part_of_the_melody_changes_only_the_later_windows() -> None:
    model = music_model()
    base = GenerationRequest(Attributes(chroma=melody(*[0] * 30)), 45, seed=1, guidance=5.0)
    # The same for the first window's 6 frames, and different from then on.
    changed = replace(base, attributes=Attributes(chroma=melody(*[0] * 6, *[7] * 24)))
    first, second = in_windows(model, [base, changed])
    assert torch.equal(first[:, :WINDOW], second[:, :WINDOW])
    assert not torch.equal(first[:, WINDOW:], second[:, WINDOW:])


def test_each_window_has_random_numbers_of_its_own() -> None:
    seeds = [window_seed(seed, number) for seed in (0, 1, 11, 2**63 - 1) for number in range(20)]
    assert len(set(seeds)) == len(seeds)
    assert all(0 <= seed < 2**63 for seed in seeds)
    assert window_seed(5, 0) == 5
    model = music_model()
    one, other = in_windows(model, [GenerationRequest(Attributes(), 60, seed) for seed in (1, 2)])
    assert not torch.equal(one[:, 40:], other[:, 40:])


def test_stereo_codes_continue_over_windows() -> None:
    settings = config(codebooks=8, delays=(0, 0, 1, 1, 2, 2, 3, 3))
    model, prompt = music_model(settings), random_codes(1, 12, codebooks=8)[0]
    (found,) = in_windows(model, [GenerationRequest(Attributes("bass"), 40, 1, prompt=prompt)])
    assert found.shape == (8, 40)
    assert torch.equal(found[:, :12], prompt)
    assert found.min() >= 0


def test_requests_with_the_same_conditions_are_embedded_once(monkeypatch: pytest.MonkeyPatch) -> None:
    model, words = music_model(), ("calm piano", "loud drums", "calm piano", None, "calm piano", None)
    requests = [
        GenerationRequest(Attributes(text), (12, 40)[number % 2], seed=number, guidance=(3.0, 3.0, 5.0)[number // 2])
        for number, text in enumerate(words)
    ]
    requests.append(replace(requests[0], attributes=Attributes("calm piano", melody(3, 4, 7))))
    alone = [in_windows(model, [request])[0] for request in requests]
    embedded, condition = [], MusicModel.condition
    monkeypatch.setattr(MusicModel, "condition", lambda *given: embedded.append(given) or condition(*given))
    assert all(map(torch.equal, in_windows(model, requests), alone))
    # Five of the six requests differ in text or guidance; a melody is embedded separately; a clip's windows share.
    assert len(embedded) == 5 + 1


def test_progress_counts_exactly_the_requested_frames() -> None:
    told: list[int] = []
    requests = long_requests()
    in_windows(music_model(), requests, options=DecodingOptions(progress=told.append))
    assert sum(told) == sum(request.frames - request.prompt_frames for request in requests)


def test_a_stop_ends_decoding_in_a_later_window_too() -> None:
    asked = 0

    def stop() -> bool:
        nonlocal asked
        asked += 1
        return asked == 30

    with pytest.raises(GenerationStoppedError):
        in_windows(music_model(), [GenerationRequest(Attributes(), 60, seed=0)], options=DecodingOptions(stop=stop))
    assert asked == 30


def test_a_clip_is_returned_after_its_last_window_and_the_next_begins_when_a_slot_is_free() -> None:
    asked = 0

    def count() -> bool:
        nonlocal asked
        asked += 1
        return False

    requests = [GenerationRequest(Attributes("bass"), frames, seed=frames) for frames in (12, 46, 45)]
    clips = generate_long(music_model(), requests, **LAID, options=DecodingOptions(stop=count, slots=1))
    came = [(number, codes.shape[1], asked) for number, codes in clips]
    # Each window takes its new frames and the delay of the last codebook: 16 + 10 + 10 + 10, 16 + 10 + 10 + 9, 12.
    assert came == [(1, 46, 46 + 4 * 2), (2, 45, 46 + 45 + 8 * 2), (0, 12, 46 + 45 + 12 + 9 * 2)]


def test_clips_before_a_stop_are_complete_and_closing_the_iterator_ends_decoding() -> None:
    model, requests = music_model().train(), long_requests()
    whole, asked = in_windows(model, requests), 0

    def stop() -> bool:
        nonlocal asked
        asked += 1
        return asked > 120

    came: dict[int, Tensor] = {}

    def collect() -> None:
        for number, codes in generate_long(model, requests, **LAID, options=DecodingOptions(stop=stop, slots=2)):
            came[number] = codes

    with pytest.raises(GenerationStoppedError):
        collect()
    assert 0 < len(came) < len(requests)
    assert all(torch.equal(codes, whole[number]) for number, codes in came.items())

    asked, clips = -1000, generate_long(model, requests, **LAID, options=DecodingOptions(stop=stop, slots=2))
    next(clips)
    assert not torch.is_inference_mode_enabled()
    clips.close()
    assert asked < -900
    assert model.training


def test_the_memory_of_later_windows_is_planned_before_the_first() -> None:
    model, told = music_model(), list[MemoryPlan]()
    options = DecodingOptions(on_plan=told.append)
    request = GenerationRequest(Attributes("calm piano"), 340, seed=0)
    in_windows(model, [request], window=300, stride=20, options=options)
    # The first window has no prompt; the next ones begin with 280 of their 300 frames.
    last = replace(request, frames=300, prompt=random_codes(1, 280)[0])
    generate(model, [last], options)
    generate(model, [replace(request, frames=300)], options)
    whole, last_alone, first_alone = (plan.needed for plan in told)
    assert whole == last_alone > 1.2 * first_alone


def test_no_requests_give_no_clips() -> None:
    assert in_windows(music_model(), []) == []


@pytest.mark.parametrize("stride", [0, -3, 16, 40])
def test_a_stride_that_leaves_no_overlap_is_refused(stride: int) -> None:
    request = GenerationRequest(Attributes(), 60, seed=0)
    with pytest.raises(ValueError, match=f"expected a stride from 1 to 15 frames, .* got {stride}"):
        in_windows(music_model(), [request], stride=stride)


def test_a_prompt_as_long_as_the_clip_is_refused() -> None:
    with pytest.raises(ValueError, match="expected more frames than the prompt's 60, got 60"):
        plan_windows(60, 60, WINDOW, STRIDE)


def test_a_prompt_that_does_not_fit_the_model_is_refused_even_if_only_one_code_is_wrong() -> None:
    prompt = random_codes(1, 40)[0]
    with pytest.raises(ValueError, match=r"expected a prompt of 3 codebooks, got \[2, 40\]"):
        in_windows(music_model(), [GenerationRequest(Attributes(), 60, 0, prompt=prompt[:2])])
    prompt[1, 0] = 24
    with pytest.raises(ValueError, match="expected codes from 0 to 23, got 0 to 24"):
        in_windows(music_model(), [GenerationRequest(Attributes(), 60, 0, prompt=prompt)])
