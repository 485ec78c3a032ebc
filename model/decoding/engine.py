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
    """How to decode, and what that may take of the machine. On a CPU only the precisions change the codes, and by
    roundings which kernels are remembered."""

    precision: Precision = "float32"
    """Precision of the weights while they decode."""
    stop: Callable[[], bool] | None = None
    """Is asked before every step whether to end with GenerationStoppedError."""
    progress: Callable[[int], None] | None = None
    """Is called with frames as they are made; in all they are the requests' frames less their prompts'."""
    slots: int | None = None
    """Sequences that are decoded together at most; never more than `MAX_SLOTS`, on a CPU in each lane."""
    free_memory: Callable[[], int] | None = None
    """Says how many bytes of the device's memory may be taken; without it there is no limit."""
    on_plan: Callable[[MemoryPlan], None] | None = None
    """Is called with how many sequences go together, before the first step."""
    cuda_graphs: bool = True
    """Whether steps on CUDA are captured as graphs, or launched kernel by kernel."""
    kernel_memory: KernelMemory | None = None
    """Remembers which kernels are fastest on this CPU; without it each precision has its usual one."""
    cache_precision: CachePrecision = "float32"
    """How keys and values are kept."""
    lanes: bool = True
    """Whether sequences may be decoded in lanes on a CPU. They change the number of MKL's threads for all that the
    process does meanwhile, by which what others compute in it could have other bits."""


Decoder = DynamicShapeDecoder | StaticShapeDecoder
"""A way of taking steps: `prefill` reads what is known of requests into slots and returns the step that each goes on
with, `step` samples the next codes of every slot and reads them, `take_sequence` returns the sequence of a slot whose
last step is sampled, and `finite` says whether all logits so far were numbers."""


@torch.inference_mode()
def generate_tokens(
    model: LanguageModel, requests: Sequence[SequenceRequest], options: DecodingOptions = DecodingOptions()
) -> Iterator[tuple[int, Int[Tensor, "K _"]]]:
    """Yield the number of each request and its whole sequence, on the CPU, as soon as that is finished.

    Where others go on from it, the sequence is that of the last of them.

    Raises:
        GenerationStoppedError: `options.stop` said so.
        FloatingPointError: some logits were not finite.
        ValueError: the device has no kernel for the precision, or too little memory for a single sequence.
    """
    if not requests:
        return
    device = model.device.type
    in_lanes = options.lanes and device == "cpu"
    room = MAX_SLOTS[device] * (most_lanes() if in_lanes else 1)
    most = min(options.slots or room, room, len(requests))
    free = None if options.free_memory is None else options.free_memory()

    def planned(most: int) -> MemoryPlan:
        return plan_memory(model, requests, options.precision, most, free, options.cache_precision)

    plan = planned(most)
    inference = prepare_for_inference(model, options.precision, options.kernel_memory)
    lanes = lane_count(plan.slots) if in_lanes else 1
    if lanes > 1 and not has_same_bits_with(inference, torch.get_num_threads() // lanes):
        lanes, plan = 1, planned(min(most, MAX_SLOTS[device]))
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

        of_lane = replace(options, progress=lane.progress, stop=stop)
        return decode_share(share, plan.slots // lanes, of_lane, lane.admitting)

    yield from decode_in_lanes(decode_lane, requests, lanes, options.progress)


def decode(
    decoder: Decoder,
    requests: Sequence[SequenceRequest],
    slots: int,
    options: DecodingOptions = DecodingOptions(),
    admitting: Admitting = nullcontext,
) -> Iterator[tuple[int, Int[Tensor, "K _"]]]:
    """Do what `generate_tokens` does by a given decoder; the device is asked for finished sequences alone.

    Args:
        admitting: makes the context in which it is read what a sequence begins with.
    """

    def order(number: int) -> tuple[int, int]:
        """The longest first, so that no slot is left to run by itself for long; neighbours have conditions of one
        length, so that they are attended to together."""
        return -requests[number].steps_to_sample, requests[number].cross_length

    waiting = deque(sorted(range(len(requests)), key=order))
    running: list[Slot] = []
    free_slots = list(range(slots))
    beginning: dict[int, tuple[int, Callable[[], SequenceRequest]]] = {}
    """By slot, the number of what begins in it, and what makes its request."""

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
