"""`segue explain` and `segue take-down`: what was made from a recording, and that none of it is shown any more."""

import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from flows.cli import run_command
from schemas import Store
from schemas.queries.database import query
from schemas.storage.take_downs import TakeDowns
from schemas.tables import CHECKPOINTS, CLIPS, LEARNED, RECONSTRUCTIONS, REQUESTS, TABLES, TAKEN_DOWN, TRACKS, WEIGHTS
from schemas.upkeep.cleaning import clean, plan_cleaning
from schemas.upkeep.inspection import Inspection
from schemas.weights import MissingWeights, WeightsLibrary
from tests.schemas.queries.test_views import publish, record

OURS, THEIRS, MELODY = ("1" * 64, "2" * 64, "3" * 64)
"""Recordings: one that the codec and the first model learned from, one that all of them learned from, and one that is a
melody."""

Segue = Callable[..., str]


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """A store with a codec trained on both recordings, a model on that codec trained on both, a model on a foreign
    codec trained on THEIRS alone, a clip of each model, and a clip of the second model that follows a melody."""
    store = Store(str(tmp_path / "store"))
    facts = {"uri": "/music/x.flac", "licence": "CC BY 4.0"}
    described = {
        OURS: {"title": "Ours", "artist": "Ada & Bob", "artists": ["Ada", "Bob"]},
        THEIRS: {"title": "Theirs", "artist": "Cy"},
        MELODY: {"title": "Melody", "artist": "Adam"},
    }
    publish(store, TRACKS, [facts | row | {"track_id": name} for name, row in described.items()])
    for number, tracks in enumerate(([OURS, THEIRS], [THEIRS])):
        rows = [{name: value for name, value in described[each].items() if name != "artists"} for each in tracks]
        learned = [facts | row | {"track_id": name} for name, row in zip(tracks, rows, strict=True)]
        record(store, LEARNED, f"set{number}", [row | {"training_set": f"set{number}"} for row in learned])
    for day, (name, kind, parents, training_set) in enumerate(
        (
            ("codec1", "codec", [], "set0"),
            ("model1", "language_model", ["codec1", "e" * 64], "set0"),
            ("model2", "language_model", ["e" * 64], "set1"),
        ),
        start=1,
    ):
        row = {"checkpoint_id": name, "kind": kind, "parents": parents, "training_set": training_set, "digest": name}
        record(store, CHECKPOINTS, name, [row | {"created_at": datetime(2026, 1, day, tzinfo=UTC)}])
    record(store, WEIGHTS, "w", [{"reference": "somebody/codec", "digest": "e" * 64}])
    publish(store, REQUESTS, [{"request_id": "cccc", "name": "followed", "melody": f"track:{MELODY}"}])
    clips = [("aaaa", "model1"), ("bbbb", "model2"), ("cccc", "model2")]
    rows = [{"request_id": name, "take": 1, "checkpoint_id": model, "path": f"audio/{name}"} for name, model in clips]
    for row in rows:
        store.write_bytes(row["path"], b"sound")
    publish(store, CLIPS, [row | {"bytes": 5} for row in rows])
    heard = {"checkpoint_id": "codec1", "number": 1, "track_id": MELODY, "original": "audio/m", "decoded": "audio/d"}
    record(store, RECONSTRUCTIONS, "codec1", [heard])
    for name in ("audio/m", "audio/d", "report/index.html"):
        store.write_bytes(name, b"sound")
    return store


@pytest.fixture
def segue(store: Store, capsys: pytest.CaptureFixture[str]) -> Segue:
    def run(*words: str, code: int = 0) -> str:
        assert run_command([*words, "--store", store.url]) == code
        told = capsys.readouterr()
        return told.out + told.err

    return run


def clips(store: Store) -> set[str]:
    return {row["request_id"] for row in query(store, "SELECT request_id FROM clips").to_pylist()}


def explained(segue: Segue, *words: str) -> dict[str, list[dict[str, Any]]]:
    sections: dict[str, list[dict[str, Any]]] = json.loads(segue("explain", *words, "--format", "json"))
    return sections


