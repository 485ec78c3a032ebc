"""Decoding all requests: which request is in which slot, from the first step to the last (continuous batching)."""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import partial

import torch
from jaxtyping import Int
from torch import Tensor

from model.decoding.dynamic_shapes import DynamicShapeDecoder
from model.decoding.lanes import Admitting, Lane, decode_in_lanes, lane_count, most_lanes
from model.decoding.memory import MAX_SLOTS, MemoryPlan, plan_memory
from model.decoding.sequences import GenerationStoppedError, SequenceRequest, Slot
from model.decoding.static_shapes import CudaGraphRunner, StaticShapeDecoder
from model.kernels.choosing import KernelMemory
from model.kernels.packed_linear import has_same_bits_with, prepare_for_inference
from model.lm.config import CachePrecision, Precision
from model.lm.language_model import LanguageModel


@dataclass(frozen=True, eq=False)
class DecodingOptions:
    """How to decode, and what of the machine decoding may use.

    On a CPU, only the two precisions change the codes, and the choice of kernels, by rounding.
    """

    precision: Precision = "float32"
    """Precision of the weights while decoding."""
    stop: Callable[[], bool] | None = None
    """Called before every step; if it returns true, decoding ends with GenerationStoppedError."""
    progress: Callable[[int], None] | None = None
    """Called with the number of frames that were just generated. The sum of all calls is the frames of all requests
    without those of their prompts."""
    slots: int | None = None
    """Maximum number of sequences that are decoded together; `MAX_SLOTS` limits it too, on a CPU for each lane."""
    free_memory: Callable[[], int] | None = None
    """Returns how many bytes of the device's memory may be used; None for no limit."""
    on_plan: Callable[[MemoryPlan], None] | None = None
    """Called before the first step with how many sequences are decoded together."""
    cuda_graphs: bool = True
    """Whether steps on CUDA are captured as graphs, not launched kernel by kernel."""
    kernel_memory: KernelMemory | None = None
    """Remembers which kernels are fastest on this CPU; without it each precision uses its default kernel."""
    cache_precision: CachePrecision = "float32"
    """Precision of cached keys and values."""
    lanes: bool = True
    """Whether sequences may be decoded in lanes on a CPU. Lanes change MKL's number of threads for the whole process,
    so that other computations in it could round differently meanwhile."""


Decoder = DynamicShapeDecoder | StaticShapeDecoder
"""Takes the steps of decoding. `prefill` reads the known steps of requests into slots and returns the step that is next
in each. `step` samples the next codes of every slot and feeds them to the model. `take_sequence` returns the sequence
of a slot whose last step is sampled. `finite` is whether all logits so far were finite."""


