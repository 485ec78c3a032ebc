"""What a larger catalog would take: the rates of a store's own runs and files, extrapolated linearly (docs/scaling.md).

A rate is a cost divided by the quantity that it grows with. An estimate is that rate times the same quantity of the
larger catalog: twice the recordings take twice as long. Stages that compare everything with everything are an exception
(`Growth`). The seconds of stages that no run of the store has done are the benchmarks', where these have any.
"""

import math
from collections.abc import Iterator, Mapping
from types import ModuleType
from typing import TYPE_CHECKING, Literal

from pydantic import BaseModel, ConfigDict

from flows.runs.estimates import amount, latest_runs, seconds_a_row
from schemas.storage.publications import Publications
from schemas.tables import (
    CHECKPOINTS,
    CHROMA,
    CLAP,
    CLIPS,
    CONTROLS,
    GENERATIONS,
    HARMONY,
    MEASURES,
    PIECES,
    PRINTS,
    REPORTS,
    RHYTHM,
    SCORES,
    TOKENS,
    TRACKS,
    Table,
)
from stages.pipeline.durations import duration
from stages.pipeline.parts import MOST_ITEMS

if TYPE_CHECKING:
    from stages.pipeline.pipeline import Pipeline

Growth = Literal["tracks", "clips", "clips × tracks", "clips + tracks", "nothing"]
"""The quantity that a cost grows with. A stage that compares each clip with each recording grows at most with their
product; one that looks each clip up among the recordings, with their sum. A training takes the steps in its recipe,
however many recordings there are."""

BOUNDS: tuple[Growth, ...] = ("clips × tracks", "clips + tracks")
"""For stages that grow in these ways, the estimate is an upper bound, since it is not known which part of the stage
took the time."""

BENCHMARKS: Mapping[str, float] = {
    "ingest": 1 / 1373,
    "chroma": 0.774,
    "clap": 0.0388,
    "tokenize": 0.0551,
    "generate": 0.0705 * 50 / 8,
    "decode": 0.0563,
}
"""Seconds of two cores for a second of sound, from benchmarks of published sizes (tests/benchmarks/results): HTDemucs,
CLAP, EnCodec at 32 kHz; MusicGen-small in bfloat16, eight clips at a time, 50 steps a second."""

BENCHMARKED = "AMD EPYC (Zen 4), 2 cores, 2 threads"
"""The machine that the benchmarks ran on."""

HOLDS_SOUND = frozenset(table.name for table in (CHROMA, RHYTHM, HARMONY, CLAP, TOKENS, PRINTS, GENERATIONS, SCORES))
"""Tables whose rows grow with the length of their sound; rows of other tables have a fixed size."""

FIXED_SIZE_COLUMNS: Mapping[str, tuple[str, ...]] = {PRINTS.name: ("quads",)}
"""Columns of those tables with a fixed size in every row, however long the sound. A recording of ten seconds has about
as many quads as are kept of any recording."""

COUNTED = frozenset({"requests", "measure", "report"})
"""Stages that take a fixed time for each clip, however long it is."""

SAMPLES = (CHECKPOINTS, PIECES, CONTROLS)
"""Tables of stages whose knobs set the amount of work: steps, pieces, or a sample of recordings and clips."""

SUMMARIES = (MEASURES, REPORTS)
"""Tables made from all clips, with a row for each group of clips, or a single row."""

AUDIO = "audio"
"""The folder of the clips' sound files, one for each clip, which is listed among the tables."""


class Size(BaseModel):
    """The size of a catalog."""

    model_config = ConfigDict(frozen=True)

    tracks: int
    track_seconds: float
    """Mean length of a recording, seconds."""
    clips: int
    clip_seconds: float
    """Mean length of a clip, seconds."""

    def units(self, grows: Growth, by_sound: bool) -> float:
        """Return the quantity that a cost grows with, in seconds of sound or in rows."""
        tracks = self.tracks * (self.track_seconds if by_sound else 1)
        clips = self.clips * (self.clip_seconds if by_sound else 1)
        units = {"tracks": tracks, "clips": clips, "clips × tracks": tracks * clips, "clips + tracks": clips}
        return units.get(grows, 1.0)


