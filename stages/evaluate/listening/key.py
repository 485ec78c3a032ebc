"""Key: the major or minor key whose profile of pitch classes is closest to a clip's own.

The method is Krumhansl's and Schmuckler's (C. Krumhansl, "Cognitive Foundations of Musical Pitch", 1990, chapter 4):
how long each pitch class sounds, correlated with 24 profiles. The profiles are those that I. Sha'ath fitted to popular
and electronic music (KeyFinder; "Estimation of key in digital music recordings", Birkbeck, 2011), where a minor key has
its seventh degree flat: profiles counted in classical themes expect the leading tone and hear the relative major."""

import re
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from model.chroma import chroma_filters
from stages.audio.spectrogram import INAUDIBLE

PITCH_CLASSES = ("C", "C#", "D", "D#", "E", "F", "F#", "G", "G#", "A", "A#", "B")
"""Names of the twelve pitch classes in the order of the chroma bins."""

MAJOR = (6.6, 2.0, 3.5, 2.3, 4.6, 4.0, 2.5, 5.2, 2.4, 3.7, 2.3, 3.4)
MINOR = (6.5, 2.7, 3.5, 5.4, 2.6, 3.5, 2.5, 5.2, 4.0, 2.7, 4.3, 3.2)
"""Weight of each pitch class above the tonic."""

LOWEST_HERTZ, HIGHEST_HERTZ = 55.0, 2000.0
"""Where fundamentals and their first harmonics lie: below there are drums, above overtones of other classes."""

FLATS = {"Db": "C#", "Eb": "D#", "Fb": "E", "Gb": "F#", "Ab": "G#", "Bb": "A#", "Cb": "B", "E#": "F", "B#": "C"}


@dataclass(frozen=True)
class KeyEstimate:
    """The closest key."""

    name: str
    """For instance `A minor`, with sharps."""
    correlation: float
    """Of the clip's profile with the key's, at most 1; under about 0.5 the clip has hardly a key."""


def pitch_class_profile(wav: Float[Tensor, "N"], sample_rate: int) -> Float[Tensor, "12"]:
    """How much of each pitch class sounds in a mono signal, as shares that sum to 1; all zeros for silence.

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
    return profile / profile.sum().clamp(min=1e-12)


def estimate_key(profile: Float[Tensor, "12"]) -> KeyEstimate | None:
    """The key of a pitch-class profile, or None where nothing sounds or every class sounds alike."""
    centred = profile.double() - profile.double().mean()
    if float(centred.norm()) < 1e-9:
        return None
    keys = torch.stack(
        [torch.tensor(mode, dtype=torch.float64).roll(tonic) for mode in (MAJOR, MINOR) for tonic in range(12)]
    )
    keys = keys - keys.mean(1, keepdim=True)
    correlation = (keys @ centred) / keys.norm(dim=1) / centred.norm()
    best = int(correlation.argmax())
    name = f"{PITCH_CLASSES[best % 12]} {'major' if best < 12 else 'minor'}"
    return KeyEstimate(name, float(correlation[best]))


def parse_key(text: str) -> str | None:
    """A key as people write it (`Am`, `a minor`, `Bb`, `F# maj`, `E-flat major`) in the form of `KeyEstimate.name`, or
    None where it is not one. A lone letter is a major key."""
    plain = text.strip().replace("♯", "#").replace("♭", "b")
    plain = re.sub(r"[\s-]*(sharp)\b", "#", re.sub(r"[\s-]*(flat)\b", "b", plain, flags=re.I), flags=re.I)
    found = re.fullmatch(r"([A-Ga-g])([#b]?)[\s-]*(major|maj|minor|min|m|M)?\.?", plain, flags=0) or re.fullmatch(
        r"([A-Ga-g])([#b]?)[\s-]*(major|maj|minor|min)\.?", plain, flags=re.I
    )
    if not found:
        return None
    letter, accidental, mode = found[1].upper(), found[2].lower(), found[3] or "major"
    tonic = FLATS.get(letter + accidental, letter + accidental)
    minor = mode == "m" or mode.lower().startswith("min")
    return f"{tonic} {'minor' if minor else 'major'}"
