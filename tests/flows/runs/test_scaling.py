"""The cost of a larger catalog: linear in the rates of a real store, and divided among workers by shards."""

from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pyarrow as pa
import pytest

import stages.decode
import stages.evaluate.measures
import stages.ingest
import stages.nearest
import stages.originality
import stages.tokenize
import stages.train
from flows.cli import run_command
from flows.runs.scaling import (
    BENCHMARKED,
    BENCHMARKS,
    Rates,
    Size,
    StageRate,
    TableRate,
    growth,
    measure_rates,
    total_lines,
)
from schemas import Store
from schemas.storage.drafts import Drafts
from schemas.storage.publications import Publications
from schemas.tables import CLIPS, ORIGINALITY, PRINTS, RUNS, TOKENS, TRACKS, Row, Table
from tests.benchmarks.keeping import read_machines

STAGES = {"ingest": stages.ingest, "tokenize": stages.tokenize, "train": stages.train, "decode": stages.decode}
STAGES |= {"originality": stages.originality}
SECONDS = {"ingest": 8.0, "tokenize": 20.0, "train": 300.0, "originality": 6.0}


def publish(store: Store, table: Table, rows: list[Row]) -> float:
    """Make a table of two shards that users see, and return its bytes."""
    version = f"{table.name}-1"
    for shard, part in enumerate((rows[:2], rows[2:])):
        store.write_shard(table, version, str(shard), pa.Table.from_pylist(part, table.schema), input_key="all")
    Publications(store).publish("run", table.name, {table.name: (version, Drafts(store, table, version).manifest())})
    return float(sum(store.size(store.shard_path(table, version, shard)) or 0 for shard in ("0", "1")))


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """Three recordings of 40 s, three clips of 5 s, and a run of all stages but one."""
    store = Store(str(tmp_path / "store"))
    tracks = [f"track-{number}" for number in range(3)]
    publish(store, TRACKS, [{"track_id": track, "seconds": 40.0, "shard": 0} for track in tracks])
    for shard, track in enumerate(tracks):
        rows = pa.Table.from_pylist([{"track_id": track, "seconds": 40.0, "quads": [1]}], PRINTS.schema)
        store.write_shard(PRINTS, "tracks-1", str(shard), rows, input_key="all")
    publish(store, TOKENS, [{"track_id": track, "frames": 3, "codes": [[1, 2, 3]]} for track in tracks])
    clips = [{"request_id": name, "take": 1} for name in ("a", "b", "c")]
    publish(store, CLIPS, [clip | {"seconds": 5.0, "bytes": 1000, "path": "x"} for clip in clips])
    publish(store, ORIGINALITY, clips)
    made = {"ingest": 3, "tokenize": 3, "train": 1, "originality": 3}
    runs = [
        {
            **{"run_id": "run", "stage": stage, "started_at": datetime(2026, 1, 1, tzinfo=UTC)},
            **{"seconds": seconds, "rows_made": made[stage], "sequence": 1},
        }
        for stage, seconds in SECONDS.items()
    ]
    store.write_shard(RUNS, "1", "all", pa.Table.from_pylist(runs, RUNS.schema), input_key="all")
    return store


@pytest.fixture
def rates(store: Store) -> Rates:
    configured = {
        name: SimpleNamespace(module=module, config=SimpleNamespace(shard_size=2)) for name, module in STAGES.items()
    }
    return measure_rates(SimpleNamespace(store=store, stages=configured))  # type: ignore[arg-type]


def stage(rates: Rates, name: str) -> StageRate:
    return next(rate for rate in rates.stages if rate.stage == name)


def table(rates: Rates, name: str) -> TableRate:
    return next(rate for rate in rates.tables if rate.table == name)


def test_the_estimate_for_the_stores_own_size_equals_its_measured_time_and_bytes(store: Store, rates: Rates) -> None:
    assert rates.size == Size(tracks=3, track_seconds=40.0, clips=3, clip_seconds=5.0)
    for name, seconds in SECONDS.items():
        assert stage(rates, name).seconds_of(rates.size) == pytest.approx(seconds)
    for written in (TRACKS, TOKENS, CLIPS, ORIGINALITY):
        files = Publications(store).shown_files([written.name])[written.name]
        held = table(rates, written.name)
        assert held.bytes_of(rates.size) == pytest.approx(sum(store.size(file) or 0 for file in files))
        assert held.rows_of(rates.size) == 3
    assert table(rates, PRINTS.name).rows_of(rates.size) == 3
    assert table(rates, "audio").bytes_of(rates.size) == pytest.approx(3000)


