"""The input of CLAP's audio side (arXiv:2211.06687, 3.3; `transformers.ClapFeatureExtractor`): log-mel spectrograms of
windows of one length.

In double precision, as the extractor computes them, but many windows and all their frames at a time, where they lie."""

from typing import Literal

import torch
from jaxtyping import Float, Float32
from torch import Tensor
from torch.nn import functional

Filling = Literal["repeatpad", "repeat", "pad"]
"""How sound that is too short is filled up."""

SMALLEST_POWER = 1e-10
"""Floor of a band's power: -100 dB."""


def fill(sound: Float[Tensor, "B N"], samples: int, how: Filling) -> Float[Tensor, "B M"]:
    """Sounds that are shorter than `samples` made so long: repeated while they fit and filled up with zeros
    (`repeatpad`, as CLAP was trained), repeated and cut off (`repeat`), or with zeros alone (`pad`).

    Raises:
        ValueError: there are no samples, or more than `samples`.
    """
    length = sound.shape[1]
    if not 1 <= length <= samples:
        raise ValueError(f"expected 1 to {samples} samples, got {length}")
    times = {"repeatpad": samples // length, "repeat": -(-samples // length), "pad": 1}[how]
    repeated = sound.tile(times)[:, :samples]
    return functional.pad(repeated, (0, samples - repeated.shape[1]))


def mel_decibels(
    sound: Float[Tensor, "B N"], bank: Float[Tensor, "bins M"], window: int, hop: int
) -> Float32[Tensor, "B T M"]:
    """The power of each band in every frame, dB; T = N // hop + 1.

    Args:
        sound: waveforms of one length, more than half a window.
        bank: what each of the `window // 2 + 1` frequencies gives to each of the M bands.
        window: length of the periodic Hann window and of the Fourier transform, samples.
        hop: samples between frames; frame t is centred on sample t * hop.
    """
    hann = torch.hann_window(window, dtype=torch.float64, device=sound.device)
    padded = functional.pad(sound.double()[:, None], (window // 2, window // 2), mode="reflect")[:, 0]
    spectrum = torch.fft.rfft(padded.unfold(-1, window, hop) * hann)
    power = spectrum.real.square() + spectrum.imag.square()  # half the time of `abs`, which guards against overflow
    return (10 * (power @ bank.double()).clamp(min=SMALLEST_POWER).log10()).float()
