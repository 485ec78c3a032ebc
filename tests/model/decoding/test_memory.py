"""The plan of memory: decoding takes what is planned, and codes do not depend on the memory available."""

from dataclasses import fields, replace

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as some
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from model.decoding import DecodingOptions, MemoryPlan, SequenceRequest, generate_tokens, memory
from model.decoding.generation import GenerationRequest, generate
from model.decoding.memory import FEW_SLOTS, MAX_SLOTS, USABLE_SHARE, MemoryRequirements, plan_memory
from model.decoding.static_shapes import StaticShapeDecoder
from model.guidance import num_cfg_branches
from model.kernels.choosing import candidate_sizes
from model.kernels.packed_linear import prepare_for_inference
from model.kernels.processor import multiplies_bfloat16
from model.lm.config import Precision
from model.lm.language_model import LanguageModel
from model.music_model import Attributes, MusicModel
from tests.worlds.generation_requests import mixed_requests
from tests.worlds.sequence_requests import sequence_requests_of
from tests.worlds.tiny_model import config, melody, music_model, random_codes

CARDINALITY = 300


def _peak(model: LanguageModel, sequences: list[SequenceRequest], precision: Precision, slots: int) -> int:
    """The most bytes that torch had allocated at any moment of decoding."""
    with torch.inference_mode(), profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiled:
        assert len(list(generate_tokens(model, sequences, DecodingOptions(precision, slots=slots)))) == len(sequences)
    assert profiled.profiler is not None
    events = [event for event in profiled.profiler.kineto_results.events() if event.name() == "[memory]"]
    given_out = most = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        given_out += event.nbytes()
        most = max(most, given_out)
    return most


def _model_and_sequences(
    form: dict, frames: int, prompt: int, number: int, top_p: float
) -> tuple[MusicModel, list[SequenceRequest]]:
    model = music_model(config(**({"cardinality": CARDINALITY, "width": 64} | form)))
    attributes = Attributes("calm piano", melody(1, 2))
    request = GenerationRequest(attributes, prompt + frames, seed=0, top_p=top_p)
    if prompt:
        request = replace(request, prompt=random_codes(1, prompt, cardinality=CARDINALITY)[0])
    return model, sequence_requests_of(model, [request] * number)


# torch's allocator does not see FBGEMM's matrices (float16 and int8).
@settings(max_examples=8, deadline=None)
@given(
    form=some.sampled_from(
        [{}, {"layers": 6}, {"key_value_heads": 2, "layers": 3}, {"prepend": (), "interpolate": ("chroma",)}]
    ),
    precision=some.sampled_from(("float32", "bfloat16")),
    frames=some.integers(8, 40),
    prompt=some.sampled_from([0, 0, 20, 150]),
    slots=some.integers(1, 5),
    top_p=some.sampled_from([0.0, 0.9]),
)
@example(form={}, precision="bfloat16", frames=8, prompt=20, slots=1, top_p=0.0)
def test_decoding_takes_at_most_the_planned_memory_and_not_much_less(
    form: dict, precision: Precision, frames: int, prompt: int, slots: int, top_p: float
) -> None:
    model, sequences = _model_and_sequences(form, frames, prompt, slots, top_p)
    planned = MemoryRequirements(model.language_model, sequences, precision).bytes_for(slots)
    assert planned / 1.5 <= _peak(model.language_model, sequences, precision, slots) <= planned


@pytest.mark.parametrize("slots", [1, 20])
@pytest.mark.parametrize(
    "form", [{"layers": 4}, {"prepend": (), "interpolate": ("chroma",)}, {"codebooks": 8}], ids=str
)
def test_the_plan_covers_the_memory_of_the_static_shape_decoder(form: dict, slots: int) -> None:
    model, sequences = _model_and_sequences(form, 600, 0, 2, 0.0)
    there = model.language_model.to("meta")
    decoder = StaticShapeDecoder(prepare_for_inference(there, "float32"), sequences, slots)
    kept = [getattr(decoder.state, field.name) for field in fields(decoder.state)]
    kept += [getattr(decoder.state.sampling, field.name) for field in fields(decoder.state.sampling)]
    held = decoder.cache.nbytes + sum(one.nbytes for one in kept if isinstance(one, Tensor))
    assert held <= MemoryRequirements(there, sequences, "float32").bytes_for(slots) <= 1.5 * held


def test_as_many_slots_are_planned_as_fit_and_at_most_as_many_as_asked_for() -> None:
    model, sequences = _model_and_sequences({}, 200, 0, 8, 0.0)
    required = MemoryRequirements(model.language_model, sequences, "float32")
    for slots in (2, 3, 8):
        enough = int(required.bytes_for(slots) / USABLE_SHARE) + 1
        plan = plan_memory(model.language_model, sequences, "float32", 8, enough)
        assert plan == MemoryPlan(slots, required.bytes_for(slots), enough)
        assert plan_memory(model.language_model, sequences, "float32", 8, enough - 2).slots == slots - 1
    assert plan_memory(model.language_model, sequences, "float32", 8, 10 * required.bytes_for(8)).slots == 8
    assert plan_memory(model.language_model, sequences, "float32", 8, None).slots == 8


