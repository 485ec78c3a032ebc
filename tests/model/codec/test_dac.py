"""Properties of DAC alone: the reach of its convolutions, and the samples that an odd stride drops."""

from typing import Any

import pytest
import torch

from model.codec.codec import Codec, coder_of
from model.codec.coders import dac_receptive_field
from tests.worlds.small_codecs import small_dac, sound


def test_an_odd_stride_drops_a_few_samples_at_the_end_and_shifts_none() -> None:
    network = small_dac()
    codec = Codec(network)
    codes = codec.encode(sound(800)[None])
    made = codec.decode(codes)
    with torch.no_grad():
        back = network.decode(audio_codes=codes).audio_values[:, None]
    lacking = made.shape[-1] - back.shape[-1]
    assert 0 < lacking < codec.hop
    torch.testing.assert_close(made[..., :-lacking], back)
    with torch.no_grad():
        assert torch.equal(coder_of(network).decode(codes)[..., :-lacking], back)
    assert not made[..., -lacking:].any()


def touched(codec: Codec, frames: int, frame: int) -> tuple[int, int]:
    """Largest number of frames before and after a changed frame whose latents or sound change."""
    network: Any = codec.network
    wav = sound(frames * codec.hop)[None].requires_grad_()
    network.encoder(wav)[..., frame].sum().backward()
    heard = wav.grad[0, 0].nonzero().squeeze(1) // codec.hop
    latents = torch.randn(1, network.config.hidden_size, frames, requires_grad=True)
    network.decoder(latents)[..., frame * codec.hop : (frame + 1) * codec.hop].sum().backward()
    spoken = latents.grad[0].abs().sum(0).nonzero().squeeze(1)
    return (
        int(max(frame - heard.min(), frame - spoken.min())),
        int(max(heard.max() - frame, spoken.max() - frame)),
    )


@pytest.mark.parametrize("strides", [(2, 5, 8), (2, 4, 8, 8), (3, 2)])
def test_the_receptive_field_of_dac_is_at_most_two_frames_below_its_margins(strides: tuple[int, ...]) -> None:
    codec = Codec(small_dac(strides))
    far = codec.margins.before
    before, after = touched(codec, 4 * far, 2 * far)
    assert max(before, after) <= far
    assert max(before, after) >= far - 2
    assert dac_receptive_field(codec.network.config) == codec.margins.after == far


def test_the_published_dac_has_margins_of_twelve_frames() -> None:
    assert Codec(small_dac((2, 4, 8, 8))).margins.before == 12