def test_a_clip_is_explained_by_its_models_and_their_recordings(segue: Segue) -> None:
    told = explained(segue, "clip", "aaaa")
    assert [(row["model"], row["recordings"]) for row in told["models"]] == [
        ("model1", 2),
        ("codec1", 2),
        ("e" * 64, 0),
    ]
    assert told["models"][2]["name"] == "somebody/codec"
    recordings = {row["title"]: row["through"] for row in told["recordings"]}
    assert recordings == {"Ours": "codec, language_model", "Theirs": "codec, language_model"}
    assert told["licences"] == [{"licence": "CC-BY-4.0", "recordings": 2}]


def test_a_clip_is_found_by_the_name_of_its_request_and_lists_its_melody(segue: Segue) -> None:
    recordings = {row["title"]: row["through"] for row in explained(segue, "clip", "followed")["recordings"]}
    assert recordings == {"Theirs": "language_model", "Melody": "melody"}
    assert "expected the id or name of a clip's request" in segue("explain", "clip", "nobody", code=2)
    assert "expected the id or name of a clip's request" in segue("explain", "clip", "followed/7", code=2)


def test_a_track_is_explained_by_the_models_and_clips_made_from_it(segue: Segue) -> None:
    told = explained(segue, "track", OURS[:8])
    assert told["recording"][0]["state"] == "a track"
    assert [(row["model"], row["clips"]) for row in told["models"]] == [("codec1", 0), ("model1", 1)]
    assert [row["request"] for row in told["clips"]] == ["aaaa"]
    assert [row["how"] for row in explained(segue, "track", MELODY)["clips"]] == ["melody"]
    assert "expected 6 or more digits" in segue("explain", "track", "11", code=2)


def test_explanations_are_readable_tables(segue: Segue) -> None:
    told = segue("explain", "clip", "aaaa", "--limit", "1")
    assert "recordings (2)" in told
    assert "(1 more; --limit lists them)" in told


def test_a_misspelt_request_is_refused_with_the_nearest_name(segue: Segue) -> None:
    assert "'folowed/1', which no clip in the views has (did you mean followed?)" in segue(
        "explain", "clip", "folowed/1", code=2
    )


def test_a_dry_run_lists_everything_and_changes_nothing(segue: Segue, store: Store) -> None:
    told = segue("take-down", "--artist", "ADA", "--dry-run")
    assert "Ours" in told
    assert "to be trained again: train_codec (codec), train (language_model)" in told
    assert "aaaa" in told
    assert "bbbb" not in told
    assert clips(store) == {"aaaa", "bbbb", "cccc"}
    assert TakeDowns(store).rows == []


def test_an_artist_must_be_named_in_full(segue: Segue) -> None:
    told = segue("take-down", "--artist", "Ada", "--dry-run")
    assert "Melody" not in told
    told = segue("take-down", "--artist", "Xy", code=2)
    assert "expected recordings to take down, got none that name the artist 'Xy'\n" in told


def test_a_misspelt_artist_is_refused_with_the_nearest_known_name_even_beside_ids(segue: Segue) -> None:
    assert "'Adda' (did you mean Ada?)" in segue("take-down", "--artist", "Adda", code=2)
    assert "'Adda' (did you mean Ada?)" in segue("take-down", THEIRS, "--artist", "Adda", "--dry-run", code=2)


def test_several_artists_choose_the_recordings_that_name_all_of_them_in_any_spelling(segue: Segue) -> None:
    for written in ("Ada & Bob", "ada and bob", "Bob & Ada", "Ada feat. Bob", "ＡＤＡ & Bob"):
        told = segue("take-down", "--artist", written, "--dry-run")
        assert "Ours" in told
        assert "Theirs" not in told
    assert "none that name the artist 'Ada & Cy'" in segue("take-down", "--artist", "Ada & Cy", code=2)


