"""Requests: a line becomes a row, and the row stays the same while the line asks for the same."""

import threading
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import soundfile

from flows.recipes.recipe import Recipe
from schemas import Settings, Store
from schemas.identity import fingerprint
from schemas.storage.drafts import Drafts
from schemas.tables import PIECES, REJECTS, REQUESTS, TRACKS
from stages import requests
from stages.demo.synthesis.composition import compose
from stages.pipeline.contract import Stopped
from stages.pipeline.planning import plan_stage
from stages.pipeline.plans import ConfiguredStage
from stages.pipeline.runner import StageFailed, run_stage
from stages.requests import Config
from tests.worlds.requests_world import (
    TRACK_ROWS,
    context_for,
    rejects_of,
    rows_of,
    store_of_tracks,
    take_in,
    write,
)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return store_of_tracks(tmp_path / "store")


def test_missing_values_of_a_line_come_from_the_configuration(store: Store, tmp_path: Path) -> None:
    take_in(store, write(tmp_path / "r.jsonl", {"description": "x"}))
    row = rows_of(store)[0]
    published = (
        row["guidance"],
        row["guidance_text"],
        row["temperature"],
        row["top_k"],
        row["top_p"],
        row["seconds"],
        row["takes"],
    )
    assert published == (3.0, 1.0, 1.0, 250, 0.0, 8.0, 1)
    assert row["prompt_seconds"] is None
    assert row["fields"] == []
    assert row["seed"] >= 0


def test_reading_the_same_file_twice_does_nothing(store: Store, tmp_path: Path) -> None:
    file = write(tmp_path / "r.jsonl", {"description": "x"}, {"description": "y", "seconds": -1})
    first = take_in(store, file)
    assert (first.counts.made, first.counts.refused) == (1, 1)
    stage = ConfiguredStage("requests", requests, Config())
    plan = plan_stage(stage, context_for(store, file), by_name=False)
    assert (plan.jobs, plan.make, plan.reuse, plan.drop) == ((), 0, 1, 0)
    assert (
        list(
            requests.read_source(
                Config(), context_for(store, file), store.read(REQUESTS, "r"), store.read(REJECTS, "r")
            )
        )
        == []
    )


def test_a_name_is_part_of_a_requests_identity_but_title_takes_and_line_are_not(store: Store, tmp_path: Path) -> None:
    one = {"description": "x", "name": "a"}
    take_in(store, write(tmp_path / "r.jsonl", one, {**one, "name": "b"}, {"description": "y"}))
    before = {row["name"]: row for row in rows_of(store)}
    assert before["a"]["request_id"] != before["b"]["request_id"]
    assert before["a"]["seed"] != before["b"]["seed"]

    result = take_in(
        store, write(tmp_path / "r.jsonl", {"description": "y"}, one, {**one, "name": "b", "title": "T", "takes": 3})
    )
    after = {row["name"]: row for row in rows_of(store)}
    assert after["a"]["request_id"] == before["a"]["request_id"]
    assert after["a"]["line"] == 2
    assert after["b"]["request_id"] == before["b"]["request_id"]
    assert (after["b"]["title"], after["b"]["takes"]) == ("T", 3)
    assert after["b"]["seed"] == before["b"]["seed"]
    assert result.counts.refused == 0


def test_fields_and_guidance_are_part_of_a_requests_identity(store: Store, tmp_path: Path) -> None:
    base = {"description": "x", "seconds": 4}
    changes = [{}, {"genre": "jazz"}, {"genre": "rock"}, {"moods": "jazz"}, {"guidance_text": 3}]
    take_in(store, write(tmp_path / "r.jsonl", *(base | change for change in changes)))
    rows = rows_of(store)
    assert len({row["request_id"] for row in rows}) == len({row["seed"] for row in rows}) == len(changes)
    assert [dict(row["fields"]) for row in rows] == [{}, {"genre": "jazz"}, {"genre": "rock"}, {"moods": "jazz"}, {}]


