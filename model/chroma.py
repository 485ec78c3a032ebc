"""Chroma: how strong each of the twelve pitch classes is in every frame, the melody condition of MusicGen
(arXiv:2306.05284, 2.2).

A bank of Gaussian filters sums the power spectrum of a long window into pitch classes (D. Ellis, "Chroma feature
analysis and synthesis", 2007, as in librosa's `filters.chroma`). Each frame is then divided by its strongest class.
Frames are computed in groups, so that memory does not grow with the length of the recording.
"""

from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from model.conditioning.config import ChromaConfig

PITCH_CLASSES = 12
"""Bins of a frame; bin 0 is C."""

SMALLEST_MAXIMUM = 1e-6
"""Floor of the divisor, so that silent frames stay zero."""

FRAMES_A_GROUP = 256
"""Frames that are transformed at once: about 50 MB for a window of 16384 samples."""

CENTRE_OCTAVE, OCTAVE_WIDTH = 5.0, 2.0
"""The weight of the filters over pitch: a Gaussian around the 5th octave above 27.5 Hz (880 Hz), 2 octaves wide."""


def chroma(wav: Float[Tensor, "B N"], config: ChromaConfig = ChromaConfig()) -> Float[Tensor, "B F 12"]:
    """Measure the chroma of a batch: F = N // hop + 1 frames. Each frame's strongest bin is 1, unless it is silent.

    Args:
        wav: mono signals at `config.sample_rate`. Signals shorter than the window are padded with zeros on both sides.
        config: `window` is the length of the periodic Hann window and of the Fourier transform; frame f is centred on
            sample f * `hop`.

    Raises:
        ValueError: there are no samples.
    """
    if wav.shape[-1] < 1:
        raise ValueError("expected at least 1 sample, got none")
    window = config.window
    missing = max(window - wav.shape[-1], 0)
    wav = functional.pad(wav, (missing // 2, missing - missing // 2))
    padded = functional.pad(wav[:, None], (window // 2, window // 2), mode="reflect")[:, 0]
    hann = torch.hann_window(window, dtype=wav.dtype, device=wav.device)
    bank = chroma_filters(config.sample_rate, window).to(wav)
    frames = padded.unfold(-1, window, config.hop)
    groups = []
    for group in frames.split(FRAMES_A_GROUP, dim=1):
        spectrum = torch.fft.rfft(group * hann, dim=-1) / hann.square().sum().sqrt()
        groups.append(spectrum.abs().square() @ bank.T)
    energy = torch.cat(groups, dim=1)
    return energy / energy.amax(-1, keepdim=True).clamp(min=SMALLEST_MAXIMUM)


def one_hot(chroma: Float[Tensor, "*batch F 12"]) -> Float[Tensor, "*batch F 12"]:
    """Set the strongest class of each frame to 1 and all others to 0, which is what MusicGen's melody models read.

    A silent frame gets a 1 in bin 0, not all zeros: AudioCraft does so, and the published weights were trained with it.
    """
    return functional.one_hot(chroma.argmax(-1), PITCH_CLASSES).to(chroma.dtype)


def chroma_at(
    chroma: Float[npt.NDArray[Any], "F 12"], chroma_rate: float, begin: float, count: int, rate: float
) -> Float[npt.NDArray[Any], "G 12"]:
    """Return the frames of a track's chroma from second `begin` on, at another frame rate.

    Each returned frame is the frame of `chroma` that is nearest in time.

    Args:
        chroma: the chroma of the whole track, `chroma_rate` frames a second.
        count: the number of frames to return; fewer are returned where the track ends.
        rate: the frame rate of the result, frames a second.
    """
    positions = np.rint((begin + np.arange(count) / rate) * chroma_rate).astype(np.int64)
    frames: Float[npt.NDArray[Any], "G 12"] = chroma[positions[positions < len(chroma)]]
    return frames


def chroma_filters(sample_rate: int, fft_size: int) -> Float[Tensor, "12 bins"]:
    """Return the filters that sum `fft_size // 2 + 1` frequencies into pitch classes, tuned to A4 = 440 Hz."""
    hertz = torch.arange(1, fft_size, dtype=torch.float64) * sample_rate / fft_size
    # Distances are in semitones above A0. The frequency 0 is placed an octave and a half below the first bin.
    semitones = PITCH_CLASSES * torch.log2(hertz / 27.5)
    semitones = torch.cat([semitones[:1] - 1.5 * PITCH_CLASSES, semitones])
    # A filter is as wide as the distance to the next frequency, and at least a semitone.
    width = torch.cat([semitones.diff().clamp(min=1.0), torch.ones(1, dtype=torch.float64)])
    half = PITCH_CLASSES // 2
    distance = semitones - torch.arange(PITCH_CLASSES, dtype=torch.float64)[:, None]
    distance = torch.remainder(distance + half, PITCH_CLASSES) - half
    bank = torch.exp(-0.5 * (2 * distance / width).square())
    bank = bank / bank.norm(dim=0, keepdim=True)
    bank = bank * torch.exp(-0.5 * ((semitones / PITCH_CLASSES - CENTRE_OCTAVE) / OCTAVE_WIDTH).square())
    # The distances count from A, but bin 0 must be C.
    filters: Tensor = bank.roll(-3, dims=0)[:, : fft_size // 2 + 1].float()
    return filters