def test_a_take_down_withdraws_the_clips_of_all_models_that_learned_from_the_recording(
    segue: Segue, store: Store
) -> None:
    told = segue("take-down", OURS, "--yes", "--reason", "asked by letter")
    assert "1 recording taken down, 1 clip withdrawn; the page is removed until `segue run report` writes it" in told
    assert clips(store) == {"bbbb", "cccc"}
    (row,) = query(store, "SELECT * FROM taken_down").to_pylist()
    assert (row["title"], row["reason"], row["checkpoints"]) == ("Ours", "asked by letter", ["codec1", "model1"])
    assert not store.exists("report/index.html")
    assert explained(segue, "track", OURS)["recording"][0]["state"].startswith("taken down: asked by letter (20")
    assert "no clip" in segue("explain", "clip", "aaaa", code=2)
    library = WeightsLibrary(store)
    assert library.checkpoint("codec") is None
    assert library.checkpoint("language_model")["checkpoint_id"] == "model2"
    with pytest.raises(MissingWeights, match="learned from no recording that was taken down"):
        library.checkpoint("model1")


def test_a_take_down_of_a_melody_withdraws_its_clips_and_the_stored_reconstructions(segue: Segue, store: Store) -> None:
    segue("take-down", MELODY, "--yes")
    assert clips(store) == {"aaaa", "bbbb"}
    assert query(store, "SELECT * FROM reconstructions").num_rows == 0
    assert WeightsLibrary(store).checkpoint("codec") is not None


def test_the_next_clean_removes_the_files_and_the_store_stays_valid(segue: Segue, store: Store) -> None:
    def problems() -> list[str]:
        inspection = Inspection(store, [TABLES["clips"], TABLES["reconstructions"]], {})
        return [finding.path for finding in inspection.findings() if finding.is_problem]

    segue("take-down", OURS, MELODY, "--yes")
    plan = plan_cleaning(store, timedelta(days=30), datetime.now(UTC) + timedelta(hours=2))
    clean(store, plan)
    assert {item.path for item in plan.remove} >= {"audio/aaaa", "audio/cccc", "audio/m", "audio/d"}
    assert store.exists("audio/bbbb")
    assert problems() == []


def test_an_undone_take_down_restores_everything(segue: Segue, store: Store) -> None:
    segue("take-down", OURS, THEIRS, "--yes")
    assert clips(store) == set()
    segue("take-down", OURS, "--undo")
    assert clips(store) == set(), "the other one is still down"
    segue("take-down", "--artist", "Cy", "--undo")
    assert clips(store) == {"aaaa", "bbbb", "cccc"}
    assert store.shards(TAKEN_DOWN, "1") == []
    assert "got others" in segue("take-down", OURS, "--undo", code=2)


def test_a_recording_that_never_arrived_can_be_taken_down_by_its_full_id(segue: Segue, store: Store) -> None:
    assert "got none in" in segue("take-down", "f" * 12, "--yes", code=2)
    segue("take-down", "f" * 64, "--yes")
    assert TakeDowns(store).reasons.keys() == {"f" * 64}


def test_a_take_down_names_models_of_releases_that_recorded_no_training_data(segue: Segue, store: Store) -> None:
    assert "is unknown" not in segue("take-down", OURS, "--dry-run")
    row = {"checkpoint_id": "old", "kind": "codec", "parents": [], "created_at": datetime(2025, 1, 1, tzinfo=UTC)}
    record(store, CHECKPOINTS, "old", [row])
    assert "what old learned from is unknown" in segue("take-down", OURS, "--dry-run")


def test_without_a_terminal_a_take_down_needs_yes(segue: Segue, store: Store) -> None:
    assert "give --yes" in segue("take-down", OURS, code=2)
    assert clips(store) == {"aaaa", "bbbb", "cccc"}


def test_where_chooses_recordings_by_a_condition_and_allows_no_subquery(segue: Segue) -> None:
    assert "Theirs" in segue("take-down", "--where", "title = 'Theirs'", "--dry-run")
    assert "expected a condition" in segue("take-down", "--where", "(SELECT true)", "--dry-run", code=2)
    assert "give ids, --artist or --where" in segue("take-down", code=2)
