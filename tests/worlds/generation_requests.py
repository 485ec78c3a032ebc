"""Requests of every kind, for tests of properties that hold for any request."""

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from model.decoding.generation import GenerationRequest
from model.music_model import Attributes
from tests.worlds.tiny_model import CLAP_WIDTH, melody, random_codes


def mixed_requests() -> list[GenerationRequest]:
    """Long and short texts, with and without melody, prompt and embedding, with every form of guidance and different
    settings."""
    words = ["calm piano", None, "loud fast drums and bass with strings at night", "bass", None, "piano in C minor"]
    generator = torch.Generator().manual_seed(9)
    requests = []
    for number in range(14):
        attributes = Attributes(
            words[number % 6],
            melody(number % 12, 4, 7) if number % 3 else None,
            torch.randn(CLAP_WIDTH, generator=generator) if number % 2 else None,
        )
        requests.append(
            GenerationRequest(
                attributes,
                frames=(12, 20, 17)[number % 3],
                seed=number,
                guidance=(3.0, 1.0, 0.0, 5.5)[number % 4],
                guidance_text=(1.0, 1.0, 2.5)[number % 3],
                guidance_form=("one_pass", "one_pass", "two_pass", "one_pass", "two_pass")[number % 5],
                temperature=(1.0, 0.7, 1.6)[number % 3],
                top_k=(0, 5, 250)[number % 3],
                top_p=(0.0, 0.9)[number % 5 == 1],
                prompt=random_codes(1, 4, seed=number)[0] if number in (3, 4, 8) else None,
            )
        )
    return requests


def long_requests() -> list[GenerationRequest]:
    """Clips of half a window of 16 frames up to four windows, with prompts shorter and longer than stride and
    window."""
    requests = []
    for number, request in enumerate(mixed_requests()[:9]):
        prompt = random_codes(1, (5, 12, 16, 27)[number % 4], seed=number)[0] if number % 2 else None
        frames = (8, 40, 16, 61, 17)[number % 5] + (0 if prompt is None else prompt.shape[1])
        attributes = request.attributes
        if attributes.chroma is not None:
            attributes = replace(attributes, chroma=melody(*range(number, 8 + number // 2)))
        requests.append(replace(request, attributes=attributes, frames=frames, prompt=prompt))
    return requests


def assert_batch_invariant(
    make: Callable[[list[GenerationRequest]], list[Tensor]], requests: list[GenerationRequest]
) -> list[Tensor]:
    """Check that each request has the same codes in a batch, in either order, and alone; return these codes."""
    together, backwards = make(requests), make(requests[::-1])[::-1]
    for number, request in enumerate(requests):
        (alone,) = make([request])
        assert alone.shape == (3, request.frames)
        assert torch.equal(together[number], alone)
        assert torch.equal(backwards[number], alone)
    return together
