"""Generating codes: cached decoding with classifier-free guidance (arXiv:2306.05284, 2.4 and 3.1).

The tokens of a request depend on the model, the request and its seed alone; not on its batch-mates. `model.decoding`
keeps every sum to shapes that follow from the request; random numbers come from a generator a request, and are taken
before the first step.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Int, Shaped
from torch import Tensor

from model.decoding.engine import DecodingOptions, generate_tokens
from model.decoding.sequences import UNKNOWN, CfgPass, Continuation, SamplingParams, SequenceRequest
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
                condition_passes(
                    model, request.attributes, request.guidance_form, request.guidance, request.guidance_text
                )
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
    sequences = [sequence_request(model, request, passes) for request, passes in zip(requests, conditions, strict=True)]
    finished = dict(generate_tokens(model, sequences, options))
    return [clip_codes(model, request.frames, finished[number]) for number, request in enumerate(requests)]


def sequence_request(
    model: LanguageModel,
    request: GenerationRequest,
    passes: Sequence[Mapping[str, Condition]],
    then: Continuation | None = None,
) -> SequenceRequest:
    """Bring a request and its embedded conditions, a mapping a pass, to what the engine decodes.

    Raises:
        ValueError: other rows than guidance needs, or a prompt of other codes.
    """
    pattern = model.pattern(request.frames)
    sequence = pattern.build(_known_codes(model, request)[None], model.special)[0]
    generator = torch.Generator().manual_seed(request.seed)
    uniform = torch.rand((sequence.shape[1], model.config.codebooks), generator=generator, dtype=torch.float64)
    cfg_passes = [CfgPass(_row_count(embedded), model.fuse(embedded, pattern)) for embedded in passes]
    expected = num_cfg_branches(request.guidance, request.guidance_text) if model.config.conditions else 1
    if (got := sum(cfg_pass.rows for cfg_pass in cfg_passes)) != expected:
        raise ValueError(f"expected conditions in {expected} rows for the guidance that was asked for, got {got}")
    sampling = SamplingParams(
        request.guidance, request.guidance_text, request.temperature, request.top_k, request.top_p
    )
    start, new_frames = pattern.first_steps[request.prompt_frames], request.frames - request.prompt_frames
    return SequenceRequest(cfg_passes, sequence, start, uniform, sampling, new_frames, then)


def clip_codes(model: LanguageModel, frames: int, sequence: Int[Tensor, "K S"]) -> Int[Tensor, "K T"]:
    """Return the codes of so many frames from their finished sequence."""
    codes: Int[Tensor, "K T"] = model.pattern(frames).revert(sequence[None], UNKNOWN)[0]
    assert codes.min() >= 0, "every code of a finished clip is known"
    return codes


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
