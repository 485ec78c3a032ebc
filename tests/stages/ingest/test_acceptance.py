"""Choosing by quality: a recording that is not accepted is withheld with its reason, and another choice reads no
sound."""

import os
import shutil

import numpy as np
import pytest

from schemas import Settings, Store
from schemas.identity import fingerprint
from schemas.queries.database import query
from schemas.tables import REJECTS, TRACKS, WITHHELD
from schemas.weights import WeightsLibrary
from stages import ingest
from stages.ingest import Config
from stages.pipeline.contract import Context
from stages.pipeline.plans import ConfiguredStage
from stages.pipeline.runner import Counts, run_stage
from tests.worlds.ingest_world import RATE, World
from tests.worlds.recordings import encoded, tones, write


def _withheld(world: World) -> dict[str, dict]:
    return {os.path.relpath(row["uri"], world.music): row for row in world.store.read(WITHHELD, "v").to_pylist()}


def _choose(world: World, *conditions: str) -> Counts:
    """Run with another choice, in a world where reading any recording would be a reject."""
    world.config = Config(**{**dict(world.config), "accept": conditions})
    counts = world.run()
    assert world.read == 0
    return counts


def _make_unreadable(world: World) -> None:
    for path in world.music.rglob("*.flac"):
        state = path.stat()
        path.write_bytes(bytes(state.st_size))
        os.utime(path, ns=(state.st_atime_ns, state.st_mtime_ns))


def _all_rows(world: World) -> dict[str, dict]:
    return {**world.rows(), **_withheld(world)}


@pytest.fixture
def lengths(tmp_path):
    """Six recordings of 0.6 to 1.1 s in three shards."""
    world = World(tmp_path, shard_size=2)
    for number in range(6):
        world.add(f"{number}.flac", number, 0.6 + number / 10)
    return world


def test_a_recording_that_fails_a_condition_is_withheld_with_a_reject_naming_it(tmp_path):
    world = World(tmp_path, accept=["bandwidth > 7000 AND clipping_runs < 0.001", "NOT dual_mono"])
    noise = 0.1 * np.random.default_rng(0).standard_normal((2, RATE)).astype(np.float32)
    sounds = {
        "good": noise,
        "clipped": np.clip(30 * noise, -1, 1),
        "dull": tones(1.0, 1, RATE),
        "mono": np.repeat(noise[:1], 2, axis=0),
    }
    for name, sound in sounds.items():
        write(world.music / f"{name}.flac", encoded("FLAC", sound, RATE))
    assert world.run() == Counts(1, 0, 3)
    assert list(world.rows()) == ["good.flac"]
    rejects = world.rejects()
    assert set(rejects) == set(_withheld(world)) == {"clipped.flac", "dull.flac", "mono.flac"}
    assert {row["kind"] for row in rejects.values()} == {"not accepted"}
    message = rejects["dull.flac"]["message"]
    assert message.startswith("expected bandwidth > 7000 AND clipping_runs < 0.001, got bandwidth = ")
    assert "clipping_runs = 0" in message
    assert "dual_mono" not in message
    assert "NOT dual_mono, got dual_mono = True" in rejects["mono.flac"]["message"]
    assert world.run() == Counts(0, 1, 3)
    assert world.read == 0


def test_another_choice_reads_no_sound_and_leaves_the_other_tracks_unchanged(lengths):
    lengths.run()
    before = _all_rows(lengths)
    folder = lengths.store.folder(TRACKS, "v")
    last = lengths.store.read_bytes(f"{folder}/shard=2.parquet")
    _make_unreadable(lengths)
    assert _choose(lengths, "seconds > 0.75") == Counts(0, 4, 2)
    assert list(_withheld(lengths)) == ["0.flac", "1.flac"]
    assert lengths.store.read_bytes(f"{folder}/shard=2.parquet") == last
    assert _choose(lengths, "seconds > 0.65", "seconds < 1.05") == Counts(1, 3, 2)
    assert sorted(_withheld(lengths)) == ["0.flac", "5.flac"]
    assert _all_rows(lengths) == before
    assert _choose(lengths) == Counts(2, 4, 0)
    assert lengths.rows() == before
    assert lengths.store.shards(WITHHELD, "v") == []
    assert lengths.rejects() == {}


def test_a_choice_may_accept_nothing_and_a_later_one_everything_again(lengths):
    lengths.run()
    before = lengths.rows()
    _make_unreadable(lengths)
    assert _choose(lengths, "false") == Counts(0, 0, 6)
    assert (lengths.rows(), _withheld(lengths)) == ({}, before)
    assert _choose(lengths, "true") == Counts(6, 0, 0)
    assert lengths.rows() == before


def test_the_choice_is_not_part_of_the_fingerprint():
    assert fingerprint(Config()) == fingerprint(Config(accept=["bandwidth > 12000"]))
    assert fingerprint(Config()) != fingerprint(Config(valid=0.1))