def test_on_a_cpu_many_slots_are_planned_only_if_they_keep_little_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    model, sequences = _model_and_sequences({}, 200, 0, 32, 0.0)
    required = MemoryRequirements(model.language_model, sequences, "float32")

    def planned(most: int) -> int:
        return plan_memory(model.language_model, sequences, "float32", most, None).slots

    assert planned(32) == 32
    for limit, slots in ((12, 12), (FEW_SLOTS, FEW_SLOTS), (2, FEW_SLOTS)):
        monkeypatch.setattr(memory, "MANY_BYTES", required.kept(limit))
        assert planned(32) == slots
        assert planned(3) == 3


def test_the_rows_of_all_slots_fit_into_the_largest_tested_number_of_rows() -> None:
    for device, most in MAX_SLOTS.items():
        sizes = candidate_sizes(torch.device(device), "float32")
        assert num_cfg_branches(3.0, guidance_text=2.0) * most <= max(sizes) == sizes[-1]


def test_more_slots_longer_clips_and_wider_weights_need_more_memory() -> None:
    model, sequences = _model_and_sequences({}, 50, 0, 4, 0.0)
    _, longer = _model_and_sequences({}, 60, 0, 4, 0.0)
    needed = [MemoryRequirements(model.language_model, sequences, "float32").bytes_for(slots) for slots in (1, 2, 3)]
    assert needed[2] - needed[1] >= needed[1] - needed[0] > 0
    assert MemoryRequirements(model.language_model, longer, "float32").bytes_for(2) > needed[1]
    assert MemoryRequirements(model.language_model, sequences, "int8").bytes_for(2) < MemoryRequirements(
        model.language_model, sequences, "bfloat16"
    ).bytes_for(2)
    narrow = MemoryRequirements(model.language_model, sequences, "bfloat16").bytes_for(2)
    # Without bfloat16 instructions the fastest kernel may hold float32 matrices, as for float16, and a rounded copy of
    # its input: the plan allows for both.
    assert narrow < needed[1] if multiplies_bfloat16() else needed[1] <= narrow < 1.1 * needed[1]
    # The fastest kernel for float16 may hold float32 matrices: the plan allows for that.
    assert MemoryRequirements(model.language_model, sequences, "float16").bytes_for(2) == needed[1]


def test_too_little_memory_for_one_sequence_is_an_error_that_says_how_much_is_needed() -> None:
    requests = [GenerationRequest(Attributes("bass"), 40, seed=0)]
    words = r"expected \d\.\d MB of free memory to decode one sequence of \d+ steps, got 0\.1 MB: .* shorter clips"
    with pytest.raises(ValueError, match=words):
        generate(music_model(), requests, DecodingOptions(free_memory=lambda: 100_000))


def test_the_number_of_slots_is_planned_before_the_first_step() -> None:
    told: list[MemoryPlan] = []

    def stop() -> bool:
        assert len(told) == 1
        return False

    requests = [GenerationRequest(Attributes("bass"), 5, seed=0)] * 9
    generate(
        music_model(),
        requests,
        DecodingOptions(stop=stop, slots=3, free_memory=lambda: 20_300_000_000, on_plan=told.append),
    )
    assert [(plan.slots, plan.free) for plan in told] == [(3, 20_300_000_000)]
    assert str(replace(told[0], needed=1_234_000_000)) == "decoding 3 sequences at once: 1.2 GB of 20.3 GB free"
    assert str(MemoryPlan(8, 2_500_000, None)) == "decoding 8 sequences at once: 2.5 MB"


@pytest.mark.parametrize("slots", [1, 2, 5, 100])
def test_codes_are_the_same_in_any_number_of_slots(slots: int) -> None:
    model, requests = music_model(), mixed_requests()
    found = generate(model, requests, DecodingOptions(slots=slots))
    assert all(torch.equal(one, other) for one, other in zip(found, generate(model, requests), strict=True))


def test_codes_are_the_same_if_memory_is_short() -> None:
    model, requests, told = music_model(), mixed_requests(), list[MemoryPlan]()
    required = MemoryRequirements(model.language_model, sequence_requests_of(model, requests), "float32")
    short = DecodingOptions(free_memory=lambda: int(required.bytes_for(3) / USABLE_SHARE) + 1, on_plan=told.append)
    found = generate(model, requests, short)
    assert [plan.slots for plan in told] == [3]
    assert all(torch.equal(one, other) for one, other in zip(found, generate(model, requests), strict=True))
