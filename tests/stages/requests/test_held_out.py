"""Requests made from held-out tracks: what each asks for, and which tracks are chosen."""

from pathlib import Path

import pyarrow as pa
import pytest

from schemas import Settings, Store
from schemas.tables import HARMONY, REQUESTS, RHYTHM, TRACKS, Table
from schemas.weights import WeightsLibrary
from stages import requests
from stages.pipeline.contract import Context
from stages.pipeline.plans import ConfiguredStage
from stages.pipeline.runner import run_stage
from stages.requests import Config

FILE_LINES = 'name,description\nhand,"by hand"\n'


def track(number: int, split: str, **changes: object) -> dict:
    row = {"track_id": f"{number:04d}" * 16, "title": f"Piece {number}", "artist": f"Artist {number}", "split": split}
    return (
        row | {"seconds": 12.0, "description": f"words {number}", "key": "A minor", "bpm": 120.0, "shard": 0} | changes
    )


def chord(start: float, end: float, root: int, quality: str = "maj") -> dict:
    return {"start": start, "end": end, "root": root, "quality": quality, "bass": root, "confidence": 1.0}


def rhythm(number: int, first: float = 0.0, beats_per_bar: int | None = 4) -> dict:
    beats = [first + 0.5 * beat for beat in range(24)]
    downbeats = beats[::beats_per_bar] if beats_per_bar else []
    row = {"track_id": f"{number:04d}" * 16, "beats": beats, "downbeats": downbeats}
    return row | {"beats_per_bar": beats_per_bar, "bpm": 120.0, "confidence": 1.0}


def harmony(number: int, *chords: dict) -> dict:
    return {"track_id": f"{number:04d}" * 16, "chords": list(chords), "key": "A minor", "key_confidence": 1.0}


class World:
    """A store of held-out tracks, and the requests made from them."""

    def __init__(self, folder: Path) -> None:
        self.store = Store(str(folder / "store"))
        self.versions: dict[str, str] = {}
        self.file = folder / "requests.csv"
        self.file.write_text(FILE_LINES)

    def write(self, table: Table, *rows: dict) -> None:
        self.store.write_shard(table, "v", "0", pa.Table.from_pylist(list(rows), schema=table.schema), "k")
        self.versions[table.name] = "v"

    def held_out(self, count: int, seconds: float = 6.0, file: str | None = None) -> dict[str, dict]:
        settings = Settings(store=self.store.url, requests=file, max_refused=0.0)
        context = Context(self.store, settings, "run", "requests", "r", self.versions, WeightsLibrary(self.store))
        config = Config(held_out=count, held_out_seconds=seconds)
        run_stage(ConfiguredStage("requests", requests, config), context)
        rows = self.store.read(REQUESTS, "r").to_pylist()
        assert [row for row in rows if not row["name"].startswith("held-out")]
        return {row["name"]: row for row in rows if row["name"].startswith("held-out")}


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def test_a_request_from_a_held_out_track_asks_for_the_facts_of_the_track(world: World) -> None:
    world.write(TRACKS, track(1, "test"), track(2, "train"))
    world.write(RHYTHM, rhythm(1))
    world.write(HARMONY, harmony(1, chord(0, 2, 9, "min"), chord(2, 3, 5), chord(3, 12, 7)))
    [(name, row)] = world.held_out(10).items()
    assert name == "held-out 000100010001"
    assert row["melody"] == f"track:{'0001' * 16}"
    asked = {column: row[column] for column in ("description", "key", "bpm", "meter", "chords", "seconds")}
    assert asked == {
        **{"description": "words 1", "key": "A minor", "bpm": 120.0, "meter": "4/4", "seconds": 6.0},
        "chords": "Am | F G | G",
    }


def test_melody_and_bars_are_asked_together_only_if_they_begin_together(world: World) -> None:
    world.write(TRACKS, track(1, "valid"))
    world.write(RHYTHM, rhythm(1, first=0.7))
    world.write(HARMONY, harmony(1, chord(0, 2.7, 0), chord(2.7, 12, 5)))
    [row] = world.held_out(10).values()
    assert (row["melody"], row["chords"]) == (None, "C | F | F")


def test_a_track_without_bars_is_asked_for_by_its_melody(world: World) -> None:
    world.write(TRACKS, track(1, "valid"))
    world.write(RHYTHM, rhythm(1, beats_per_bar=None))
    [row] = world.held_out(10).values()
    assert (row["melody"], row["bpm"], row["meter"], row["chords"]) == (f"track:{'0001' * 16}", 120.0, None, None)


def test_bars_of_three_beats_have_one_chord_each(world: World) -> None:
    world.write(TRACKS, track(1, "valid"))
    world.write(RHYTHM, rhythm(1, beats_per_bar=3))
    world.write(HARMONY, harmony(1, chord(0, 0.7, 0), chord(0.7, 12, 5)))
    [row] = world.held_out(10, seconds=3.0).values()
    assert (row["meter"], row["chords"]) == ("3/4", "F | F")


def test_new_tracks_do_not_change_a_complete_set(world: World) -> None:
    world.write(TRACKS, *(track(number, "test") for number in range(4)))
    before = world.held_out(3)
    world.write(TRACKS, *(track(number, "test") for number in range(40)))
    assert world.held_out(3) == before
    assert len(world.held_out(5)) == 5
    assert before.keys() <= world.held_out(5).keys()


def test_tracks_shorter_than_a_clip_are_left_out(world: World) -> None:
    world.write(TRACKS, track(1, "test", seconds=5.9), track(2, "test", seconds=6.0))
    assert world.held_out(3).keys() == {"held-out 000200020002"}


def test_an_order_of_the_user_gets_no_additional_requests(world: World) -> None:
    world.write(TRACKS, track(1, "test"))
    assert world.held_out(3, file=str(world.file)) == {}
