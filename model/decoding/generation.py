"""Generating codes: cached decoding with classifier-free guidance (arXiv:2306.05284, 2.4 and 3.1).

The tokens of a request depend on the model, the request and its seed alone; not on its batch-mates. `model.decoding`
keeps every sum to shapes that follow from the request; random numbers come from a generator a request, and are taken
before the first step.

A clip longer than the windows that a model was trained on is made window after window, each going on from the end of
the one before (arXiv:2306.05284, 3.1; AudioCraft: `_generate_tokens`). The next window begins `stride` frames later,
and the frames that it shares with the one before are its prompt. The melody is cut anew for each window from where the
window begins, and starts over where it ends, so that a long clip follows all of it, or a short melody again and again.
All is counted in frames. AudioCraft counts in seconds, and rounding there can cost the last window a frame.
"""

import hashlib
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor

from model.conditioning.config import MelodyConfig
from model.decoding.engine import DecodingOptions, generate_tokens
from model.decoding.sequences import UNKNOWN, CfgPass, SamplingParams, SequenceRequest
from model.guidance import GuidanceForm, condition_passes, num_cfg_branches
from model.lm.fuser import Condition
from model.lm.language_model import LanguageModel
from model.music_model import Attributes, MusicModel


@dataclass(frozen=True, eq=False)
class GenerationRequest:
    """One clip to generate; the defaults are MusicGen's.

    Raises ValueError for numbers that no clip can have and for a prompt that is not [K, P] of whole numbers.
    """

    attributes: Attributes
    frames: int
    """T, frames of the clip, those of the prompt included."""
    seed: int
    guidance: float = 3.0
    """How far the conditions are followed: 0 not at all, 1 as the model learnt it, more exaggerates."""
    guidance_text: float = 1.0
    """How far the description is followed beside the other conditions: 1 like them, more exaggerates (double
    guidance, arXiv:2407.12563; there 3 with a `guidance` of 3)."""
    guidance_form: GuidanceForm = "one_pass"
    """Whether the null is as long as the conditions, or has a pass and a length of its own (AudioCraft:
    `two_step_cfg`)."""
    temperature: float = 1.0
    """Below 1 surer, above 1 wilder, 0 always the likeliest code."""
    top_k: int = 250
    """Sample among so many of the likeliest codes; 0 among all."""
    top_p: float = 0.0
    """Sample among the likeliest codes of this share; 0 leaves it to `top_k`."""
    prompt: Shaped[Tensor, "..."] | None = None
    """Codes [K, P] to go on from; the clip begins with them."""

    def __post_init__(self) -> None:
        if self.prompt is not None and (self.prompt.ndim != 2 or self.prompt.is_floating_point()):
            raise ValueError(f"expected a prompt [K, P] of codes, got {list(self.prompt.shape)} {self.prompt.dtype}")
        if self.frames < 1 or self.prompt_frames >= self.frames:
            raise ValueError(f"expected more frames than the prompt's {self.prompt_frames}, got {self.frames}")
        if not 0 <= self.seed < 2**63:
            raise ValueError(f"expected a seed from 0 to 2^63 - 1, got {self.seed}")
        for name in ("guidance", "guidance_text"):
            if not 0 <= (value := getattr(self, name)) < math.inf:
                raise ValueError(f"expected a finite {name} of 0 or more, got {value}")
        if not 0 <= self.temperature < math.inf:
            raise ValueError(f"expected a temperature of 0 or more, got {self.temperature}")
        if self.top_k < 0:
            raise ValueError(f"expected a top_k of 0 or more, got {self.top_k}")
        if not 0 <= self.top_p <= 1:
            raise ValueError(f"expected a top_p from 0 to 1, got {self.top_p}")

    @property
    def prompt_frames(self) -> int:
        return 0 if self.prompt is None else self.prompt.shape[-1]


def generate(
    model: MusicModel, requests: Sequence[GenerationRequest], options: DecodingOptions = DecodingOptions()
) -> list[Int[Tensor, "K _"]]:
    """Return codes [K, frames] of each request, on the CPU.

    Raises:
        ValueError: a request with conditions that the model does not read, a prompt of other codes, or too little
            memory.
        GenerationStoppedError: `options.stop` said so.
        FloatingPointError: the model is broken: some logits were not finite.
    """
    training = model.training
    model.eval()
    try:
        with torch.inference_mode():
            conditions = [
                condition_passes(model, request.attributes, request.guidance_form, request.guidance_text)
                for request in requests
            ]
        return generate_conditioned(model.language_model, requests, conditions, options)
    finally:
        model.train(training)


