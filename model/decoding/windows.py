"""Clips of any length: one that is longer than the windows that a model was trained on is made window after window
(arXiv:2306.05284, 3.1; AudioCraft: `_generate_tokens`).

Each window goes on from the end of the one before: it begins `stride` frames later, and the frames that the two share
are its prompt. The melody is cut anew for each window from where the window begins, and starts over where it ends, so
that a long clip follows all of it, or a short melody again and again. Of what is told for every frame of the clip, beat
and chords, a window has its own frames, so that bars and chords stay where they are. All is counted in frames.
AudioCraft counts in seconds, and rounding there can cost the last window a frame.

A clip keeps its slot from its first window to its last, so that no more clips are unfinished than there are slots.
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
    """A span of a clip that is decoded at once; all in frames."""

    number: int
    """How many strides after the clip's beginning it begins."""
    start: int
    """Where it begins in the clip."""
    frames: int
    """Its length, `known` included."""
    known: int
    """Frames at its beginning that are there before it is decoded."""


@dataclass(frozen=True, eq=False)
class WindowRequest:
    """One window of one of several clips, as a request of its own."""

    index: int
    """Which clip."""
    window: DecodingWindow
    request: GenerationRequest


def plan_windows(frames: int, prompt_frames: int, window: int, stride: int) -> list[DecodingWindow]:
    """Lay windows over a clip of `frames` frames, of which the first `prompt_frames` are known.

    A clip no longer than a window is one window. Of a prompt that fills the first windows only the end is read.

    Raises:
        ValueError: a stride that leaves the next window nothing to go on from, or a prompt as long as the clip.
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
    """Return the seed of a clip's window. The first has the clip's own, as if it were all of it."""
    if number == 0:
        return seed
    return int.from_bytes(hashlib.sha256(f"{seed} {number}".encode()).digest()[:8], "big") >> 1


Passes = Callable[[WindowRequest], Sequence[Mapping[str, Condition]]]
"""Embeds the conditions of a window, a mapping a pass (see `model.guidance.condition_passes`)."""


@torch.inference_mode()
def decode_in_windows(
    model: LanguageModel,
    requests: Sequence[GenerationRequest],
    window: int,
    stride: int,
    passes: Passes,
    options: DecodingOptions = DecodingOptions(),
) -> Iterator[tuple[int, Int[Tensor, "K _"]]]:
    """Yield the number of each request and its codes [K, frames], on the CPU, as soon as they are whole.

    Args:
        window: frames of a window.
        stride: frames from the beginning of one window to that of the next.
        passes: is asked for a window's conditions when the window is about to be decoded.

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
    """A clip on its way: the codes that are known of it, and the windows that are to come."""

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
        """Begin the next window, the codes before it being known."""
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
        """Return all codes so far, those of the window's finished sequence at their end."""
        codes = clip_codes(self.model, self.window.frames, sequence)
        if self.codes is not None:
            codes = torch.cat([self.codes[:, : self.window.start], codes], dim=1)
        self.codes = codes
        return codes

    def _go_on(self, sequence: Int[Tensor, "K S"]) -> SequenceRequest:
        self.add_window(sequence)
        return self.next_sequence()

    def _continuation(self) -> Continuation | None:
        if not self.to_come:
            return None
        patterns = [self.model.pattern(window.frames) for window in self.to_come]
        starts = [pattern.first_steps[window.known] for pattern, window in zip(patterns, self.to_come, strict=True)]
        steps = sum(pattern.steps() - start for pattern, start in zip(patterns, starts, strict=True))
        return Continuation(self._go_on, max(starts), steps)


def generate_long(
    model: MusicModel,
    requests: Sequence[GenerationRequest],
    *,
    window: int,
    stride: int,
    frame_rate: float,
    options: DecodingOptions = DecodingOptions(),
) -> Iterator[tuple[int, Int[Tensor, "K _"]]]:
    """Yield the number of each request and its codes [K, frames], on the CPU, as soon as they are whole.

    A clip longer than `window` frames is made in windows. One that fits into a window has the very codes that
    `generate` gives it. The codes of a longer one, too, depend on the model and its request alone.

    Args:
        requests: with whole melodies, and with beat and chords of all of a clip's frames; each window takes its part.
        window: frames that the model was trained on.
        stride: frames from one window to the next (AudioCraft's `extend_stride`: 18 s of 30 s).
        frame_rate: of the codes, Hz, by which the melody is cut.

    Raises:
        ValueError: as `generate` does, and for a bad stride.
    """
    for request in requests:
        if request.prompt is not None:  # all of it, though the windows may read its end alone
            check_prompt(model.language_model, request.prompt)

    embedded: dict[object, list[dict[str, Condition]]] = {}

    def passes(item: WindowRequest) -> list[dict[str, Condition]]:
        attributes, chroma = item.request.attributes, model.config.chroma
        if attributes.chroma is not None and chroma is not None and requests[item.index].frames > window:
            melody = window_melody(attributes.chroma, item.window.start / frame_rate, chroma)
            attributes = replace(attributes, chroma=melody)
        attributes, request = window_frames(attributes, item.window), item.request
        asked = (attributes, request.guidance_form, request.guidance, request.guidance_text)
        if (key := _words_alone(request)) is None:
            return condition_passes(model, *asked)
        if key not in embedded:
            embedded[key] = condition_passes(model, *asked)
        return embedded[key]

    training = model.training
    model.eval()
    try:
        yield from decode_in_windows(model.language_model, requests, window, stride, passes, options)
    finally:
        model.train(training)


def _words_alone(request: GenerationRequest) -> object | None:
    """Return what the embedded conditions of a request follow from, where that is text and numbers alone: the takes of
    a request, a long clip's windows and all who ask in the same words share them. None where there are tensors too."""
    attributes = request.attributes
    if any(getattr(attributes, name) is not None for name in ("chroma", "clap", *FRAME_WISE)):
        return None
    fields = tuple(sorted(attributes.fields.items()))
    return attributes.description, fields, request.guidance_form, request.guidance, request.guidance_text


def window_melody(melody: Float[Tensor, "_ 12"], begin: float, config: MelodyConfig) -> Float[Tensor, "_ 12"]:
    """Cut the melody of a window that begins at second `begin` of a clip, starting over where it ends; as long as a
    window's melody is."""
    first = round(begin * config.frame_rate)
    return melody[(first + torch.arange(config.frames)) % len(melody)]


def window_frames(attributes: Attributes, window: DecodingWindow) -> Attributes:
    """Cut the conditions that have a vector for every frame of a clip to the frames of a window."""
    cut = {
        name: vectors[window.start : window.start + window.frames]
        for name in FRAME_WISE
        if (vectors := getattr(attributes, name)) is not None
    }
    return replace(attributes, **cut)
