"""From a score to sound: instruments, a drum kit, and the four stems of a piece, whose sum is the mix.

An instrument's note is a sum of sinusoids with amplitudes, decays and a vibrato of its own (additive synthesis), or a
carrier whose phase is modulated by another sinusoid (frequency modulation: Chowning, JAES 1973). A plucked string is
the sum of its modes, of which higher ones decay faster. The Karplus-Strong loop (CMJ 1983) settles into the same, but
is out of tune at low sample rates. Partials above 0.45 of the sample rate are left out, so nothing aliases. A drum is
one short sound, made once for a piece and placed at every stroke.

A small codec, and a model that learns for minutes, reproduce a wave well only if its periods are much alike. So chords,
and the melody's notes that belong to them, are tuned purely; vibrato is slight; and oscillators run on through a piece.
The pitched parts together are then mostly one wave that repeats, and not five waves whose phases drift.

Notes are numpy arrays: with thousands of short vectors, torch's threads gain nothing and lose time waiting for each
other.

The stems have Demucs' names (arXiv:2211.08553), and the melody is in `vocals`. So a melody condition is taken from
`vocals` and `other` here too, as in recorded music (MusicGen, arXiv:2306.05284, 2.2)."""

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from jaxtyping import Float, Float32
from torch import Tensor

from stages.demo.synthesis.composition import GENRES
from stages.demo.synthesis.score import Hit, Note, Piece, frequency

Wave = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Instrument:
    """How an instrument sounds."""

    partials: tuple[float, ...]
    """Amplitudes of the harmonics from the fundamental on."""
    attack: float = 0.008
    """Seconds until full loudness."""
    release: float = 0.06
    """Seconds of fading out, at the end of the note."""
    decay: float = 0.0
    """Decay of the fundamental while it sounds, nepers a second."""
    brightness_decay: float = 0.0
    """Additional decay of each higher harmonic, nepers a second."""
    vibrato_hertz: float = 0.0
    vibrato_semitones: float = 0.0
    modulator_ratio: float = 0.0
    """Frequency of the modulator over the carrier's; 0 for additive synthesis."""
    modulation_index: float = 0.0
    """Radians of phase modulation at the onset; fades with `brightness_decay`."""
    drive: float = 0.0
    """Gain before a tanh that distorts the sum of all notes; 0 for none."""
    breath: float = 0.0
    """Amplitude of noise, which follows the envelope."""
    level: float = 1.0


def _falling(count: int, power: float, only_odd: bool = False) -> tuple[float, ...]:
    return tuple(0.0 if only_odd and n % 2 == 0 else n**-power for n in range(1, count + 1))


INSTRUMENTS = {
    # Melodies.
    "flute": Instrument((1.0, 0.35, 0.12, 0.04), 0.05, 0.08, vibrato_hertz=5.0, vibrato_semitones=0.06, breath=0.015),
    "violin": Instrument(_falling(12, 0.9), 0.07, 0.1, vibrato_hertz=6.0, vibrato_semitones=0.08, level=0.55),
    "synth": Instrument(_falling(14, 1.0), 0.01, 0.05, level=0.4),
    "bells": Instrument((1.0,), 0.002, 0.1, 1.6, 2.5, modulator_ratio=3.5, modulation_index=2.2, level=0.9),
    "guitar": Instrument(_falling(12, 0.7), 0.003, 0.04, 1.5, 1.3, level=0.7),
    # Chords.
    "organ": Instrument((1.0, 0.8, 0.0, 0.6, 0.0, 0.0, 0.0, 0.35), 0.01, 0.03, level=0.5),
    "pad": Instrument(_falling(6, 1.5), 0.35, 0.3, level=0.6),
    "strings": Instrument(_falling(9, 1.1), 0.12, 0.15, level=0.45),
    "electric piano": Instrument((1.0,), 0.003, 0.08, 1.2, 3.0, modulator_ratio=1.0, modulation_index=1.3, level=0.8),
    "distorted guitar": Instrument(_falling(8, 0.8), 0.004, 0.03, 0.5, 0.3, drive=3.0, level=0.35),
    # Basses.
    "sub bass": Instrument((1.0, 0.25), 0.01, 0.05, 0.3),
    "upright bass": Instrument(_falling(6, 1.4), 0.006, 0.05, 2.0, 1.5),
    "electric bass": Instrument(_falling(8, 1.1), 0.004, 0.04, 1.0, 0.8, level=0.9),
    "synth bass": Instrument(_falling(12, 1.0, only_odd=True), 0.004, 0.03, 1.0, 1.0, level=0.7),
}  # fmt: skip
"""Instruments by name."""


