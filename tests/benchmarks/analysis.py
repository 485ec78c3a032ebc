"""How well `stages.analysis` hears: errors against the truth of the demo's pieces.

    python -m tests.benchmarks.analysis [--pieces 192] [--seed 0]

Each piece is heard as it is, through a low-pass at 3 kHz with noise 20 dB below it, and cut anywhere in its first
seconds; the tempo is told or not. Seed 1 is what the weights of bars and keys were fitted to; any other is new.
"""

import argparse
import time
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass

import mir_eval
import numpy as np
from scipy.signal import butter, sosfilt

from model.conditioning.config import PITCH_NAMES
from stages.analysis import find_harmony, find_rhythm
from stages.analysis.frames import Array, Array64
from stages.demo.synthesis import Piece, compose
from stages.demo.synthesis.rendering import render
from stages.demo.synthesis.score import SCALES

RATE = 16_000
MEASURES = ("beat F", "downbeat F", "tempo", "tempo, octave forgiven", "metre", "majmin", "root", "bass", "key")
HARTE = {(4, 7): "maj", (3, 7): "min", (3, 6): "dim"}


@dataclass(frozen=True)
class Heard:
    """A piece as the analysis receives it."""

    piece: Piece
    samples: Array
    skipped: float
    """Seconds that were cut off its beginning."""
    told: bool
    """Whether the analysis is given its tempo."""


def sounds(piece: Piece, draw: np.random.Generator) -> Iterator[tuple[str, Heard]]:
    """Yield the forms in which a piece is analysed, each with its name."""
    whole = render(piece, RATE).sum(0).numpy()
    dull = sosfilt(butter(4, 3000, fs=RATE, output="sos"), whole)
    noisy = (dull + 0.1 * whole.std() * draw.standard_normal(len(whole))).astype(np.float32)
    skipped = float(draw.uniform(0.3, 3.0))
    yield "as it is, tempo told", Heard(piece, whole, 0.0, True)
    yield "as it is", Heard(piece, whole, 0.0, False)
    yield "dull and noisy, tempo told", Heard(piece, noisy, 0.0, True)
    yield "dull and noisy", Heard(piece, noisy, 0.0, False)
    yield "cut anywhere, tempo told", Heard(piece, whole[round(skipped * RATE) :], skipped, True)


def measure(heard: Heard) -> list[float]:
    """Return the values of MEASURES for a piece."""
    piece = heard.piece
    rhythm = find_rhythm(heard.samples, RATE, piece.tempo if heard.told else None)
    harmony = find_harmony(heard.samples, RATE, rhythm.beats, rhythm.downbeats)
    beats = np.arange(0, piece.seconds - 0.61, 60 / piece.tempo) - heard.skipped
    downbeats = beats[:: piece.beats_per_bar]
    ratio = (rhythm.bpm or 1.0) / piece.tempo
    moments = np.arange(0.05, piece.seconds - 0.6 - heard.skipped, 0.1)
    right = [_chord(piece, moment + heard.skipped) for moment in moments]
    found = [next(chord for chord in harmony.chords if chord.end > moment) for moment in moments]
    labels = [f"{PITCH_NAMES[chord.root]}:{chord.quality}" if chord.root >= 0 else "N" for chord in found]
    majmin = mir_eval.chord.majmin(right, labels)
    return [
        _f_measure(beats[beats >= 0], rhythm.beats),
        _f_measure(downbeats[downbeats >= 0], rhythm.downbeats),
        abs(ratio - 1) <= 0.04,
        min(abs(ratio / octave - 1) for octave in (0.5, 1, 2)) <= 0.04,
        rhythm.beats_per_bar == piece.beats_per_bar,
        float(majmin[majmin >= 0].mean()) if (majmin >= 0).any() else 1.0,
        float(mir_eval.chord.root(right, labels).mean()),
        float(
            np.mean([chord.bass == mir_eval.chord.encode(label)[0] for chord, label in zip(found, right, strict=True)])
        ),
        harmony.key is not None and harmony.key.name == piece.key.name,
    ]


def _f_measure(right: Array64, found: Array64) -> float:
    return float(mir_eval.beat.f_measure(right, found, 0.07)) if len(found) else 0.0


def _chord(piece: Piece, moment: float) -> str:
    degree = next(chord for chord in reversed(piece.chords) if chord.onset <= moment).degree
    scale = SCALES[piece.key.mode]
    root, third, fifth = (scale[(degree + step) % 7] for step in (0, 2, 4))
    return f"{PITCH_NAMES[(piece.key.tonic + root) % 12]}:{HARTE[(third - root) % 12, (fifth - root) % 12]}"


def main() -> None:
    """Print the tables of docs/analysis.md."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pieces", type=int, default=192)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    draw, rows, genres = np.random.default_rng(0), defaultdict(list), defaultdict(list)
    began = time.perf_counter()
    for index in range(arguments.pieces):
        piece = compose(arguments.seed, index)
        for name, heard in sounds(piece, draw):
            rows[name].append(measure(heard))
        genres[piece.genre].append(rows["as it is, tempo told"][-1])
    each = 1000 * (time.perf_counter() - began) / sum(map(len, rows.values()))
    print(f"n = {arguments.pieces}, {each:.0f} ms a hearing\n")
    for title, table in (("input", rows), ("genre (tempo told)", genres)):
        print("| " + " | ".join((title, "beat F, median", *MEASURES)) + " |\n" + "| --- " * (len(MEASURES) + 2) + "|")
        for name, values in table.items():
            means = [f"{mean:.3f}" for mean in (np.median(np.array(values)[:, 0]), *np.mean(values, axis=0))]
            print("| " + " | ".join((name, *means)) + " |")
        print()


if __name__ == "__main__":
    main()
