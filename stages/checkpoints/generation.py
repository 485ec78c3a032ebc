"""Generation for rows of `requests`: what the stages that generate with a checkpoint share."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Int
from torch import Tensor

from model.conditioning.captions import request_text
from model.conditioning.charts import DEFAULT_METER, chart_chords, parse_chart, parse_meter, steady_beats
from model.conditioning.config import MusicModelConfig
from model.conditioning.frame_wise import beat_vectors, chord_vectors, frame_times
from model.decoding import GenerationStoppedError, MemoryPlan
from model.decoding.generation import GenerationRequest
from model.decoding.windows import generate_long
from model.guidance import GuidanceForm
from model.lm.config import STRIDE, CachePrecision, Precision, stride_frames
from model.music_model import Attributes, MusicModel
from schemas.tables import Row
from stages.checkpoints.adapter_files import AdapterUse, checked_folder
from stages.checkpoints.adapters import adapted, read_adapter
from stages.checkpoints.facts import CheckpointFacts
from stages.pipeline.contract import Context, Stopped
from stages.pipeline.machine import decoding_options


@dataclass(frozen=True, eq=False)
class RequestConditions:
    """The conditions of one request as tensors; all takes of the request share them."""

    attributes: Attributes
    """The attributes, with as much of the melody as the clip's windows reach
    (`stages.checkpoints.conditions.melody_span`)."""
    prompt: Int[Tensor, "K P"] | None = None
    """The codes that the clip begins with; None without a prompt."""


def description_of(request: Row, config: MusicModelConfig) -> str | None:
    """Return the text that a model reads for a request, with its key and tempo; None for a model that reads no text."""
    if "description" not in config.conditions:
        return None
    return request_text(request["description"], request["key"], request["bpm"])


def fields_of(request: Row, facts: CheckpointFacts) -> dict[str, str | float]:
    """Return the fields that a model reads and a request has, by name; every request has a length in seconds."""
    fields = dict(request["fields"] or ()) | {name: request[name] for name in ("key", "bpm", "seconds")}
    return {name: fields[name] for name in facts.model.fields if fields.get(name) is not None}


def frame_wise_conditions(request: Row, facts: CheckpointFacts, frames: int) -> dict[str, Tensor]:
    """Return the conditions of a request that a model reads frame by frame, by name, [frames, E] each: beats from its
    tempo and metre, with bar 1 at the beginning of the clip, and its chords. Empty without a tempo.

    Args:
        frames: length of the clip in frames of codes, the prompt included.
    """
    if request["bpm"] is None:
        return {}
    bpm, seconds = request["bpm"], frames / facts.frame_rate
    times, meter = frame_times(0, frames, facts.frame_rate), parse_meter(request["meter"] or DEFAULT_METER)
    conditions = {}
    if facts.model.beat is not None:
        steady = steady_beats(meter, bpm, seconds)
        conditions["beat"] = torch.from_numpy(beat_vectors(steady.beats, steady.downbeats, times, facts.model.beat))
    if facts.model.chords is not None and request["chords"] is not None:
        chords = chart_chords(parse_chart(request["chords"], meter), meter, bpm, seconds)
        conditions["chords"] = torch.from_numpy(chord_vectors(chords, times))
    return conditions


def guidance_of(request: Row, facts: CheckpointFacts) -> float:
    """Return the guidance coefficient for a request. A model that has learned guidance is used with 1, unless the
    request asks for a coefficient itself."""
    if facts.distilled_guidance is not None and not request["guidance_asked"]:
        return 1.0
    return float(request["guidance"])


def generation_request(
    request: Row,
    conditions: RequestConditions,
    facts: CheckpointFacts,
    *,
    frames: int,
    seed: int,
    guidance_form: GuidanceForm = "one_pass",
) -> GenerationRequest:
    """Turn a row of `requests` and its conditions into the request that `model.decoding` generates a clip from.

    Args:
        request: the row; rows of an earlier release have no `guidance_text`.
        facts: facts of the checkpoint that generates.
        frames: length of the clip in frames of codes, the prompt included.
        seed: seed of the take.
    """
    return GenerationRequest(
        attributes=conditions.attributes,
        frames=frames,
        seed=seed,
        guidance=guidance_of(request, facts),
        guidance_text=1.0 if request["guidance_text"] is None else request["guidance_text"],
        guidance_form=guidance_form,
        temperature=request["temperature"],
        top_k=request["top_k"],
        top_p=request["top_p"],
        prompt=conditions.prompt,
    )


def generate_codes(
    context: Context,
    model: MusicModel,
    facts: CheckpointFacts,
    requests: Sequence[GenerationRequest],
    *,
    adapters: Sequence[tuple[AdapterUse, ...]] | None = None,
    stride: float = STRIDE,
    precision: Precision = "float32",
    cache_precision: CachePrecision = "float32",
    progress: Callable[[int], None] | None = None,
    on_plan: Callable[[MemoryPlan], None] | None = None,
) -> Iterator[tuple[int, Int[Tensor, "K _"]]]:
    """Generate codes with the memory and threads that the run's settings allow. Yield the number of each request with
    its codes [K, frames], as soon as they are complete.

    Requests with the same adapters are decoded together, one set of adapters after another: the adapters are added to
    the weights, so that a step costs no more than without adapters.

    Args:
        model: the checkpoint's network, or another of its architecture.
        facts: facts of the checkpoint.
        adapters: for each request the adapters that are added to the model; None adds none to any.
        stride: distance between the windows of a long clip, as a share of a window.
        precision: precision of the weights.
        cache_precision: precision of the keys and values of earlier steps.
        progress: called with the number of frames whenever frames are made.
        on_plan: called with the number of sequences that are decoded together.

    Raises:
        Stopped: the run was asked to stop.
        FloatingPointError: the model is broken.
        ValueError: an adapter does not fit the model, or has changed since the request was read.
    """
    window = facts.segment_frames
    numbers_by_adapters: dict[tuple[AdapterUse, ...], list[int]] = {}
    for number in range(len(requests)):
        numbers_by_adapters.setdefault(() if adapters is None else adapters[number], []).append(number)
    for uses, numbers in numbers_by_adapters.items():
        added = [(read_adapter(checked_folder(context, use), model), use.strength) for use in uses]
        try:
            with adapted(model, added):
                for index, codes in generate_long(
                    model,
                    [requests[number] for number in numbers],
                    window=window,
                    stride=stride_frames(stride, window),
                    frame_rate=facts.frame_rate,
                    options=decoding_options(context, precision, progress, on_plan, cache_precision),
                ):
                    yield numbers[index], codes
        except GenerationStoppedError as error:
            raise Stopped(str(error)) from error
