"""Keys and values in less than single precision: their error, their size, and views that share their memory."""

from typing import get_args

import pytest
import torch

from model.decoding import DecodingOptions
from model.decoding.generation import generate
from model.lm.cached_vectors import CachedVectors
from model.lm.config import CachePrecision
from tests.worlds.generation_requests import mixed_requests
from tests.worlds.tiny_model import music_model

SHAPE = (3, 2, 7, 16)
PRECISIONS = get_args(CachePrecision)


def room(precision: CachePrecision) -> CachedVectors:
    return CachedVectors.empty(SHAPE, precision, torch.float32, torch.device("cpu"))


@pytest.mark.parametrize(("precision", "apart"), [("float32", 0.0), ("bfloat16", 2**-8), ("int8", 0.5 / 127)])
def test_vectors_are_read_back_within_the_error_of_their_precision(precision: CachePrecision, apart: float) -> None:
    cached, vectors = room(precision), torch.randn(SHAPE) * torch.logspace(-3, 3, SHAPE[2])[:, None]
    vectors[0, 0, 0] = 0
    cached.write(vectors)
    # Each vector has a scale of its own, so a large one does not affect the small ones beside it.
    error = (cached.read() - vectors).abs().amax(-1)
    assert (error <= apart * vectors.abs().amax(-1) * (1 + 1e-5)).all()


@pytest.mark.parametrize("precision", PRECISIONS)
def test_writes_to_a_view_or_by_an_index_reach_the_cache(precision: CachePrecision) -> None:
    cached, vectors = room(precision), torch.randn(2, 2, 3, 16)
    cached.view(slice(1, 3), slice(2, 5)).write(vectors)
    written = cached.read().abs().sum((1, 3)) > 0
    assert torch.equal(written.nonzero()[:, 0].unique(), torch.tensor([1, 2]))
    assert written.sum() == 6
    by_index = room(precision)
    for row, position in ((1, 2), (2, 4)):
        where = (torch.tensor([row]), slice(None), torch.tensor([position]))
        by_index.write(vectors[row - 1 : row, :, position - 2], where)
        assert torch.equal(by_index.read()[row, :, position], cached.read()[row, :, position])
    longer = cached.lengthened(9)
    assert longer.length == 9
    assert torch.equal(longer.read()[:, :, :7], cached.read())


def test_half_precision_takes_half_the_bytes_and_int8_a_little_more_than_a_quarter() -> None:
    single, half, eighth = (room(precision).nbytes for precision in ("float32", "bfloat16", "int8"))
    assert (half / single, eighth / single) == (0.5, 0.25 + 1 / SHAPE[3])


@pytest.mark.parametrize("precision", ["bfloat16", "int8"])
def test_a_clip_has_the_same_tokens_alone_and_in_a_batch_in_any_precision(precision: CachePrecision) -> None:
    model, requests, options = music_model(), mixed_requests()[2:8], DecodingOptions(cache_precision=precision)
    together = generate(model, requests, options)
    plain = generate(model, requests)
    assert sum(torch.equal(one, other) for one, other in zip(together, plain, strict=True)) >= len(requests) - 2
    for number in (0, 3):
        (alone,) = generate(model, [requests[number]], options)
        assert torch.equal(alone, together[number])