class StageRate(BaseModel):
    """What a stage takes for each unit of the quantity that it grows with."""

    model_config = ConfigDict(frozen=True)

    stage: str
    grows: Growth
    by_sound: bool
    """Whether the unit is a second of sound rather than a row."""
    spreads: bool
    """Whether its shards, or the parts of its source, are separate jobs that any number of workers can share; otherwise
    the stage is one job of one worker."""
    rows_a_shard: int
    """Rows of a shard, or items of a part of its source."""
    seconds: float | None
    """Seconds for each unit; None if neither a run nor a benchmark shows it."""
    by_tracks: float | None = None
    """For a stage that grows with clips + tracks: seconds for each second of recordings, as if all its time were spent
    on reading recordings. Its `seconds` are as if all its time were spent on comparing clips."""
    alone: float = 0.0
    """The part of `seconds` in one job, whatever the number of workers. For a source that is read in parts, this is
    everything except reading, where reading is assumed to take what the benchmark says."""
    measured_by: str
    """`this store` or `benchmarks`; empty where `seconds` is None."""

    def seconds_of(self, size: Size, workers: int = 1) -> float | None:
        """Return the seconds that the stage takes on a number of equal workers: those of the busiest worker, in whole
        shards. For a stage that compares, this is an upper bound, whichever of its comparisons took the time."""
        if self.seconds is None:
            return None
        reading = (self.by_tracks or 0.0) * size.units("tracks", True)
        whole = max(self.seconds * size.units(self.grows, self.by_sound), reading)
        if not self.spreads:
            return whole
        alone = self.alone * size.units(self.grows, self.by_sound)
        shards = max(1, math.ceil(size.units(self.grows, False) / self.rows_a_shard))
        return alone + (whole - alone) * math.ceil(shards / workers) / shards

    @property
    def spreads_words(self) -> str:
        """The jobs into which the stage can be spread, as text."""
        return f"{'reading' if self.alone else 'all'}, {self.rows_a_shard} a job" if self.spreads else "no"


class TableRate(BaseModel):
    """What a table, or a folder beside the tables, contains for each unit of the quantity that it grows with."""

    model_config = ConfigDict(frozen=True)

    table: str
    grows: Growth
    by_sound: bool
    """Whether the unit is a second of sound rather than a row."""
    rows: float
    """Rows for each recording or clip."""
    bytes: float
    """Bytes for each unit."""
    bytes_a_row: float = 0.0
    """Further bytes for each recording or clip, however long it is."""
    rows_a_file: int | None
    """Recordings or clips in each file; None if there is a single file."""

    def rows_of(self, size: Size) -> int:
        return round(self.rows * size.units(self.grows, False))

    def bytes_of(self, size: Size) -> float:
        return self.bytes * size.units(self.grows, self.by_sound) + self.bytes_a_row * size.units(self.grows, False)

    def files_of(self, size: Size) -> int:
        if self.rows_a_file is None:
            return 1
        return math.ceil(size.units(self.grows, False) / self.rows_a_file)


class Rates(BaseModel):
    """All rates that were measured on a store."""

    model_config = ConfigDict(frozen=True)

    size: Size
    """The size of the store's own catalog."""
    stages: tuple[StageRate, ...]
    tables: tuple[TableRate, ...]


