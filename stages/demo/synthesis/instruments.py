"""Instruments: one function that sums partials, and a table of what differs between instruments.

A note is a sum of sinusoids with amplitudes, decays and a vibrato of its own (additive synthesis), or a carrier whose
phase is modulated by another sinusoid (frequency modulation: Chowning, JAES 1973). A plucked string is the sum of its
modes, each decaying faster the higher it is, which is what the Karplus-Strong loop (CMJ 1983) settles into, without
the loop's mistuning at low sample rates. Partials above 0.45 of the sample rate are left out, so nothing aliases.

Notes are numpy arrays: thousands of short vectors gain nothing from torch's threads and lose time at their barriers."""

import math
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float32

from stages.demo.synthesis.score import Note
from stages.demo.synthesis.theory import frequency


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
    """Nepers a second that the fundamental loses while it sounds."""
    brightness_decay: float = 0.0
    """Nepers a second that each further harmonic loses on top."""
    vibrato_hertz: float = 0.0
    vibrato_semitones: float = 0.0
    detune: float = 0.0
    """Semitones between two copies of the tone, which beat; 0 for one copy."""
    modulator_ratio: float = 0.0
    """Frequency of the modulator over the carrier's; 0 for additive synthesis."""
    modulation_index: float = 0.0
    """Radians of phase modulation at the onset; fades with `brightness_decay`."""
    drive: float = 0.0
    """Gain before a tanh that distorts the sum of all notes; 0 for none."""
    breath: float = 0.0
    """Share of noise that follows the envelope."""
    level: float = 1.0


def _falling(count: int, power: float, only_odd: bool = False) -> tuple[float, ...]:
    return tuple(0.0 if only_odd and n % 2 == 0 else n**-power for n in range(1, count + 1))


INSTRUMENTS = {
    # Melodies.
    "flute": Instrument((1.0, 0.35, 0.12, 0.04), 0.05, 0.08, vibrato_hertz=5.0, vibrato_semitones=0.25, breath=0.015),
    "violin": Instrument(_falling(12, 0.9), 0.07, 0.1, vibrato_hertz=6.0, vibrato_semitones=0.4, level=0.55),
    "synth": Instrument(_falling(14, 1.0), 0.01, 0.05, vibrato_hertz=5.5, vibrato_semitones=0.15, detune=0.15,
                        level=0.4),
    "bells": Instrument((1.0,), 0.002, 0.1, 1.6, 2.5, modulator_ratio=3.5, modulation_index=2.2, level=0.9),
    "guitar": Instrument(_falling(12, 0.7), 0.003, 0.04, 1.5, 1.3, level=0.7),
    # Chords.
    "organ": Instrument((1.0, 0.8, 0.0, 0.6, 0.0, 0.0, 0.0, 0.35), 0.01, 0.03, level=0.5),
    "pad": Instrument(_falling(6, 1.5), 0.35, 0.3, detune=0.12, level=0.6),
    "strings": Instrument(_falling(9, 1.1), 0.12, 0.15, vibrato_hertz=5.2, vibrato_semitones=0.15, detune=0.08,
                          level=0.45),
    "electric piano": Instrument((1.0,), 0.003, 0.08, 1.2, 3.0, modulator_ratio=1.0, modulation_index=1.3, level=0.8),
    "distorted guitar": Instrument(_falling(8, 0.8), 0.004, 0.03, 0.5, 0.3, drive=3.0, level=0.35),
    # Basses.
    "sub bass": Instrument((1.0, 0.25), 0.01, 0.05, 0.3),
    "upright bass": Instrument(_falling(6, 1.4), 0.006, 0.05, 2.0, 1.5),
    "electric bass": Instrument(_falling(8, 1.1), 0.004, 0.04, 1.0, 0.8, level=0.9),
    "synth bass": Instrument(_falling(12, 1.0, only_odd=True), 0.004, 0.03, 1.0, 1.0, level=0.7),
}  # fmt: skip
"""Name -> sound."""


def play(
    instrument: str, notes: tuple[Note, ...], samples: int, sample_rate: int, generator: np.random.Generator
) -> Float32[np.ndarray, " N"]:
    """One part of a piece.

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
        # The note rings on for its release, as far as the piece goes.
        length = min(round((note.duration + sound.release) * sample_rate), samples - start)
        if length > 0:
            part[start : start + length] += note.velocity * _tone(sound, note, length, sample_rate, generator)
    if sound.drive:
        part = np.tanh(sound.drive * part) / math.tanh(sound.drive)
    return sound.level * part


def _tone(
    sound: Instrument, note: Note, length: int, sample_rate: int, generator: np.random.Generator
) -> Float32[np.ndarray, " N"]:
    time = np.arange(length, dtype=np.float32) / np.float32(sample_rate)
    hertz = frequency(note.pitch)
    copies = (-sound.detune / 2, sound.detune / 2) if sound.detune else (0.0,)
    tone = sum(_partials(sound, hertz * 2 ** (shift / 12), time, sample_rate) for shift in copies) / len(copies)
    if sound.breath:
        tone = tone + sound.breath * generator.standard_normal(length, np.float32)
    attack = np.minimum(time / sound.attack, 1.0)
    release = np.minimum((time[-1] - time) / sound.release, 1.0)
    return tone * attack * release * np.exp(-sound.decay * time)


def _partials(
    sound: Instrument, hertz: float, time: Float32[np.ndarray, " N"], sample_rate: int
) -> Float32[np.ndarray, " N"]:
    phase = 2 * math.pi * hertz * time
    if sound.vibrato_hertz:
        # The integral of a sinusoidal deviation of the frequency; it sets in as the note gets going.
        rate = 2 * math.pi * sound.vibrato_hertz
        deviation = hertz * (2 ** (sound.vibrato_semitones / 12) - 1)
        phase = phase + 2 * math.pi * deviation / rate * (1 - np.cos(rate * time)) * np.minimum(time / 0.3, 1.0)
    if sound.modulator_ratio:
        index = sound.modulation_index * np.exp(-sound.brightness_decay * time)
        return np.sin(phase + index * np.sin(sound.modulator_ratio * phase))
    audible = [n for n in range(1, len(sound.partials) + 1) if n * hertz < 0.45 * sample_rate and sound.partials[n - 1]]
    total = np.zeros_like(time)
    for n in audible:
        partial = np.sin(n * phase)
        if sound.brightness_decay and n > 1:
            partial = partial * np.exp(-sound.brightness_decay * (n - 1) * time)
        total += np.float32(sound.partials[n - 1]) * partial
    return total
