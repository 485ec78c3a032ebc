"""Stereo with a mono codec: left and right codes are interleaved, and neither side depends on the other."""

from pathlib import Path

import pytest
import torch

from model.codec.codec import Codec, codebook_identity
from model.codec.config import CodecConfig
from model.codec.stereo import StereoCodec, StereoCodes, deinterleave, interleave
from tests.model.codec.test_codec import network
from tests.worlds.oracles import read_pack
from tests.worlds.small_codecs import sound


@pytest.fixture(scope="module")
def stereo() -> StereoCodec:
    return StereoCodec(Codec(network()))


@pytest.mark.parametrize(("by", "name"), [("codebooks", "interleaved_codebooks"), ("frames", "interleaved_timesteps")])
def test_codes_are_interleaved_as_in_the_oracle(oracles: Path, by: str, name: str) -> None:
    pack = read_pack(oracles, "stereo_and_extend").tensors
    sides = StereoCodes(pack["stereo.left"], pack["stereo.right"])
    assert torch.equal(interleave(sides, by), pack[f"stereo.{name}"])
    parted = deinterleave(pack[f"stereo.{name}"], by)
    assert torch.equal(parted.left, sides.left)
    assert torch.equal(parted.right, sides.right)


def test_each_side_is_encoded_and_decoded_as_if_it_were_alone(stereo: StereoCodec) -> None:
    wav = sound(12_345, channels=2)
    codes = stereo.encode_track(wav, window=40, context=5)
    for side in (0, 1):
        alone = stereo.codec.encode_track(wav[side : side + 1], window=40, context=5)
        assert torch.equal(codes[side::2], alone)
        heard = stereo.decode_track(codes, window=40, context=5)[side : side + 1]
        assert torch.equal(heard, stereo.codec.decode_track(alone, window=40, context=5))
    assert codes.shape[0] == stereo.codebooks == 2 * stereo.codec.codebooks
    assert not torch.equal(codes[0::2], codes[1::2])


def test_a_stereo_batch_is_encoded_and_decoded_as_each_side_in_one_pass(stereo: StereoCodec) -> None:
    wav = torch.stack([sound(800, 2, seed=seed) for seed in (1, 2)])
    codes = stereo.encode(wav)
    assert torch.equal(codes[:, 0::2], stereo.codec.encode(wav[:, :1]))
    assert torch.equal(codes[:, 1::2], stereo.codec.encode(wav[:, 1:]))
    heard = stereo.decode(codes)
    assert heard.shape == (2, 2, 800)
    assert torch.equal(heard[:, 1:], stereo.codec.decode(codes[:, 1::2]))


def test_a_mono_recording_on_both_sides_has_equal_codes_and_equal_sound_on_both(stereo: StereoCodec) -> None:
    wav = sound(8_001).expand(2, -1)
    codes = stereo.encode_track(wav)
    assert torch.equal(codes[0::2], codes[1::2])
    left, right = stereo.decode_track(codes)
    assert torch.equal(left, right)


def test_anything_but_left_and_right_is_refused(stereo: StereoCodec) -> None:
    with pytest.raises(ValueError, match="left and right, got 1 channels"):
        stereo.encode(sound(800)[None])
    with pytest.raises(ValueError, match="left and right, got 3 channels"):
        stereo.encode_track(sound(800, 3))
    with pytest.raises(ValueError, match="even number of codebooks, left and right interleaved, got 5"):
        stereo.decode(torch.zeros(1, 5, 4, dtype=torch.long))
    with pytest.raises(ValueError, match="left and right of the same shape"):
        interleave(StereoCodes(torch.zeros(1, 2, 3, dtype=torch.long), torch.zeros(1, 2, 4, dtype=torch.long)))
    two = CodecConfig(sample_rate=8_000, channels=2, filters=4, ratios=(4, 5, 4), width=16, codebooks=3, cardinality=16)
    with pytest.raises(ValueError, match="expected a mono codec"):
        StereoCodec(Codec(network(two)))


def test_the_identity_of_a_codec_depends_only_on_the_codebooks_in_use(stereo: StereoCodec) -> None:
    one, other = network(), network()
    assert codebook_identity(one, 3) == codebook_identity(other, 3) == stereo.identity
    assert codebook_identity(one, 2) == Codec(network(), codebooks=2).identity != codebook_identity(one, 3)
    with torch.no_grad():
        other.quantizer.layers[2].codebook.embed[5, 1] *= 1 + 2**-14  # too little for half precision
    assert codebook_identity(one, 3) == codebook_identity(other, 3)
    with torch.no_grad():
        other.quantizer.layers[2].codebook.embed[5, 1] += 0.01
    assert codebook_identity(one, 2) == codebook_identity(other, 2)
    assert codebook_identity(one, 3) != codebook_identity(other, 3)
    with pytest.raises(ValueError, match="expected 1 to 3 codebooks, got 4"):
        codebook_identity(one, 4)