def measure_rates(pipeline: "Pipeline") -> Rates:
    """Return the rates of a store, from the seconds of its latest runs and from its published tables."""
    shown = _PublishedTables(pipeline)
    shards = {grows: shown.shard_size(stage) for grows, stage in (("tracks", "ingest"), ("clips", "requests"))}
    runs = latest_runs(pipeline.store)
    stages: list[StageRate] = []
    tables: list[TableRate] = []
    for name, stage in pipeline.stages.items():
        module = stage.module
        if module.WRITES is PIECES:
            continue  # the demo makes as many pieces as its configuration says
        grows, by_sound = growth(module), name not in COUNTED
        units = shown.size.units(grows, by_sound)
        seconds, by_tracks, measured_by = None, None, ""
        if name in runs and units:
            reduces = hasattr(module, "reduce")
            whole = runs[name][-1]["seconds"] if reduces else seconds_a_row(runs[name]) * shown.rows(module.WRITES)
            seconds, measured_by = whole / units, "this store"
            recordings = shown.size.units("tracks", True) if grows == "clips + tracks" else 0
            by_tracks = whole / recordings if recordings else None
        elif name in BENCHMARKS:
            seconds, measured_by = BENCHMARKS[name], "benchmarks"
        shard, has_parts = shards.get(grows, 1), hasattr(module, "read_part")
        stages.append(
            StageRate(
                stage=name,
                grows=grows,
                by_sound=by_sound,
                spreads=has_parts or hasattr(module, "shard"),
                rows_a_shard=MOST_ITEMS if has_parts else shard,
                seconds=seconds,
                by_tracks=by_tracks,
                alone=max(0.0, seconds - BENCHMARKS[name]) if has_parts and seconds is not None else 0.0,
                measured_by=measured_by,
            )
        )
        tables += shown.table_rates(module, None if hasattr(module, "reduce") else shard)
    return Rates(size=shown.size, stages=tuple(stages), tables=tuple(tables))


def growth(module: ModuleType) -> Growth:
    """Return the quantity that a stage's work grows with, from the tables that it reads and writes."""
    if module.WRITES in SAMPLES:
        return "nothing"
    driving = module.READS[0] if module.READS else module.WRITES
    if "request_id" not in driving.key:
        return "tracks"
    compares = hasattr(module, "reduce") and "request_id" in module.WRITES.key
    streams = {table.name for table in getattr(module, "STREAMS", ())}
    if compares and CLAP.name in streams:
        return "clips × tracks"
    return "clips + tracks" if compares and TOKENS.name in streams else "clips"


class _PublishedTables:
    """The published tables of a store."""

    def __init__(self, pipeline: "Pipeline") -> None:
        self._pipeline, self._store = pipeline, pipeline.store
        writes = [stage.module.WRITES for stage in pipeline.stages.values()]
        self._files = Publications(self._store).shown_files([table.name for table in (TRACKS, CLIPS, *writes)])
        tracks, clips = self._columns(TRACKS, ["seconds"]), self._columns(CLIPS, ["seconds", "bytes"])
        self.size = Size(
            tracks=len(tracks["seconds"]),
            track_seconds=_mean(tracks["seconds"]),
            clips=len(clips["seconds"]),
            clip_seconds=_mean(clips["seconds"]),
        )
        self._audio = sum(clips["bytes"])

    def shard_size(self, stage: str) -> int:
        """Return how many rows a shard has in a stage that reads from outside the store; 1 if the recipe has no such
        stage."""
        configured = self._pipeline.stages.get(stage)
        return int(getattr(configured.config, "shard_size", 1)) if configured else 1

    def rows(self, table: Table) -> int:
        files = self._files.get(table.name, [])
        return int(self._store.read_files(table, files, list(table.key)).num_rows) if files else 0

    def table_rates(self, module: ModuleType, rows_a_file: int | None) -> Iterator[TableRate]:
        """Yield the rates of the table that a stage writes and of what lies beside it; nothing for empty tables."""
        table, files = module.WRITES, self._files.get(module.WRITES.name, [])
        grows = "nothing" if table in SUMMARIES else growth(module)
        if grows in BOUNDS:
            grows = "clips"  # a row for each clip, whatever it was compared with
        count = self.size.units(grows, False)
        if not files or not count:
            return
        yield self._rate(table.name, grows, self.rows(table), files, rows_a_file)
        if table is TRACKS:
            version = Publications(self._store).shown()[table.name].versions[table.name]
            shards = self._store.shards(PRINTS, version)
            prints = [self._store.shard_path(PRINTS, version, shard) for shard in shards]
            rows = self._store.read_files(PRINTS, prints, ["track_id"]).num_rows
            yield self._rate(PRINTS.name, grows, rows, prints, rows_a_file)
        if table is CLIPS:
            sound = self._audio / self.size.units(grows, True)
            yield TableRate(table=AUDIO, grows=grows, by_sound=True, rows=0, bytes=sound, rows_a_file=1)

    def _rate(self, name: str, grows: Growth, rows: int, files: list[str], rows_a_file: int | None) -> TableRate:
        by_sound, count = name in HOLDS_SOUND, self.size.units(grows, False)
        sizes = [self._store.column_bytes(file) for file in files] if name in FIXED_SIZE_COLUMNS else []
        fixed = sum(each.get(column, 0) for each in sizes for column in FIXED_SIZE_COLUMNS[name])
        return TableRate(
            table=name,
            grows=grows,
            by_sound=by_sound,
            rows=rows / count,
            bytes=(self._bytes(files) - fixed) / self.size.units(grows, by_sound),
            bytes_a_row=fixed / count,
            rows_a_file=rows_a_file,
        )

    def _columns(self, table: Table, names: list[str]) -> dict[str, list[float]]:
        files = self._files.get(table.name, [])
        read = self._store.read_files(table, files, names)
        return {name: [value or 0 for value in read.column(name).to_pylist()] for name in names}

    def _bytes(self, files: list[str]) -> float:
        return float(sum(self._store.size(file) or 0 for file in files))


