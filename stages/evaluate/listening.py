"""Listening: what plain signal processing finds in a clip - its key, its tempo, how it follows a melody.

No model and no randomness: the same samples always give the same answer.

**Key**, after Krumhansl and Schmuckler (C. Krumhansl, "Cognitive Foundations of Musical Pitch", 1990, chapter 4): how
long each pitch class sounds, correlated with 24 profiles. The profiles are those that I. Sha'ath fitted to popular and
electronic music (KeyFinder; "Estimation of key in digital music recordings", Birkbeck, 2011), where a minor key has its
seventh degree flat: profiles counted in classical themes expect the leading tone and find the relative major.

**Melody following**: MusicGen measures the mean cosine similarity of the *quantised* chroma of reference and clip
(arXiv:2306.05284, section 4, "Melody evaluation"). A quantised frame is one-hot, so the cosine of two frames is 1 where
their pitch classes agree and 0 where not: the measure is the share of frames that agree.

**Tempo**: onset strength is the half-wave rectified rise of a mel spectrogram in decibels, summed over its bands; its
autocorrelation, weighted by how often people tap at each tempo, peaks at the beat (D. Ellis, "Beat tracking by dynamic
programming", JNMR 2007, sections 2 and 3).
"""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from model.chroma import chroma_filters
from model.conditioning.config import PITCH_NAMES
from stages.audio.spectrogram import INAUDIBLE, log_spectrogram

MAJOR_PROFILE = (6.6, 2.0, 3.5, 2.3, 4.6, 4.0, 2.5, 5.2, 2.4, 3.7, 2.3, 3.4)
MINOR_PROFILE = (6.5, 2.7, 3.5, 5.4, 2.6, 3.5, 2.5, 5.2, 4.0, 2.7, 4.3, 3.2)
"""Weight of each pitch class above the tonic."""

LOWEST_HERTZ, HIGHEST_HERTZ = 55.0, 2000.0
"""Where fundamentals and their first harmonics lie: below there are drums, above overtones of other classes."""


@dataclass(frozen=True)
class KeyEstimate:
    """The key that a clip is closest to."""

    name: str
    """For instance `A minor`, with sharps."""
    correlation: float
    """Of the clip's profile with the key's, at most 1; under about 0.5 the clip has hardly a key."""


