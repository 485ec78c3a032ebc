"""Cleaning removes what nothing refers to, and nothing that is shown, can be rolled back to, or is being made."""

import os
import shutil
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from schemas import Settings, Store
from schemas.storage.drafts import Drafts
from schemas.storage.holdings import size_of
from schemas.storage.leases import hold_lease
from schemas.storage.publications import Publications
from schemas.storage.versions import Versions
from schemas.tables import CHECKPOINTS, CHROMA, TABLES, TRACKS
from schemas.upkeep.cleaning import clean, plan_cleaning
from schemas.upkeep.inspection import Inspection
from tests.faults.comparing import seen
from tests.worlds.tiny_chain import run_chain, write_inputs

TEXTS = {"a.txt": "do re", "b.txt": "re mi", "c.txt": "fa sol"}
LATER = timedelta(days=40)


@pytest.fixture
def settings(tmp_path):
    return Settings(store=str(tmp_path / "store"), **write_inputs(tmp_path / "in", TEXTS, ["2 calm", "1 loud"]))


@pytest.fixture
def store(settings):
    return Store(settings.store)


@pytest.fixture(scope="module")
def chains(tmp_path_factory):
    """A folder with a store after a run, `once`, and after another one of other settings, `twice`."""
    folder = tmp_path_factory.mktemp("chains")
    settings = Settings(store=str(folder / "twice"), **write_inputs(folder / "in", TEXTS, ["2 calm", "1 loud"]))
    run_chain(settings)
    shutil.copytree(folder / "twice", folder / "once")
    run_chain(settings, scale=2.0)
    return folder


@pytest.fixture
def once(chains, tmp_path):
    return Store(shutil.copytree(chains / "once", tmp_path / "store"))


@pytest.fixture
def twice(chains, tmp_path):
    return Store(shutil.copytree(chains / "twice", tmp_path / "store"))


def cleaned(store: Store, keep: timedelta = timedelta(days=30), later: timedelta = LATER) -> set[str]:
    plan = plan_cleaning(store, keep, datetime.now(UTC) + later)
    clean(store, plan)
    return {item.path for item in plan.remove}


def derived(store: Store) -> dict[str, list[str]]:
    """What users see, without the rows of models that may be removed."""
    return {name: rows for name, rows in seen(store).items() if name not in ("checkpoints", "training", "files")}


def problems(store: Store) -> list[str]:
    findings = Inspection(store, list(TABLES.values()), {}, deep=True).findings()
    return [finding.path for finding in findings if finding.is_problem]


def total(store: Store) -> int:
    return sum(size_of(store, name) for name in store.folders(""))


@pytest.mark.parametrize("settings_tried", [3, pytest.param(20, marks=pytest.mark.slow)])
def test_after_many_settings_only_the_shown_version_stays_and_the_views_are_equal(store, settings, settings_tried):
    for number in range(settings_tried):
        run_chain(settings, scale=1.0 + number)
    before, size = derived(store), total(store)
    assert len(store.folders("models")) == len(store.versions(CHROMA)) == settings_tried
    cleaned(store)
    assert derived(store) == before
    assert [len(store.versions(TABLES[name])) for name in ("tracks", "chroma", "generations", "clips")] == [1, 1, 1, 1]
    kept = store.read_all(CHECKPOINTS).num_rows  # that of the clips and the newest of its kind, which may differ here
    assert kept <= 2
    assert len(store.folders("models")) == kept
    assert len(store.folders("audio")) == 1
    print(f"{settings_tried} settings: {size:,} bytes, {total(store):,} after")
    assert total(store) < 0.85 * size
    assert problems(store) == []
    assert cleaned(store) == set()
    last = run_chain(settings, scale=1.0 * settings_tried).results
    assert {result.stage: result.counts.made for result in last}["chroma"] == 0


def test_a_catalog_within_the_kept_days_can_be_restored_and_an_older_one_cannot(store, settings, tmp_path):
    first = derived(run(store, settings, 1.0))
    last_of_first = Publications(store).sequences()[-1]
    second = derived(run(store, settings, 2.0))
    write_inputs(tmp_path / "in", {"a.txt": "do re"}, ["2 calm"])
    third = derived(run(store, settings, 2.0))
    cleaned(store, later=timedelta(days=20))
    numbers = Publications(store).sequences()
    for number, catalog in ((last_of_first, first), (numbers[-1], third)):
        Publications(store).roll_back(number)
        assert derived(store) | {"rejects": 0} == catalog | {"rejects": 0}
    Publications(store).release()
    assert second != third
    removed = cleaned(store, later=LATER)
    assert any("/history/" in path for path in removed)
    with pytest.raises(ValueError, match="`segue clean` has removed"):
        Publications(store).roll_back(last_of_first)
    assert derived(store) == third


def run(store: Store, settings: Settings, scale: float) -> Store:
    run_chain(settings, scale=scale)
    return store


def test_nothing_younger_than_an_hour_is_removed(twice):
    assert cleaned(twice, timedelta(0), timedelta(minutes=50)) == set()


def test_the_version_of_a_live_lease_stays(twice):
    old = next(name for name in twice.versions(CHROMA) if name != shown(twice, "chroma"))
    with hold_lease(twice, f"chroma-{old}", "other", lambda holder: None, lambda: None):
        cleaned(twice)
        assert old in twice.versions(CHROMA)
    cleaned(twice)
    assert twice.versions(CHROMA) == [shown(twice, "chroma")]


def shown(store: Store, table: str) -> str:
    return Publications(store).shown()[table].versions[table]


def test_drafts_of_a_run_that_ended_long_ago_are_removed_and_recent_ones_stay(once):
    drafts = Drafts(once, TRACKS, shown(once, "tracks"))
    drafts.write_part("9", once.read(TRACKS, drafts.version).slice(0, 1))
    assert not any(".part" in path for path in cleaned(once, later=timedelta(days=20)))
    assert any(path.endswith(".part") for path in cleaned(once))
    assert drafts.unfinished_keys() == {}


def test_remains_of_killed_runs_are_removed_everywhere(once):
    before = seen(once)
    left = [
        *("segue.duckdb.0f.inprogress", "models/x.0f.inprogress/weights", "audio/version=x/.a.0f.inprogress"),
        *("runs/version=1/.r.0f.inprogress", "report/.index.html.0f.inprogress", "demo.0f.inprogress/a.flac"),
        *("audio/version=x/lost.flac", "models/lost/weights", "scratch/train-lost/state", "damaged/clips/x"),
    ]
    for path in left:
        once.write_bytes(path, b"left")
        old = time.time() - 7200
        os.utime(once.path(path), (old, old))
    cleaned(once)
    assert [path for path in left if Path(once.path(path)).exists()] == []
    assert seen(once) == before


def test_scratch_files_of_a_training_that_may_be_resumed_stay(once):
    once.write_bytes("scratch/train-lost/state", b"state")
    cleaned(once, later=timedelta(days=20))
    assert once.exists("scratch/train-lost/state")


def test_the_models_of_shown_clips_stay(twice):
    assert twice.read_all(CHECKPOINTS).num_rows == 2
    cleaned(twice)
    assert problems(twice) == []
    used = {row["checkpoint_id"] for row in twice.read_all(CHECKPOINTS).to_pylist()}
    weights = Versions(twice).all[shown(twice, "generations")].weights()
    assert weights <= {row["digest"] for row in twice.read_all(CHECKPOINTS).to_pylist()}
    assert len(used) <= 2
