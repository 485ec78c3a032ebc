"""Clips longer than the windows that a model was trained on: window after window, each going on from the end of the one
before (MusicGen, arXiv:2306.05284, 3.1; AudioCraft: `_generate_tokens`).

The next window begins `stride` frames later, and the frames that it shares with the one before are its prompt. The
melody is cut anew for each window from where the window begins, and starts over where it ends, so that a long clip
follows all of it, or a short melody again and again.

All is counted in frames. AudioCraft counts in seconds, and rounding there can cost the last window a frame.
"""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, Int
from torch import Tensor

from model.conditioning.config import MelodyConfig
from model.decoding import Resources
from model.decoding.generation import GenerationRequest, check_prompt, generate
from model.lm.config import Precision
from model.music_model import MusicModel


@dataclass(frozen=True)
class Window:
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
    window: Window
    request: GenerationRequest


def windows_over(frames: int, prompt_frames: int, window: int, stride: int) -> list[Window]:
    """The windows of a clip of `frames` frames, of which the first `prompt_frames` are given.

    A clip no longer than a window is one window. Of a prompt that fills the first windows only the end is read.
    Raises ValueError for a stride that leaves the next window nothing to go on from.
    """
    if not 1 <= stride < window:
        raise ValueError(
            f"expected a stride from 1 to {window - 1} frames, less than the window's {window}, got {stride}"
        )
    if prompt_frames >= frames:
        raise ValueError(f"expected more frames than the prompt's {prompt_frames}, got {frames}")
    if frames <= window:
        return [Window(0, 0, frames, prompt_frames)]
    number = 0 if prompt_frames < window else (prompt_frames - window) // stride + 1
    found, known = [], prompt_frames
    while known < frames:
        start = number * stride
        found.append(Window(number, start, min(frames - start, window), known - start))
        number, known = number + 1, start + found[-1].frames
    return found


def window_seed(seed: int, number: int) -> int:
    """The seed of a clip's window. The first has the clip's own, as if it were all of it."""
    if number == 0:
        return seed
    return int.from_bytes(hashlib.sha256(f"{seed} {number}".encode()).digest()[:8], "big") >> 1


def decode_in_windows(
    requests: Sequence[GenerationRequest],
    window: int,
    stride: int,
    decode: Callable[[list[WindowRequest]], list[Int[Tensor, "K _"]]],
) -> list[Int[Tensor, "K _"]]:
    """Codes [K, frames] of each request, `decode` given the next window of every unfinished clip together.

    Args:
        window: frames of a window.
        stride: frames from the beginning of one window to that of the next.

    Raises ValueError as `windows_over` does.
    """
    plans = [windows_over(request.frames, request.prompt_frames, window, stride) for request in requests]
    made = [request.prompt for request in requests]
    for turn in range(max(map(len, plans), default=0)):
        asked = []
        for index, (request, plan) in enumerate(zip(requests, plans, strict=True)):
            if turn < len(plan):
                span, codes = plan[turn], made[index]
                prompt = None if codes is None else codes[:, span.start : span.start + span.known]
                seed = window_seed(request.seed, span.number)
                asked.append(WindowRequest(index, span, replace(request, frames=span.frames, seed=seed, prompt=prompt)))
        for one, codes in zip(asked, decode(asked), strict=True):
            before = made[one.index]
            made[one.index] = codes if before is None else torch.cat([before[:, : one.window.start], codes], dim=1)
    return [codes for codes in made if codes is not None]


def generate_long(
    model: MusicModel,
    requests: Sequence[GenerationRequest],
    *,
    window: int,
    stride: int,
    frame_rate: float,
    precision: Precision = "float32",
    stop: Callable[[], bool] | None = None,
    progress: Callable[[int], None] | None = None,
    resources: Resources = Resources(),
) -> list[Int[Tensor, "K _"]]:
    """`generate` for clips of any length: those longer than `window` frames are made in windows.

    A clip that fits into a window has the very codes that `generate` gives it. The codes of a longer one, too, depend
    on the model and its request alone.

    Args:
        requests: with whole melodies; each window takes its part.
        window: frames that the model was trained on.
        stride: frames from one window to the next (AudioCraft's `extend_stride`: 18 s of 30 s).
        frame_rate: of the codes, Hz, by which the melody is cut.
        precision: of the weights while they decode.
        resources: what decoding may take of the machine.

    Raises as `generate` does; ValueError for a bad stride too.
    """
    for request in requests:
        if request.prompt is not None:  # all of it, though the windows may read its end alone
            check_prompt(model.language_model, request.prompt)

    def decode(asked: list[WindowRequest]) -> list[Int[Tensor, "K _"]]:
        windows = []
        for one in asked:
            attributes = one.request.attributes
            if (
                attributes.chroma is not None
                and model.config.chroma is not None
                and requests[one.index].frames > window
            ):
                melody = melody_from(attributes.chroma, one.window.start / frame_rate, model.config.chroma)
                attributes = replace(attributes, chroma=melody)
            windows.append(replace(one.request, attributes=attributes))
        return generate(model, windows, precision=precision, stop=stop, progress=progress, resources=resources)

    return decode_in_windows(requests, window, stride, decode)


def melody_from(melody: Float[Tensor, "_ 12"], begin: float, config: MelodyConfig) -> Float[Tensor, "_ 12"]:
    """The melody of a window that begins at second `begin` of a clip, starting over where it ends; as long as a
    window's melody is."""
    first = round(begin * config.frame_rate)
    return melody[(first + torch.arange(config.frames)) % len(melody)]
