"""What a larger catalog would take: the rates of a store's own runs and files, carried on linearly (docs/scaling.md).

A rate is a cost divided by what it grows with, and an estimate is that rate times the same measure of the catalog that
is asked for: twice the recordings take twice as long. Stages that compare all with all are the exception (`Growth`).
Seconds of stages that no run of the store did are those of the benchmarks, where they have any.
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
"""What a cost grows with: a stage that compares each clip with each recording grows with both at once, at most; one
that looks each clip up among the recordings with the sum of both; a training takes the steps that its recipe says,
however many recordings there are."""

BOUNDS: tuple[Growth, ...] = ("clips × tracks", "clips + tracks")
"""Of stages that grow so it is told what they take at most, for it is not known which part of them took the time."""

BENCHMARKS: Mapping[str, float] = {
    "ingest": 1 / 1373,
    "chroma": 0.774,
    "clap": 0.0388,
    "tokenize": 0.0551,
    "generate": 0.0705 * 50 / 8,
    "decode": 0.0563,
}
"""Seconds of two cores for a second of sound, by benchmarks of published sizes (tests/benchmarks/results): HTDemucs,
CLAP, EnCodec at 32 kHz; MusicGen-small in bfloat16, eight clips at a time, 50 steps a second."""

BENCHMARKED = "AMD EPYC (Zen 4), 2 cores, 2 threads"
"""The machine that they ran on."""

HOLDS_SOUND = frozenset(table.name for table in (CHROMA, RHYTHM, HARMONY, CLAP, TOKENS, PRINTS, GENERATIONS, SCORES))
"""Tables whose rows grow with the seconds that they are about; rows of others are as large whatever they are about."""

SAME_OF_ALL: Mapping[str, tuple[str, ...]] = {PRINTS.name: ("quads",)}
"""Columns of those tables that are as large of every row, however long what it is about: a recording of ten seconds has
about as many quads as are kept of any."""

COUNTED = frozenset({"requests", "measure", "report"})
"""Stages that take so long for each clip, however long it is."""

SAMPLES = (CHECKPOINTS, PIECES, CONTROLS)
"""Tables of stages whose knobs say how much they do: steps, pieces, a sample of the recordings and of the clips."""

SUMMARIES = (MEASURES, REPORTS)
"""Tables that are made of all clips, and have a row for a group of them, or one row."""

AUDIO = "audio"
"""The folder of the clips' sound, which is told among the tables: a file a clip."""


class Size(BaseModel):
    """How large a catalog is."""

    model_config = ConfigDict(frozen=True)

    tracks: int
    track_seconds: float
    """Of a recording, in the mean."""
    clips: int
    clip_seconds: float

    def units(self, grows: Growth, by_sound: bool) -> float:
        """Return how much there is of what a cost grows with: seconds of sound, or rows."""
        tracks = self.tracks * (self.track_seconds if by_sound else 1)
        clips = self.clips * (self.clip_seconds if by_sound else 1)
        units = {"tracks": tracks, "clips": clips, "clips × tracks": tracks * clips, "clips + tracks": clips}
        return units.get(grows, 1.0)


class StageRate(BaseModel):
    """What a stage takes for each unit of what it grows with."""

    model_config = ConfigDict(frozen=True)

    stage: str
    grows: Growth
    by_sound: bool
    spreads: bool
    """Its shards, or the parts of its source, are jobs of their own, which any number of workers share out; else it is
    one job of one worker."""
    rows_a_shard: int
    """Or in a part of its source."""
    seconds: float | None
    """For each unit; None where no run and no benchmark knows."""
    by_tracks: float | None = None
    """Seconds for a second of recording of a stage that grows with clips + tracks, as if all of its time were reading
    recordings; its `seconds` are as if all were comparing clips."""
    alone: float = 0.0
    """Of `seconds`, those of one job whatever the number of workers: of a source that is read in parts, all that does
    more than read it, as if reading took what the benchmark says."""
    measured_by: str

    def seconds_of(self, size: Size, workers: int = 1) -> float | None:
        """Return how long the stage takes: the longest that any of so many equal workers works, in whole shards. Of a
        stage that compares, it is the most that it may take, whichever of its comparisons its time went into."""
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
        """Say in which jobs it spreads."""
        return f"{'reading' if self.alone else 'all'}, {self.rows_a_shard} a job" if self.spreads else "no"


class TableRate(BaseModel):
    """What a table, or a folder beside the tables, has for each unit of what it grows with."""

    model_config = ConfigDict(frozen=True)

    table: str
    grows: Growth
    by_sound: bool
    rows: float
    """For each recording or clip."""
    bytes: float
    """For each unit."""
    bytes_a_row: float = 0.0
    """Besides, for each recording or clip, however long it is."""
    rows_a_file: int | None
    """Recordings or clips; None where all is in one file."""

    def rows_of(self, size: Size) -> int:
        return round(self.rows * size.units(self.grows, False))

    def bytes_of(self, size: Size) -> float:
        return self.bytes * size.units(self.grows, self.by_sound) + self.bytes_a_row * size.units(self.grows, False)

    def files_of(self, size: Size) -> int:
        if self.rows_a_file is None:
            return 1
        return math.ceil(size.units(self.grows, False) / self.rows_a_file)


