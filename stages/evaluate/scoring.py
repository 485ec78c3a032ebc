"""Scoring a sound: what is measured and detected in it, compared with what was asked.

Clips, recordings and the output of an untrained model are scored by this same function, so that they are always
compared by the same detectors."""

from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from jaxtyping import Float

from stages.audio import to_mono
from stages.evaluate.music import pitch_strength, pulse_clarity
from stages.judging.instruments import DetectedInstruments
from stages.judging.judging import Asked, judge
from stages.judging.listening import listen
from stages.judging.seams import seam_contrast
from stages.judging.sound import measure_sound, mel_statistics, spectral_centroid


def score_sound(
    samples: Float[npt.NDArray[np.float32], "C N"],
    sample_rate: int,
    asked: Asked,
    borders: Sequence[float] = (),
    instruments: DetectedInstruments | None = None,
) -> dict[str, Any]:
    """Return the columns of `scores` for a sound and what was asked of it.

    Args:
        borders: times, s, at which its decoding windows meet.
        instruments: what was detected in its codes; None if it has no codes. Other instruments that were asked for are
            not judged.

    Raises:
        ValueError: there are no samples, or the sample rate is below 8 kHz.
    """
    mono = to_mono(samples)[0]
    wave = torch.from_numpy(mono)
    scores = {"seconds": samples.shape[1] / sample_rate} | asdict(measure_sound(samples, sample_rate))
    scores["centroid"] = spectral_centroid(samples, sample_rate)
    scores["seam_contrast"] = seam_contrast(wave, sample_rate, borders)
    scores["mel_statistics"] = mel_statistics(wave, sample_rate)
    scores |= {"pulse_clarity": pulse_clarity(mono, sample_rate), "pitch_strength": pitch_strength(mono, sample_rate)}
    detected = listen(mono, sample_rate)
    if instruments is not None:
        known = tuple(name for name in asked.instruments or () if name in instruments.names)
        asked, detected = replace(asked, instruments=known), replace(detected, instruments=instruments.likeliest)
    return scores | judge(asked, detected)
