"""Mapping recordings to rows: one part per track, in order; recordings that cannot be used are refused."""

from pathlib import Path

import numpy as np
import pytest

from schemas.tables import Row
from stages.audio.mapping import map_recordings
from stages.audio.prefetching import PrefetchItem
from stages.audio.reading import Waveform
from stages.pipeline.contract import Reject
from tests.worlds.recordings import encoded, tones, write
from tests.worlds.world_of_sound import make_context, tracks_of


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    sounds = {"a": tones(1.0), "short": tones(0.1), "silent": np.zeros((1, 44_100), np.float32), "z": tones(1.0, 2)}
    paths = [write(tmp_path / f"{name}.wav", encoded("WAV", sound)) for name, sound in sounds.items()]
    return [Path(path) for path in (*paths, write(tmp_path / "bad.wav", b"no sound at all"))]


def rate_of(item: PrefetchItem, waveform: Waveform) -> Row | Reject:
    if waveform.seconds < 0.5:
        return Reject(item.key, item.uri, "too short", "expected half a second")
    return {"track_id": item.key, "shape": waveform.samples.shape}


def test_every_track_becomes_one_part_in_order_and_unusable_ones_become_rejects(tmp_path, files):
    context = make_context(tmp_path)
    parts = list(
        map_recordings(
            context, "chroma", tracks_of(*files), rate_of, sample_rate=16_000, channels=1, sound_to="sing along with"
        )
    )
    assert [[row["shape"] for row in part.rows] for part in parts] == [[(1, 16_000)], [], [], [(1, 16_000)], []]
    kinds = [reject.kind for part in parts for reject in part.rejects]
    assert kinds == ["too short", "silent", "unreadable"]
    assert parts[2].rejects[0].message.startswith("expected sound to sing along with, got silence")


def test_silence_is_accepted_where_no_purpose_of_the_sound_is_given(tmp_path, files):
    parts = map_recordings(make_context(tmp_path), "clap", tracks_of(files[2]), rate_of, sample_rate=16_000, channels=2)
    assert [row["shape"] for part in parts for row in part.rows] == [(2, 16_000)]