class Rates(BaseModel):
    """All that was measured of a store."""

    model_config = ConfigDict(frozen=True)

    size: Size
    """Of the store's own catalog."""
    stages: tuple[StageRate, ...]
    tables: tuple[TableRate, ...]


def measure_rates(pipeline: "Pipeline") -> Rates:
    """Return the rates of a store: seconds of its latest runs, rows and bytes of the tables that users see."""
    held = _Held(pipeline)
    shards = {grows: held.shard_size(stage) for grows, stage in (("tracks", "ingest"), ("clips", "requests"))}
    runs = latest_runs(pipeline.store)
    stages: list[StageRate] = []
    tables: list[TableRate] = []
    for name, stage in pipeline.stages.items():
        module = stage.module
        if module.WRITES is PIECES:
            continue  # the demo makes as many pieces as it is told
        grows, by_sound = growth(module), name not in COUNTED
        units = held.size.units(grows, by_sound)
        seconds, by_tracks, measured_by = None, None, ""
        if name in runs and units:
            reduces = hasattr(module, "reduce")
            whole = runs[name][-1]["seconds"] if reduces else seconds_a_row(runs[name]) * held.rows(module.WRITES)
            seconds, measured_by = whole / units, "this store"
            recordings = held.size.units("tracks", True) if grows == "clips + tracks" else 0
            by_tracks = whole / recordings if recordings else None
        elif name in BENCHMARKS:
            seconds, measured_by = BENCHMARKS[name], "benchmarks"
        shard, parted = shards.get(grows, 1), hasattr(module, "read_part")
        stages.append(
            StageRate(
                stage=name,
                grows=grows,
                by_sound=by_sound,
                spreads=parted or hasattr(module, "shard"),
                rows_a_shard=MOST_ITEMS if parted else shard,
                seconds=seconds,
                by_tracks=by_tracks,
                alone=max(0.0, seconds - BENCHMARKS[name]) if parted and seconds is not None else 0.0,
                measured_by=measured_by,
            )
        )
        tables += held.table_rates(module, None if hasattr(module, "reduce") else shard)
    return Rates(size=held.size, stages=tuple(stages), tables=tuple(tables))


def growth(module: ModuleType) -> Growth:
    """Return what the work of a stage grows with, by the tables that the contract says it reads and writes."""
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


class _Held:
    """What a store holds of the tables that users see."""

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
        """Return how many rows a shard takes of what a stage takes in; 1 where the recipe has no such stage."""
        configured = self._pipeline.stages.get(stage)
        return int(getattr(configured.config, "shard_size", 1)) if configured else 1

    def rows(self, table: Table) -> int:
        files = self._files.get(table.name, [])
        return int(self._store.read_files(table, files, list(table.key)).num_rows) if files else 0

    def table_rates(self, module: ModuleType, rows_a_file: int | None) -> Iterator[TableRate]:
        """Yield the rate of the table that a stage writes and of what lies beside it; none of what is empty."""
        table, files = module.WRITES, self._files.get(module.WRITES.name, [])
        grows = "nothing" if table in SUMMARIES else growth(module)
        if grows in BOUNDS:
            grows = "clips"  # a row a clip, whatever it was compared with
        many = self.size.units(grows, False)
        if not files or not many:
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
        by_sound, many = name in HOLDS_SOUND, self.size.units(grows, False)
        taken = [self._store.column_bytes(file) for file in files] if name in SAME_OF_ALL else []
        same = sum(each.get(column, 0) for each in taken for column in SAME_OF_ALL[name])
        return TableRate(
            table=name,
            grows=grows,
            by_sound=by_sound,
            rows=rows / many,
            bytes=(self._bytes(files) - same) / self.size.units(grows, by_sound),
            bytes_a_row=same / many,
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
    """Return what each stage would take on one worker, and on several, as rows."""
    return [
        {
            "stage": stage.stage,
            "grows with": stage.grows,
            **{f"on {number:,}": _told(stage, size, number) for number in sorted({1, workers})},
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
    """Yield the sums, and what they leave out."""
    known = [stage for stage in rates.stages if stage.seconds is not None]
    linear = sum(stage.seconds_of(size, workers) or 0 for stage in known if stage.grows not in BOUNDS)
    size_told = amount(sum(table.bytes_of(size) for table in rates.tables))
    files = sum(table.files_of(size) for table in rates.tables)
    rows = sum(table.rows_of(size) for table in rates.tables)
    yield f"in all: {duration(linear)} on {workers:,}, {size_told}, {files:,} files, {rows:,} rows"
    for stage in known:
        if stage.grows in BOUNDS and size.clips:
            yield f"besides: {_told(stage, size, workers)} of {stage.stage}, as if comparing were all that it does"
    if unknown := [stage.stage for stage in rates.stages if stage.seconds is None]:
        yield f"not known: {', '.join(unknown)}, which never ran here and which no benchmark times"
    if any(stage.measured_by == "benchmarks" for stage in known):
        yield f"by benchmarks: published sizes on {BENCHMARKED}, whatever this machine is"
    yield "not counted: models, and tables of stages that never ran here; not linear: see docs/scaling.md"


def _told(stage: StageRate, size: Size, workers: int) -> str:
    seconds = stage.seconds_of(size, workers)
    if seconds is None:
        return ""
    return f"≤ {duration(seconds)}" if stage.grows in BOUNDS else duration(seconds)
