"""Controls: recordings as they are and through the codec, and clips generated for comparison, scored like clips."""

import hashlib
import io
from typing import Any

import pyarrow as pa
import pytest
import soundfile
import torch

from schemas import WeightsRef
from schemas.tables import CONTROLS, PIECES, REQUESTS, TRACKS, VERDICTS
from schemas.weights import WeightsLibrary
from stages.audio.marks import read_marks, read_own_tags
from stages.checkpoints.loading import load_checkpoint
from stages.demo.synthesis import compose
from stages.evaluate import controls
from stages.evaluate.experiments import untrained
from stages.evaluate.recordings import held_out_recordings
from stages.judging.judging import Asked
from tests.worlds.scored_world import COUNT, SECONDS, ScoredWorld


def made(world: ScoredWorld, **changes: Any) -> list[dict]:
    """The rows of the stage."""
    context = world.context()
    tables = [context.rows(table) for table in controls.READS if table not in controls.STREAMS]
    config = controls.Config.model_validate({"codec": str(world.codec), "untrained": 2} | changes)
    rows = controls.reduce(config, context, *tables).rows
    pa.Table.from_pylist([dict(row) for row in rows], schema=CONTROLS.schema)
    return [dict(row) for row in rows]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> ScoredWorld:
    return ScoredWorld(tmp_path_factory.mktemp("world"))


@pytest.fixture(scope="module")
def rows(world: ScoredWorld) -> list[dict]:
    return made(world, swapped=2, guidances=(1.0, 5.0), guided=1)


def of(rows: list[dict], sounds: str) -> list[dict]:
    return [row for row in rows if row["sounds"] == sounds]


def test_only_held_out_recordings_are_scored_raw_and_through_the_codec(rows: list[dict]) -> None:
    held_out = {f"{number:064x}" for number in (0, COUNT - 1)}
    assert {row["track_id"] for row in of(rows, "raw")} == {row["track_id"] for row in of(rows, "codec")} == held_out
    assert all(row["checkpoint_id"] == "" for row in of(rows, "raw") + of(rows, "codec"))


def test_a_recording_is_judged_by_the_truth_about_its_beginning(rows: list[dict]) -> None:
    for row in of(rows, "raw"):
        piece = compose(0, int(row["track_id"], 16))
        assert row["key_asked"] == piece.key.name
        assert row["bpm_asked"] == piece.tempo
        assert row["drums_asked"] == bool(piece.hits)
        assert row["beats_asked"] == pytest.approx(
            [beat * 60 / piece.tempo for beat in range(100) if beat * 60 / piece.tempo < SECONDS]
        )
        expected = [chord for chord in piece.chords if chord.onset + chord.duration / 2 <= SECONDS]
        assert [chord["start"] for chord in row["chords_asked"]] == pytest.approx([chord.onset for chord in expected])
        assert [chord["quality"] for chord in row["chords_asked"]] == [
            {"m": "min", "dim": "dim"}.get(chord.name[len(chord.name.rstrip("dim")) :], "maj") for chord in expected
        ]


def test_a_recording_with_other_facts_than_a_demo_piece_does_not_get_its_truth(world: ScoredWorld) -> None:
    context = world.context()
    tracks, pieces = (context.rows(table) for table in (TRACKS, PIECES))

    def truths(**changes: Any) -> list[Asked]:
        again = pa.Table.from_pylist([row | changes for row in tracks.to_pylist()], schema=TRACKS.schema)
        return [each.truth for each in held_out_recordings(2, context.rows(REQUESTS), again, pieces)]

    assert all(truth.chords for truth in truths())
    for difference in ({"title": "My Song"}, {"artist": "Me"}, {"artist": None}, {"seconds": 9.0}):
        assert not any(truth.chords or truth.beats for truth in truths(**difference))


def test_sound_through_a_codec_of_random_weights_loses_its_melody(rows: list[dict]) -> None:
    for raw, decoded in zip(of(rows, "raw"), of(rows, "codec"), strict=True):
        assert raw["chroma_similarity"] > 0.9 > decoded["chroma_similarity"]


def test_an_untrained_model_fulfils_the_same_requests_and_is_judged_by_them(rows: list[dict]) -> None:
    compared = of(rows, "untrained")
    assert len(compared) == 2
    for row in compared:
        assert row["bpm_asked"] == compose(0, int(row["request_id"], 16)).tempo
        assert row["seconds"] == pytest.approx(SECONDS, abs=0.05)
        assert row["checkpoint_id"] == "one"


