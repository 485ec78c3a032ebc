"""Originality: a clip that repeats training data of its model is found and quarantined, and others are not."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import soundfile

from schemas import Settings, Store
from schemas.queries.database import query
from schemas.storage.drafts import Drafts
from schemas.storage.publications import Publications
from schemas.tables import (
    CHECKPOINTS,
    CLIPS,
    GENERATIONS,
    LEARNED,
    ORIGINALITY,
    PRINTS,
    REQUESTS,
    TOKENS,
    TRACKS,
    VERDICTS,
    Table,
)
from schemas.weights import WeightsLibrary
from stages import originality
from stages.analysis.prints import quads
from stages.originality import Config
from stages.originality.judging import threshold
from stages.pipeline.contract import Context
from stages.pipeline.plans import ConfiguredStage
from stages.pipeline.runner import run_stage
from tests.worlds.planted_copies import PLANTS, RATE, excerpt, piece, print_of

LEARNED_FROM, HELD_OUT = range(6), range(6, 12)
CODE_RATE = 50.0
VERSIONS = {name: "v" for name in ("clips", "verdicts", "generations", "requests", "tracks", "tokens")}


def track(number: int) -> str:
    return f"{number:064x}"


def codes(number: int, frames: int = 600) -> np.ndarray:
    return np.random.default_rng(number).integers(0, 512, (2, frames)).astype(np.uint16)


class CopiesWorld:
    """A model that learned from six pieces, six held-out pieces, and the clips that tests add."""

    def __init__(self, folder: Path) -> None:
        self.store = Store(str(folder))
        rows: dict[str, list[dict]] = {"tracks": [], "prints": [], "tokens": []}
        for number in (*LEARNED_FROM, *HELD_OUT):
            key, peaks = {"track_id": track(number)}, print_of(piece(number))
            split = "train" if number in LEARNED_FROM else "test"
            rows["tracks"].append(key | {"split": split, "shard": number % 2, "copies_of": []})
            rows["prints"].append(
                key
                | {"seconds": len(piece(number)) / RATE, "peak_frames": peaks.frames, "peak_pitches": peaks.pitches}
                | {"quads": quads(peaks)}
            )
            rows["tokens"].append(
                key | {"codec_identity": "codec", "frame_rate": CODE_RATE, "codes": list(codes(number))}
            )
        for table in (TRACKS, PRINTS, TOKENS):
            for shard in (0, 1):
                self.put(table, rows[table.name][shard::2], str(shard))
        learned = [{"training_set": "set", "track_id": track(number)} for number in LEARNED_FROM]
        self.put(LEARNED, learned, "set", "1")
        model = {"checkpoint_id": "model", "kind": "language_model", "training_set": "set", "parents": []}
        self.put(CHECKPOINTS, [model], "model", "m")
        self.rows: dict[str, list[dict]] = {"clips": [], "verdicts": [], "generations": [], "requests": []}

    def put(self, table: Table, rows: list[dict], shard: str = "0", version: str = "v") -> None:
        self.store.write_shard(table, version, shard, pa.Table.from_pylist(rows, schema=table.schema), "by a test")

    def clip(
        self,
        name: str,
        sound: np.ndarray,
        series: np.ndarray | None = None,
        checkpoint: str = "model",
        prompt_seconds: float = 0.0,
        first_try: np.ndarray | None = None,
        **request: str,
    ) -> None:
        key = {"request_id": name, "take": 1}
        path = f"audio/version=v/{name}.flac"
        Path(self.store.path("audio/version=v")).mkdir(parents=True, exist_ok=True)
        soundfile.write(self.store.path(path), sound, RATE)
        series = codes(1000 + len(self.rows["clips"]), 300) if series is None else series
        self.rows["clips"].append(
            key
            | {"checkpoint_id": checkpoint, "path": path, "seconds": len(sound) / RATE, "sha256": name, "seed": 1}
            | {"reasons": []}
        )
        self.rows["verdicts"].append(
            key
            | {"checkpoint_id": checkpoint, "retake": int(first_try is not None), "seed": 1, "reasons": []}
            | {"codes": None if first_try is None else list(series)}
        )
        first = series if first_try is None else first_try
        self.rows["generations"].append(
            key
            | {"checkpoint_id": checkpoint, "codec_identity": "codec", "frame_rate": CODE_RATE, "codes": list(first)}
            | {"prompt_frames": round(prompt_seconds * CODE_RATE), "seed": 1}
        )
        self.rows["requests"].append({"request_id": name, "line": len(self.rows["clips"]), "shard": 0} | request)

    def run(self, **config: object) -> dict[str, dict]:
        for table in (CLIPS, VERDICTS, GENERATIONS, REQUESTS):
            self.put(table, self.rows[table.name])
        settings = Settings(store=self.store.url, device="cpu")
        context = Context(
            self.store, settings, "run", "originality", "o", VERSIONS, WeightsLibrary(self.store), identity=str(config)
        )
        run_stage(ConfiguredStage("originality", originality, Config.model_validate(config)), context)
        return {row["request_id"]: row for row in self.store.read(ORIGINALITY, "o").to_pylist()}


@pytest.fixture
def world(tmp_path):
    return CopiesWorld(tmp_path / "store")


def test_copies_of_training_data_are_too_near_and_new_pieces_are_not(world):
    copied = {
        "exact": "6 s of it",
        "lossy": "as Ogg Vorbis",
        "quiet": "3 dB quieter",
        "fast": "1 % faster",
        "shifted": "shifted by part of a frame",
    }
    for number, (name, plant) in enumerate(copied.items()):
        world.clip(name, PLANTS[plant](piece(number), piece(20), 0.4))
    for number in (30, 31, 33):
        world.clip(f"own {number}", excerpt(piece(number), 6, 0.3))
    rows = world.run()
    for number, name in enumerate(copied):
        row = rows[name]
        assert row["too_near"], name
        assert row["sound_track"] == track(number)
        assert row["sound_percentile"] == 100
        assert "equal sound" in row["reasons"][0]
    assert not any(rows[f"own {number}"]["too_near"] for number in (30, 31, 33))
    assert {row["compared"] for row in rows.values()} == {len(LEARNED_FROM)}
    assert {row["held_out"] for row in rows.values()} == {len(HELD_OUT)}


def test_equal_codes_are_found_at_any_position_and_partly_changed(world):
    series = codes(2000, 300)
    series[0, 60:260] = codes(4)[0, 333:533]
    series[0, 100:260:12] = 0
    world.clip("repeats", excerpt(piece(30), 6, 0.3), series)
    row = world.run()["repeats"]
    assert row["code_track"] == track(4)
    assert row["code_track_begin"] - row["code_begin"] == pytest.approx((333 - 60) / CODE_RATE)
    assert 3.5 < row["code_seconds"] <= 4.0
    assert row["too_near"]
    assert "equal codes" in row["reasons"][0]


def test_the_sound_and_codes_of_a_prompt_do_not_count_against_its_continuation(world):
    prompted = np.concatenate([piece(2)[: 4 * RATE], excerpt(piece(30), 6, 0.3)])
    series = np.concatenate([codes(2)[:, :200], codes(3000, 300)], axis=1)
    world.clip("continued", prompted, series, prompt_seconds=4.0, prompt=f"track:{track(2)}")
    world.clip("taken", prompted, series)
    rows = world.run()
    assert not rows["continued"]["too_near"]
    assert rows["continued"]["referred"] == [track(2)]
    assert rows["continued"]["prompt_seconds"] == 4.0
    assert rows["taken"]["too_near"]


def test_the_sound_of_a_requested_melody_is_only_reported_but_its_codes_count_against_a_clip(world):
    world.clip("melody", excerpt(piece(1), 6, 0.2), melody=f"track:{track(1)}")
    world.clip("codes", excerpt(piece(30), 6, 0.2), codes(1)[:, 100:400], melody=f"track:{track(1)}")
    rows = world.run()
    assert not rows["melody"]["too_near"]
    assert rows["melody"]["melody_seconds"] > 4
    assert rows["codes"]["too_near"]


def test_held_out_recordings_and_other_models_make_no_clip_too_near(world):
    world.clip("of held out", excerpt(piece(HELD_OUT[0]), 6, 0.3))
    world.clip("elsewhere", excerpt(piece(0), 6, 0.3), checkpoint="unknown")
    rows = world.run()
    assert not any(row["too_near"] for row in rows.values())
    assert rows["elsewhere"]["compared"] == 0
    assert rows["elsewhere"]["sound_percentile"] is None


def test_all_takes_with_the_same_codes_but_the_first_are_duplicates_even_if_short(world):
    same = codes(4000, 60)
    for name in ("first", "second", "third"):
        world.clip(name, np.sin(np.arange(int(1.2 * RATE)) / 9) * 0.1, same)  # a tone: one peak at a time
    world.clip("other", np.sin(np.arange(int(1.2 * RATE)) / 31) * 0.1)
    rows = world.run()
    assert [rows[name]["too_near"] for name in ("first", "second", "third", "other")] == [False, True, True, False]
    assert [rows[name]["nearest_request_id"] for name in ("first", "second", "third")] == ["second", "first", "first"]
    assert rows["third"]["reasons"] == ["expected an original clip, got 100% in common with request first, take 1"]
    assert rows["third"]["nearest_seconds"] == pytest.approx(1.2)


def test_the_later_of_two_equal_clips_is_a_duplicate(world):
    world.clip("z first", excerpt(piece(30), 6, 0.3))
    world.clip("a later", PLANTS["3 dB quieter"](excerpt(piece(30), 6, 0.3), piece(0), 0))
    world.clip("other", excerpt(piece(31), 6, 0.3))
    rows = world.run()
    assert [name for name, row in rows.items() if row["too_near"]] == ["a later"]
    assert rows["a later"]["nearest_request_id"] == "z first"
    assert rows["z first"]["nearest_request_id"] == "a later"
    assert not any(row["too_near"] for row in world.run(duplicates=None).values())


def test_only_clips_that_are_too_near_are_quarantined_with_their_reasons(world):
    world.clip("copy", PLANTS["3 dB quieter"](piece(2), piece(20), 0.4))
    world.clip("own", excerpt(piece(30), 6, 0.3))
    world.run()
    manifest = Drafts(world.store, CLIPS, "v").manifest()
    Publications(world.store).publish("run", "decode", {CLIPS.name: ("v", manifest)})
    (row,) = query(world.store, "SELECT request_id, stage, reasons FROM quarantine").to_pylist()
    assert (row["request_id"], row["stage"]) == ("copy", "originality")
    assert "equal sound with the training set" in row["reasons"][0]
    assert query(world.store, "SELECT request_id FROM clips").to_pylist() == [{"request_id": "own"}]


def test_the_threshold_is_above_held_out_music_and_never_below_the_knob():
    assert threshold(2.0, [], 0.99) == 2.0
    assert threshold(2.0, [0.5, 1.0, 1.5], 0.99) == 2.0
    held_out = sorted(np.random.default_rng(0).uniform(0, 8, 200))
    most = threshold(2.0, held_out, 0.99)
    assert 0.98 <= np.mean(np.array(held_out) < most) < 1
    assert max(held_out) < threshold(2.0, held_out, 1.0)


def test_a_retaken_clip_is_compared_by_the_codes_of_the_chosen_try(world):
    world.clip("copied at last", piece(20), codes(0), first_try=codes(1000, 300))
    world.clip("copied at first", piece(21), codes(1001, 300), first_try=codes(1))
    rows = world.run()
    assert rows["copied at last"]["too_near"]
    assert not rows["copied at first"]["too_near"]