@torch.inference_mode()
def generate_tokens(
    model: LanguageModel, requests: Sequence[SequenceRequest], options: DecodingOptions = DecodingOptions()
) -> Iterator[tuple[int, Int[Tensor, "K _"]]]:
    """Yield the index of each request and its whole sequence, on the CPU, as soon as the sequence is finished.

    For a request with continuations, only the sequence of the last continuation is yielded.

    Raises:
        GenerationStoppedError: `options.stop` returned true.
        FloatingPointError: some logits were not finite.
        ValueError: the device has no kernel for the precision, or too little memory for a single sequence.
    """
    if not requests:
        return
    device = model.device.type
    in_lanes = options.lanes and device == "cpu"
    room = MAX_SLOTS[device] * (most_lanes() if in_lanes else 1)
    max_slots = min(options.slots or room, room, len(requests))
    free = None if options.free_memory is None else options.free_memory()

    def planned(max_slots: int) -> MemoryPlan:
        return plan_memory(model, requests, options.precision, max_slots, free, options.cache_precision)

    plan = planned(max_slots)
    inference = prepare_for_inference(model, options.precision, options.kernel_memory)
    lanes = lane_count(plan.slots) if in_lanes else 1
    if lanes > 1 and not has_same_bits_with(inference, torch.get_num_threads() // lanes):
        lanes, plan = 1, planned(min(max_slots, MAX_SLOTS[device]))
    if options.on_plan is not None:
        options.on_plan(plan)
    if device != "cpu":
        launch = CudaGraphRunner if options.cuda_graphs else None
        static = StaticShapeDecoder(inference, requests, plan.slots, launch, options.cache_precision)
        yield from decode(static, requests, plan.slots, options)
        return

    def decode_share(
        share: Sequence[SequenceRequest],
        slots: int,
        options: DecodingOptions = options,
        admitting: Admitting = nullcontext,
    ) -> Iterator[tuple[int, Int[Tensor, "K _"]]]:
        slots = min(slots, len(share))
        decoder = DynamicShapeDecoder(inference, share, slots, options.cache_precision)
        return decode(decoder, share, slots, options, admitting)

    if lanes == 1:
        yield from decode_share(requests, plan.slots)
        return

    def decode_lane(share: Sequence[SequenceRequest], lane: Lane) -> Iterator[tuple[int, Int[Tensor, "K _"]]]:
        def stop() -> bool:
            return lane.is_over() or (options.stop is not None and options.stop())

        lane_options = replace(options, progress=lane.progress, stop=stop)
        return decode_share(share, plan.slots // lanes, lane_options, lane.admitting)

    yield from decode_in_lanes(decode_lane, requests, lanes, options.progress)


def decode(
    decoder: Decoder,
    requests: Sequence[SequenceRequest],
    slots: int,
    options: DecodingOptions = DecodingOptions(),
    admitting: Admitting = nullcontext,
) -> Iterator[tuple[int, Int[Tensor, "K _"]]]:
    """Do what `generate_tokens` does with a given decoder. The host waits for the device only for finished sequences.

    Args:
        admitting: makes the context in which `decoder.prefill` is called.
    """

    def order(number: int) -> tuple[int, int]:
        """Sort the longest first, so that no slot runs alone for long at the end, and conditions of equal length next
        to each other, so that their attention is computed together."""
        return -requests[number].steps_to_sample, requests[number].cross_length

    waiting = deque(sorted(range(len(requests)), key=order))
    running: list[Slot] = []
    free_slots = list(range(slots))
    beginning: dict[int, tuple[int, Callable[[], SequenceRequest]]] = {}
    """For each slot where a sequence begins: the index of its request, and a function that makes this request."""

    while waiting or running or beginning:
        while waiting and free_slots:
            number = waiting.popleft()
            beginning[free_slots.pop(0)] = number, partial(requests.__getitem__, number)
        if beginning:
            with admitting():
                admitted = {slot_index: make() for slot_index, (_, make) in beginning.items()}
                first_steps = decoder.prefill(admitted)
            running += [
                Slot(beginning[slot_index][0], request, slot_index, first_steps[slot_index])
                for slot_index, request in admitted.items()
            ]
            beginning = {}
        running.sort(key=lambda slot: slot.index)
        if options.stop is not None and options.stop():
            raise GenerationStoppedError(f"stopped at step {running[0].step} of {running[0].request.steps}")
        decoder.step(running)
        new_frames = sum(slot.request.frames_made(slot.step) for slot in running)
        finished = [slot for slot in running if slot.last]
        if finished and not decoder.finite:
            raise FloatingPointError("expected finite logits, got NaN or infinity: the model's weights are broken")
        running = [slot for slot in running if not slot.last]
        for slot in running:
            slot.step += 1
        if options.progress is not None and new_frames:
            options.progress(new_frames)
        for slot in finished:
            sequence = decoder.take_sequence(slot)
            if slot.request.then is not None:
                beginning[slot.index] = slot.request_index, partial(slot.request.then.request, sequence)
            else:
                free_slots.append(slot.index)
                yield slot.request_index, sequence
