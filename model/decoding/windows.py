"""Clips of any length: one that is longer than the windows that a model was trained on is made window after window
(arXiv:2306.05284, 3.1; AudioCraft: `_generate_tokens`).

Each window begins `stride` frames after the previous one, and the frames that the two share are its prompt. For each
window the melody is cut from where the window begins. The melody starts over where it ends, so that a long clip follows
all of a long melody and repeats a short one. Of frame-wise conditions (beat and chords), a window gets its own frames,
so that bars and chords stay in place. Everything is counted in frames; AudioCraft counts in seconds, and rounding there
can cost the last window a frame.

A clip keeps its slot from its first window to its last, so that there are never more unfinished clips than slots.
"""

import hashlib
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, Int
from torch import Tensor

from model.conditioning.config import FRAME_WISE, MelodyConfig
from model.decoding.engine import DecodingOptions, generate_tokens
from model.decoding.generation import GenerationRequest, check_prompt, clip_codes, sequence_request
from model.decoding.sequences import Continuation, SequenceRequest
from model.guidance import condition_passes
from model.lm.fuser import Condition
from model.lm.language_model import LanguageModel
from model.music_model import Attributes, MusicModel


@dataclass(frozen=True)
class DecodingWindow:
    """A span of a clip that is decoded as one sequence."""

    number: int
    """Number of strides from the start of the clip to that of the window."""
    start: int
    """First frame of the window in the clip."""
    frames: int
    """Length of the window in frames, including `known`."""
    known: int
    """Number of frames at the start of the window that are known before it is decoded."""


@dataclass(frozen=True, eq=False)
class WindowRequest:
    """One window of a clip, with a generation request for it."""

    index: int
    """Index of the clip among the requests."""
    window: DecodingWindow
    request: GenerationRequest


def plan_windows(frames: int, prompt_frames: int, window: int, stride: int) -> list[DecodingWindow]:
    """Return the windows of a clip of `frames` frames, of which the first `prompt_frames` are known.

    A clip that is no longer than a window is one window. Windows that the prompt fills completely are left out, so
    that only the end of a long prompt is read.

    Raises:
        ValueError: the stride leaves no frames that two windows share, or the prompt is as long as the clip.
    """
    if not 1 <= stride < window:
        raise ValueError(
            f"expected a stride from 1 to {window - 1} frames, less than the window's {window}, got {stride}"
        )
    if prompt_frames >= frames:
        raise ValueError(f"expected more frames than the prompt's {prompt_frames}, got {frames}")
    if frames <= window:
        return [DecodingWindow(0, 0, frames, prompt_frames)]
    number = 0 if prompt_frames < window else (prompt_frames - window) // stride + 1
    windows, known = [], prompt_frames
    while known < frames:
        start = number * stride
        windows.append(DecodingWindow(number, start, min(frames - start, window), known - start))
        number, known = number + 1, start + windows[-1].frames
    return windows


def window_seed(seed: int, number: int) -> int:
    """Return the seed of a window. The first window has the seed of the clip, as a clip of one window has."""
    if number == 0:
        return seed
    return int.from_bytes(hashlib.sha256(f"{seed} {number}".encode()).digest()[:8], "big") >> 1


Passes = Callable[[WindowRequest], Sequence[Mapping[str, Condition]]]
"""Embeds the conditions of a window, as one mapping for each pass (see `model.guidance.condition_passes`)."""


@torch.inference_mode()
def decode_in_windows(
    model: LanguageModel,
    requests: Sequence[GenerationRequest],
    window: int,
    stride: int,
    passes: Passes,
    options: DecodingOptions = DecodingOptions(),
) -> Iterator[tuple[int, Int[Tensor, "K _"]]]:
    """Yield the index of each request and its codes [K, frames], on the CPU, as soon as the clip is finished.

    Args:
        window: length of a window, frames.
        stride: distance from the start of one window to that of the next, frames.
        passes: called for a window's conditions just before the window is decoded.

    Raises:
        ValueError: as `plan_windows` and `model.decoding.generation.generate` do.
    """
    clips = [
        _Clip(model, index, request, plan_windows(request.frames, request.prompt_frames, window, stride), passes)
        for index, request in enumerate(requests)
    ]
    for index, sequence in generate_tokens(model, [clip.next_sequence() for clip in clips], options):
        yield index, clips[index].add_window(sequence)


