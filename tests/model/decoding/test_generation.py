"""Generation: AudioCraft's greedy tokens, and the effect of a request's seed, prompt and settings."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch.nn import functional as F

from model.decoding import DecodingOptions, GenerationStoppedError
from model.decoding.generation import GenerationRequest, generate, generate_conditioned
from model.music_model import Attributes
from tests.worlds.generation_oracles import greedy_case
from tests.worlds.generation_requests import mixed_requests
from tests.worlds.tiny_model import config, music_model, random_codes

KEYS = [
    *("none", "none_prompt", "cross", "cross_prompt", "cross_coef1", "cross_pos_emb", "prepend", "prepend_prompt"),
    *("cross_two_step", "cross_two_step_prompt", "prepend_two_step", "prepend_two_step_prompt"),
    *("sum", "sum_prepend_cross", "parallel", "parallel_prompt", "unroll", "coarse_first", "musiclm"),
    *("stereo8", "stereo8_prompt"),
]


@pytest.mark.parametrize("key", KEYS)
def test_greedy_tokens_equal_the_oracle(oracles: Path, key: str) -> None:
    case = greedy_case(oracles, key)
    found = generate_conditioned(case.model, case.requests, case.passes)
    assert torch.equal(torch.stack(found), case.tokens)


def test_a_stretched_condition_of_one_vector_equals_the_oracle(oracles: Path) -> None:
    # While decoding, AudioCraft stretches over the current step, so that every step gets vector 0, unlike in training.
    # Ours stretches as in training; with vector 0 alone, there is nothing else to stretch.
    case = greedy_case(oracles, "input_interpolate", vectors=1)
    assert torch.equal(torch.stack(generate_conditioned(case.model, case.requests, case.passes)), case.tokens)


def test_other_seeds_give_other_tokens_and_the_same_seed_the_same_tokens() -> None:
    model = music_model()
    request = GenerationRequest(Attributes("bass"), 16, seed=1)
    first, second, third = generate(model, [request, replace(request, seed=2), request])
    assert not torch.equal(first, second)
    assert torch.equal(first, third)


def test_a_clip_begins_with_its_prompt_and_its_codes_are_in_range() -> None:
    model, prompt = music_model(), random_codes(1, 7)[0]
    (found,) = generate(model, [GenerationRequest(Attributes("bass"), 15, seed=1, prompt=prompt)])
    assert torch.equal(found[:, :7], prompt)
    assert found.min() >= 0
    assert found.max() < 24


def test_progress_counts_exactly_the_requested_frames() -> None:
    told: list[int] = []
    requests = mixed_requests() * 2
    generate(music_model(), requests, DecodingOptions(progress=told.append))
    assert sum(told) == sum(request.frames - request.prompt_frames for request in requests)
    assert all(made > 0 for made in told)


def test_a_stop_ends_decoding_within_one_step() -> None:
    asked = 0

    def stop() -> bool:
        nonlocal asked
        asked += 1
        return asked == 5

    with pytest.raises(GenerationStoppedError, match="stopped at step 5 of"):
        generate(music_model(), [GenerationRequest(Attributes(), 30, seed=0)], DecodingOptions(stop=stop))
    assert asked == 5


def test_generation_with_a_model_in_training_has_no_dropout_and_leaves_it_in_training() -> None:
    model = music_model(config(dropout=0.5)).train()
    request = GenerationRequest(Attributes("bass"), 8, seed=0)
    first, second = generate(model, [request])[0], generate(model, [request])[0]
    assert torch.equal(first, second)
    assert model.training


def test_no_requests_give_no_clips() -> None:
    assert generate(music_model(), []) == []


def test_a_model_with_nan_weights_raises_an_error() -> None:
    model = music_model()
    with torch.no_grad():
        model.language_model.out_norm.weight.fill_(float("nan"))
    with pytest.raises(FloatingPointError, match="expected finite logits"):
        generate(model, [GenerationRequest(Attributes(), 5, seed=0)])


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"frames": 0}, "expected more frames than the prompt's 0, got 0"),
        ({"frames": 4, "prompt": torch.zeros(3, 4, dtype=torch.long)}, "more frames than the prompt's 4, got 4"),
        ({"seed": -1}, "expected a seed from 0 .* got -1"),
        ({"guidance": float("nan")}, "expected a finite guidance of 0 or more, got nan"),
        ({"guidance": -1.0}, "expected a finite guidance of 0 or more, got -1.0"),
        ({"guidance_text": float("inf")}, "expected a finite guidance_text of 0 or more, got inf"),
        ({"guidance_text": -0.5}, "expected a finite guidance_text of 0 or more, got -0.5"),
        ({"prompt": torch.zeros(3, dtype=torch.long)}, r"expected a prompt \[K, P\] of codes, got \[3\]"),
        ({"prompt": torch.zeros(3, 2)}, r"expected a prompt .* got \[3, 2\] torch.float32"),
        ({"temperature": float("nan")}, "expected a temperature of 0 or more, got nan"),
        ({"top_p": float("nan")}, "expected a top_p from 0 to 1, got nan"),
        ({"temperature": -0.1}, "expected a temperature of 0 or more, got -0.1"),
        ({"temperature": float("inf")}, "expected a temperature of 0 or more, got inf"),
        ({"top_k": -1}, "expected a top_k of 0 or more, got -1"),
        ({"top_p": 1.5}, "expected a top_p from 0 to 1, got 1.5"),
    ],
)
def test_an_invalid_request_is_refused_with_the_reason(changes: dict, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        GenerationRequest(**({"attributes": Attributes(), "frames": 8, "seed": 0} | changes))


def test_a_request_that_does_not_fit_the_model_is_refused_with_the_reason() -> None:
    model = music_model()
    request = GenerationRequest(Attributes(), 8, seed=0)
    with pytest.raises(ValueError, match=r"expected a prompt of 3 codebooks, got \[2, 4\]"):
        generate(model, [replace(request, prompt=torch.zeros(2, 4, dtype=torch.long))])
    with pytest.raises(ValueError, match="expected codes from 0 to 23, got 24 to 24"):
        generate(model, [replace(request, prompt=torch.full((3, 4), 24))])
    with pytest.raises(ValueError, match="expected codes from 0 to 23, got -1 to -1"):
        generate(model, [replace(request, prompt=torch.full((3, 4), -1))])
    with pytest.raises(ValueError, match=r"expected conditions among .* got genre in item 0"):
        generate(model, [replace(request, attributes=Attributes(fields={"genre": "jazz"}))])
    with pytest.raises(ValueError, match=r"expected a CLAP embedding \[8\], got \[5\]"):
        generate(model, [replace(request, attributes=Attributes(clap=F.one_hot(torch.tensor(1), 5).float()))])
