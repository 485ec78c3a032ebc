"""The one switch of the kernels: results with and without them are the same except for rounding."""

from typing import get_args

import pytest
import torch

from model import kernels
from model.codec.codec import Codec
from model.decoding.generation import GenerationRequest, generate
from model.kernels.codec.inference import prepare_codec_for_inference
from model.kernels.packed_linear import prepare_for_inference
from model.lm.config import Precision
from tests.worlds.generation_requests import mixed_requests
from tests.worlds.small_codecs import HOPS, small_codec, sound
from tests.worlds.tiny_model import music_model, random_codes


def test_kernels_are_on_and_come_back_after_nested_blocks_that_disable_them() -> None:
    assert kernels.enabled()
    with kernels.disabled():
        with kernels.disabled():
            assert not kernels.enabled()
        assert not kernels.enabled()
    assert kernels.enabled()


def test_kernels_come_back_after_an_error() -> None:
    with pytest.raises(ZeroDivisionError), kernels.disabled():
        raise ZeroDivisionError
    assert kernels.enabled()


@pytest.mark.parametrize("precision", get_args(Precision))
def test_logits_are_the_same_with_packed_matrices_and_plain_ones(precision: Precision) -> None:
    model, hidden = music_model().language_model, torch.randn(3, 5, 32)
    fast = prepare_for_inference(model, precision)
    with kernels.disabled():
        plain = prepare_for_inference(model, precision)
    with torch.inference_mode():
        expected = plain.logits(plain.transformer(hidden, hidden))
        found = fast.logits(fast.transformer(hidden, hidden))
    torch.testing.assert_close(found, expected, rtol=0, atol=0.02 if precision == "bfloat16" else 2e-3)


def test_greedy_codes_are_the_same_with_kernels_and_without() -> None:
    requests = [GenerationRequest(one.attributes, one.frames, 0, temperature=0.0) for one in mixed_requests()[:4]]
    fast = generate(music_model(), requests)
    with kernels.disabled():
        plain = generate(music_model(), requests)
    assert all(torch.equal(one, other) for one, other in zip(fast, plain, strict=True))


def test_training_in_bfloat16_has_nearly_the_same_loss_and_gradients_with_kernels_and_without() -> None:
    model, codes = music_model().language_model, random_codes(2, 40)
    conditions = music_model().condition(music_model().prepare([item.attributes for item in mixed_requests()[:2]]))

    def gradients() -> list[torch.Tensor]:
        with torch.autocast("cpu", torch.bfloat16):
            loss = model.loss(codes, conditions).mean
        return [loss, *torch.autograd.grad(loss, list(model.transformer.layers.parameters()))]

    fast = gradients()
    with kernels.disabled():
        plain = gradients()
    assert not all(torch.equal(one, other) for one, other in zip(fast, plain, strict=True))
    for one, other in zip(fast, plain, strict=True):
        assert (one - other).norm() <= 0.05 * other.norm()


@pytest.mark.parametrize("kind", list(HOPS))
def test_codes_and_sound_of_a_codec_are_nearly_the_same_with_kernels_and_without(kind: str) -> None:
    fast = Codec(small_codec(kind))
    with kernels.disabled():
        plain = Codec(small_codec(kind))
        assert prepare_codec_for_inference(plain.network) is plain.network
    wav = sound(20 * HOPS[kind])[None]
    codes = plain.encode(wav)
    assert (fast.encode(wav) == codes).float().mean() > 0.99
    expected = plain.decode(codes)
    torch.testing.assert_close(fast.decode(codes), expected, rtol=1e-4, atol=1e-5 * float(expected.abs().max()))
