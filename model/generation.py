"""Generating codes: cached decoding with classifier-free guidance (arXiv:2306.05284, 2.4 and 3.1).

The tokens of a request depend on the model, the request and its seed alone; not on its batch-mates. Sums in floating
point depend on the shapes they are computed in, so everything is done in shapes that follow from the request alone:
conditions and prompt are computed for each request by itself, and decoding always runs on the same number of rows,
filled up with empty ones. Requests share a batch only if their sequences begin alike, so that step for step they
attend to equally many positions. Random numbers come from a generator a request, drawn before the first step.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from model.language_model import Condition, Fused, LanguageModel
from model.music_model import Attributes, MusicModel
from model.patterns import Pattern
from model.sampling import draw, next_code_probabilities
from model.transformer import Cache

ROWS = 8
"""Requests of a decoding batch. Another number gives other rounding, hence (rarely) other tokens."""
SOURCE_STEP = 32
"""The length of what cross-attention reads is filled up to a multiple of this."""
UNKNOWN = -1


class GenerationStoppedError(Exception):
    """The caller asked to stop."""


@dataclass(frozen=True, eq=False)
class GenerationRequest:
    """One clip to generate; the defaults are MusicGen's."""

    attributes: Attributes
    frames: int
    """T, frames of the clip, those of the prompt included."""
    seed: int
    guidance: float = 3.0
    """How far the conditions are followed: 0 not at all, 1 as the model learnt it, more exaggerates."""
    temperature: float = 1.0
    """Below 1 surer, above 1 wilder, 0 always the likeliest code."""
    top_k: int = 250
    """Draw among so many of the likeliest codes; 0 among all."""
    top_p: float = 0.0
    """Draw among the likeliest codes of this share; 0 leaves it to `top_k`."""
    prompt: Int[Tensor, "K P"] | None = None
    """Codes to go on from; the clip begins with them."""

    def __post_init__(self) -> None:
        if self.frames < 1 or self.prompt_frames >= self.frames:
            raise ValueError(f"expected more frames than the prompt's {self.prompt_frames}, got {self.frames}")
        if not 0 <= self.seed < 2**63:
            raise ValueError(f"expected a seed from 0 to 2^63 - 1, got {self.seed}")
        if not math.isfinite(self.guidance):
            raise ValueError(f"expected a finite guidance, got {self.guidance}")
        if not 0 <= self.temperature < math.inf:
            raise ValueError(f"expected a temperature of 0 or more, got {self.temperature}")
        if self.top_k < 0:
            raise ValueError(f"expected a top_k of 0 or more, got {self.top_k}")
        if not 0 <= self.top_p <= 1:
            raise ValueError(f"expected a top_p from 0 to 1, got {self.top_p}")

    @property
    def prompt_frames(self) -> int:
        return 0 if self.prompt is None else self.prompt.shape[-1]