def test_newer_columns_with_default_values_leave_ids_and_seeds_unchanged(store: Store, tmp_path: Path) -> None:
    take_in(store, write(tmp_path / "r.jsonl", {"description": "x", "guidance_text": 1, "moods": []}))
    (row,) = rows_of(store)
    later = ("request_id", "line", "shard", "guidance_text", "fields", "title", "takes")
    later += ("meter", "chords", "reading", "stale", "guidance_asked", "adapters")
    meant = {name: value for name, value in row.items() if name not in later}
    assert row["request_id"] == fingerprint(meant)
    sound = {name: value for name, value in meant.items() if name != "seed"}
    assert row["seed"] == int(fingerprint(sound)[:8], 16) >> 1


def test_metre_and_chords_are_part_of_a_requests_identity_in_one_spelling_with_a_reading(
    store: Store, tmp_path: Path
) -> None:
    loop = {"bpm": 120, "seconds": 8}
    lines = [
        loop | {"name": "plain"},
        loop | {"name": "waltz", "meter": " 3 / 4"},
        loop | {"name": "written", "chords": "|Cmin  | B♭/D |  F#-7b5 N.C.:1 |"},
        loop | {"name": "again", "chords": "Cm | Bb/D | F♯ø NC:1"},
        {"name": "no tempo"},
    ]
    take_in(store, write(tmp_path / "r.jsonl", *lines))
    rows = {row["name"]: row for row in rows_of(store)}
    assert rows["plain"]["reading"] == "4 bars of 4/4 at 120 bpm"
    assert rows["waltz"]["meter"] == "3/4"
    assert rows["waltz"]["reading"] == "5.3 bars of 3/4 at 120 bpm"
    assert rows["written"]["chords"] == rows["again"]["chords"] == "Cm | A#/D | F#m7b5 N.C.:1"
    assert rows["written"]["reading"] == "4 bars of 4/4 at 120 bpm: Cm, A#/D, F#m7b5 N.C. (1.33 times)"
    assert rows["no tempo"]["reading"] is None
    assert len({row["seed"] for row in rows.values()}) == len(rows)
    same = [{name: value for name, value in row.items() if name != "name"} for row in lines[2:4]]
    take_in(store, write(tmp_path / "same.jsonl", *same))
    assert rejects_of(store)["line 2"]["kind"] == "duplicate"


@pytest.mark.parametrize(
    ("asked", "says"),
    [
        ({"chords": "C | G"}, "line 2: chords: expected bpm with chords, got none"),
        ({"meter": "3/4"}, "line 2: meter: expected bpm with meter, got none"),
        ({"bpm": 90, "chords": "C | G | H7"}, "line 2: chords: expected a chord at position 9, got 'H7'"),
        ({"bpm": 90, "meter": "3/4", "chords": "C:4"}, "line 2: chords: expected 3 beats in the bar of 3/4 at pos"),
        ({"bpm": 90, "meter": "four"}, "line 2: meter: expected a metre such as '4/4', '3/4' or '6/8', got 'four'"),
    ],
)
def test_an_unreadable_chart_is_refused_with_the_position(store: Store, tmp_path: Path, asked: dict, says: str) -> None:
    take_in(store, write(tmp_path / "r.jsonl", {"description": "x"}, asked))
    assert rejects_of(store)["line 2"]["message"].startswith(says)


def test_a_clip_asked_for_twice_is_made_once_and_the_second_line_refused(store: Store, tmp_path: Path) -> None:
    take_in(
        store,
        write(
            tmp_path / "r.jsonl", {"description": "x"}, {"description": " x "}, {"name": "n"}, {"name": "n", "seed": 1}
        ),
    )
    assert [row["line"] for row in rows_of(store)] == [1, 3]
    rejects = rejects_of(store)
    assert (rejects["line 2"]["kind"], rejects["line 4"]["kind"]) == ("duplicate", "duplicate name")
    assert "line 1" in rejects["line 2"]["message"]


def test_requests_keep_their_shards_when_others_come_and_go(store: Store, tmp_path: Path) -> None:
    config = Config(shard_size=3)
    lines = [{"name": f"n{i}"} for i in range(8)]
    take_in(store, write(tmp_path / "r.jsonl", *lines[:5]), config)
    stood = {row["name"]: row["shard"] for row in rows_of(store)}
    assert stood == {"n0": 0, "n1": 0, "n2": 0, "n3": 1, "n4": 1}
    untouched = store.footer(REQUESTS, "r", "0")

    result = take_in(store, write(tmp_path / "r.jsonl", *lines[:4], *lines[5:]), config)
    assert {row["name"]: row["shard"] for row in rows_of(store)} == {
        **{"n0": 0, "n1": 0, "n2": 0, "n3": 1},
        **{"n5": 1, "n6": 1, "n7": 2},
    }
    assert (result.counts.made, result.counts.reused) == (3, 4)
    assert store.footer(REQUESTS, "r", "0") == untouched


