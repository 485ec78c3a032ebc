"""Generating codes: cached decoding with classifier-free guidance (arXiv:2306.05284, 2.4 and 3.1).

The tokens of a request depend only on the model, the request and its seed, not on the other requests of its batch.
`model.decoding` computes every sum in shapes that depend only on the request. Each request has its own random
generator, and all its random numbers are drawn before the first step.
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

    Raises:
        ValueError: a number is out of its range, or the prompt is not [K, P] of whole numbers.
    """

    attributes: Attributes
    frames: int
    """T, frames of the clip, including those of the prompt."""
    seed: int
    """Seed of the clip's random numbers, from 0 to 2^63 - 1."""
    guidance: float = 3.0
    """How closely the conditions are followed: 0 not at all, 1 as the model learnt it; more than 1 exaggerates."""
    guidance_text: float = 1.0
    """How closely the description is followed compared with the other conditions: 1 equally; more than 1 exaggerates it
    (double guidance, arXiv:2407.12563, which uses 3 with a `guidance` of 3)."""
    guidance_form: GuidanceForm = "one_pass"
    """Whether the null condition shares a pass with the conditions and has their length, or has a pass and a length of
    its own (AudioCraft: `two_step_cfg`)."""
    temperature: float = 1.0
    """Divisor of the logits: below 1 is less random, above 1 more; 0 always takes the likeliest code."""
    top_k: int = 250
    """Sample only among this number of likeliest codes; 0 is all codes."""
    top_p: float = 0.0
    """Sample only among the likeliest codes that make up this share of the probability; 0 uses `top_k` instead."""
    prompt: Shaped[Tensor, "..."] | None = None
    """Codes [K, P] to continue; the clip begins with them."""

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
    """Return the codes [K, frames] of each request, on the CPU.

    Raises:
        ValueError: a request has conditions that the model does not read or a prompt that does not fit the model's
            codebooks, or there is too little memory.
        GenerationStoppedError: `options.stop` returned true.
        FloatingPointError: some logits were not finite, because the model is broken.
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
    """Do what `generate` does with conditions that are embedded already.

    Args:
        requests: the clips; their attributes and guidance form are not read.
        conditions: for each request, one mapping for each pass, as `condition_passes` returns them; one empty mapping
            for a model without conditions, which needs no guidance.

    Raises:
        ValueError: as `generate` does, or the conditions have not the number of rows that the guidance needs.
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
    """Turn a request and its embedded conditions, one mapping for each pass, into a sequence for the engine.

    Raises:
        ValueError: the conditions have not the number of rows that the guidance needs, or the prompt does not fit the
            model's codebooks.
    """
    pattern = model.pattern(request.frames)
    sequence = pattern.build(_known_codes(model, request)[None], model.special)[0]
    generator = torch.Generator().manual_seed(request.seed)
    uniform = torch.rand((sequence.shape[1], model.config.codebooks), generator=generator, dtype=torch.float64)
    cfg_passes = [CfgPass(_row_count(embedded), model.fuse(embedded, pattern)) for embedded in passes]
    expected = num_cfg_branches(request.guidance, request.guidance_text) if model.config.conditions else 1
    if (got := sum(cfg_pass.rows for cfg_pass in cfg_passes)) != expected:
        raise ValueError(f"expected conditions in {expected} rows for the requested guidance, got {got}")
    sampling = SamplingParams(
        request.guidance, request.guidance_text, request.temperature, request.top_k, request.top_p
    )
    start, new_frames = pattern.first_steps[request.prompt_frames], request.frames - request.prompt_frames
    return SequenceRequest(cfg_passes, sequence, start, uniform, sampling, new_frames, then)


def clip_codes(model: LanguageModel, frames: int, sequence: Int[Tensor, "K S"]) -> Int[Tensor, "K T"]:
    """Return the codes of a clip of `frames` frames from its finished sequence."""
    codes: Int[Tensor, "K T"] = model.pattern(frames).revert(sequence[None], UNKNOWN)[0]
    assert codes.min() >= 0, "every code of a finished clip is known"
    return codes


def _row_count(conditions: Mapping[str, Condition]) -> int:
    return max((condition.embedding.shape[0] for condition in conditions.values()), default=1)


def _known_codes(model: LanguageModel, request: GenerationRequest) -> Int[Tensor, "K T"]:
    """Return the codes of the clip: those of the prompt, then `UNKNOWN`."""
    codes = torch.full((model.config.codebooks, request.frames), UNKNOWN)
    if request.prompt is not None:
        check_prompt(model, request.prompt)
        codes[:, : request.prompt_frames] = request.prompt
    return codes


def check_prompt(model: LanguageModel, prompt: Int[Tensor, "K P"]) -> None:
    """Raise ValueError unless the prompt has the model's number of codebooks and only codes of theirs."""
    if prompt.shape[0] != model.config.codebooks:
        raise ValueError(f"expected a prompt of {model.config.codebooks} codebooks, got {list(prompt.shape)}")
    if prompt.shape[1]:
        model.check_range(prompt)