@dataclass(frozen=True, eq=False)
class _Task:
    """A request made ready: its conditions, its sequence with the unknown codes left open, its random numbers."""

    number: int
    request: GenerationRequest
    fused: Fused
    pattern: Pattern
    sequence: Int[Tensor, "K S"]
    uniform: Float[Tensor, "S K"]
    start: int

    @property
    def steps(self) -> int:
        return self.sequence.shape[1]

    @property
    def beginning(self) -> tuple[int, int, int]:
        """What requests of one batch have in common: lengths of prefix, of known steps and of cross-attention."""
        prefix, source = self.fused.prefix, self.fused.source
        filled = 0 if source is None else -(-source.shape[1] // SOURCE_STEP) * SOURCE_STEP
        return (0 if prefix is None else prefix.shape[1], self.start, filled)


def generate(
    model: MusicModel,
    requests: Sequence[GenerationRequest],
    *,
    stop: Callable[[], bool] | None = None,
    progress: Callable[[int], None] | None = None,
) -> list[Int[Tensor, "K _"]]:
    """Codes [K, frames] of each request, on the CPU.

    `progress` is told of frames as they are made; in all they are the requests' frames less their prompts'. `stop` is
    asked before every step, and ends the work with GenerationStoppedError. Raises ValueError for a request with
    conditions that the model does not read or a prompt of other codebooks, FloatingPointError for a broken model.
    """
    training = model.training
    model.eval()
    try:
        with torch.inference_mode():
            conditions = [model.condition(model.prepare([request.attributes, Attributes()])) for request in requests]
        return generate_conditioned(model.language_model, requests, conditions, stop=stop, progress=progress)
    finally:
        model.train(training)


@torch.inference_mode()
def generate_conditioned(
    model: LanguageModel,
    requests: Sequence[GenerationRequest],
    conditions: Sequence[Mapping[str, Condition]],
    *,
    stop: Callable[[], bool] | None = None,
    progress: Callable[[int], None] | None = None,
) -> list[Int[Tensor, "K _"]]:
    """`generate` from embedded conditions: for each request two rows, the conditions and their nulls.

    The requests' attributes are not read. A model without conditions takes empty mappings, and needs no guidance.
    """
    tasks = [
        _make_ready(model, number, request, given)
        for number, (request, given) in enumerate(zip(requests, conditions, strict=True))
    ]
    alike: dict[tuple[int, int, int], list[_Task]] = {}
    for task in sorted(tasks, key=lambda task: task.steps):
        alike.setdefault(task.beginning, []).append(task)
    done: dict[int, Tensor] = {}
    for group in alike.values():
        for first in range(0, len(group), ROWS):
            batch = group[first : first + ROWS]
            for task, sequence in zip(batch, _decode(model, batch, stop, progress), strict=True):
                codes = task.pattern.revert(sequence[None, :, : task.steps], UNKNOWN)[0]
                assert codes.min() >= 0, "every code of a finished clip is known"
                done[task.number] = codes
    return [done[number] for number in range(len(requests))]


def _make_ready(
    model: LanguageModel, number: int, request: GenerationRequest, conditions: Mapping[str, Condition]
) -> _Task:
    """Check a request, lay out its codes and draw its random numbers."""
    codebooks, frames = model.config.codebooks, request.frames
    codes = torch.full((1, codebooks, frames), UNKNOWN)
    if request.prompt is not None and request.prompt_frames:
        if request.prompt.ndim != 2 or request.prompt.shape[0] != codebooks:
            raise ValueError(f"expected a prompt of {codebooks} codebooks, got {list(request.prompt.shape)}")
        model.check_range(request.prompt)
        codes[0, :, : request.prompt_frames] = request.prompt
    pattern = model.pattern(frames)
    sequence = pattern.build(codes, model.special)[0]
    fused = model.fuse(conditions, pattern)
    generator = torch.Generator().manual_seed(request.seed)
    uniform = torch.rand((sequence.shape[1], codebooks), generator=generator, dtype=torch.float64)
    return _Task(number, request, fused, pattern, sequence, uniform, pattern.first_steps[request.prompt_frames])


def _decode(
    model: LanguageModel,
    tasks: Sequence[_Task],
    stop: Callable[[], bool] | None,
    progress: Callable[[int], None] | None,
) -> Int[Tensor, "B K S"]:
    """The whole sequences of requests that begin alike, decoded together."""
    weight = model.out_norm.weight
    prefix, start, source = tasks[0].beginning
    steps = max(task.steps for task in tasks)
    ways = 2 if model.config.conditions else 1
    cache = model.transformer.allocate(ways * ROWS, prefix + steps, source)
    if cache.cross_mask is not None:
        # Rows left empty must have something to look at: attention over nothing is not a number.
        cache.cross_mask[ways * len(tasks) :, ..., :1] = True
    sequences = torch.full((ROWS, model.config.codebooks, steps), model.special, device=weight.device)
    uniform = torch.zeros((ROWS, steps, model.config.codebooks), dtype=torch.float64)
    added = weight.new_zeros((ways * ROWS, steps, model.config.width)) if tasks[0].fused.added is not None else None
    hidden = weight.new_zeros((ways * ROWS, 1, model.config.width))
    settings = torch.tensor([[1.0, 1.0, 0.0, 0.0]] * ROWS, dtype=torch.float64)
    for row, task in enumerate(tasks):
        request, rows = task.request, slice(ways * row, ways * (row + 1))
        sequences[row, :, : task.steps] = task.sequence.to(weight.device)
        uniform[row, : task.steps] = task.uniform
        settings[row] = torch.tensor([request.guidance, request.temperature, request.top_k, request.top_p])
        if added is not None and task.fused.added is not None:
            added[rows, : task.steps] = task.fused.added
        hidden[rows] = _begin(model, task, cache.rows(rows.start, rows.stop), ways)
    cache.length = prefix + start
    uniform, settings = uniform.to(weight.device), settings.to(weight.device)
    guidance, temperature, top_p = settings[:, 0].float(), settings[:, 1].float(), settings[:, 3].float()
    top_k = settings[:, 2].long()
    finite = torch.ones((), dtype=torch.bool, device=weight.device)
    for step in range(start, steps):
        if stop is not None and stop():
            raise GenerationStoppedError(f"stopped at step {step} of {steps}")
        logits = _guide(model.logits(hidden)[:, :, 0].float(), guidance, ways)
        finite &= logits.isfinite().all()
        drawn = draw(next_code_probabilities(logits, temperature, top_k, top_p), uniform[:, step])
        known = sequences[:, :, step]
        sequences[:, :, step] = torch.where(known == UNKNOWN, drawn, known)
        if progress is not None and (made := sum(_frames_made(task, step) for task in tasks)):
            progress(made)
        if step + 1 < steps:
            inputs = model.embed(sequences[:, :, step : step + 1]).repeat_interleave(ways, 0)
            inputs = inputs if added is None else inputs + added[:, step : step + 1]
            hidden = model.transformer(inputs, cache=cache)
    if not finite:
        raise FloatingPointError("expected finite logits, got NaN or infinity: the model's weights are broken")
    return sequences[: len(tasks)].cpu()


def _begin(model: LanguageModel, task: _Task, cache: Cache, ways: int) -> Float[Tensor, "ways 1 D"]:
    """Read what is known of one request, its conditions, prompt and first step, into its rows of the cache."""
    device = model.out_norm.weight.device
    inputs = model.embed(task.sequence[None, :, : task.start].to(device)).expand(ways, -1, -1)
    if task.fused.added is not None:
        inputs = inputs + task.fused.added[:, : task.start]
    if task.fused.prefix is not None:
        inputs = torch.cat([task.fused.prefix.to(inputs.dtype), inputs], dim=1)
    if task.fused.source is not None:
        model.transformer.remember_source(cache, task.fused.source, task.fused.source_mask)
    return model.transformer(inputs, cache=cache)[:, -1:]


def _guide(logits: Float[Tensor, "R K V"], guidance: Float[Tensor, "B"], ways: int) -> Float[Tensor, "B K V"]:
    """From the null's logits towards the condition's, and past them; 1 is the condition itself, exactly."""
    if ways == 1:
        return logits
    conditioned, null = logits[0::2], logits[1::2]
    scale = guidance[:, None, None]
    return torch.where(scale == 1, conditioned, null + (conditioned - null) * scale)


def _frames_made(task: _Task, step: int) -> int:
    """Frames that count as made by this step: a request's new frames, spread evenly over its steps."""
    if step >= task.steps:
        return 0
    frames, steps = task.request.frames - task.request.prompt_frames, task.steps - task.start
    return frames * (step - task.start + 1) // steps - frames * (step - task.start) // steps
