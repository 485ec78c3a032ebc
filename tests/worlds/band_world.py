"""A small world of music with beats and chords, of which its codes are a function."""

from typing import Any

import numpy as np
import pyarrow as pa

from model.conditioning.config import CHORD_QUALITIES
from schemas.tables import HARMONY, RHYTHM, TOKENS, TRACKS
from tests.worlds.tiny_models import world

FRAME_RATE, CARDINALITY, BEATS_A_BAR = 25.0, 12, 4
NOISE = 0.05


def band_world(tracks: int = 48, seconds: float = 8.0, seed: int = 7) -> dict[str, pa.Table]:
    """Tables of tracks with beats at a varying pace and chords that change at any time.

    Codebook 0 is the beat of the bar and the third of the beat that a frame is in; codebook 1 is the root of the chord,
    six semitones higher if the chord is minor.
    """
    random, frames = np.random.default_rng(seed), int(seconds * FRAME_RATE)
    times = (np.arange(frames) + 0.5) / FRAME_RATE
    rows: dict[str, list[dict[str, Any]]] = {"tracks": [], "rhythm": [], "harmony": [], "tokens": []}
    for number in range(tracks):
        track = {"track_id": f"{number:04d}"}
        beats = np.cumsum(random.uniform(0.3, 0.7, size=int(seconds / 0.3))) - random.uniform(0.5, 2.0)
        beat = np.searchsorted(beats, times, side="right") - 1
        third = (3 * (times - beats[beat]) / (beats[beat + 1] - beats[beat])).astype(int)
        changes = np.cumsum(random.uniform(0.3, 1.0, size=int(seconds / 0.3))) - 0.3
        changes[0] = 0.0
        roots, minor = random.integers(12, size=len(changes)), random.integers(2, size=len(changes))
        chord = np.searchsorted(changes, times, side="right") - 1
        codes = np.stack([3 * (beat % BEATS_A_BAR) + third, (roots[chord] + 6 * minor[chord]) % 12])
        noise = random.random(codes.shape) < NOISE
        codes = np.where(noise, random.integers(CARDINALITY, size=codes.shape), codes).astype(np.uint16)
        rows["tracks"].append(track | {"split": "valid" if number % 4 == 0 else "train"})
        rows["rhythm"].append(track | {"beats": beats, "downbeats": beats[::BEATS_A_BAR], "beats_per_bar": BEATS_A_BAR})
        segments = [
            {"start": start, "end": end, "root": root, "bass": root, "quality": CHORD_QUALITIES[quality]}
            for start, end, root, quality in zip(changes, [*changes[1:], np.inf], roots, minor, strict=True)
        ]
        rows["harmony"].append(track | {"chords": segments})
        facts = {"frame_rate": FRAME_RATE, "cardinality": CARDINALITY, "frames": frames, "codes": list(codes)}
        rows["tokens"].append(track | facts)
    tables = (TRACKS, RHYTHM, HARMONY, TOKENS)
    return world(tracks=1) | {table.name: pa.Table.from_pylist(rows[table.name], table.schema) for table in tables}
