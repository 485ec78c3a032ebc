"""Requests for clips in the form of the sequence requests that are decoded."""

from collections.abc import Iterator, Sequence

import pytest
from torch import Tensor

from model.decoding import SequenceRequest, generation
from model.decoding.generation import GenerationRequest, generate
from model.lm.language_model import LanguageModel
from model.music_model import MusicModel


def sequence_requests_of(model: MusicModel, requests: list[GenerationRequest]) -> list[SequenceRequest]:
    """Return the sequence requests that the engine is given for these requests."""
    seen: list[SequenceRequest] = []

    def listen(model: LanguageModel, batch: Sequence[SequenceRequest], *_: object) -> Iterator[tuple[int, Tensor]]:
        seen.extend(batch)
        return enumerate(request.sequence.clamp(min=0) for request in batch)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(generation, "generate_tokens", listen)
        generate(model, requests)
    return seen
