"""The numbers of docs/scaling.md, computed from stored rates.

`python -m docs.scaling STORE` measures the rates again from the runs and files of a store, on the machine that the runs
ran on. With `--check` it only says whether the store has the rates that are stored. With `--copies` it also searches
for near-duplicates, which takes half an hour of a core; without it, the last time for that stays.

`docs/scaling.json` has the rates of one store, with that machine's processor. All tables of the page follow from it,
from the benchmarks' figures and from the goals of the GPU script; `python -m docs.generate` writes them.
"""

import json
import math
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType

from pydantic import BaseModel

from flows.recipes.recipe import Recipe
from flows.runs.estimates import amount
from flows.runs.scaling import BENCHMARKED, BENCHMARKS, BOUNDS, Rates, Size, StageRate, growth, measure_rates
from schemas import Settings, Store
from stages.ingest.duplicates import BLOCK
from stages.pipeline.durations import duration
from stages.pipeline.parts import MOST_ITEMS
from stages.pipeline.pipeline import Pipeline
from tests.benchmarks.results import table

KEPT = Path(__file__).with_name("scaling.json")

MILLION = Size(tracks=1_000_000, track_seconds=210.0, clips=100_000, clip_seconds=30.0)
HUNDRED_MILLION = MILLION.model_copy(update={"tracks": 100_000_000})
WORKERS = (1, 8, 64)

TASK_BYTES = 27e3
"""Bytes of a task in Prefect's SQLite file: Prefect 3.8.8, measured by the growth of the file over runs of many
tasks."""
SUBJECT_BYTES = 160.0
"""Bytes of memory for a second of a clip: 12 peaks of 5 bytes each, and 50 codes of two bytes."""
COPIES_RECORDINGS, COPIES_SECONDS = 16_000, 240.0
"""The number of recordings among which near-duplicates are searched for, and their length in seconds."""
PLAN_SECONDS, PLAN_MEGABYTES = "time by the wall", "memory at its highest"


class CopiesRate(BaseModel):
    """What searching for near-duplicates took (`tests.benchmarks.copies`)."""

    recordings: int
    """How many recordings were compared, in the way of a first ingest."""
    recording_seconds: float
    seconds: float
    """Seconds of one core."""


class KeptRates(BaseModel):
    """The content of `docs/scaling.json`."""

    processor: str
    circumstances: str
    copies: CopiesRate
    rates: Rates


def read_kept() -> KeptRates:
    """Return the stored rates."""
    return KeptRates.model_validate_json(KEPT.read_text())


def rates_table() -> str:
    """Return the table of what the store's runs took, for each unit by which it is extrapolated."""
    kept = read_kept().rates
    rows = [
        [f"`{rate.stage}`", _unit(rate), f"{rate.seconds:.3g}", rate.spreads_words]
        for rate in kept.stages
        if rate.seconds is not None and rate.measured_by == "this store"
    ]
    return table(["stage", "for each", "seconds", "spreads"], rows)


def _unit(rate: StageRate) -> str:
    units = {
        "tracks": "recording",
        "clips": "clip",
        "clips × tracks": "clip × second of recording",
        "clips + tracks": f"clip, or for each {rate.seconds / rate.by_tracks:.0f} s of recording"
        if rate.seconds and rate.by_tracks
        else "clip",
    }
    if rate.grows == "nothing":
        return "run, whatever its size"
    return f"second of {units[rate.grows]}" if rate.by_sound else units[rate.grows]


def million_table() -> str:
    """Return the table of the stages for a million recordings, at the store's rates on several such machines."""
    return _stages(read_kept().rates.stages)


def published_table() -> str:
    """Return the same table for networks of published sizes, at the rates of the benchmarks."""
    return _stages(_benchmarked())


def _benchmarked() -> list[StageRate]:
    stages = {stage.name: stage.module for stage in Recipe().configured_stages("")}
    return [
        StageRate(
            stage=name,
            grows=growth(stages[name]),
            by_sound=True,
            spreads=True,
            rows_a_shard=_rows_a_job(stages[name]),
            seconds=seconds,
            measured_by="benchmarks",
        )
        for name, seconds in BENCHMARKS.items()
    ]


def _rows_a_job(stage: ModuleType) -> int:
    if hasattr(stage, "read_part"):
        return MOST_ITEMS
    return 512 if growth(stage) == "tracks" else 64


def _stages(rates: tuple[StageRate, ...] | list[StageRate]) -> str:
    rows = [
        [f"`{rate.stage}`", *(_hours(rate.seconds_of(MILLION, workers), rate) for workers in WORKERS)] for rate in rates
    ]
    return table(["stage", *(f"on {workers}, h" for workers in WORKERS)], rows)


def _hours(seconds: float | None, rate: StageRate) -> str:
    if seconds is None:
        return ""
    sign = "≤ " if rate.grows in BOUNDS else ""
    return f"{sign}{_number(seconds / 3600)}"


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.2g}"


