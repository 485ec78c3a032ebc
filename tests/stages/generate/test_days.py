"""The date in a clip's tags: the day on which its take was first made, also when the clip is made again later."""

import io
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest
import soundfile

from schemas.tables import CLIPS, GENERATIONS, VERDICTS
from stages import decode, generate
from stages.audio.marks import read_own_tags
from stages.pipeline.plans import ConfiguredStage
from stages.pipeline.runner import run_stage
from tests.worlds.gate_world import GateWorld, passed
from tests.worlds.generation_world import generate_rows

BEFORE_MIDNIGHT = datetime(2026, 5, 4, 23, 59, 59, tzinfo=UTC)
AFTER_MIDNIGHT = datetime(2026, 5, 5, 0, 0, 1, tzinfo=UTC)


def set_clock(monkeypatch: pytest.MonkeyPatch, now: datetime) -> None:
    class Clock(datetime):
        @classmethod
        def now(cls, tz: object = None) -> datetime:  # type: ignore[override]
            return now

    monkeypatch.setattr(generate, "datetime", Clock)


def files(world: GateWorld, version: str = "d") -> dict[tuple[str, int], bytes]:
    """The clips of a world's generations, newly written."""
    world.store.write_shard(VERDICTS, "v", "0", passed(world.store.read(GENERATIONS, "g").to_pylist()), "k")
    versions = {"verdicts": "v", "generations": "g", "requests": "r"}
    context = replace(world.context(version), stage="decode", versions=versions)
    run_stage(ConfiguredStage("decode", decode, decode.Config.model_validate({"codec": str(world.codec)})), context)
    rows = world.store.read(CLIPS, version).to_pylist()
    return {(row["request_id"], row["take"]): world.store.read_bytes(row["path"]) for row in rows}


def day(data: bytes) -> str:
    return read_own_tags(io.BytesIO(data))["date"]


def test_a_clip_made_again_on_another_day_is_the_same_file_and_a_new_take_has_its_own_day(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    set_clock(monkeypatch, BEFORE_MIDNIGHT)
    world = GateWorld(tmp_path, [{"takes": 1}])
    first = files(world)
    set_clock(monkeypatch, AFTER_MIDNIGHT)
    generate_rows(world.store, [{"takes": 2}])  # continues: the existing take stays as it was made
    again = files(world, "again")
    assert first.items() <= again.items()
    assert [day(again[key]) for key in sorted(again)] == ["2026-05-04", "2026-05-05"]


def test_two_complete_runs_on_two_days_differ_only_in_the_date_tag(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = []
    for now in (BEFORE_MIDNIGHT, AFTER_MIDNIGHT):
        set_clock(monkeypatch, now)
        made.append(files(GateWorld(tmp_path / now.strftime("%d"), [{"takes": 2}])))
    one, other = made
    assert one.keys() == other.keys()
    for key, data in one.items():
        assert (day(data), day(other[key])) == ("2026-05-04", "2026-05-05")
        assert data.replace(b"date=2026-05-04", b"date=2026-05-05") == other[key]
        assert (soundfile.read(io.BytesIO(data))[0] == soundfile.read(io.BytesIO(other[key]))[0]).all()
