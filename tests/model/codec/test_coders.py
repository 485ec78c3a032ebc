"""Codecs of every kind through one protocol: codes and sound equal those of transformers, alone, in windows and in
batches."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from model.codec import codec as codec_module
from model.codec.codec import Codec, codebook_identity
from model.codec.stereo import StereoCodec
from tests.worlds.small_codecs import (
    CARDINALITY,
    HOPS,
    LEVELS,
    RATE,
    small_codec,
    sound,
)

KINDS = list(HOPS)


def filled(kind: str, wav: Tensor) -> Tensor:
    """The waveform as the codec's feature extractor returns it: for DAC, padded to whole frames."""
    return torch.nn.functional.pad(wav, (0, -wav.shape[-1] % HOPS[kind])) if kind == "dac" else wav


@torch.no_grad()
def theirs(kind: str, network: Any, wav: Tensor, levels: int = LEVELS) -> Tensor:
    """Codes [B, K, T] as transformers computes them."""
    if kind == "encodec":
        return network.encode(wav).audio_codes[0][:, :levels]
    if kind == "dac":
        return network.encode(filled(kind, wav), n_quantizers=levels).audio_codes
    return network.encode(wav, num_quantizers=levels).audio_codes


@torch.no_grad()
def theirs_back(kind: str, network: Any, codes: Tensor) -> Tensor:
    """Sound [B, C, N] as transformers computes it."""
    if kind == "encodec":
        return network.decode(codes[None], [None]).audio_values
    if kind == "dac":
        return network.decode(audio_codes=codes).audio_values[:, None]
    return network.decode(codes).audio_values


