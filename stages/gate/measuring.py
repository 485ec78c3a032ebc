"""What is measured of a try: its sound as the codec decoded it, and its codes."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from stages.audio import Samples, measure_audio, to_mono
from stages.audio.clipping import ClippingMeter
from stages.gate.collapse import Codes, held_seconds, looped_seconds
from stages.judging.noise import end_noise
from stages.judging.seams import seam_excess
from stages.judging.sound import measure_sound

HALF_A_STEP = 0.5 / 2**15
"""Magnitude below which a sample is zero in 16 bits."""


@dataclass(frozen=True)
class Measures:
    """Measures of a try; the names are those of the view `tries`."""

    seconds: float
    head_silence: float
    """Seconds of silence at the beginning."""
    tail_silence: float
    """Seconds of silence at the end."""
    silence: float
    """Share of windows that are silent, 0 to 1."""
    zeros: float
    """Share of samples that 16 bits would make zero, 0 to 1."""
    loudness: float | None
    """Integrated loudness, LUFS; None if there is none."""
    clipping_runs: float
    """Share of samples in flat tops, 0 to 1."""
    true_peak: float | None
    """True peak, dBTP; None if every sample is zero."""
    dc: float
    """Absolute mean of the channel whose mean is furthest from zero, as a share of full scale."""
    end_noise: float | None
    """How much flatter the last second is than all before it (`stages.judging.noise`); None if either lacks sound."""
    seam: float | None
    """Largest change where windows meet, in units of the largest change elsewhere; None for a clip of one window."""
    held_seconds: float | None
    """Longest stretch in which no code changes, s; None without codes."""
    looped_seconds: float | None
    """Longest stretch that repeats the codes before it, s; None without codes."""


def measure_try(
    sound: Samples,
    sample_rate: int,
    codes: Codes | None,
    frame_rate: float,
    borders: Sequence[float] = (),
    prompt_frames: int = 0,
) -> Measures:
    """Return the measures of a try.

    Args:
        sound: [C, N], finite, at least one sample.
        codes: [K, T], of the whole sound; None leaves their measures out.
        frame_rate: frames of codes per second.
        borders: times, s, at which decoding windows meet.
        prompt_frames: frames of a prompt at the beginning, whose codes are not measured.
    """
    levels, ends = measure_audio(sound, sample_rate), measure_sound(sound, sample_rate)
    clipping = ClippingMeter(len(sound))
    clipping.update(sound)
    mono = to_mono(sound)[0]
    held = looped = None
    if codes is not None:
        # A silent end is one code held. It is measured as silence already, so its codes are left out here.
        first = max(prompt_frames, round(ends.head_silence * frame_rate))
        last = max(first, codes.shape[1] - round(ends.tail_silence * frame_rate))
        held = held_seconds(codes[:, first:last], frame_rate)
        looped = looped_seconds(codes[:, first:last], frame_rate)
    return Measures(
        seconds=sound.shape[1] / sample_rate,
        head_silence=ends.head_silence,
        tail_silence=ends.tail_silence,
        silence=levels.silence,
        zeros=float((np.abs(sound) < HALF_A_STEP).mean()),
        loudness=levels.loudness,
        clipping_runs=clipping.share_in_runs,
        true_peak=levels.true_peak,
        dc=ends.dc,
        end_noise=end_noise(mono, sample_rate),
        seam=seam_excess(torch.from_numpy(mono), sample_rate, borders),
        held_seconds=held,
        looped_seconds=looped,
    )
