"""Decoding in lanes: the codes are those of one lane, and the threads end with their caller."""

import threading
from collections.abc import Callable, Iterator
from functools import partial

import pytest
import torch
from torch import Tensor

from model.decoding import DecodingOptions, GenerationStoppedError, MemoryPlan, engine, generate_tokens, lanes
from model.decoding.generation import GenerationRequest, generate
from model.decoding.lanes import lane_count
from model.decoding.windows import generate_long
from model.kernels.choosing import MOST_LANES
from model.kernels.packed_linear import PackedLinear, has_same_bits_with, prepare_for_inference
from model.music_model import Attributes
from tests.worlds.generation_requests import assert_batch_invariant, long_requests, mixed_requests
from tests.worlds.sequence_requests import sequence_requests_of
from tests.worlds.tiny_model import music_model


@pytest.fixture
def two_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two threads, and two lanes as soon as there are two requests."""
    torch.set_num_threads(2)
    monkeypatch.setattr(lanes, "LEAST_SLOTS", 1)


@pytest.fixture
def lanes_seen(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The number of lanes of each decoding."""
    seen: list[int] = []
    plain = lanes.decode_in_lanes

    def listen(decode: object, requests: object, count: int, *more: object) -> Iterator[tuple[int, Tensor]]:
        seen.append(count)
        return plain(decode, requests, count, *more)  # type: ignore[arg-type]

    monkeypatch.setattr(engine, "decode_in_lanes", listen)
    return seen


@pytest.mark.usefixtures("two_threads")
def test_a_request_has_the_same_codes_in_lanes_as_alone(lanes_seen: list[int]) -> None:
    assert_batch_invariant(partial(generate, music_model()), mixed_requests()[:6])
    assert set(lanes_seen) == {2}


@pytest.mark.usefixtures("two_threads")
def test_long_clips_with_prompts_and_melodies_have_the_same_codes_in_lanes_as_alone(lanes_seen: list[int]) -> None:
    model, requests = music_model(), long_requests()[1:5]
    in_windows = partial(generate_long, model, window=16, stride=10, frame_rate=25.0)
    together = dict(in_windows(requests))
    assert lanes_seen == [2]
    for number, request in enumerate(requests):
        assert torch.equal(dict(in_windows([request]))[0], together[number])
    assert lanes_seen == [2]


def test_the_number_of_lanes_depends_on_threads_and_slots() -> None:
    found = {}
    for threads, slots in ((1, 128), (2, 8), (2, 31), (2, 32), (2, 64), (4, 32), (4, 64), (16, 128)):
        torch.set_num_threads(threads)
        found[threads, slots] = lane_count(slots)
    assert list(found.values()) == [1, 1, 1, 2, 2, 2, 4, MOST_LANES]


@pytest.mark.usefixtures("two_threads")
def test_an_error_in_one_lane_is_raised_and_ends_all_lanes(monkeypatch: pytest.MonkeyPatch) -> None:
    model, before = music_model(), threading.active_count()
    with torch.no_grad():
        model.language_model.heads[0].weight.fill_(float("nan"))
    with pytest.raises(FloatingPointError, match="expected finite logits"):
        generate(model, mixed_requests())
    assert threading.active_count() == before
    assert torch.get_num_threads() == 2


@pytest.mark.usefixtures("two_threads")
def test_a_stop_ends_all_lanes() -> None:
    before, asked = threading.active_count(), 0

    def stop() -> bool:
        nonlocal asked
        asked += 1
        return asked > 6

    with pytest.raises(GenerationStoppedError, match="stopped at step"):
        generate(music_model(), mixed_requests(), DecodingOptions(stop=stop))
    assert threading.active_count() == before


@pytest.mark.usefixtures("two_threads")
def test_closing_the_iterator_ends_all_lanes_and_progress_is_reported_in_the_callers_thread() -> None:
    before, told = threading.active_count(), []
    requests = [GenerationRequest(Attributes("bass"), frames, seed=frames) for frames in (3, 200, 200, 4)]
    model = music_model()
    sequences = sequence_requests_of(model, requests)
    progress: Callable[[int], None] = lambda frames: told.append((frames, threading.current_thread()))  # noqa: E731
    decoding = generate_tokens(model.language_model, sequences, DecodingOptions(progress=progress))
    next(decoding)
    assert threading.active_count() == before + 2
    decoding.close()
    assert threading.active_count() == before
    assert {thread for _, thread in told} == {threading.current_thread()}
    assert sum(frames for frames, _ in told) < 400


@pytest.mark.usefixtures("two_threads")
def test_one_lane_decodes_everything_if_a_kernel_sums_differently_with_fewer_threads(
    lanes_seen: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = music_model().language_model
    inference = prepare_for_inference(model, "float32")
    assert has_same_bits_with(inference, 1)
    matrix = next(module for module in inference.modules() if isinstance(module, PackedLinear))
    plain = matrix.kernel
    monkeypatch.setattr(matrix, "kernel", lambda rows: plain(rows) * (1 + 1e-6 * torch.get_num_threads()))
    assert not has_same_bits_with(inference, 1)
    assert torch.get_num_threads() == 2
    monkeypatch.setattr(engine, "prepare_for_inference", lambda *_: inference)
    monkeypatch.setitem(engine.MAX_SLOTS, "cpu", 1)
    told: list[MemoryPlan] = []
    generate(music_model(), mixed_requests()[:2], DecodingOptions(on_plan=told.append))
    assert lanes_seen == []
    assert [plan.slots for plan in told] == [1]