def test_a_shard_has_limited_seconds_of_sound_and_a_longer_request_is_alone(store: Store, tmp_path: Path) -> None:
    config = Config(shard_size=3, shard_seconds=40, max_seconds=600)
    asked = [(10, 1), (10, 3), (5, 1), (20, 9), (1, 1), (1, 1), (1, 1), (1, 1)]
    lines = [{"name": f"n{i}", "seconds": seconds, "takes": takes} for i, (seconds, takes) in enumerate(asked)]
    take_in(store, write(tmp_path / "r.jsonl", *lines[:3]), config)
    take_in(store, write(tmp_path / "r.jsonl", *lines), config)
    assert [row["shard"] for row in rows_of(store)] == [0, 0, 1, 2, 3, 3, 3, 4]


def test_a_stopped_run_is_completed_like_an_undisturbed_one(store: Store, tmp_path: Path) -> None:
    config, stage = Config(shard_size=2), ConfiguredStage("requests", requests, Config(shard_size=2))
    file = write(tmp_path / "r.jsonl", *({"name": f"n{i}"} for i in range(7)))
    context = context_for(store, file)

    class StopsAtTheThird(threading.Event):
        asked = 0

        def is_set(self) -> bool:
            self.asked += 1
            return self.asked == 3

    context.stop = StopsAtTheThird()
    with pytest.raises((Stopped, StageFailed)):
        run_stage(stage, context)
    assert Drafts(store, REQUESTS, "r").drafted() == ["0", "1"]
    take_in(store, file, config)
    assert [row["shard"] for row in rows_of(store)] == [0, 0, 1, 1, 2, 2, 3]


def test_a_changed_default_changes_only_the_requests_that_rely_on_it(store, tmp_path) -> None:
    file = write(tmp_path / "r.jsonl", *({"name": f"n{i}", **({"seconds": 3} if i > 1 else {})} for i in range(6)))
    take_in(store, file)
    before = {row["name"]: row["request_id"] for row in rows_of(store)}
    result = take_in(store, file, Config(seconds=5.0, max_seconds=600, max_takes=9, shard_size=512))
    after = {row["name"]: row["request_id"] for row in rows_of(store)}
    assert (result.counts.made, result.counts.reused) == (2, 4)
    assert {name for name in after if after[name] != before[name]} == {"n0", "n1"}


def test_no_setting_of_the_stage_is_part_of_the_identity_of_its_table() -> None:
    assert set(Config.NOT_IDENTITY) == set(Config.model_fields)


def test_an_order_that_is_only_reordered_makes_nothing(store, tmp_path) -> None:
    lines = [{"name": f"n{i}"} for i in range(4)]
    take_in(store, write(tmp_path / "r.jsonl", *lines))
    file = write(tmp_path / "r.jsonl", *reversed(lines))
    plan = plan_stage(ConfiguredStage("requests", requests, Config()), context_for(store, file), True)
    assert (plan.make, plan.reuse, plan.drop, plan.jobs) == (0, 4, 0, ("all",))
    result = take_in(store, file)
    assert (result.counts.made, result.counts.reused) == (0, 4)
    assert [row["name"] for row in rows_of(store)] == ["n3", "n2", "n1", "n0"]


def test_a_line_that_is_gone_is_no_longer_refused(store: Store, tmp_path: Path) -> None:
    take_in(store, write(tmp_path / "r.jsonl", {"name": "a"}, {"name": "b", "seconds": -1}))
    assert "line 2" in rejects_of(store)
    take_in(store, write(tmp_path / "r.jsonl", {"name": "a"}))
    assert rejects_of(store) == {}


def test_a_file_with_every_line_refused_fails_the_stage(store: Store, tmp_path: Path) -> None:
    file = write(tmp_path / "r.jsonl", {"second": 1})
    context = context_for(store, file)
    context.settings = Settings(store=store.url, requests=str(file))
    with pytest.raises(StageFailed, match="refused 1 of 1"):
        run_stage(ConfiguredStage("requests", requests, Config()), context)