def play(
    instrument: str, notes: tuple[Note, ...], samples: int, sample_rate: int, generator: np.random.Generator
) -> Float32[Wave, " N"]:
    """Return the sound of one part of a piece.

    Args:
        instrument: a name of `INSTRUMENTS`.
        notes: what to play.
        samples: N, the length of the result.
        sample_rate: Hz.
        generator: source of the noise of breathy instruments.

    Raises:
        ValueError: an unknown instrument.
    """
    if instrument not in INSTRUMENTS:
        raise ValueError(f"expected one of {', '.join(INSTRUMENTS)}, got {instrument!r}")
    sound = INSTRUMENTS[instrument]
    part = np.zeros(samples, np.float32)
    for note in notes:
        start = round(note.onset * sample_rate)
        # The note rings on for its release, but not beyond the end of the piece.
        length = min(round((note.duration + sound.release) * sample_rate), samples - start)
        if length > 0:
            tone = _tone(sound, note, start / sample_rate, length, sample_rate, generator)
            part[start : start + length] += note.velocity * tone
    if sound.drive:
        part = np.tanh(sound.drive * part) / math.tanh(sound.drive)
    return sound.level * part


def _tone(
    sound: Instrument, note: Note, onset: float, length: int, sample_rate: int, generator: np.random.Generator
) -> Float32[Wave, " N"]:
    time = np.arange(length, dtype=np.float32) / np.float32(sample_rate)
    hertz = frequency(note.pitch) * note.tuning
    tone = _partials(sound, hertz, hertz * onset % 1.0, time, sample_rate)
    if sound.breath:
        tone = tone + sound.breath * generator.standard_normal(length, np.float32)
    attack = np.minimum(time / sound.attack, 1.0)
    release = np.minimum((time[-1] - time) / sound.release, 1.0)
    enveloped: Wave = tone * attack * release * np.exp(-sound.decay * time)
    return enveloped


def _partials(
    sound: Instrument, hertz: float, cycle: float, time: Float32[Wave, " N"], sample_rate: int
) -> Float32[Wave, " N"]:
    """Return a tone without its envelope.

    Args:
        hertz: frequency of the fundamental.
        cycle: where in its period the tone begins, 0 to 1. Callers pass the phase of an oscillator that has run since
            the beginning of the piece. So tones whose frequencies have a ratio of small whole numbers keep their phases
            relative to each other, whenever they begin.
    """
    phase = 2 * math.pi * (cycle + hertz * time)
    if sound.vibrato_hertz:
        # The phase is the integral of a sinusoidal deviation of the frequency, which fades in over 0.3 s.
        rate = 2 * math.pi * sound.vibrato_hertz
        deviation = hertz * (2 ** (sound.vibrato_semitones / 12) - 1)
        phase = phase + 2 * math.pi * deviation / rate * (1 - np.cos(rate * time)) * np.minimum(time / 0.3, 1.0)
    if sound.modulator_ratio:
        index = sound.modulation_index * np.exp(-sound.brightness_decay * time)
        modulated: Wave = np.sin(phase + index * np.sin(sound.modulator_ratio * phase))
        return modulated
    audible = [n for n in range(1, len(sound.partials) + 1) if n * hertz < 0.45 * sample_rate and sound.partials[n - 1]]
    total = np.zeros_like(time)
    for n in audible:
        partial = np.sin(n * phase)
        if sound.brightness_decay and n > 1:
            partial = partial * np.exp(-sound.brightness_decay * (n - 1) * time)
        total += np.float32(sound.partials[n - 1]) * partial
    return total


DRUMS = ("kick", "snare", "clap", "hat", "shaker")
"""The names of the drums."""