def _mean(values: list[float]) -> float:
    return sum(values) / len(values) if values else 0.0


def stage_rows(rates: Rates, size: Size, workers: int) -> list[dict[str, str | int | float]]:
    """Return what each stage would take on one worker and on `workers`, as rows."""
    return [
        {
            "stage": stage.stage,
            "grows with": stage.grows,
            **{f"on {number:,}": _duration_text(stage, size, number) for number in sorted({1, workers})},
            "spreads": stage.spreads_words,
            "by": stage.measured_by or "nothing yet",
        }
        for stage in rates.stages
    ]


def table_rows(rates: Rates, size: Size) -> list[dict[str, str | int | float]]:
    """Return how large each table would be, as rows."""
    return [
        {
            "table": table.table,
            "rows": f"{table.rows_of(size):,}",
            "files": f"{table.files_of(size):,}",
            "bytes": amount(table.bytes_of(size)),
        }
        for table in rates.tables
    ]


def total_lines(rates: Rates, size: Size, workers: int) -> Iterator[str]:
    """Yield lines with the totals, and with what they leave out."""
    known = [stage for stage in rates.stages if stage.seconds is not None]
    linear = sum(stage.seconds_of(size, workers) or 0 for stage in known if stage.grows not in BOUNDS)
    size_text = amount(sum(table.bytes_of(size) for table in rates.tables))
    files = sum(table.files_of(size) for table in rates.tables)
    rows = sum(table.rows_of(size) for table in rates.tables)
    yield f"in all: {duration(linear)} on {workers:,}, {size_text}, {files:,} files, {rows:,} rows"
    for stage in known:
        if stage.grows in BOUNDS and size.clips:
            seconds = _duration_text(stage, size, workers)
            yield f"in addition: {seconds} for {stage.stage}, as if it spent all its time on comparing"
    if unknown := [stage.stage for stage in rates.stages if stage.seconds is None]:
        yield f"unknown: {', '.join(unknown)}, which never ran here and has no benchmark"
    if any(stage.measured_by == "benchmarks" for stage in known):
        yield f"by benchmarks: published sizes on {BENCHMARKED}, not on this machine"
    yield "not counted: models, and tables of stages that never ran here; not linear: see docs/scaling.md"


def _duration_text(stage: StageRate, size: Size, workers: int) -> str:
    seconds = stage.seconds_of(size, workers)
    if seconds is None:
        return ""
    return f"≤ {duration(seconds)}" if stage.grows in BOUNDS else duration(seconds)
