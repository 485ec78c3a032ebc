"""The codec as other stages use it: shapes, windows, seams, and independence from earlier input."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import EncodecConfig, EncodecModel

from model.codec.codec import Codec
from model.codec.config import CodecConfig
from model.codec.network import fold_weight_norm, new_network, scale_activations
from tests.worlds.small_codecs import sound

NETWORK = CodecConfig(
    sample_rate=8_000, filters=4, ratios=(4, 5, 4), width=16, lstm_layers=1, codebooks=3, cardinality=16
)


def network(config: CodecConfig = NETWORK) -> EncodecModel:
    made = fold_weight_norm(new_network(config, 0))
    scale_activations(made, sound(8_000, config.channels)[None])
    generator = torch.Generator().manual_seed(1)
    for layer in made.quantizer.layers:
        layer.codebook.embed.normal_(generator=generator)
    return made.eval()


class _NothingCrosses(TorchDispatchMode):
    """Fails on a copy between the host and a device, which a graph could not capture either."""

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = function(*args, **(kwargs or {}))
        if function in (torch.ops.aten._to_copy.default, torch.ops.aten.copy_.default):
            tensors = [each for each in (*args, found) if isinstance(each, Tensor)]
            assert len({each.device.type for each in tensors}) == 1, "something crosses between host and device"
        return found


@pytest.fixture(scope="module")
def codec() -> Codec:
    return Codec(network())


@pytest.mark.parametrize("samples", [80, 81, 799, 800, 8_001])
def test_frames_are_the_samples_over_the_hop_rounded_up(codec: Codec, samples: int) -> None:
    codes = codec.encode(sound(samples)[None])
    assert codes.shape == (1, 3, math.ceil(samples / 80))
    assert codec.decode(codes).shape == (1, 1, math.ceil(samples / 80) * 80)
    assert codec.frame_rate == 100


def test_codes_and_sound_equal_those_of_transformers() -> None:
    made = network()
    wav = torch.stack([sound(4_000, seed=1), sound(4_000, seed=2)])
    with torch.no_grad():
        theirs = made.encode(wav).audio_codes[0]
        back = made.decode(theirs[None], [None]).audio_values
    codec = Codec(made)
    codes = codec.encode(wav)
    assert torch.equal(codes, theirs)
    torch.testing.assert_close(codec.decode(codes), back)


def test_a_recording_of_one_window_is_encoded_in_one_pass(codec: Codec) -> None:
    wav = sound(7_950)
    assert torch.equal(codec.encode_track(wav, window=100, context=20), codec.encode(wav[None])[0])


@pytest.mark.parametrize("samples", [8_001, 8_080, 12_345, 40_000, 40_079])
def test_encoding_and_decoding_in_windows_give_every_frame_once(codec: Codec, samples: int) -> None:
    codes = codec.encode_track(sound(samples), window=100, context=20)
    assert codes.shape == (3, math.ceil(samples / 80))
    assert codec.decode_track(codes, window=100, context=20).shape == (1, math.ceil(samples / 80) * 80)


def test_codes_across_seams_nearly_equal_those_of_one_pass_and_context_helps(codec: Codec) -> None:
    wav = sound(60_033)
    whole = codec.encode(wav[None])[0]
    windowed = codec.encode_track(wav, window=200, context=40)
    assert float((whole == windowed).float().mean()) > 0.99
    bare = codec.encode_track(wav, window=200, context=0)
    assert (whole == bare).float().mean() < (whole == windowed).float().mean()


def test_seams_change_decoded_sound_by_less_than_a_thousandth(codec: Codec) -> None:
    codes = codec.encode(sound(60_000)[None])[0]
    whole = codec.decode(codes[None])[0]
    windowed = codec.decode_track(codes, window=200, context=40)
    assert float((whole - windowed).square().mean().sqrt()) < 1e-3 * float(whole.square().mean().sqrt())


def test_codes_of_a_recording_do_not_depend_on_what_was_encoded_before(codec: Codec) -> None:
    wav = sound(30_011)
    first = codec.encode_track(wav, window=100, context=20)
    codec.encode_track(sound(51_000, seed=9), window=100, context=20)
    assert torch.equal(codec.encode_track(wav, window=100, context=20), first)


def test_encoding_and_decoding_never_wait_for_the_device() -> None:
    """The meta device holds no values, so code that reads one fails."""
    codec, wav, codes = Codec(network(), "meta"), sound(801)[None].to("meta"), torch.zeros((1, 3, 11)).long().to("meta")
    with _NothingCrosses():
        assert codec.coder.encode(wav, 3).shape == (1, 3, 11)
        assert codec.coder.decode(codes).shape == (1, 1, 880)


def test_a_codec_with_fewer_codebooks_gives_the_first_ones() -> None:
    wav = sound(4_000)[None]
    assert torch.equal(Codec(network(), codebooks=2).encode(wav), Codec(network()).encode(wav)[:, :2])


def test_a_stereo_codec_takes_two_channels() -> None:
    codec = Codec(network(NETWORK.model_copy(update={"channels": 2})))
    codes = codec.encode_track(sound(20_000, channels=2), window=100, context=20)
    assert codec.decode_track(codes).shape == (2, 20_000)


@pytest.mark.parametrize("shape", [(1, 2, 800), (1, 1, 0)])
def test_a_waveform_of_another_shape_is_refused(codec: Codec, shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"expected a waveform \[B, 1, N > 0\], got"):
        codec.encode(torch.zeros(shape))


@pytest.mark.parametrize(("codes", "message"), [
    (torch.full((1, 3, 5), 16), "expected codes from 0 to 15, got 16 to 16"),
    (torch.full((1, 3, 5), -1), "expected codes from 0 to 15, got -1 to -1"),
    (torch.zeros(1, 4, 5), r"expected codes \[B, 3, T > 0\], got \(1, 4, 5\)"),
    (torch.zeros(1, 3, 0), r"expected codes \[B, 3, T > 0\]"),
])  # fmt: skip
def test_codes_of_wrong_range_or_shape_are_refused(codec: Codec, codes: Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        codec.decode(codes.long())


def test_windows_no_longer_than_their_context_are_refused(codec: Codec) -> None:
    with pytest.raises(ValueError, match="expected a window longer than its context of 20 frames before and 20 after"):
        codec.encode_track(sound(8_000), window=40, context=20)
    with pytest.raises(ValueError, match="expected a window longer than its context of 20 frames before and 20 after"):
        codec.decode_track(torch.zeros(3, 8, dtype=torch.long), window=40, context=20)


def test_a_codec_that_scales_its_input_is_refused() -> None:
    tiny = EncodecModel(
        EncodecConfig(normalize=True, num_filters=2, hidden_size=8, codebook_size=16, target_bandwidths=[0.3])
    )
    with pytest.raises(
        ValueError, match="codes alone determine the sound, got an EnCodec with normalisation or chunks"
    ):
        Codec(tiny)


def test_more_codebooks_than_the_network_has_are_refused() -> None:
    with pytest.raises(ValueError, match="expected 1 to 3 codebooks, got 4"):
        Codec(network(), codebooks=4)
