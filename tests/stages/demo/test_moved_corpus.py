"""A store that is moved or copied keeps its demo corpus: nothing is read again, and the truth about it is kept."""

import shutil
from pathlib import Path

import pyarrow as pa
import pytest

from schemas import Settings, Store
from schemas.queries.database import query
from schemas.tables import PIECES, REQUESTS, TRACKS
from schemas.weights import WeightsLibrary
from stages import demo, ingest
from stages.evaluate.recordings import HeldOut, held_out_recordings
from stages.pipeline.contract import Context
from stages.pipeline.planning import plan_stage
from stages.pipeline.plans import ConfiguredStage, Plan
from stages.pipeline.runner import run_stage

STAGES = (
    ConfiguredStage("demo", demo, demo.Config(pieces=16)),
    ConfiguredStage("ingest", ingest, ingest.Config.model_validate({"valid": 0.4, "test": 0.4})),
)


def context(store: Store, stage: str) -> Context:
    settings = Settings(store=store.url, source=store.location("demo"), workers=1)
    return Context(store, settings, "run", stage, "v", {}, WeightsLibrary(store))


def plans(store: Store) -> dict[str, Plan]:
    """What each stage would do."""
    return {stage.name: plan_stage(stage, context(store, stage.name), True) for stage in STAGES}


def held_out(store: Store) -> dict[str, HeldOut]:
    requests = pa.Table.from_batches([], REQUESTS.schema)
    chosen = held_out_recordings(16, requests, store.read(TRACKS, "v"), store.read(PIECES, "v"))
    return {each.track["track_id"]: each for each in chosen}


@pytest.fixture(scope="module")
def taken_in(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """A store with an ingested corpus."""
    store = Store(str(tmp_path_factory.mktemp("corpus") / "home"))
    for stage in STAGES:
        run_stage(stage, context(store, stage.name))
    return store


@pytest.fixture
def store(taken_in: Store, tmp_path: Path) -> Store:
    """The store of one test, a copy."""
    return Store(shutil.copytree(taken_in.root, tmp_path / "home"))


@pytest.mark.parametrize("move", [shutil.move, shutil.copytree])
def test_a_moved_store_needs_no_work_and_keeps_the_truth_of_its_recordings(store, tmp_path, move) -> None:
    before, answers = held_out(store), query(store, "SELECT * EXCLUDE (uri, files) FROM tracks").to_pylist()
    assert before
    move(store.root, tmp_path / "other")
    moved = Store(str(tmp_path / "other"))
    shutil.rmtree(Path(store.root) / "demo", ignore_errors=True)  # nothing is read from the original
    for plan in plans(moved).values():
        assert (plan.make, plan.drop, plan.jobs) == (0, 0, ())
    after = held_out(moved)
    assert after.keys() == before.keys()
    for track_id, recording in after.items():
        assert recording.truth == before[track_id].truth
        assert recording.truth.chords
        assert recording.truth.beats
        assert Path(recording.track["uri"]).is_relative_to(moved.root)
        assert Path(recording.track["uri"]).exists()
    assert query(moved, "SELECT * EXCLUDE (uri, files) FROM tracks").to_pylist() == answers


def test_the_truth_is_found_in_a_store_of_an_earlier_release_with_old_paths(store: Store, tmp_path: Path) -> None:
    before = held_out(store)
    rows = store.read(PIECES, "v").to_pylist()
    there = [row | {"uri": row["uri"].replace(store.root, "/where/it/was")} for row in rows]
    store.write_shard(PIECES, "v", "0", pa.Table.from_pylist(there, schema=PIECES.schema), "k")
    assert {row["uri"].partition("/demo/")[0] for row in store.read(PIECES, "v").to_pylist()} == {"/where/it/was"}
    assert {track_id: each.truth for track_id, each in held_out(store).items()} == {
        track_id: each.truth for track_id, each in before.items()
    }
