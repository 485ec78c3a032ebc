"""Beat and chords in training: aligned with the codes, null where unknown, and used by the model once learned."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from model.conditioning.config import BeatConfig, MusicModelConfig
from model.conditioning.frame_wise import beat_vectors, frame_times
from model.music_model import Attributes
from schemas.tables import CHROMA, CLAP, HARMONY, RHYTHM, TOKENS, TRACKS
from stages import train
from stages.checkpoints.native import load_native_checkpoint
from stages.pipeline.runner import StageFailed
from stages.train.corpus import TrackWindow, tiled_windows
from stages.train.evaluation import Evaluator
from tests.worlds.band_world import CARDINALITY, FRAME_RATE, band_world
from tests.worlds.training_world import fill, train_in, world_corpus


def recipe(**changes: object) -> train.Config:
    """A training that takes seconds, of a model that reads only beat and chords."""
    network = {"codebooks": 2, "cardinality": CARDINALITY, "width": 32, "heads": 2, "layers": 2, "dropout": 0.0}
    model = {"language_model": network | {"cross": (), "sum": ("beat", "chords")}, "description": None}
    optimization = {"steps": 100, "learning_rate": 5e-3, "warmup_steps": 10, "precision": "float32"}
    values = {
        "model": model | {"beat": {}, "chords": {}},
        **{"text_encoder": None, "optimization": optimization | {"ema_decay": 0.9, "ema_interval": 1}},
        **{"batch_size": 12, "micro_batch_size": 12, "segment_seconds": 3.0, "condition_dropout": 0.1},
        **{"attribute_dropout": {"beat": 0.15, "chords": 0.15}, "log_every": 50, "valid_every": 1000},
    }
    return train.Config.model_validate(values | changes)


def test_a_training_reads_the_tables_of_its_models_conditions() -> None:
    assert train.reads(recipe()) == (TRACKS, RHYTHM, HARMONY, TOKENS)
    network = recipe().model.language_model.model_copy(update={"sum": ("beat",)})
    beat_alone = MusicModelConfig(language_model=network, description=None, beat=BeatConfig())
    assert train.reads(recipe(model=beat_alone, attribute_dropout={})) == (TRACKS, RHYTHM, TOKENS)
    assert train.reads(train.Config()) == (TRACKS, TOKENS)
    assert {CHROMA, CLAP} < set(train.READS)


def test_a_window_has_the_beat_and_chords_of_its_frames() -> None:
    tables, model = band_world(tracks=2), recipe().model
    corpus = world_corpus(tables)
    whole = corpus.attributes(TrackWindow(1, 0), 200, model, None)
    part = corpus.attributes(TrackWindow(1, 60), 50, model, None)
    np.testing.assert_allclose(part.beat, whole.beat[60:110], atol=1e-6)
    assert np.array_equal(part.chords, whole.chords[60:110])
    rhythm = tables["rhythm"].to_pylist()[1]
    beats, downbeats = np.array(rhythm["beats"]), np.array(rhythm["downbeats"])
    assert model.beat is not None
    expected = beat_vectors(beats, downbeats, frame_times(60, 50, FRAME_RATE), model.beat)
    np.testing.assert_allclose(part.beat, expected, atol=1e-6)


def test_a_track_without_a_row_or_without_beats_trains_with_null() -> None:
    tables, model = band_world(tracks=4), recipe().model
    rhythm = tables["rhythm"].to_pylist()
    rhythm[2] |= {"beats": [], "downbeats": []}
    rhythm[3] |= {"downbeats": []}
    fewer = {"rhythm": pa.Table.from_pylist(rhythm[1:], RHYTHM.schema), "harmony": tables["harmony"].slice(0, 2)}
    corpus = world_corpus(tables | fewer)
    items = [corpus.attributes(TrackWindow(track, 0), 50, model, None) for track in range(4)]
    assert [item.names for item in items] == [("chords",), ("beat", "chords"), (), ("beat",)]
    assert not items[3].beat[:, -2:].any()
    assert items[1].beat[:, -2:].any()


def test_a_training_without_any_beats_is_refused(tmp_path: Path) -> None:
    fill(tmp_path, **band_world() | {"rhythm": RHYTHM.schema.empty_table()})
    with pytest.raises(StageFailed, match="expected rows in rhythm for a model that reads beat, got none"):
        train_in(tmp_path, recipe())


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict]:
    """A folder with a trained model, and the row of its checkpoint."""
    folder = tmp_path_factory.mktemp("band")
    fill(folder, **band_world())
    return folder, train_in(folder, recipe())


def test_held_out_cross_entropy_is_measured_without_and_with_another_tracks_beat_and_chords(
    trained: tuple[Path, dict],
) -> None:
    metrics = {name.removeprefix("valid_cross_entropy"): value for name, value in trained[1]["metrics"]}
    assert metrics[""] < metrics["_unconditional"] < metrics["_shuffled"]
    assert min(metrics["_shuffled_beat"], metrics["_shuffled_chords"]) > metrics[""] + 0.2


@pytest.mark.parametrize("name", ["beat", "chords"])
def test_a_model_learns_to_use_beat_and_chords_separately(trained: tuple[Path, dict], name: str) -> None:
    """Right conditions predict better than none, and none better than wrong ones."""
    folder, row = trained
    path = folder / "store" / row["path"]
    model = load_native_checkpoint(path, lambda reference: pytest.fail(f"{reference} is of no use here")).model
    corpus = world_corpus(band_world())
    tracks = [number for number, split in enumerate(corpus.splits) if split == "valid"]
    evaluator = Evaluator(corpus, tiled_windows(corpus, tracks, 75, 75, 24), 75, 12, "float32")

    def right(window: TrackWindow) -> Attributes:
        return corpus.attributes(window, 75, model.config, None)

    def wrong(window: TrackWindow) -> Attributes:
        other = tracks[(tracks.index(window.track) + 1) % len(tracks)]
        return replace(right(window), **{name: getattr(right(replace(window, track=other)), name)})

    book = {"beat": 0, "chords": 1}[name]
    given, none, misled = (
        evaluator.codebooks(model, conditions)[book]
        for conditions in (right, lambda window: right(window).without([name]), wrong)
    )
    assert given + 0.1 < none < misled - 0.1
