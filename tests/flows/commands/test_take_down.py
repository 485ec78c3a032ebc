"""A take-down from end to end: real stages on a folder of recordings, one artist of which asks to be left out."""

import shutil
from pathlib import Path

import mutagen
import pytest

from flows.cli import run_command
from schemas import Store
from schemas.queries.database import query
from schemas.tables import CLIPS
from stages.pipeline.runner import StageFailed
from tests.worlds.whole_recipe import ARTISTS, planned, recipe, run, write_recordings


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with recordings and the store of a first run; no test writes into it."""
    folder = tmp_path_factory.mktemp("catalog")
    write_recordings(folder / "music")
    run(folder)
    return folder


@pytest.fixture
def folder(first: Path, tmp_path: Path) -> Path:
    """A copy of the store in a folder of its own, with a link to the recordings."""
    shutil.copytree(first / "store", tmp_path / "store")
    (tmp_path / "music").symlink_to(first / "music")
    return tmp_path


def store_of(folder: Path) -> Store:
    return Store(str(folder / "store"))


def learned_artists(store: Store) -> set[str]:
    return {
        row["artist"] for row in query(store, "SELECT DISTINCT artist FROM lineage WHERE how = 'learned'").to_pylist()
    }


def models(store: Store, kind: str) -> set[str]:
    return {
        row["checkpoint_id"] for row in query(store, f"SELECT * FROM checkpoints WHERE kind = '{kind}'").to_pylist()
    }


@pytest.mark.slow
def test_an_artist_taken_down_is_in_no_track_no_current_model_and_no_clip(folder: Path) -> None:
    store = store_of(folder)
    assert learned_artists(store) == set(ARTISTS)
    before = {kind: models(store, kind) for kind in ("codec", "language_model")}
    assert run_command(["take-down", "--artist", "Bob", "--yes", "--store", store.url]) == 0
    assert query(store, "SELECT * FROM clips").num_rows == 0
    assert query(store, "SELECT * FROM tracks WHERE artist = 'Bob'").num_rows == 2, "until the next run"

    plans = {plan.stage: plan for plan in planned(folder).stage_plans()}
    assert plans["train_codec"].reason == "it learned from a recording that was taken down"
    assert (plans["train"].reason, plans["decode"].make) == ("after train_codec", 3)
    results = {result.stage: result.counts.made for result in run(folder).results}
    assert (results["train_codec"], results["train"], results["decode"]) == (1, 1, 3)
    assert learned_artists(store) == set(ARTISTS) - {"Bob"}
    assert query(store, "SELECT * FROM tracks WHERE artist = 'Bob'").num_rows == 0
    assert query(store, "SELECT * FROM tokens JOIN withheld USING (track_id)").num_rows == 0
    (kept_out,) = query(store, "SELECT count(*) AS n FROM withheld WHERE artist = 'Bob'").to_pylist()
    assert kept_out == {"n": 2}
    shown = query(store, "SELECT DISTINCT checkpoint_id FROM clips").to_pylist()
    assert len(shown) == 1
    assert {row["checkpoint_id"] for row in shown} == models(store, "language_model") - before["language_model"]

    traced = query(store, "SELECT DISTINCT learned_by, request_id FROM descendants WHERE artist = 'Bob'").to_pylist()
    assert {row["learned_by"] for row in traced} == before["codec"] | before["language_model"]
    assert {row["request_id"] for row in traced} == {None}, "what came of the recordings is known, and none of it shown"
    assert sum(result.counts.made for result in run(folder).results) == 0


def test_a_training_refuses_recordings_taken_down_or_denied_since_their_table_was_made(folder: Path) -> None:
    store = store_of(folder)
    with pytest.raises(StageFailed, match=r"licences.deny does not name, got 'CC BY 4.0'.* of 7 tracks .*run ingest"):
        run(folder, recipe(ingest={"licences": {"deny": ["CC-BY"]}}, train={"seed": 1}), ("train",))
    assert run_command(["take-down", "--artist", "Bob", "--yes", "--store", store.url]) == 0
    with pytest.raises(StageFailed, match=r"train_codec: .*expected recordings that were not taken down, got Piece"):
        run(folder, stages=("train_codec",))


def test_a_licence_policy_of_ingest_applies_to_trainings_without_their_own() -> None:
    policy = {"allow": ["CC-BY"], "unknown": "refuse"}
    chosen = recipe(ingest={"licences": policy})
    assert chosen.train.licences == chosen.train_codec.licences == chosen.ingest.licences
    assert chosen.ingest.licences.allow == ("CC-BY",)


def test_the_file_of_a_clip_contains_no_title_or_artist_of_a_training_recording(first: Path) -> None:
    store = store_of(first)
    names = query(store, "SELECT DISTINCT unnest([title, artist, uri, track_id]) AS name FROM tracks").to_pylist()
    names = [row["name"].lower() for row in names if len(row["name"]) > 2]
    assert "piece 3" in names, "which a request refers to"
    clips = query(store, "SELECT path, how FROM clips LEFT JOIN lineage USING (request_id, take)").to_pylist()
    assert "prompt" in {row["how"] for row in clips}
    for path in {row["path"] for row in clips}:
        tags = mutagen.File(store.path(path)).tags
        text = " ".join(f"{name}={value}" for name, value in tags).lower()
        assert "request=" in text
        assert [name for name in names if name in text.split("=") or f" {name} " in text] == []
        whole = store.read_bytes(path).lower()
        assert [name for name in names if len(name) > 3 and name.encode() in whole] == []
    assert store.versions(CLIPS)
