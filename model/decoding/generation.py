"""Generating codes: cached decoding with classifier-free guidance (arXiv:2306.05284, 2.4 and 3.1).

The tokens of a request depend on the model, the request and its seed alone; not on its batch-mates. `model.decoding`
keeps every sum to shapes that follow from the request; random numbers come from a generator a request, and are drawn
before the first step. A clip longer than what the model was trained on is made in windows (`model.decoding.windows`).
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Int, Shaped
from torch import Tensor

from model.decoding import UNKNOWN, Drawing, Pass, Resources, Task, complete
from model.guidance import GuidanceForm, answers, condition_passes
from model.lm.config import Precision
from model.lm.language_model import Condition, LanguageModel
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
    """Draw among so many of the likeliest codes; 0 among all."""
    top_p: float = 0.0
    """Draw among the likeliest codes of this share; 0 leaves it to `top_k`."""
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
    model: MusicModel,
    requests: Sequence[GenerationRequest],
    *,
    precision: Precision = "float32",
    stop: Callable[[], bool] | None = None,
    progress: Callable[[int], None] | None = None,
    resources: Resources = Resources(),
) -> list[Int[Tensor, "K _"]]:
    """Codes [K, frames] of each request, on the CPU.

    `precision` is that of the weights while they decode: `model.lm.config.Precision` says what it costs.
    `progress` is told of frames as they are made; in all they are the requests' frames less their prompts'. `stop` is
    asked before every step, and ends the work with GenerationStoppedError. `resources` is what decoding may take of the
    machine. Raises ValueError for a request with conditions that the model does not read, a prompt of other codes or
    too little memory, FloatingPointError for a broken model.
    """
    training = model.training
    model.eval()
    try:
        with torch.inference_mode():
            conditions = [
                condition_passes(model, request.attributes, request.guidance_form, request.guidance_text)
                for request in requests
            ]
        return generate_conditioned(
            model.language_model,
            requests,
            conditions,
            precision=precision,
            stop=stop,
            progress=progress,
            resources=resources,
        )
    finally:
        model.train(training)


@torch.inference_mode()
def generate_conditioned(
    model: LanguageModel,
    requests: Sequence[GenerationRequest],
    conditions: Sequence[Sequence[Mapping[str, Condition]]],
    *,
    precision: Precision = "float32",
    stop: Callable[[], bool] | None = None,
    progress: Callable[[int], None] | None = None,
    resources: Resources = Resources(),
) -> list[Int[Tensor, "K _"]]:
    """`generate` from embedded conditions: for each request a mapping a pass, as `condition_passes` gives them.

    The requests' attributes and guidance form are not read. A model without conditions takes one empty mapping, and
    needs no guidance. Raises ValueError for other rows than guidance needs too.
    """
    patterns, tasks = [], []
    for request, passes in zip(requests, conditions, strict=True):
        pattern = model.pattern(request.frames)
        patterns.append(pattern)
        codes = _known_codes(model, request)
        sequence = pattern.build(codes[None], model.special)[0]
        generator = torch.Generator().manual_seed(request.seed)
        uniform = torch.rand((sequence.shape[1], model.config.codebooks), generator=generator, dtype=torch.float64)
        read = [Pass(_rows(given), model.fuse(given, pattern)) for given in passes]
        expected = answers(request.guidance_text) if model.config.conditions else 1
        if (got := sum(one.rows for one in read)) != expected:
            raise ValueError(f"expected conditions in {expected} rows for the guidance that was asked for, got {got}")
        drawing = Drawing(request.guidance, request.guidance_text, request.temperature, request.top_k, request.top_p)
        start = pattern.first_steps[request.prompt_frames]
        tasks.append(Task(read, sequence, start, uniform, drawing, request.frames - request.prompt_frames))
    found = []
    sequences = complete(model, tasks, stop, progress, precision, resources)
    for pattern, sequence in zip(patterns, sequences, strict=True):
        codes = pattern.revert(sequence[None], UNKNOWN)[0]
        assert codes.min() >= 0, "every code of a finished clip is known"
        found.append(codes)
    return found


def _rows(conditions: Mapping[str, Condition]) -> int:
    return max((condition.embedding.shape[0] for condition in conditions.values()), default=1)


def _known_codes(model: LanguageModel, request: GenerationRequest) -> Int[Tensor, "K T"]:
    """The prompt, and the rest open."""
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
