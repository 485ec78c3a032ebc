"""Segments of recordings: determined by seed and step, drawn by duration, mixed as often as asked."""

from pathlib import Path

import numpy as np
import torch

from stages.train_codec.segments import DecodedRecordings, Segments, Track
from tests.worlds.codec_world import SAMPLE_RATE, track


def test_segments_are_mixed_as_often_as_asked_and_never_exceed_full_scale(tmp_path: Path) -> None:
    levels = (0.25, 0.5, 0.9)
    rows = [track(tmp_path / f"{level}.wav", np.full(4_000, level, np.float32), "train") for level in levels]
    recordings = [Track(row["track_id"], row["uri"], row["seconds"]) for row in rows]

    def heard(mix: float) -> list[float]:
        segments = Segments(recordings, DecodedRecordings(SAMPLE_RATE, 1), 300, 400, (0.0, 0.0), mix, 1, 2, "cpu")
        found = segments(0)[:, 0, 0]
        assert torch.equal(found, segments(0)[:, 0, 0])
        segments.close()
        return [round(value, 2) for value in found.tolist()]

    plain, some, always = heard(0.0), heard(0.3), heard(1.0)
    assert set(plain) == set(levels)
    assert set(always) == {0.5, 0.75, 1.0}
    # 0.3 of 300 with a deviation of 7.9; an item that is not mixed is unchanged.
    mixed = [number for number, (one, other) in enumerate(zip(plain, some, strict=True)) if one != other]
    assert 60 < len(mixed) < 120
    assert all(some[number] == always[number] for number in mixed)


def test_segments_are_a_function_of_seed_and_step_and_longer_recordings_are_drawn_more_often(tmp_path: Path) -> None:
    rows = [track(tmp_path / "short.wav", np.full(4_000, 0.25, np.float32), "train")]
    rows += [track(tmp_path / "long.wav", np.full(12_000, -0.25, np.float32), "train")]
    recordings = [Track(row["track_id"], row["uri"], row["seconds"]) for row in rows]

    def segments(seed: int, workers: int) -> Segments:
        return Segments(recordings, DecodedRecordings(SAMPLE_RATE, 1), 200, 400, (-6.0, 6.0), 0.0, seed, workers, "cpu")

    first, second, other = segments(1, 1), segments(1, 3), segments(2, 1)
    later = second(7)
    assert torch.equal(second(5), first(5))
    assert torch.equal(first(7), later)
    assert not torch.equal(first(5), other(5))
    batch = first(0)
    assert batch.shape == (200, 1, 400)
    assert 0.15 < float((batch[:, 0, 0] > 0).float().mean()) < 0.35
    levels = 20 * torch.log10(batch[:, 0, 0].abs() / 0.25)
    assert -6.01 < levels.min() < -4
    assert 4 < levels.max() < 6.01
    for made in (first, second, other):
        made.close()