def sizes_table() -> str:
    """Return the sizes of tables for a million recordings and a hundred thousand clips."""
    tables = read_kept().rates.tables
    rows = [
        [f"`{rate.table}`", f"{rate.rows_of(MILLION):,}", f"{rate.files_of(MILLION):,}", amount(rate.bytes_of(MILLION))]
        for rate in tables
    ]
    rows.append(
        [
            "all",
            f"{sum(rate.rows_of(MILLION) for rate in tables):,}",
            f"{sum(rate.files_of(MILLION) for rate in tables):,}",
            amount(sum(rate.bytes_of(MILLION) for rate in tables)),
        ]
    )
    return table(["table", "rows", "files", "bytes"], rows)


def gpu_table() -> str:
    """Return the table of what the goals of the GPU script would mean if they were reached; nobody has measured
    them."""
    from tests.benchmarks.gpu import AUDIO_GOALS, DATA_SHEET, TOKENIZING_GOAL, UTILISATION_GOAL

    sound, clips = MILLION.units("tracks", True), MILLION.units("clips", True)
    speed = AUDIO_GOALS["small", 128]
    products = UTILISATION_GOAL / 100 * DATA_SHEET["H100"]
    rows = [
        (
            "tokenize, a million recordings",
            f"{TOKENIZING_GOAL:,.0f} × real time, `TOKENIZING_GOAL`",
            sound / TOKENIZING_GOAL,
        ),
        ("generate, 100,000 clips", f"{speed:.0f} s of audio a second at 128 slots, `AUDIO_GOALS`", clips / speed),
        (
            "train, `musicgen-small` whole",
            f"{UTILISATION_GOAL:.0f} % of the data sheet's {DATA_SHEET['H100'] / 1e12:.0f} TFLOP/s in bfloat16, "
            "`UTILISATION_GOAL`, `DATA_SHEET`",
            _training_products() / products,
        ),
    ]
    header = ["what", "the assumption", *(f"on {workers}, h" for workers in WORKERS)]
    return table(
        header, [[what, why, *(_number(whole / 3600 / each) for each in WORKERS)] for what, why, whole in rows]
    )


def _training_products() -> float:
    """Return the floating-point operations of the training in the preset `musicgen-small`."""
    from model.optim.mfu import training_flops

    train = Recipe(preset="musicgen-small").train
    frames = round(train.segment_seconds * 50)
    examples = train.batch_size * train.optimization.steps
    return float(training_flops(train.model.language_model, frames)) * examples


def monday_table() -> str:
    """Return the table of the stages for a hundred thousand clips on eight workers, with the store's recordings."""
    from tests.benchmarks.gpu import AUDIO_GOALS

    kept = read_kept().rates
    size = kept.size.model_copy(update={"clips": MILLION.clips, "clip_seconds": MILLION.clip_seconds})
    speed = AUDIO_GOALS["small", 128]
    benchmarked = {rate.stage: rate for rate in _benchmarked()}
    assumed = benchmarked["generate"].model_copy(update={"seconds": 1 / speed})
    rows = [("`generate` on GPUs", f"assumed: {speed:.0f} s of audio a second, a goal", assumed)]
    rows += [
        (f"`{name}`", f"benchmark, {BENCHMARKED}", benchmarked[name])
        for name in ("generate", "decode")
        if name in benchmarked
    ]
    rows += [
        (f"`{rate.stage}`", "the store's runs, miniature models", rate)
        for rate in kept.stages
        if rate.grows.startswith("clips") and rate.stage not in ("generate", "decode")
    ]
    return table(
        ["stage", "by", "on 1, h", "on 8, h"],
        [[name, by, *(_hours(rate.seconds_of(size, each), rate) for each in (1, 8))] for name, by, rate in rows],
    )