def pitch_class_profile(wav: Float[Tensor, "N"], sample_rate: int) -> Float[Tensor, "12"]:
    """Measure how much of each pitch class sounds in a mono signal, as shares that sum to 1; all zeros for silence.

    Magnitudes, in frames of about a third of a second (fine enough for semitones from 110 Hz up), are gathered by the
    chroma's own bank with every octave weighing the same, for a bass tells more of a key than the melody does.

    Raises:
        ValueError: no samples, or a sample rate below 8 kHz.
    """
    if wav.numel() < 1 or sample_rate < 8_000:
        raise ValueError(f"expected samples at 8000 Hz or more, got {wav.numel()} at {sample_rate} Hz")
    if float(wav.abs().max()) < INAUDIBLE:
        return torch.zeros(12).to(wav)
    window = 1 << round(sample_rate * 0.35).bit_length() - 1
    wav = torch.nn.functional.pad(wav, (0, max(window - len(wav), 0)))
    frames = wav.unfold(0, window, window // 4) * torch.hann_window(window).to(wav)
    hertz = torch.arange(window // 2 + 1) * sample_rate / window
    bank = chroma_filters(sample_rate, window)
    bank = bank / bank.norm(dim=0).clamp(min=1e-12) * ((hertz >= LOWEST_HERTZ) & (hertz <= HIGHEST_HERTZ))
    profile = (torch.fft.rfft(frames, dim=-1).abs() @ bank.to(wav).T).mean(0)
    shares: Tensor = profile / profile.sum().clamp(min=1e-12)
    return shares


def estimate_key(profile: Float[Tensor, "12"]) -> KeyEstimate | None:
    """Return the key of a pitch-class profile, or None where nothing sounds or every class sounds alike."""
    centred = profile.double() - profile.double().mean()
    if float(centred.norm()) < 1e-9:
        return None
    modes = [torch.tensor(weights, dtype=torch.float64) for weights in (MAJOR_PROFILE, MINOR_PROFILE)]
    keys = torch.stack([weights.roll(tonic) for weights in modes for tonic in range(12)])
    keys = keys - keys.mean(1, keepdim=True)
    correlation = (keys @ centred) / keys.norm(dim=1) / centred.norm()
    best = int(correlation.argmax())
    name = f"{PITCH_NAMES[best % 12]} {'major' if best < 12 else 'minor'}"
    return KeyEstimate(name, float(correlation[best]))


SILENT = -1
"""The pitch class of a frame in which nothing sounds: it agrees with none."""


def _pitch_classes(chroma: Float[Tensor, "F 12"], frames: int, own_rate: float, rate: float) -> Int[Tensor, "frames"]:
    """Return the strongest class at each of `frames` moments at `rate`, from chroma at `own_rate`."""
    moments = (torch.arange(frames, dtype=torch.float64) * own_rate / rate).round().long().clamp(max=len(chroma) - 1)
    frames_of_chroma = chroma[moments]
    return torch.where(frames_of_chroma.amax(-1) > 0, frames_of_chroma.argmax(-1), SILENT)


def _aligned_pitch_classes(
    clip: Float[Tensor, "F 12"], clip_rate: float, asked: Float[Tensor, "G 12"], asked_rate: float
) -> tuple[Int[Tensor, "M"], Int[Tensor, "M"]]:
    if len(clip) < 1 or len(asked) < 1 or clip_rate <= 0 or asked_rate <= 0:
        raise ValueError(
            f"expected frames and positive rates, got {len(clip)} at {clip_rate} and {len(asked)} at {asked_rate}"
        )
    # What is compared is the time that both cover, in the frames of the clip.
    frames = max(1, min(len(clip), round(len(asked) / asked_rate * clip_rate)))
    return (
        _pitch_classes(clip, frames, clip_rate, clip_rate),
        _pitch_classes(asked, frames, asked_rate, clip_rate),
    )


def chroma_agreement(
    clip: Float[Tensor, "F 12"], clip_rate: float, asked: Float[Tensor, "G 12"], asked_rate: float
) -> float:
    """Measure the chroma similarity: the share of frames, from 0 to 1, whose strongest pitch class is the asked one. A
    frame in which nothing sounds, or nothing is asked, does not agree.

    Args:
        clip: chroma of the clip, at `clip_rate` frames a second.
        asked: chroma of the asked melody, at `asked_rate` frames a second.

    Raises:
        ValueError: no frames, or a rate that is not positive.
    """
    of_clip, of_asked = _aligned_pitch_classes(clip, clip_rate, asked, asked_rate)
    return float(((of_clip == of_asked) & (of_clip != SILENT)).double().mean())


def chance_agreement(
    clip: Float[Tensor, "F 12"], clip_rate: float, asked: Float[Tensor, "G 12"], asked_rate: float
) -> float:
    """Compute the chance level: the mean of `chroma_agreement` over every order of the asked melody's frames.

    It is what a clip gets that plays the right pitch classes as often as asked, but at the wrong times: a stricter
    comparison than another melody, for it shares the key. Over all orders the mean is the sum over pitch classes of the
    product of their shares, so no order needs to be drawn.

    Raises:
        ValueError: as `chroma_agreement`.
    """
    of_clip, of_asked = _aligned_pitch_classes(clip, clip_rate, asked, asked_rate)
    shares = [
        torch.bincount(classes[classes != SILENT], minlength=12).double() / len(classes)
        for classes in (of_clip, of_asked)
    ]
    return float(shares[0] @ shares[1])


FRAMES_A_SECOND = 100.0
"""Resolution of the onset strength."""

SLOWEST_TEMPO, FASTEST_TEMPO = 40.0, 240.0
"""Beats a minute between which a tempo is looked for."""

PREFERRED_TEMPO, SPREAD_OCTAVES = 120.0, 0.9
"""Centre (beats a minute) and width of the log-normal weight over tempos (Ellis 2007, section 3.2)."""

TEMPO_TOLERANCE = 0.04
"""Relative error within which a tempo counts as right (F. Gouyon et al., IEEE TASLP 2006, 14(5), section III-B)."""


def onset_strength(wav: Float[Tensor, "N"], sample_rate: int) -> Float[Tensor, "F"]:
    """Measure how much starts in a mono signal at each hundredth of a second, with the slow drift taken out.

    Raises:
        ValueError: no samples, or a sample rate below 8 kHz.
    """
    decibels = log_spectrogram(wav, sample_rate, bands=40, frames_a_second=FRAMES_A_SECOND)
    rise = decibels.diff(dim=1).clamp(min=0).mean(0)
    span = round(FRAMES_A_SECOND)
    drift = torch.nn.functional.avg_pool1d(rise[None], 2 * span + 1, stride=1, padding=span, count_include_pad=False)[0]
    return rise - drift


def estimate_tempo(wav: Float[Tensor, "N"], sample_rate: int) -> float | None:
    """Estimate beats a minute, or None where the clip is shorter than three of the slowest beats or nothing starts.

    Each candidate is scored by its own period and by twice, three and four times that, because a beat also repeats over
    the bar; the peak is then refined by a parabola.
    """
    if len(wav) < sample_rate * 3 * 60 / SLOWEST_TEMPO or float(wav.abs().max()) < INAUDIBLE:
        return None
    strength = onset_strength(wav, sample_rate).double()
    size = len(strength)
    if float(strength.abs().max()) < 1e-3:
        return None
    spectrum = torch.fft.rfft(strength, n=2 * size)
    # Fewer frames overlap at longer lags, so each lag is divided by how many do.
    correlation = torch.fft.irfft(spectrum.abs().square(), n=2 * size)[:size] / torch.arange(size, 0, -1)
    correlation = correlation / correlation[0].clamp(min=1e-12)
    shortest, longest = (60 * FRAMES_A_SECOND / tempo for tempo in (FASTEST_TEMPO, SLOWEST_TEMPO))
    lags = torch.arange(shortest, longest, 0.25, dtype=torch.float64)
    combed, weights = torch.zeros_like(lags), torch.zeros_like(lags)
    for multiple in (1, 2, 3, 4):
        reached = lags * multiple < 0.75 * size - 1
        combed += torch.where(reached, _between_frames(correlation, (lags * multiple).clamp(max=size - 2)), 0.0)
        weights += reached
    tempos = 60 * FRAMES_A_SECOND / lags
    preference = torch.exp(-0.5 * (torch.log2(tempos / PREFERRED_TEMPO) / SPREAD_OCTAVES).square())
    score = (combed / weights).clamp(min=0) * preference
    best = int(score.argmax())
    if float(score[best]) <= 0:
        return None
    if 0 < best < len(score) - 1:
        before, here, after = (float(score[best + offset]) for offset in (-1, 0, 1))
        bend = before - 2 * here + after
        lag = float(lags[best]) + 0.25 * (0.5 * (before - after) / bend if bend < 0 else 0.0)
        return 60 * FRAMES_A_SECOND / lag
    return float(tempos[best])


def _between_frames(values: Float[Tensor, "F"], positions: Float[Tensor, "P"]) -> Float[Tensor, "P"]:
    """Interpolate values between the frames, linearly."""
    whole = positions.floor().long()
    share = positions - whole
    return values[whole] * (1 - share) + values[whole + 1] * share


def tempo_is_correct(asked: float, estimated: float) -> bool:
    """Tell whether a tempo is right within 4 %, where half and double of what was asked count as right too: people tap
    the same music at either level."""
    octave = round(math.log2(estimated / asked))
    return abs(octave) <= 1 and abs(estimated / (asked * 2.0**octave) - 1) <= TEMPO_TOLERANCE
