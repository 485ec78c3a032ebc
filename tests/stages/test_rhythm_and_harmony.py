"""The stages `rhythm` and `harmony`."""

from itertools import pairwise

import mir_eval
import numpy as np
import pyarrow as pa
import pytest

from flows.recipes.recipe import Recipe
from model.conditioning.config import CHORD_QUALITIES
from schemas.tables import HARMONY, RHYTHM
from stages import harmony, rhythm
from stages.demo.synthesis import compose
from stages.demo.synthesis.rendering import render
from tests.worlds.parts import put_together
from tests.worlds.world_of_sound import make_context, tracks_of, write_sound

DRUM_AND_BASS = 7


def with_tempo(tracks: pa.Table, bpm: float | None) -> pa.Table:
    names = [name for name in tracks.schema.names if name != "bpm"]
    return tracks.select(names).append_column("bpm", pa.array([bpm] * tracks.num_rows, pa.float64()))


@pytest.fixture(scope="module")
def song(tmp_path_factory):
    sound = render(compose(0, DRUM_AND_BASS)).sum(0, keepdim=True).numpy()
    return write_sound(tmp_path_factory.mktemp("song") / "song.wav", sound)


def rows_of(stage, context, *tables):
    return put_together(stage.shard(stage.Config(), context, *tables))


def test_a_row_of_rhythm_has_the_played_beats_at_the_given_tempo(tmp_path, song):
    piece = compose(0, DRUM_AND_BASS)
    made = rows_of(rhythm, make_context(tmp_path), with_tempo(tracks_of(song), piece.tempo))
    (row,) = pa.Table.from_pylist(made.rows, RHYTHM.schema).to_pylist()
    beats = np.arange(0, piece.seconds - 0.7, 60 / piece.tempo)
    assert mir_eval.beat.f_measure(beats, np.array(row["beats"]), 0.07) > 0.9
    assert row["beats_per_bar"] == 4
    assert row["bpm"] == pytest.approx(piece.tempo, rel=0.01)
    assert set(row["downbeats"]) <= set(row["beats"])


def test_without_a_valid_tempo_in_the_metadata_the_sound_alone_decides(tmp_path, song):
    context, tracks = make_context(tmp_path), tracks_of(song)
    told = with_tempo(tracks, compose(0, DRUM_AND_BASS).tempo)
    unhinted = put_together(rhythm.shard(rhythm.Config(hint=False), context, told)).rows[0]["bpm"]
    for odd in (None, 0.0, -3.0):
        assert rows_of(rhythm, context, with_tempo(tracks, odd)).rows[0]["bpm"] == unhinted


def test_a_row_of_harmony_has_the_played_chords_and_the_key(tmp_path, song):
    piece, context, tracks = compose(0, DRUM_AND_BASS), make_context(tmp_path), tracks_of(song)
    beats = pa.Table.from_pylist(rows_of(rhythm, context, with_tempo(tracks, piece.tempo)).rows, RHYTHM.schema)
    made = rows_of(harmony, context, tracks, beats)
    (row,) = pa.Table.from_pylist(made.rows, HARMONY.schema).to_pylist()
    assert row["key"] == piece.key.name
    chords = row["chords"]
    assert chords[0]["start"] == 0
    assert all(one["end"] == other["start"] for one, other in pairwise(chords))
    assert {chord["quality"] for chord in chords} <= {*CHORD_QUALITIES, "N"}
    middle = [chord.onset + chord.duration / 2 for chord in piece.chords]
    roots = [next(chord["root"] for chord in chords if chord["end"] > moment) for moment in middle]
    assert roots == [piece.key.pitch(chord.degree, 0) % 12 for chord in piece.chords]


def test_a_track_without_a_row_of_rhythm_still_has_a_key(tmp_path, song):
    made = rows_of(harmony, make_context(tmp_path), tracks_of(song), RHYTHM.schema.empty_table())
    assert made.rows[0]["key"] == compose(0, DRUM_AND_BASS).key.name


@pytest.mark.parametrize("stage", [rhythm, harmony])
def test_silent_missing_and_broken_recordings_are_refused_and_the_others_processed(stage, tmp_path):
    sound = render(compose(0, 1)).sum(0, keepdim=True).numpy()
    good = write_sound(tmp_path / "good.wav", sound)
    silent = write_sound(tmp_path / "silent.wav", np.zeros((1, 32_000), np.float32))
    broken = tmp_path / "broken.wav"
    broken.write_bytes(b"no sound at all")
    tracks = with_tempo(tracks_of(silent, broken, tmp_path / "missing.wav", good), None)
    tables = (tracks,) if stage is rhythm else (tracks, RHYTHM.schema.empty_table())
    made = rows_of(stage, make_context(tmp_path), *tables)
    assert [row["track_id"] for row in made.rows] == ["good.wav"]
    kinds = {reject.key: reject.kind for reject in made.rejects}
    assert kinds.keys() == {"silent.wav", "broken.wav", "missing.wav"}
    assert kinds["silent.wav"] == "silent"
    assert {reject.key for reject in made.rejects if reject.passing} == {"missing.wav"}


def test_sound_without_beats_has_a_row_of_rhythm_that_says_so(tmp_path):
    hiss = 0.1 * np.random.default_rng(0).standard_normal((1, 64_000)).astype(np.float32)
    tracks = with_tempo(tracks_of(write_sound(tmp_path / "tick.wav", hiss[:, :8_000])), None)
    (row,) = pa.Table.from_pylist(rows_of(rhythm, make_context(tmp_path), tracks).rows, RHYTHM.schema).to_pylist()
    assert (row["beats"], row["downbeats"], row["beats_per_bar"], row["bpm"], row["confidence"]) == (
        [],
        [],
        None,
        None,
        0,
    )


def stages_of(recipe: Recipe, requested: tuple[str, ...] = ()) -> set[str]:
    return {stage.name for stage in recipe.configured_stages("music", requested)} & {"rhythm", "harmony"}


def reading(*conditions: str) -> Recipe:
    model = {"language_model": {"sum": conditions}} | {name: {} for name in conditions}
    return Recipe.model_validate({"preset": "musicgen-small", "train": {"model": model}})


def test_rhythm_and_harmony_run_if_the_model_reads_them_or_they_are_requested():
    assert stages_of(reading()) == set()
    assert stages_of(reading(), ("rhythm",)) == {"rhythm"}
    assert stages_of(reading(), ("harmony",)) == {"rhythm", "harmony"}
    assert stages_of(reading("beat")) == {"rhythm"}
    assert stages_of(reading("chords")) == {"rhythm", "harmony"}
