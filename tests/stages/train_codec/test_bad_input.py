"""Data that cannot train a codec is refused before training begins, and unreadable recordings are left out."""

from pathlib import Path

import numpy as np
import pytest
from pydantic import ValidationError

from schemas.tables import REJECTS
from stages.pipeline.runner import StageFailed
from tests.worlds.codec_world import piece, recipe, track, tracks, train_in


def test_an_unreadable_recording_is_refused_and_the_others_are_used(tmp_path: Path) -> None:
    rows = tracks(tmp_path / "music")
    Path(rows[1]["uri"]).write_bytes(b"RIFF nothing")
    row, context = train_in(tmp_path / "store", rows, recipe())
    rejects = context.store.read(REJECTS, context.fingerprint).to_pylist()
    assert [one["key"] for one in rejects] == [rows[1]["track_id"]]
    assert row["steps"] == 12


@pytest.mark.parametrize(
    ("samples", "silence", "message"),
    [
        (piece(1, 0.1), 0.0, "of 3 recordings 3 are too short"),
        (np.zeros(16_000, np.float32), 1.0, "of 3 recordings 3 are too silent"),
    ],
)
def test_an_unusable_corpus_is_refused_before_training(
    tmp_path: Path, samples: np.ndarray, silence: float, message: str
) -> None:
    rows = [track(tmp_path / f"{n}.wav", samples, "train", silence=silence) for n in range(3)]
    with pytest.raises(StageFailed, match=message):
        train_in(tmp_path / "store", rows, recipe())


def test_a_corpus_of_fewer_frames_than_codes_is_refused_before_training(tmp_path: Path) -> None:
    network = recipe().network.model_copy(update={"cardinality": 2048})
    with pytest.raises(StageFailed, match=r"at least 2048 frames of sound .* got 16\.0 s"):
        train_in(tmp_path / "store", tracks(tmp_path / "music"), recipe(network=network.model_dump()))


def test_recordings_of_a_lower_rate_are_left_out_unless_upsampled(tmp_path: Path) -> None:
    low = [track(tmp_path / f"low{n}.wav", piece(n, 2.0, 4_000), "train", sample_rate=4_000) for n in range(4)]
    with pytest.raises(StageFailed, match=r"of 4 recordings 4 are of less than 8000 Hz \(see train_codec.upsample\)"):
        train_in(tmp_path / "a", low, recipe())
    row, _ = train_in(tmp_path / "b", low + tracks(tmp_path / "music"), recipe())
    assert row["rows_seen"] == 8
    row, _ = train_in(tmp_path / "c", low + tracks(tmp_path / "music"), recipe(upsample=True))
    assert row["rows_seen"] == 12


def test_segments_too_short_for_the_discriminators_are_refused_before_training(tmp_path: Path) -> None:
    changes = {"training": {"adversarial": {}}}
    with pytest.raises(StageFailed, match=r"expected segments of at least 2048 samples, .* got 2000"):
        train_in(tmp_path / "store", tracks(tmp_path / "music"), recipe(**changes))


@pytest.mark.parametrize("gain", [(3.0, -3.0), (-90.0, 0.0)])
def test_an_invalid_range_of_gains_is_refused(gain: tuple[float, float]) -> None:
    with pytest.raises(ValidationError, match="expected the smallest and the largest gain"):
        recipe(gain=gain)