@pytest.mark.parametrize("times", [2, 1000, 10**6])
def test_a_catalog_n_times_as_large_takes_n_times_as_much(rates: Rates, times: int) -> None:
    more = rates.size.model_copy(update={"tracks": 3 * times})
    longer = rates.size.model_copy(update={"track_seconds": 40.0 * times})
    for name in ("ingest", "tokenize"):
        for size in (more, longer):
            assert stage(rates, name).seconds_of(size) == pytest.approx(times * SECONDS[name])
    assert stage(rates, "train").seconds_of(more) == pytest.approx(SECONDS["train"])
    assert table(rates, "tokens").bytes_of(longer) == pytest.approx(times * table(rates, "tokens").bytes_of(rates.size))
    assert table(rates, "tracks").bytes_of(longer) == pytest.approx(table(rates, "tracks").bytes_of(rates.size))
    assert table(rates, "tracks").rows_of(more) == 3 * times
    assert table(rates, "tokens").files_of(more) == -(-3 * times // 2)


def test_a_longer_recording_has_more_peaks_in_its_fingerprint_and_no_more_quads(store: Store, rates: Rates) -> None:
    files = [store.shard_path(PRINTS, "tracks-1", str(shard)) for shard in range(3)]
    whole = sum(store.size(file) or 0 for file in files)
    quads = sum(store.column_bytes(file)["quads"] for file in files)
    longer = rates.size.model_copy(update={"track_seconds": 40.0 * 21})
    assert table(rates, PRINTS.name).bytes_of(rates.size) == pytest.approx(whole)
    assert table(rates, PRINTS.name).bytes_of(longer) == pytest.approx(quads + 21 * (whole - quads))


def test_originality_grows_with_the_sum_of_clips_and_tracks_and_not_with_their_product(rates: Rates) -> None:
    compares = stage(rates, "originality")
    both = rates.size.model_copy(update={"tracks": 300, "clips": 30})
    assert compares.seconds_of(both) == pytest.approx(100 * SECONDS["originality"])
    clips = rates.size.model_copy(update={"clips": 300})
    assert compares.seconds_of(clips) == pytest.approx(100 * SECONDS["originality"])
    every_pair = compares.model_copy(update={"grows": "clips × tracks", "by_tracks": None})
    assert every_pair.seconds_of(both) == pytest.approx(15 * 120 * 1000 * (every_pair.seconds or 0))


def test_workers_share_whole_shards_of_stages_that_have_shards(rates: Rates) -> None:
    size = rates.size.model_copy(update={"tracks": 20})  # ten shards of two
    spreads, alone = stage(rates, "tokenize"), stage(rates, "ingest")
    whole = spreads.seconds_of(size)
    assert whole is not None
    shares = {1: 1.0, 2: 0.5, 4: 0.3, 10: 0.1, 64: 0.1}
    assert {workers: spreads.seconds_of(size, workers) for workers in shares} == pytest.approx(
        {workers: whole * share for workers, share in shares.items()}
    )
    assert alone.seconds_of(size, 64) == alone.seconds_of(size)


def test_stages_that_never_ran_are_estimated_from_the_benchmarks_or_listed_as_unknown(rates: Rates) -> None:
    decode = stage(rates, "decode")
    assert decode.measured_by == "benchmarks"
    assert decode.seconds_of(rates.size) == pytest.approx(15 * BENCHMARKS["decode"])
    assert stage(rates, "tokenize").measured_by == "this store"
    unknown = decode.model_copy(update={"stage": "gate", "seconds": None, "measured_by": ""})
    told = "\n".join(total_lines(rates.model_copy(update={"stages": (*rates.stages, unknown)}), rates.size, 1))
    assert "unknown: gate," in told
    assert BENCHMARKED in told


@pytest.mark.parametrize(
    ("module", "expected"),
    [
        (stages.ingest, "tracks"),
        (stages.train, "nothing"),
        (stages.nearest, "clips × tracks"),
        (stages.originality, "clips + tracks"),
        (stages.evaluate.measures, "clips"),
    ],
)
def test_the_growth_of_a_stage_follows_from_its_tables(module: ModuleType, expected: str) -> None:
    assert growth(module) == expected


def test_the_rates_of_the_benchmarks_are_those_of_the_stored_results() -> None:
    machine = next(machine for machine in read_machines() if machine.name == BENCHMARKED)

    def kept(subject: str, what: str) -> float:
        figure = machine.figure(subject, what)
        assert figure is not None
        return figure.ours

    found: dict[str, Callable[[], float]] = {
        "ingest": lambda: 1 / kept("Ingest", "sound taken in"),
        **{name: lambda name=name: kept("From recordings", name) for name in ("chroma", "clap", "tokenize")},  # type: ignore[misc]
        "generate": lambda: kept("Generation", "bfloat16, batch 8") / 1000 * 50 / 8,
        "decode": lambda: kept("Tokenizing", "decoding"),
    }
    assert {name: read() for name, read in found.items()} == pytest.approx(dict(BENCHMARKS), rel=1e-3)


def test_a_catalog_of_a_given_size_can_be_planned_for_an_empty_store(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["plan", "--preset", "miniature", "--store", str(tmp_path / "store"), "--estimate", "1000"]
    assert run_command(command) == 2
    assert "--track-seconds" in capsys.readouterr().err
    assert run_command([*command, "--track-seconds", "210", "--workers", "8"]) == 0
    told = capsys.readouterr().out
    assert told.startswith("1,000 recordings of 210.0 s, no clips")
    assert "benchmarks" in told
    assert not (tmp_path / "store" / "runs").exists()


def test_sizes_without_an_estimate_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command(["plan", "--store", str(tmp_path), "--workers", "8"]) == 2
    assert "--estimate TRACKS" in capsys.readouterr().err