def test_an_untrained_model_gets_the_seed_of_the_try_that_became_the_clip(world: ScoredWorld, rows: list[dict]) -> None:
    context = world.context()
    tables = {table: context.rows(table) for table in controls.READS if table not in controls.STREAMS}
    first = of(rows, "untrained")[0]
    again = [
        row | ({"retake": 1, "seed": 77, "codes": [[1, 2]]} if row["request_id"] == first["request_id"] else {})
        for row in tables[VERDICTS].to_pylist()
    ]
    tables[VERDICTS] = pa.Table.from_pylist(again, schema=VERDICTS.schema)
    config = controls.Config.model_validate({"codec": str(world.codec), "untrained": 2, "recordings": 0})
    retaken = [dict(row) for row in controls.reduce(config, context, *tables.values()).rows]
    assert [row["item"] for row in retaken] == [row["item"] for row in of(rows, "untrained")]
    for before, after in zip(of(rows, "untrained"), retaken, strict=True):
        is_retaken = before["item"] == first["item"]
        assert (before["mel_statistics"].tolist() != after["mel_statistics"].tolist()) == is_retaken
        seed = read_own_tags(io.BytesIO(context.store.read_bytes(after["path"])))["seed"]
        assert (seed == "77") == is_retaken


def test_a_swapped_sound_is_judged_by_its_own_request_and_by_the_given_one(rows: list[dict]) -> None:
    followed, ignored = of(rows, "swap_followed"), of(rows, "swap_ignored")
    assert [row["item"] for row in followed] == [row["item"] for row in ignored]
    for told, own in zip(followed, ignored, strict=True):
        piece = compose(0, int(own["request_id"], 16))
        assert own["bpm_asked"] == piece.tempo
        assert told["bpm_asked"] != piece.tempo
        assert told["centroid"] == own["centroid"]  # the sound is the same


def test_each_guidance_gives_other_sounds_for_the_same_requests(rows: list[dict]) -> None:
    one, five = of(rows, "guidance 1"), of(rows, "guidance 5")
    assert [row["item"] for row in one] == [row["item"] for row in five]
    assert one[0]["mel_statistics"].tolist() != five[0]["mel_statistics"].tolist()


def test_only_the_asked_controls_are_generated(world: ScoredWorld) -> None:
    assert {row["sounds"] for row in made(world, untrained=0, recordings=1)} == {"raw", "codec"}
    assert made(world, untrained=0, recordings=0) == []


def test_a_second_run_gives_the_same_controls(world: ScoredWorld, rows: list[dict]) -> None:
    again = made(world, recordings=0)
    assert [row["key"] for row in again] == [row["key"] for row in of(rows, "untrained")]
    assert [row["centroid"] for row in again] == [row["centroid"] for row in of(rows, "untrained")]


def test_only_clips_of_the_untrained_model_are_kept_and_marked_as_generated(
    world: ScoredWorld, rows: list[dict]
) -> None:
    store = world.context().store
    for row in rows:
        assert (row.get("path") is not None) == (row["sounds"] == "untrained")
    for row in of(rows, "untrained"):
        data = store.read_bytes(row["path"])
        assert hashlib.sha256(data).hexdigest() == row["sha256"]
        assert read_marks(io.BytesIO(data))
        samples, rate = soundfile.read(io.BytesIO(data))
        assert len(samples) / rate == pytest.approx(SECONDS, abs=0.05)


def test_an_untrained_model_has_the_architecture_but_none_of_the_weights(world: ScoredWorld) -> None:
    library = WeightsLibrary(world.store)
    trained = load_checkpoint(library.get(WeightsRef("checkpoint:one")).path, library.get).model
    first, again, other = untrained(trained, 0), untrained(trained, 0), untrained(trained, 1)
    weights = {name: value for name, value in first.weights().items() if value.ndim > 1}
    assert {name: value.shape for name, value in first.weights().items()} == {
        name: value.shape for name, value in trained.weights().items()
    }
    for name, value in weights.items():
        assert not torch.equal(value, trained.weights()[name]), name
        assert torch.equal(value, again.weights()[name]), name
    assert any(not torch.equal(value, other.weights()[name]) for name, value in weights.items())


def test_making_an_untrained_model_leaves_the_global_random_state_alone(world: ScoredWorld) -> None:
    library = WeightsLibrary(world.store)
    trained = load_checkpoint(library.get(WeightsRef("checkpoint:one")).path, library.get).model
    torch.manual_seed(9)
    expected = torch.rand(3)
    torch.manual_seed(9)
    untrained(trained, 0)
    assert torch.equal(torch.rand(3), expected)