def test_a_changed_condition_changes_the_reasons(lengths):
    lengths.config = Config(shard_size=2, accept=["seconds > 0.75"])
    lengths.run()
    assert _choose(lengths, "seconds > 0.755") == Counts(0, 4, 2)
    assert "expected seconds > 0.755, got seconds = 0.6;" in lengths.rejects()["0.flac"]["message"]


def test_a_withheld_recording_is_retagged_moved_copied_changed_and_removed_like_a_track(lengths):
    lengths.config = Config(shard_size=2, accept=["seconds > 0.65 OR title = 'wanted'"])
    lengths.run()
    [row] = _withheld(lengths).values()
    write(lengths.music / "0.json", b'{"title": "other"}')
    assert lengths.run() == Counts(0, 5, 1)
    assert _withheld(lengths)["0.flac"]["title"] == "other"
    assert "title = other" in lengths.rejects()["0.flac"]["message"]
    os.rename(lengths.music / "0.flac", lengths.music / "00.flac")
    assert lengths.run() == Counts(0, 5, 1)
    assert list(_withheld(lengths)) == list(lengths.rejects()) == ["00.flac"]
    write(lengths.music / "00.json", b'{"title": "wanted"}')
    assert lengths.run() == Counts(1, 5, 0)
    assert lengths.rows()["00.flac"]["track_id"] == row["track_id"]
    assert lengths.rows()["00.flac"]["shard"] == row["shard"]
    os.remove(lengths.music / "00.json")
    shutil.copy(lengths.music / "00.flac", lengths.music / "0.flac")
    assert lengths.run() == Counts(0, 5, 1)
    assert list(lengths.rejects()) == ["0.flac"]
    os.remove(lengths.music / "0.flac")
    write(lengths.music / "00.flac", b"no sound any more")
    assert lengths.run() == Counts(0, 5, 1)
    assert (lengths.rejects()["00.flac"]["kind"], _withheld(lengths)) == ("unreadable", {})
    os.remove(lengths.music / "00.flac")
    assert lengths.run() == Counts(0, 5, 0)


class Killed(Exception):
    """Stands for the end of the process."""


@pytest.mark.slow
def test_a_new_choice_killed_at_any_write_and_run_again_loses_no_row(lengths, monkeypatch):
    lengths.config = Config(shard_size=2, accept=["seconds < 0.65 OR seconds > 0.95"])
    lengths.run()
    before = _all_rows(lengths)
    _make_unreadable(lengths)
    saved = lengths.music.parent / "saved"
    shutil.copytree(lengths.store.root, saved)
    _choose(lengths, "seconds BETWEEN 0.65 AND 0.95 OR seconds > 1.05")  # rows move both ways, also in one shard
    expected, writes = (lengths.rows(), _withheld(lengths), lengths.rejects()), 0
    assert _all_rows(lengths) == before
    real = {name: getattr(Store, name) for name in ("write_bytes", "remove")}
    for last in range(100):
        shutil.rmtree(lengths.store.root)
        shutil.copytree(saved, lengths.store.root)
        lengths.store = Store(lengths.store.url)
        left = iter(range(last))
        with monkeypatch.context() as patch:
            for name, act in real.items():

                def counted(store, relative, *arguments, act=act, left=left):
                    if relative.startswith(("tracks", "withheld", "rejects")) and next(left, None) is None:
                        raise Killed
                    return act(store, relative, *arguments)

                patch.setattr(Store, name, counted)
            try:
                lengths.run()
                break
            except Killed:
                writes += 1
        lengths.run()
        assert lengths.read == 0
        assert (lengths.rows(), _withheld(lengths), lengths.rejects()) == expected
    assert writes >= 8


@pytest.mark.parametrize("condition", ["bandwith > 12000", "seconds >", "(SELECT true)", "seconds"])
def test_a_bad_condition_is_an_error_before_anything_is_read(condition):
    with pytest.raises(ValueError, match="expected a condition") as error:
        Config(accept=["seconds > 1", condition])
    assert condition in str(error.value)


def test_a_single_condition_may_be_given_as_text():
    assert Config(accept="seconds > 1").accept == ("seconds > 1",)


def test_withheld_recordings_do_not_fail_the_run_and_queries_see_both_tables(lengths):
    settings = Settings(store=lengths.store.url, source=lengths.source, workers=1, max_refused=0.1)
    stage = ConfiguredStage("ingest", ingest, Config(accept=["seconds > 1.05"]))
    context = Context(lengths.store, settings, "run", "ingest", "v", {}, WeightsLibrary(lengths.store))
    assert run_stage(stage, context).counts == Counts(1, 0, 5)
    counts = query(lengths.store, "SELECT (SELECT count(*) FROM tracks), (SELECT count(*) FROM withheld)")
    assert list(counts.to_pylist()[0].values()) == [1, 5]
    assert lengths.store.read(REJECTS, "v").num_rows == 5
