"""Which planted copies are found, and what is taken for one that is none.

    python -m tests.benchmarks.originality [--pieces 48] [--first 600] [--corpus FOLDER] [--likeness 0.4]

Copies of the demo's pieces are made in many ways, and of the recordings of a folder; each is compared with all of them.
Recall counts copies whose original has enough in common with them; precision, of all that have, those that are it.
"""

import argparse
import time
from pathlib import Path

import numpy as np

from stages.analysis import PrintIndex
from stages.audio.locations import AudioError
from stages.audio.reading import read_waveform
from stages.originality import Config
from tests.benchmarks.results import table
from tests.worlds.planted_copies import PLANTS, RATE, Sound, piece, print_of


def recordings(folder: Path | None) -> list[Sound]:
    """Return the recordings of a folder that are not silent, mono."""
    files = (
        sorted(file for file in folder.rglob("*") if file.suffix in (".mp3", ".ogg", ".wav", ".flac")) if folder else []
    )
    waveforms = [read_waveform(str(file), RATE, 1) for file in files]
    return [each.samples[0] for each in waveforms if not isinstance(each, AudioError) and each.peak > 1e-3]


def main() -> None:
    """Print the table of docs/originality.md."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pieces", type=int, default=48)
    parser.add_argument("--first", type=int, default=600)
    parser.add_argument("--corpus", type=Path)
    parser.add_argument("--likeness", type=float, default=0.4)
    arguments = parser.parse_args()
    sounds = [piece(number) for number in range(arguments.first, arguments.first + arguments.pieces)]
    sounds += recordings(arguments.corpus)
    originals, draw = [print_of(sound) for sound in sounds], np.random.default_rng(0)
    alike, seconds = arguments.likeness, Config().sound_seconds
    rows, begun = [], time.process_time()
    for name, plant in PLANTS.items():
        copies = [
            plant(sound, sounds[(place + 1) % len(sounds)], float(draw.uniform())) for place, sound in enumerate(sounds)
        ]
        index = PrintIndex([print_of(copy) for copy in copies])
        counts = {"near": [0, 0], "clip": [0, 0]}
        for place, original in enumerate(originals):
            for copy, passage in index.passages(original):
                parts = {copy, (copy + 1) % len(sounds)} if "other" in name else {copy}
                length = len(copies[copy]) / RATE
                found = {
                    "near": passage.likeness(length, len(sounds[place]) / RATE) >= alike,
                    "clip": passage.strength >= seconds,
                }
                for kind, is_found in found.items():
                    if is_found and (place == copy or place not in parts):
                        counts[kind][place != copy] += 1
        cells = [f"{right} of {len(sounds)} | {wrong}" for right, wrong in counts.values()]
        rows.append([name, *" | ".join(cells).split(" | ")])
    heads = (
        "copy",
        f"likeness ≥ {alike:g}",
        "others taken for it",
        f"≥ {seconds:g} s in common",
        "others taken for it",
    )
    print(f"n = {len(sounds)}, {time.process_time() - begun:.0f} s of one core\n\n{table(heads, rows)}")


if __name__ == "__main__":
    main()