def test_a_referenced_file_is_identified_by_its_content(store: Store, tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    tone = np.sin(np.arange(8000) / 5.0)
    soundfile.write(tmp_path / "hum.wav", tone, 8000)
    take_in(store, write(tmp_path / "r.jsonl", {"melody": "file:hum.wav"}))
    first = rows_of(store)[0]
    assert first["melody"] == f"file:{tmp_path}/hum.wav"

    (tmp_path / "hum.wav").rename(tmp_path / "a" / "moved.wav")
    take_in(store, write(tmp_path / "r.jsonl", {"melody": f"file:{tmp_path}/a/moved.wav"}))
    assert rows_of(store)[0]["request_id"] == first["request_id"]

    soundfile.write(tmp_path / "a" / "moved.wav", tone * 0.5, 8000)
    take_in(store, write(tmp_path / "r.jsonl", {"melody": f"file:file://{tmp_path}/a/moved.wav"}))
    assert rows_of(store)[0]["request_id"] != first["request_id"]


def test_a_refused_request_is_accepted_once_its_track_exists(store: Store, tmp_path: Path) -> None:
    file = write(tmp_path / "r.jsonl", {"melody": "title:New One"}, {"name": "x"})
    take_in(store, file)
    assert "line 1" in rejects_of(store)
    new = {"track_id": "dddd" * 16, "title": "New One"}
    store.write_shard(TRACKS, "t", "1", pa.Table.from_pylist([new], schema=TRACKS.schema), "k")
    take_in(store, file)
    assert rows_of(store)[0]["melody"] == f"track:{'dddd' * 16}"
    assert rejects_of(store) == {}


def test_hostile_titles_are_only_names(store: Store, tmp_path: Path) -> None:
    hostile = TRACK_ROWS[2]
    take_in(store, write(tmp_path / "r.jsonl", {"melody": f"title:{hostile['artist']}/{hostile['title']}"}))
    assert rows_of(store)[0]["melody"] == f"track:{hostile['track_id']}"


def test_the_demo_set_refers_to_pieces_of_the_demo_corpus(tmp_path: Path) -> None:
    store = Store(str(tmp_path / "store"))
    pieces = [compose(0, index) for index in range(Recipe().demo.pieces)]
    tracks = [{"track_id": f"{i:064x}", "title": p.title, "artist": p.artist} for i, p in enumerate(pieces)]
    store.write_shard(TRACKS, "t", "0", pa.Table.from_pylist(tracks, schema=TRACKS.schema), "k")
    piece = {"piece_id": "0-0000", "title": pieces[0].title}
    store.write_shard(PIECES, "p", "0", pa.Table.from_pylist([piece], schema=PIECES.schema), "k")
    result = take_in(store, None, Config(default_set="demo"))
    rows = rows_of(store)
    assert result.counts.refused == 0
    assert len(rows) >= 24
    assert {"melody", "clap", "prompt", "bpm", "meter", "chords", "key"} <= {
        name for row in rows for name, value in row.items() if value is not None
    }
    assert all(4 <= row["seconds"] <= 30 for row in rows)


@pytest.mark.parametrize("default_set", ["text", "demo"])
def test_a_store_without_the_demo_corpus_gets_the_text_set(tmp_path: Path, default_set: str) -> None:
    store = Store(str(tmp_path / "store"))
    result = take_in(store, None, Config(default_set=default_set))
    assert result.counts.refused == 0
    assert result.counts.made == 8


def test_an_explicit_guidance_makes_another_request_with_the_same_seed(store: Store, tmp_path: Path) -> None:
    found = []
    for line in ({"description": "x"}, {"description": "x", "guidance": 3}):
        take_in(store, write(tmp_path / "r.jsonl", line))
        found += rows_of(store)
    assert [row["guidance_asked"] for row in found] == [False, True]
    assert [row["guidance"] for row in found] == [3.0, 3.0]
    assert found[0]["request_id"] != found[1]["request_id"]  # a model that has learned guidance makes two clips of them
    assert found[0]["seed"] == found[1]["seed"]