def breaks_table() -> str:
    """Return the table of what breaks first, for a million and a hundred million recordings, with the arithmetic."""
    copies = read_kept().copies
    lines: list[tuple[str, str, Callable[[Size], str]]] = [
        (
            "near-duplicates of a first ingest (`stages/ingest/duplicates.py`)",
            f"each new recording against the few that it has most in common with, on one core; "
            f"{duration(copies.seconds)} for {copies.recordings:,} of {copies.recording_seconds:.0f} s, × how many "
            "times more, × how many times longer",
            lambda size: duration(_copies(size)),
        ),
        (
            "the same, prints read",
            f"a block of {BLOCK:,} new recordings reads every shard's prints: n / {BLOCK:,} × shards",
            lambda size: f"{math.ceil(size.tracks / BLOCK) * _shards(size):,} reads of a shard",
        ),
        (
            "`originality` (`stages/originality/comparing.py`), comparisons",
            "one job; 100,000 clips and all recordings: the measured time × how many times more of either, at most",
            lambda size: f"≤ {duration(_stage('originality').seconds_of(size) or 0)}",
        ),
        (
            "`originality`, memory",
            "the clips' prints and codes are held at once: clips × seconds × 160 B, whatever the recordings",
            lambda size: amount(size.units("clips", True) * SUBJECT_BYTES),
        ),
        (
            "`ingest` (`stages/ingest`)",
            "read on one machine, on all of its cores: seconds of sound × the benchmark's rate; any number share it",
            lambda size: duration(BENCHMARKS["ingest"] * size.units("tracks", True)),
        ),
        (
            "the planner's memory (`stages/pipeline/planning.py`, `stages/ingest/listing.py`)",
            "a listing and a row of each recording in one process: the benchmark's figure, carried on",
            lambda size: amount(_plan(PLAN_MEGABYTES, size) * 1e6),
        ),
        (
            "the planner's time",
            "a look at each file and each footer, likewise",
            lambda size: duration(_plan(PLAN_SECONDS, size)),
        ),
        (
            "files in one folder",
            "a version of a table is one folder, a shard of 512 a file, listed at each plan",
            lambda size: f"{_shards(size):,} a table",
        ),
        (
            "DuckDB's views (`schemas/queries/table_views.py`)",
            "a view names all files of a table, some 60 bytes each, and `union_by_name` opens all before a query",
            lambda size: f"{_shards(size):,} files opened, {amount(60 * _shards(size))} of SQL a view",
        ),
        (
            "Prefect's SQLite",
            "a task a shard and stage that maps recordings, 27 kB each",
            lambda size: f"{_tasks(size):,} tasks, {amount(_tasks(size) * TASK_BYTES)}",
        ),
    ]
    rows = [[what, why, at(MILLION), at(HUNDRED_MILLION)] for what, why, at in lines]
    return table(["what", "the reasoning", "1 M recordings", "100 M recordings"], rows)


def _stage(name: str) -> StageRate:
    return next(rate for rate in read_kept().rates.stages if rate.stage == name)


def _shards(size: Size) -> int:
    return math.ceil(size.tracks / 512)


def _tasks(size: Size) -> int:
    mapping = [rate for rate in read_kept().rates.stages if rate.spreads and rate.grows == "tracks"]
    return sum(math.ceil(size.tracks / rate.rows_a_shard) for rate in mapping)


def _copies(size: Size) -> float:
    copies = read_kept().copies
    return copies.seconds * size.tracks / copies.recordings * size.track_seconds / copies.recording_seconds


def _plan(figure: str, size: Size) -> float:
    from tests.benchmarks.keeping import read_machines

    figures = [machine.figure("Planning", figure) for machine in read_machines()]
    measured = next(each.ours for each in figures if each is not None)
    return measured * size.tracks / 1_000_000


def provenance() -> str:
    """Return where the rates come from, as text."""
    kept = read_kept()
    size = kept.rates.size
    return (
        f"{kept.processor}. {kept.circumstances} {size.tracks:,} recordings of {size.track_seconds:.1f} s and "
        f"{size.clips:,} clips of {size.clip_seconds:.1f} s, all in all."
    )


PARTS: Mapping[str, Callable[[], str]] = {
    "provenance": provenance,
    "rates": rates_table,
    "million": million_table,
    "published": published_table,
    "sizes": sizes_table,
    "gpu": gpu_table,
    "monday": monday_table,
    "breaks": breaks_table,
}
"""The generated parts of the page, by the names of their marks."""


def measure(url: str, with_copies: bool) -> KeptRates:
    """Return the rates of a store of the preset `miniature`, and how long finding near-duplicates takes among many
    recordings. The latter is measured on recordings that are assembled from the store's own; without `with_copies`, the
    stored time is kept."""
    from tests.benchmarks.machine import describe

    return KeptRates(
        processor=describe("cpu", 2),
        circumstances="The demo's store, preset `miniature`; how busy the machine was is not known:",
        copies=_measure_copies(url) if with_copies else read_kept().copies,
        rates=_rates(url),
    )


def _measure_copies(url: str) -> CopiesRate:
    from tests.benchmarks.copies import bases_of, search

    search_result = search(bases_of(Store(url)), COPIES_RECORDINGS, COPIES_SECONDS)
    return CopiesRate(recordings=COPIES_RECORDINGS, recording_seconds=COPIES_SECONDS, seconds=search_result.seconds)


def _rates(url: str) -> Rates:
    settings = Settings(store=url)
    return measure_rates(Pipeline(Recipe(preset="miniature").configured_stages(settings.source), settings))


if __name__ == "__main__":
    if "--check" in sys.argv[2:]:
        same = _rates(sys.argv[1]) == read_kept().rates
        print(f"{sys.argv[1]} has {'the rates' if same else 'other rates than those'} that docs/scaling.json keeps")
        sys.exit(0 if same else 1)
    measured = measure(sys.argv[1], "--copies" in sys.argv[2:])
    KEPT.write_text(json.dumps(measured.model_dump(), indent=1, ensure_ascii=False) + "\n")