def play_drums(
    hits: tuple[Hit, ...], samples: int, sample_rate: int, generator: np.random.Generator
) -> Float32[Wave, " N"]:
    """Return the drum part of a piece, N samples at `sample_rate` Hz. `generator` is the source of the noise.

    Raises:
        ValueError: an unknown drum.
    """
    part = np.zeros(samples, np.float32)
    unknown = sorted({hit.drum for hit in hits} - set(DRUMS))
    if unknown:
        raise ValueError(f"expected drums out of {', '.join(DRUMS)}, got {', '.join(unknown)}")
    # Every drum draws its noise, even if it is not played, so that a change of pattern does not change other drums.
    kit = {drum: _drum(drum, sample_rate, generator) for drum in DRUMS}
    for hit in hits:
        start = round(hit.onset * sample_rate)
        sound = kit[hit.drum][: max(samples - start, 0)]
        part[start : start + len(sound)] += hit.velocity * sound
    return part


def _drum(drum: str, sample_rate: int, generator: np.random.Generator) -> Float32[Wave, " N"]:
    seconds = {"kick": 0.3, "snare": 0.22, "clap": 0.2, "hat": 0.07, "shaker": 0.1}[drum]
    time = np.arange(int(seconds * sample_rate), dtype=np.float32) / np.float32(sample_rate)
    noise = 0.4 * generator.standard_normal(len(time) + 2, np.float32)
    bright = np.diff(noise)
    if drum == "kick":
        # The pitch falls from 150 to 50 Hz: phase is the integral of 50 + 100 exp(-30 t).
        phase = 2 * math.pi * (50 * time + 100 / 30 * (1 - np.exp(-30 * time)))
        sound = np.sin(phase) * np.exp(-12 * time)
    elif drum == "snare":
        sound = 0.5 * np.sin(2 * math.pi * 190 * time) * np.exp(-25 * time) + bright[1:] * np.exp(-18 * time)
    elif drum == "clap":
        bursts = sum((time >= at) * np.exp(-90 * np.maximum(time - at, 0)) for at in (0.0, 0.012, 0.024))
        sound = bright[1:] * (0.8 * bursts + 0.5 * np.exp(-22 * time))
    elif drum == "hat":
        sound = 0.6 * np.diff(bright) * np.exp(-60 * time)
    else:
        sound = 0.6 * np.diff(bright) * np.minimum(time / 0.03, 1) * np.exp(-35 * time)
    fade = np.minimum((time[-1] - time) / 0.005, 1.0)
    faded: Wave = (sound * fade).astype(np.float32)
    return faded


STEMS = ("drums", "bass", "other", "vocals")
"""Names of the stems, in Demucs' order."""

MELODY_LEVEL, CHORD_LEVEL, BASS_LEVEL = 0.15, 0.2, 0.15
"""Root mean squares of the pitched parts before normalisation. The balance does not depend on which instruments play or
how often, because what a model is to follow must be heard."""

RMS, PEAK = 0.14, 0.9
"""A mix has this root mean square (about -17 dBFS) unless its largest sample would exceed the peak."""


def render(piece: Piece, sample_rate: int = 16_000) -> Float[Tensor, "stems N"]:
    """Return the stems of a piece in the order of `STEMS`, mono, N = round(seconds * sample_rate). Their sum is the
    mix.

    The same piece gives the same samples every time.

    Raises:
        ValueError: a sample rate below 8 kHz, at which the drums and lead instruments cannot be told apart.
    """
    if sample_rate < 8_000:
        raise ValueError(f"expected a sample rate of at least 8000 Hz, got {sample_rate}")
    samples = round(piece.seconds * sample_rate)
    generator = np.random.default_rng([piece.seed, piece.index])
    pitched = (
        (BASS_LEVEL, piece.bass, piece.bass_notes),
        (CHORD_LEVEL, piece.accompaniment, piece.accompaniment_notes),
        (MELODY_LEVEL, piece.lead, piece.melody),
    )
    parts = np.stack(
        [
            GENRES[piece.genre].drum_level * play_drums(piece.hits, samples, sample_rate, generator),
            *(
                level * _unit(play(instrument, notes, samples, sample_rate, generator))
                for level, instrument, notes in pitched
            ),
        ]
    )
    mix = parts.sum(0)
    gain = min(RMS / float(np.sqrt(np.square(mix).mean())), PEAK / float(np.abs(mix).max()))
    return torch.from_numpy((parts * gain).astype(np.float32))


def _unit(part: Float32[Wave, " N"]) -> Float32[Wave, " N"]:
    """Return a part scaled to a root mean square of 1."""
    unit: Wave = part / np.sqrt(np.square(part).mean())
    return unit