@torch.inference_mode()
def generate_conditioned(
    model: LanguageModel,
    requests: Sequence[GenerationRequest],
    conditions: Sequence[Sequence[Mapping[str, Condition]]],
    options: DecodingOptions = DecodingOptions(),
) -> list[Int[Tensor, "K _"]]:
    """Do what `generate` does from embedded conditions: for each request a mapping a pass (see `condition_passes`).

    The requests' attributes and guidance form are not read. A model without conditions takes one empty mapping, and
    needs no guidance. Raises ValueError for other rows than guidance needs too.
    """
    patterns, sequence_requests = [], []
    for request, passes in zip(requests, conditions, strict=True):
        pattern = model.pattern(request.frames)
        patterns.append(pattern)
        sequence = pattern.build(_known_codes(model, request)[None], model.special)[0]
        generator = torch.Generator().manual_seed(request.seed)
        uniform = torch.rand((sequence.shape[1], model.config.codebooks), generator=generator, dtype=torch.float64)
        cfg_passes = [CfgPass(_row_count(embedded), model.fuse(embedded, pattern)) for embedded in passes]
        expected = num_cfg_branches(request.guidance_text) if model.config.conditions else 1
        if (got := sum(cfg_pass.rows for cfg_pass in cfg_passes)) != expected:
            raise ValueError(f"expected conditions in {expected} rows for the guidance that was asked for, got {got}")
        sampling = SamplingParams(
            request.guidance, request.guidance_text, request.temperature, request.top_k, request.top_p
        )
        start, new_frames = pattern.first_steps[request.prompt_frames], request.frames - request.prompt_frames
        sequence_requests.append(SequenceRequest(cfg_passes, sequence, start, uniform, sampling, new_frames))
    sequences = generate_tokens(model, sequence_requests, options)
    clips = []
    for pattern, sequence in zip(patterns, sequences, strict=True):
        codes = pattern.revert(sequence[None], UNKNOWN)[0]
        assert codes.min() >= 0, "every code of a finished clip is known"
        clips.append(codes)
    return clips


def _row_count(conditions: Mapping[str, Condition]) -> int:
    return max((condition.embedding.shape[0] for condition in conditions.values()), default=1)


def _known_codes(model: LanguageModel, request: GenerationRequest) -> Int[Tensor, "K T"]:
    """Return the prompt, and open places after it."""
    codes = torch.full((model.config.codebooks, request.frames), UNKNOWN)
    if request.prompt is not None:
        check_prompt(model, request.prompt)
        codes[:, : request.prompt_frames] = request.prompt
    return codes


def check_prompt(model: LanguageModel, prompt: Int[Tensor, "K P"]) -> None:
    """Raise ValueError unless these are codes of the model."""
    if prompt.shape[0] != model.config.codebooks:
        raise ValueError(f"expected a prompt of {model.config.codebooks} codebooks, got {list(prompt.shape)}")
    if prompt.shape[1]:
        model.check_range(prompt)


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


def decode_in_windows(
    requests: Sequence[GenerationRequest],
    window: int,
    stride: int,
    decode: Callable[[list[WindowRequest]], list[Int[Tensor, "K _"]]],
) -> list[Int[Tensor, "K _"]]:
    """Return codes [K, frames] of each request, `decode` given the next window of every unfinished clip together.

    Args:
        window: frames of a window.
        stride: frames from the beginning of one window to that of the next.

    Raises:
        ValueError: as `plan_windows` does.
    """
    plans = [plan_windows(request.frames, request.prompt_frames, window, stride) for request in requests]
    clips = [request.prompt for request in requests]
    for turn in range(max(map(len, plans), default=0)):
        batch = []
        for index, (request, plan) in enumerate(zip(requests, plans, strict=True)):
            if turn < len(plan):
                span, known = plan[turn], clips[index]
                prompt = None if known is None else known[:, span.start : span.start + span.known]
                seed = window_seed(request.seed, span.number)
                batch.append(WindowRequest(index, span, replace(request, frames=span.frames, seed=seed, prompt=prompt)))
        for item, codes in zip(batch, decode(batch), strict=True):
            before = clips[item.index]
            clips[item.index] = codes if before is None else torch.cat([before[:, : item.window.start], codes], dim=1)
    return [codes for codes in clips if codes is not None]


def generate_long(
    model: MusicModel,
    requests: Sequence[GenerationRequest],
    *,
    window: int,
    stride: int,
    frame_rate: float,
    options: DecodingOptions = DecodingOptions(),
) -> list[Int[Tensor, "K _"]]:
    """Do what `generate` does for clips of any length: those longer than `window` frames are made in windows.

    A clip that fits into a window has the very codes that `generate` gives it. The codes of a longer one, too, depend
    on the model and its request alone.

    Args:
        requests: with whole melodies; each window takes its part.
        window: frames that the model was trained on.
        stride: frames from one window to the next (AudioCraft's `extend_stride`: 18 s of 30 s).
        frame_rate: of the codes, Hz, by which the melody is cut.

    Raises:
        ValueError: as `generate` does, and for a bad stride.
    """
    for request in requests:
        if request.prompt is not None:  # all of it, though the windows may read its end alone
            check_prompt(model.language_model, request.prompt)

    def decode(batch: list[WindowRequest]) -> list[Int[Tensor, "K _"]]:
        windows = []
        for item in batch:
            attributes, chroma = item.request.attributes, model.config.chroma
            if attributes.chroma is not None and chroma is not None and requests[item.index].frames > window:
                melody = window_melody(attributes.chroma, item.window.start / frame_rate, chroma)
                attributes = replace(attributes, chroma=melody)
            windows.append(replace(item.request, attributes=attributes))
        return generate(model, windows, options)

    return decode_in_windows(requests, window, stride, decode)


def window_melody(melody: Float[Tensor, "_ 12"], begin: float, config: MelodyConfig) -> Float[Tensor, "_ 12"]:
    """Cut the melody of a window that begins at second `begin` of a clip, starting over where it ends; as long as a
    window's melody is."""
    first = round(begin * config.frame_rate)
    return melody[(first + torch.arange(config.frames)) % len(melody)]
