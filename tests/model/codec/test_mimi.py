"""Properties of Mimi alone: it is causal, it has attention, and its encoder or decoder may be missing."""

from typing import Any

import pytest
import torch
from transformers import MimiConfig, MimiModel

from model.codec.codec import Codec, coder_of
from model.codec.coders import CodecNetwork
from tests.worlds.small_codecs import small_mimi, sound


def test_mimi_has_the_published_frames_codebooks_and_margins() -> None:
    with torch.device("meta"):
        network = MimiModel(MimiConfig())
    coder = coder_of(network)
    assert (coder.sample_rate, coder.hop, coder.frame_rate) == (24_000, 1_920, 12.5)
    assert (coder.codebooks, coder.cardinality) == (32, 2048)
    assert (coder.margins.before, coder.margins.after) == (3 * 125 + 8, 0)


def test_mimi_does_not_depend_on_later_sound() -> None:
    codec = Codec(small_mimi())
    wav = sound(60 * codec.hop)
    changed = wav.clone()
    changed[:, 30 * codec.hop :] = sound(30 * codec.hop, seed=8)
    one, other = codec.encode(wav[None]), codec.encode(changed[None])
    assert torch.equal(one[..., :30], other[..., :30])
    assert not torch.equal(one, other)
    early, late = codec.decode(one), codec.decode(other)
    torch.testing.assert_close(early[..., : 30 * codec.hop], late[..., : 30 * codec.hop])


def test_a_mimi_that_is_not_causal_also_has_margins_after() -> None:
    codec = Codec(small_mimi(causal=False))
    assert codec.margins.after > 0
    wav = sound(90_033)
    whole, windowed = codec.encode(wav[None])[0], codec.encode_track(wav, window=120)
    assert float((whole == windowed).float().mean()) > 0.998


def test_a_stereo_mimi_takes_two_channels() -> None:
    codec = Codec(small_mimi(channels=2))
    codes = codec.encode_track(sound(20_000, channels=2))
    assert codec.decode_track(codes).shape == (2, 125 * codec.hop)


def test_the_longer_the_context_of_a_deep_mimi_the_fewer_codes_differ() -> None:
    codec = Codec(small_mimi(layers=8, sliding_window=40))
    assert codec.margins.before == 3 * 20 + 8
    wav = sound(96_000)
    whole = codec.encode(wav[None])[0]
    agreement = []
    for context in (5, 20, 40, codec.margins.before):
        first = 400 - context
        windowed = codec.encode(wav[None, :, first * codec.hop :])[0][:, context:]
        agreement.append(float((windowed == whole[:, 400:]).float().mean()))
    assert agreement == sorted(agreement)
    assert agreement[-1] > 0.99


def test_a_mimi_with_changed_tables_encodes_with_the_changed_tables() -> None:
    network: Any = small_mimi()
    codes = Codec(network).encode(sound(4_000)[None])
    with torch.no_grad():
        for layer in network.quantizer.semantic_residual_vector_quantizer.layers:
            layer.codebook.embed_sum.mul_(-1)
    again = Codec(network).encode(sound(4_000)[None])
    assert not torch.equal(again[:, 0], codes[:, 0])
    assert torch.equal(again[:, 1:], codes[:, 1:])


@pytest.mark.parametrize("half", ["encoder", "decoder"])
def test_a_mimi_without_encoder_or_decoder_is_refused(half: str) -> None:
    network: CodecNetwork = small_mimi()
    setattr(network, half, None)
    with pytest.raises(ValueError, match=f"expected a Mimi that encodes and decodes, got one with no {half}"):
        Codec(network)


def test_a_mimi_at_the_rate_of_its_transformer_is_refused() -> None:
    network: Any = small_mimi()
    network.encoder.downsample = None
    with pytest.raises(ValueError, match="codes have fewer than 100 frames a second, got as many"):
        Codec(network)
