"""Shards are grouped into jobs by their expected time."""

from datetime import UTC, datetime
from pathlib import Path
from types import ModuleType

import pyarrow as pa
import pytest

from flows.runs.job_sizes import JOB_SECONDS, expected_seconds, sized_jobs
from schemas import Config, Settings, Store
from schemas.tables import CLIPS, GENERATIONS, REQUESTS, RUNS, TOKENS, TRACKS, Table
from schemas.weights import WeightsLibrary
from stages.pipeline.contract import Context
from stages.pipeline.plans import ConfiguredStage

SHARDS = [str(number) for number in range(12)]


def stage(name: str, writes: Table, *reads: Table) -> ConfiguredStage:
    module = ModuleType(name)
    module.READS, module.WRITES = reads, writes  # type: ignore[attr-defined]
    module.shard = lambda: None  # type: ignore[attr-defined]
    return ConfiguredStage(name, module, Config())


GENERATE = stage("generate", GENERATIONS, REQUESTS)
DECODE = stage("decode", CLIPS, GENERATIONS, REQUESTS)
TOKENIZE = stage("tokenize", TOKENS, TRACKS)


@pytest.fixture
def context(tmp_path: Path) -> Context:
    """Twelve shards of four clips of 10 s each, in two takes, the last shard's twice as long; recordings of 100 s."""
    store = Store(str(tmp_path / "store"))
    for shard in SHARDS:
        seconds = 20.0 if shard == "11" else 10.0
        requests = [{"request_id": f"{shard}-{number}", "seconds": seconds, "takes": 2} for number in range(4)]
        store.write_shard(REQUESTS, "r", shard, pa.Table.from_pylist(requests, REQUESTS.schema), input_key="all")
        tracks = [{"track_id": shard, "seconds": 100.0}]
        store.write_shard(TRACKS, "t", shard, pa.Table.from_pylist(tracks, TRACKS.schema), input_key="all")
    settings, versions = Settings(store=store.url), {"requests": "r", "generations": "g", "tracks": "t"}
    return Context(store, settings, "run", "decode", "v", versions, WeightsLibrary(store))


def ran(context: Context, **seconds_a_row: float) -> None:
    rows = [
        {
            **{"run_id": "run", "stage": name, "started_at": datetime(2026, 1, 1, tzinfo=UTC)},
            **{"seconds": 100 * seconds, "rows_made": 100, "sequence": 1},
        }
        for name, seconds in seconds_a_row.items()
    ]
    context.store.write_shard(RUNS, "1", "all", pa.Table.from_pylist(rows, RUNS.schema), input_key="all")


def test_the_expected_time_of_a_shard_is_its_seconds_of_sound_times_the_rate_of_earlier_runs(context: Context) -> None:
    ran(context, decode=13.0, tokenize=7.0)
    expected = expected_seconds(DECODE, context, SHARDS)
    assert expected["0"] == pytest.approx(12 * 8 * 13.0 * 80 / (11 * 80 + 160))
    assert expected["11"] == pytest.approx(2 * expected["0"])
    assert expected_seconds(TOKENIZE, context, SHARDS) == pytest.approx(dict.fromkeys(SHARDS, 7.0))


def test_short_shards_are_grouped_into_jobs_and_long_shards_are_a_job_each(context: Context) -> None:
    ran(context, decode=0.1, generate=10.0)
    few = sized_jobs(DECODE, context, SHARDS, places=1)
    assert few == [("0", "1", "2"), ("3", "4", "5"), ("6", "7", "8"), ("9", "10"), ("11",)]
    assert sized_jobs(GENERATE, context, SHARDS, places=1) == [("11",), *((shard,) for shard in SHARDS[:-1])]


def test_a_job_of_several_shards_is_expected_to_take_a_minute_at_most(context: Context) -> None:
    ran(context, tokenize=25.0)
    jobs = sized_jobs(TOKENIZE, context, SHARDS, places=1)
    assert jobs == [(SHARDS[number], SHARDS[number + 1]) for number in range(0, 12, 2)]
    assert 2 * 25.0 <= JOB_SECONDS < 3 * 25.0


def test_every_place_gets_several_jobs_and_few_shards_are_a_job_each(context: Context) -> None:
    ran(context, decode=0.1)
    assert len(sized_jobs(DECODE, context, SHARDS, places=2)) > 6
    assert sized_jobs(DECODE, context, SHARDS, places=3) == [(shard,) for shard in SHARDS]
    assert sized_jobs(DECODE, context, SHARDS[:4], places=1) == [(shard,) for shard in SHARDS[:4]]


def test_without_earlier_runs_each_shard_is_a_job(context: Context) -> None:
    assert sized_jobs(DECODE, context, SHARDS, places=1) == [(shard,) for shard in SHARDS]
    assert sized_jobs(DECODE, context, ["all"], places=1) == [("all",)]
