"""The decoder of static shapes gives the tokens of the one of dynamic shapes, and reads no value from the device
between steps."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from model.decoding import DecodingOptions, GenerationStoppedError, SequenceRequest, generation, windows
from model.decoding.engine import decode
from model.decoding.generation import GenerationRequest, generate
from model.decoding.sequences import Slot
from model.decoding.static_shapes import CudaGraphRunner, StaticShapeDecoder, round_up_to_bucket
from model.kernels.packed_linear import prepare_for_inference
from model.lm.config import CachePrecision
from model.lm.transformer import Transformer
from model.music_model import Attributes, MusicModel
from tests.worlds.generation_oracles import greedy_case
from tests.worlds.generation_requests import mixed_requests
from tests.worlds.sequence_requests import sequence_requests_of
from tests.worlds.tiny_model import config, music_model

FORMS: list[dict[str, Any]] = [
    {},
    {"positions": "rotary", "xpos": True},
    {"positions": "both", "past_context": 5},
    {"norm": "after", "key_value_heads": 2},
    {"prepend": (), "interpolate": ("chroma",), "pattern": "unroll"},
    {"prepend": ("clap",), "cross": ("description",), "sum": (), "interpolate": ("chroma",), "layer_scale": 0.5},
    {"cross": (), "prepend": ("description", "chroma", "clap")},
    {"padding": "attended", "codebooks": 4, "delays": (0, 0, 1, 1), "query_key_norm": True},
]


def _in_static_shapes(slots: int, monkeypatch: pytest.MonkeyPatch, bucket: int = 16) -> None:
    """Make everything decode in static shapes, on any device, launched step by step."""

    @torch.inference_mode()
    def static(
        model: Any, sequences: Sequence[SequenceRequest], options: DecodingOptions
    ) -> Iterator[tuple[int, Tensor]]:
        inference, kept = prepare_for_inference(model, options.precision), options.cache_precision
        decoder = StaticShapeDecoder(inference, sequences, slots, precision=kept)
        yield from decode(decoder, sequences, slots, options)

    for module in (generation, windows):
        monkeypatch.setattr(module, "generate_tokens", static)
    monkeypatch.setattr("model.decoding.static_shapes.BUCKET", bucket)


def _requests(model: MusicModel) -> list[GenerationRequest]:
    """The mixed requests, without prompts if the model has another number of codebooks than they have."""
    codebooks = model.config.language_model.codebooks
    return [
        one if one.prompt is None or codebooks == 3 else GenerationRequest(one.attributes, one.frames, one.seed)
        for one in mixed_requests()
    ]


@pytest.mark.parametrize("form", FORMS, ids=str)
def test_the_tokens_equal_those_of_dynamic_shapes(form: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    model = music_model(config(**form))
    requests = _requests(model)
    expected = generate(model, requests)
    _in_static_shapes(5, monkeypatch)
    found = generate(model, requests)
    assert all(torch.equal(one, other) for one, other in zip(found, expected, strict=True))


@pytest.mark.parametrize(("slots", "bucket"), [(1, 4), (2, 64), (7, 8)])
def test_the_tokens_are_the_same_with_any_number_of_slots_and_any_bucket_length(
    slots: int, bucket: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, requests = music_model(), mixed_requests()[2:9]
    expected = generate(model, requests)
    _in_static_shapes(slots, monkeypatch, bucket)
    found = generate(model, requests)
    assert all(torch.equal(one, other) for one, other in zip(found, expected, strict=True))


def test_requests_that_begin_with_one_step_use_only_the_shapes_of_decoding(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = music_model(config(prepend=(), cross=("description", "clap", "chroma")))
    requests = [request for request in mixed_requests() if request.prompt is None][:4]
    expected = generate(model, requests)
    _in_static_shapes(3, monkeypatch)
    for passed_over in ("forward", "step"):  # their shapes depend on how many begin together
        monkeypatch.setattr(Transformer, passed_over, lambda *_, **__: pytest.fail("read in other shapes"))
    found = generate(model, requests)
    assert all(torch.equal(one, other) for one, other in zip(found, expected, strict=True))


@pytest.mark.parametrize("precision", ["bfloat16", "int8"])
def test_the_tokens_equal_those_of_dynamic_shapes_with_a_cache_of_less_precision(
    precision: CachePrecision, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, requests, options = music_model(), mixed_requests()[2:7], DecodingOptions(cache_precision=precision)
    expected = generate(model, requests, options)
    _in_static_shapes(3, monkeypatch)
    found = generate(model, requests, options)
    assert all(torch.equal(one, other) for one, other in zip(found, expected, strict=True))


def test_a_clip_of_several_windows_has_the_tokens_of_dynamic_shapes(monkeypatch: pytest.MonkeyPatch) -> None:
    model, requests = music_model(), [replace(request, frames=45) for request in mixed_requests()[1:6]]
    layout: dict[str, Any] = {"window": 16, "stride": 10, "frame_rate": 25.0}
    expected = dict(windows.generate_long(model, requests, **layout))
    _in_static_shapes(3, monkeypatch)
    found = dict(windows.generate_long(model, requests, **layout))
    assert found.keys() == expected.keys() == set(range(5))
    assert all(torch.equal(found[number], codes) for number, codes in expected.items())


@pytest.mark.parametrize(
    "key", ["none", "none_prompt", "sum_prepend_cross", "prepend_two_step_prompt", "stereo8_prompt"]
)
def test_greedy_tokens_equal_the_oracle(oracles: Path, key: str, monkeypatch: pytest.MonkeyPatch) -> None:
    case = greedy_case(oracles, key)
    _in_static_shapes(2, monkeypatch)
    found = generation.generate_conditioned(case.model, case.requests, case.passes)
    assert torch.equal(torch.stack(found), case.tokens)


def test_progress_and_stop_work_as_with_dynamic_shapes(monkeypatch: pytest.MonkeyPatch) -> None:
    model, told, asked = music_model(), [0], 0

    def stop() -> bool:
        nonlocal asked
        asked += 1
        return asked == 5

    _in_static_shapes(4, monkeypatch)
    generate(model, mixed_requests(), DecodingOptions(progress=told.append))
    assert sum(told) == sum(request.frames - request.prompt_frames for request in mixed_requests())
    with pytest.raises(GenerationStoppedError, match="stopped at step 5 of"):
        generate(model, [GenerationRequest(Attributes(), 30, seed=0)], DecodingOptions(stop=stop))


def test_a_model_with_nan_weights_raises_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    model = music_model()
    with torch.no_grad():
        model.language_model.out_norm.weight.fill_(float("nan"))
    _in_static_shapes(2, monkeypatch)
    with pytest.raises(FloatingPointError, match="expected finite logits"):
        generate(model, [GenerationRequest(Attributes(), 5, seed=0)])


def test_an_unused_slot_holds_finite_numbers_to_the_end() -> None:
    model = music_model()
    sequences = sequence_requests_of(model, mixed_requests()[:3])
    decoder = StaticShapeDecoder(prepare_for_inference(model.language_model, "float32"), sequences, 6)
    with torch.inference_mode():
        assert len(list(decode(decoder, sequences, 6))) == 3
    assert decoder.state.hidden.isfinite().all()
    assert all(
        layer.keys.read().isfinite().all() and layer.values.read().isfinite().all() for layer in decoder.cache.layers
    )


class _OnlyOn(TorchDispatchMode):
    """Checks that every tensor of every operation is on one device: nothing is copied to or from it."""

    def __init__(self, device: str) -> None:
        super().__init__()
        self.device, self.operations = device, list[str]()

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = function(*args, **(kwargs or {}))
        self.operations.append(str(function))
        for one in tree_leaves((args, kwargs, found)):
            assert not isinstance(one, Tensor) or one.device.type == self.device, f"{function} leaves {self.device}"
        return found


@pytest.mark.parametrize("form", FORMS, ids=str)
def test_no_step_waits_for_the_device_or_copies_to_it(form: dict[str, Any]) -> None:
    """The meta device holds no values, so code that reads one fails."""
    model = music_model(config(**form))
    sequences = sequence_requests_of(model, _requests(model))
    decoder = StaticShapeDecoder(prepare_for_inference(model.language_model.to("meta"), "float32"), sequences, 3)
    running = [Slot(number, sequences[number], number, sequences[number].start) for number in range(3)]
    with torch.inference_mode(), _OnlyOn("meta") as watched:
        decoder.step(running)
        decoder.step(running)
        assert len(watched.operations) > 100
        with pytest.raises(RuntimeError, match="meta"):
            decoder.take_sequence(running[0])


def test_lengths_are_rounded_up_to_buckets() -> None:
    assert [round_up_to_bucket(length) for length in (1, 256, 257, 1504)] == [256, 256, 512, 1536]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")
@pytest.mark.parametrize("launch", [None, CudaGraphRunner])
def test_decoding_on_cuda_is_batch_invariant_with_graphs_and_without(
    launch: Callable[[Callable[[int], None]], Callable[[int], None]] | None,
) -> None:
    model, requests = music_model().to("cuda"), mixed_requests()
    graphs = DecodingOptions(cuda_graphs=launch is not None)
    together = generate(model, requests, graphs)
    launched = generate(model, requests, DecodingOptions(slots=3, cuda_graphs=False))
    for number, request in enumerate(requests):
        (alone,) = generate(model, [request], graphs)
        assert torch.equal(together[number], alone)
        assert torch.equal(together[number], launched[number])