class _Clip:
    """An unfinished clip: the codes so far, and the windows that are still to be decoded."""

    def __init__(
        self,
        model: LanguageModel,
        index: int,
        request: GenerationRequest,
        plan: Sequence[DecodingWindow],
        passes: Passes,
    ) -> None:
        self.model, self.index, self.request, self.passes = model, index, request, passes
        self.codes: Tensor | None = request.prompt
        self.window, self.to_come = plan[0], deque(plan)

    def next_sequence(self) -> SequenceRequest:
        """Return the request of the next window, whose prompt is cut from the codes so far."""
        self.window = self.to_come.popleft()
        start, known = self.window.start, self.window.known
        request = replace(
            self.request,
            frames=self.window.frames,
            seed=window_seed(self.request.seed, self.window.number),
            prompt=None if self.codes is None else self.codes[:, start : start + known],
        )
        passes = self.passes(WindowRequest(self.index, self.window, request))
        return sequence_request(self.model, request, passes, self._continuation())

    def add_window(self, sequence: Int[Tensor, "K S"]) -> Int[Tensor, "K _"]:
        """Append the codes of the window's finished sequence; return all codes of the clip so far."""
        codes = clip_codes(self.model, self.window.frames, sequence)
        if self.codes is not None:
            codes = torch.cat([self.codes[:, : self.window.start], codes], dim=1)
        self.codes = codes
        return codes

    def _add_and_continue(self, sequence: Int[Tensor, "K S"]) -> SequenceRequest:
        self.add_window(sequence)
        return self.next_sequence()

    def _continuation(self) -> Continuation | None:
        if not self.to_come:
            return None
        patterns = [self.model.pattern(window.frames) for window in self.to_come]
        starts = [pattern.first_steps[window.known] for pattern, window in zip(patterns, self.to_come, strict=True)]
        steps = sum(pattern.steps() - start for pattern, start in zip(patterns, starts, strict=True))
        return Continuation(self._add_and_continue, max(starts), steps)


def generate_long(
    model: MusicModel,
    requests: Sequence[GenerationRequest],
    *,
    window: int,
    stride: int,
    frame_rate: float,
    options: DecodingOptions = DecodingOptions(),
) -> Iterator[tuple[int, Int[Tensor, "K _"]]]:
    """Yield the index of each request and its codes [K, frames], on the CPU, as soon as the clip is finished.

    A clip longer than `window` frames is decoded in windows. A clip that fits into one window gets the same codes as by
    `generate`. In both cases the codes depend only on the model, the request, `window` and `stride`.

    Args:
        requests: the clips, with whole melodies, and with beat and chords for all frames; each window takes its part.
        window: number of frames that the model was trained on.
        stride: frames from one window to the next (AudioCraft's `extend_stride`: 18 s of 30 s).
        frame_rate: frame rate of the codes, Hz; it converts a window's first frame to a time in the melody.

    Raises:
        ValueError: as `generate` does, and for a bad stride.
    """
    for request in requests:
        if request.prompt is not None:  # check all of it, although the windows may read only its end
            check_prompt(model.language_model, request.prompt)

    embedded: dict[object, list[dict[str, Condition]]] = {}

    def passes(item: WindowRequest) -> list[dict[str, Condition]]:
        attributes, chroma = item.request.attributes, model.config.chroma
        if attributes.chroma is not None and chroma is not None and requests[item.index].frames > window:
            melody = window_melody(attributes.chroma, item.window.start / frame_rate, chroma)
            attributes = replace(attributes, chroma=melody)
        attributes, request = window_frames(attributes, item.window), item.request
        pass_arguments = (attributes, request.guidance_form, request.guidance, request.guidance_text)
        if (key := _sharing_key(request)) is None:
            return condition_passes(model, *pass_arguments)
        if key not in embedded:
            embedded[key] = condition_passes(model, *pass_arguments)
        return embedded[key]

    training = model.training
    model.eval()
    try:
        yield from decode_in_windows(model.language_model, requests, window, stride, passes, options)
    finally:
        model.train(training)


def _sharing_key(request: GenerationRequest) -> object | None:
    """Return a key under which the embedded conditions of a request can be shared.

    If all conditions are text and numbers, the takes of a request, the windows of a long clip and all requests with the
    same words share them. If one is a tensor, the key is None.
    """
    attributes = request.attributes
    if any(getattr(attributes, name) is not None for name in ("chroma", "clap", *FRAME_WISE)):
        return None
    fields = tuple(sorted(attributes.fields.items()))
    return attributes.description, fields, request.guidance_form, request.guidance, request.guidance_text


def window_melody(melody: Float[Tensor, "_ 12"], begin: float, config: MelodyConfig) -> Float[Tensor, "_ 12"]:
    """Return the melody, `config.frames` long, of a window that begins at second `begin` of a clip. The melody starts
    over where it ends."""
    first = round(begin * config.frame_rate)
    return melody[(first + torch.arange(config.frames)) % len(melody)]


def window_frames(attributes: Attributes, window: DecodingWindow) -> Attributes:
    """Return the attributes with frame-wise conditions (beat and chords) cut to the frames of a window."""
    cut = {
        name: vectors[window.start : window.start + window.frames]
        for name in FRAME_WISE
        if (vectors := getattr(attributes, name)) is not None
    }
    return replace(attributes, **cut)
