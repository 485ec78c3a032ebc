"""Sound passed from the gate to `decode`: the files are the same with and without it, and sounds are never mixed up."""

import hashlib
import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from schemas import Store
from schemas.tables import CLIPS
from schemas.weights import WeightsLibrary
from stages import decode
from stages.checkpoints import codecs, decoded
from stages.checkpoints.decoded import DecodedSound, DecodedSounds
from stages.pipeline.plans import ConfiguredStage
from stages.pipeline.runner import run_stage
from tests.stages.gate.test_gate import ASKED, half_fail
from tests.worlds.gate_world import GateWorld

ROW: dict[str, Any] = {"request_id": "r", "take": 1, "cardinality": 16, "frame_rate": 25.0, "channels": 1}
ROW |= {"codec_identity": "c" * 64, "codes": [np.arange(5, dtype=np.uint16)] * 2}
SOUND = DecodedSound(np.linspace(-1, 1, 160, dtype=np.float32)[None], 800)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> GateWorld:
    return GateWorld(tmp_path_factory.mktemp("handing"), ASKED)


@pytest.fixture
def sounds(tmp_path: Path) -> DecodedSounds:
    return new_sounds(tmp_path)


def new_sounds(folder: Path, codec: str = "codec") -> DecodedSounds:
    sounds = DecodedSounds(Store(str(folder)), "v", codec)
    sounds.make_room()
    return sounds


def files(world: GateWorld, verdicts: str, version: str) -> dict[tuple[str, int], str]:
    """Run `decode` over the verdicts of a version, and return the digest of each file by request and take."""
    context = replace(
        world.context(version),
        stage="decode",
        versions={"verdicts": verdicts, "generations": "g", "requests": "r"},
        library=WeightsLibrary(world.store),
    )
    config = decode.Config.model_validate({"codec": str(world.codec)})
    run_stage(ConfiguredStage("decode", decode, config), context)
    rows = world.store.read(CLIPS, version).to_pylist()
    for row in rows:
        assert hashlib.sha256(world.store.read_bytes(row["path"])).hexdigest() == row["sha256"]
    return {(row["request_id"], row["take"]): row["sha256"] for row in rows}


def kept(world: GateWorld, version: str) -> list[Path]:
    return sorted(Path(world.store.path(f"scratch/gate-{version}")).glob("*"))


def no_codec(*_: object) -> None:
    raise AssertionError("expected the sound that was handed on, got a codec loaded")


def test_decode_uses_the_sound_kept_by_the_gate_and_makes_the_same_files(
    world: GateWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = world.verdicts(half_fail(world), "half")
    assert any(row["retake"] for row in rows.values())
    assert any(not row["passed"] for row in rows.values())
    assert len(kept(world, "half")) == len(rows)
    aside = shutil.copytree(Path(world.store.path("scratch/gate-half")), Path(world.store.path("aside")))
    with monkeypatch.context() as patched:
        patched.setattr(codecs, "borrow_codecs_of_rows", no_codec)
        handed_on = files(world, "half", "with")
    assert kept(world, "half") == []
    assert handed_on == files(world, "half", "without")

    one, *others = sorted(aside.glob("*"))  # the part that a kill has spared is used, the rest is decoded
    shutil.copy(one, world.store.path("scratch/gate-half"))
    assert len(others) > 1
    assert files(world, "half", "some") == handed_on


def test_a_damaged_kept_sound_is_decoded_again(world: GateWorld) -> None:
    world.verdicts(world.config(), "damaged")
    whole = files(world, "damaged", "first")
    world.verdicts(world.config(), "damaged2")
    for number, path in enumerate(kept(world, "damaged2")):
        data = path.read_bytes()
        path.write_bytes([data[:-400], data[:-1] + bytes([data[-1] ^ 1]), b"", b"\0" * len(data)][number % 4])
    assert files(world, "damaged2", "again") == whole


def test_a_kept_sound_is_found_bit_for_bit(sounds: DecodedSounds) -> None:
    sounds.keep(ROW, 0.2, SOUND)
    again = sounds.find(ROW, 0.2)
    assert again is not None
    assert again.sample_rate == 800
    assert np.array_equal(again.samples, SOUND.samples)


@pytest.mark.parametrize(
    ("change", "seconds", "codec"),
    [
        ({"codes": [np.arange(5)[::-1]] * 2}, 0.2, "codec"),
        ({"codec_identity": None}, 0.2, "codec"),
        ({"channels": 2}, 0.2, "codec"),
        ({"take": 2}, 0.2, "codec"),
        ({}, 0.1, "codec"),
        ({}, 0.2, "other"),
    ],
)
def test_a_kept_sound_is_not_used_for_other_codes(tmp_path: Path, change: dict, seconds: float, codec: str) -> None:
    new_sounds(tmp_path).keep(ROW, 0.2, SOUND)
    assert new_sounds(tmp_path, codec).find(ROW | change, seconds) is None


def test_a_better_try_replaces_the_kept_sound(sounds: DecodedSounds) -> None:
    better = ROW | {"codes": [np.full(5, 3)] * 2}
    sounds.keep(ROW, 0.2, SOUND)
    sounds.keep(better, 0.2, SOUND)
    assert sounds.find(ROW, 0.2) is None
    assert sounds.find(better, 0.2) is not None


def test_tries_of_one_take_need_the_room_of_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decoded, "MOST_BYTES", 2000)
    sounds = new_sounds(tmp_path)
    for code in range(5):
        retake = ROW | {"codes": [np.full(5, code)] * 2}
        sounds.keep(retake, 0.2, SOUND)
        assert sounds.find(retake, 0.2) is not None


def full(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decoded, "MOST_BYTES", 1000)


def no_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", refuse)


@pytest.mark.parametrize("trouble", [full, no_disk])
def test_without_room_nothing_is_kept_and_no_file_is_half_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, trouble: Callable[[pytest.MonkeyPatch], None]
) -> None:
    trouble(monkeypatch)
    sounds = new_sounds(tmp_path)
    for take in range(1, 4):
        sounds.keep(ROW | {"take": take}, 0.2, SOUND)
    there = [take for take in range(1, 4) if sounds.find(ROW | {"take": take}, 0.2) is not None]
    assert there == ([1] if trouble is full else [])
    assert len(list(tmp_path.glob("scratch/*/*"))) == len(there)


def test_an_unused_sound_is_removed_after_a_day(sounds: DecodedSounds, tmp_path: Path) -> None:
    sounds.keep(ROW, 0.2, SOUND)
    sounds.make_room()
    assert sounds.find(ROW, 0.2) is not None
    (path,) = tmp_path.glob("scratch/gate-v/*")
    os.utime(path, (0, 0))
    sounds.make_room()
    assert sounds.find(ROW, 0.2) is None