@pytest.fixture(scope="module", params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(scope="module")
def codec(kind: str) -> Codec:
    return Codec(small_codec(kind))


def test_codes_and_sound_equal_those_of_transformers(kind: str, codec: Codec) -> None:
    wav = torch.stack([sound(4_000, seed=1), sound(4_000, seed=2)])
    untouched = small_codec(kind)
    codes = codec.encode(wav)
    assert torch.equal(codes, theirs(kind, untouched, wav))
    assert all(len(level.unique()) > 3 for level in codes.transpose(0, 1))
    back = theirs_back(kind, untouched, codes)
    made = codec.decode(codes)
    torch.testing.assert_close(made[..., : back.shape[-1]], back)
    assert made.std() > 0.01


def test_sample_rate_hop_and_codebook_sizes_are_those_of_the_network(kind: str, codec: Codec) -> None:
    assert (codec.sample_rate, codec.channels, codec.hop) == (RATE, 1, HOPS[kind])
    assert (codec.codebooks, codec.cardinality, codec.frame_rate) == (LEVELS, CARDINALITY, RATE / HOPS[kind])


@pytest.mark.parametrize("samples", [1, 79, 80, 81, 160, 161, 4_000, 8_001])
def test_frames_are_the_samples_over_the_hop_rounded_up(codec: Codec, samples: int) -> None:
    frames = math.ceil(samples / codec.hop)
    codes = codec.encode(sound(samples)[None])
    assert codes.shape == (1, LEVELS, frames)
    assert codec.decode(codes).shape == (1, 1, frames * codec.hop)


def test_the_end_of_a_recording_is_padded_as_the_feature_extractor_pads_it(kind: str, codec: Codec) -> None:
    wav = sound(4_001)[None]
    assert torch.equal(codec.encode(wav), theirs(kind, small_codec(kind), wav))


def test_windows_of_a_long_recording_give_nearly_the_codes_and_sound_of_one_pass(kind: str, codec: Codec) -> None:
    wav = sound(90_033)
    window = 2 * (codec.margins.before + codec.margins.after) + 11
    assert window * codec.hop * 2 < wav.shape[-1]
    whole = codec.encode(wav[None])[0]
    windowed = codec.encode_track(wav, window=window)
    assert windowed.shape == whole.shape
    assert float((whole == windowed).float().mean()) > 0.998
    heard, parts = codec.decode(whole[None])[0], codec.decode_track(whole, window=window)
    assert heard.shape == parts.shape
    assert (heard - parts).square().mean().sqrt() < 1e-3 * heard.square().mean().sqrt()
    bare = codec.encode_track(wav, window=window, context=0)
    assert (whole == bare).float().mean() < (whole == windowed).float().mean()


def test_codes_and_sound_do_not_depend_on_the_rest_of_the_batch(codec: Codec) -> None:
    wavs = torch.stack([sound(8_000, seed=seed) for seed in range(3)])
    together = codec.encode(wavs)
    for wav, codes in zip(wavs, together, strict=True):
        assert torch.equal(codec.encode(wav[None])[0], codes)
    sounds = codec.decode(together)
    for codes, made in zip(together, sounds, strict=True):
        torch.testing.assert_close(codec.decode(codes[None])[0], made)
    long = sound(60_000, seed=9)
    window = codec.margins.before + codec.margins.after + 20
    alone = codec.encode_track(long, window=window, windows_at_once=1)
    assert torch.equal(codec.encode_track(long, window=window, windows_at_once=4), alone)


def test_recordings_decoded_together_sound_as_each_decoded_alone(monkeypatch: pytest.MonkeyPatch, codec: Codec) -> None:
    generator = torch.Generator().manual_seed(0)
    lengths = (40, 1, 300, 7, 40)
    tracks = [torch.randint(0, CARDINALITY, (LEVELS, frames), generator=generator) for frames in lengths]
    alone = [codec.decode_track(codes) for codes in tracks]
    for at_once in (codec_module.FRAMES_AT_ONCE, 45):
        monkeypatch.setattr(codec_module, "FRAMES_AT_ONCE", at_once)
        together = list(codec.decode_tracks(tracks))
        assert all(torch.equal(one, other) for one, other in zip(alone, together, strict=True))
    assert list(codec.decode_tracks([])) == []
    with pytest.raises(ValueError, match="expected codes from 0 to"):
        list(codec.decode_tracks([tracks[0], tracks[1] + CARDINALITY]))


def test_the_default_window_lasts_30_seconds_or_twice_the_discarded_margins(codec: Codec) -> None:
    thrown = codec.margins.before + codec.margins.after
    frames = max(round(30 * codec.frame_rate), 2 * thrown)
    wav = sound(frames * codec.hop + 1)
    default, same = codec.encode_track(wav), codec.encode_track(wav, window=frames)
    assert torch.equal(default, same)


def test_a_codec_with_fewer_codebooks_gives_the_first_ones(kind: str, codec: Codec) -> None:
    wav = sound(4_000)[None]
    fewer = Codec(small_codec(kind), codebooks=2)
    codes = fewer.encode(wav)
    assert torch.equal(codes, codec.encode(wav)[:, :2])
    assert torch.equal(codes, theirs(kind, small_codec(kind), wav, levels=2))
    torch.testing.assert_close(
        fewer.decode(codes)[..., :3_900], theirs_back(kind, small_codec(kind), codes)[..., :3_900]
    )


def test_a_stereo_codec_encodes_and_decodes_each_side_as_a_mono_codec_alone(codec: Codec) -> None:
    stereo = StereoCodec(codec)
    wav = sound(12_345, channels=2)
    codes = stereo.encode_track(wav)
    assert codes.shape[0] == stereo.codebooks == 2 * LEVELS
    for side in (0, 1):
        alone = codec.encode_track(wav[side : side + 1])
        assert torch.equal(codes[side::2], alone)
        assert torch.equal(stereo.decode_track(codes)[side : side + 1], codec.decode_track(alone))
    assert stereo.margins == codec.margins


def test_the_identity_depends_on_the_codebooks_in_use_and_on_no_other_weights(kind: str, codec: Codec) -> None:
    identities = {codebook_identity(small_codec(kind), levels) for levels in (1, 2, 3)}
    assert len(identities) == 3
    assert codec.identity == codebook_identity(small_codec(kind), LEVELS)
    others = {codebook_identity(small_codec(other), LEVELS) for other in KINDS if other != kind}
    assert len(others) == 2
    assert codec.identity not in others | {codebook_identity(small_codec(kind, seed=1), LEVELS)}
    moved = small_codec(kind)
    with torch.no_grad():
        for name, value in moved.named_parameters():
            if name.startswith("decoder."):
                value.add_(1.0)
    assert codebook_identity(moved, LEVELS) == codec.identity
    with pytest.raises(ValueError, match="expected 1 to 3 codebooks, got 4"):
        codebook_identity(moved, LEVELS + 1)


def test_invalid_waveforms_codes_and_windows_are_refused(codec: Codec) -> None:
    with pytest.raises(ValueError, match=r"expected a waveform \[B, 1, N > 0\], got \(1, 2, 800\)"):
        codec.encode(torch.zeros(1, 2, 800))
    with pytest.raises(ValueError, match="expected codes from 0 to 15, got 16 to 16"):
        codec.decode(torch.full((1, LEVELS, 5), 16))
    with pytest.raises(ValueError, match=r"expected codes \[B, 3, T > 0\], got \(1, 4, 5\)"):
        codec.decode(torch.zeros(1, LEVELS + 1, 5, dtype=torch.long))
    with pytest.raises(ValueError, match="expected a window longer than its context of"):
        codec.encode_track(sound(8_000), window=codec.margins.before + codec.margins.after)
    with pytest.raises(ValueError, match="expected 1 or more windows at once, got 0"):
        codec.encode_track(sound(8_000), windows_at_once=0)


def test_more_codebooks_than_the_network_has_are_refused(kind: str) -> None:
    with pytest.raises(ValueError, match="expected 1 to 3 codebooks, got 4"):
        Codec(small_codec(kind), codebooks=LEVELS + 1)
