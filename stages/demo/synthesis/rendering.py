"""From a score to sound: the four stems of a piece, whose sum is the mix.

The stems carry Demucs' names (arXiv:2211.08553), with the melody in the place of the vocals: what a melody condition is
taken from (MusicGen, arXiv:2306.05284, 2.2) is then `vocals` and `other` here as in recorded music."""

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from stages.demo.synthesis.drums import play_drums
from stages.demo.synthesis.genres import GENRES
from stages.demo.synthesis.instruments import play
from stages.demo.synthesis.score import Piece

STEMS = ("drums", "bass", "other", "vocals")
"""Names of the stems, in Demucs' order."""

MELODY_LEVEL, CHORD_LEVEL, BASS_LEVEL = 0.75, 0.32, 0.6
"""Balance of the parts before normalisation. Three notes of a chord sound at once."""

RMS, PEAK = 0.14, 0.9
"""A mix has this root mean square (about -17 dBFS) unless its largest sample would exceed the peak."""


def render(piece: Piece, sample_rate: int = 16_000) -> Float[Tensor, "stems N"]:
    """The stems of a piece in the order of `STEMS`, mono, N = round(seconds * sample_rate); their sum is the mix.

    The same piece gives the same samples every time.

    Raises:
        ValueError: a sample rate below 8 kHz, at which the drums and lead instruments cannot be told apart.
    """
    if sample_rate < 8_000:
        raise ValueError(f"expected a sample rate of at least 8000 Hz, got {sample_rate}")
    samples = round(piece.seconds * sample_rate)
    generator = np.random.default_rng([piece.seed, piece.index])
    parts = np.stack(
        [
            GENRES[piece.genre].drum_level * play_drums(piece.hits, samples, sample_rate, generator),
            BASS_LEVEL * play(piece.bass, piece.bass_notes, samples, sample_rate, generator),
            CHORD_LEVEL * play(piece.accompaniment, piece.accompaniment_notes, samples, sample_rate, generator),
            MELODY_LEVEL * play(piece.lead, piece.melody, samples, sample_rate, generator),
        ]
    )
    mix = parts.sum(0)
    gain = min(RMS / float(np.sqrt(np.square(mix).mean())), PEAK / float(np.abs(mix).max()))
    return torch.from_numpy((parts * gain).astype(np.float32))
