"""Requests: the clips that the catalog should hold, taken in from a requests file.

A request's id is the hash of what reaches the model, defaults filled in and references by what they resolve to: the
same line gives the same id wherever it stands, and a default that is changed makes those requests others that leave it
to the default. Its title and its number of takes are not part of it: a new title is written into the files, one more
take is one more clip. Two lines that differ in their name alone are two clips. Without a seed of its own a request's
seed follows from all of that.

A line with a mistake is a reject that names the line; a line that is gone takes its clips with it.
"""

import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from importlib.resources import files
from typing import ClassVar, Literal

import pyarrow as pa
from pydantic import Field

import schemas
from model.conditioning.charts import DEFAULT_METER, describe_chart, parse_chart, parse_meter
from schemas.identity import fingerprint
from schemas.tables import PIECES, REQUESTS, TRACKS, Row
from stages.audio.references import (
    Reference,
    ReferencedFiles,
    RequestRefused,
    TrackNames,
    UnknownReference,
    parse_reference,
)
from stages.pipeline.contract import Context, Reject, ShardUpdate, SourcePlan
from stages.requests.lines import FIELDS, RequestLine
from stages.requests.reading import read_requests_file

READS, CONSULTS, WRITES, VERSION = (), (TRACKS,), REQUESTS, 4

SOUNDS = ("track", "title", "file")
"""Kinds of references that a melody or a prompt may be."""

NOT_SOUND = ("title", "takes")
"""Columns that say nothing to the model."""

NOTHING: Row = {"guidance_text": 1.0, "fields": [], "meter": None, "chords": None}
"""Columns that came later, with the value that asks for nothing."""


class Config(schemas.Config):
    """What a line means where it says nothing, and what no line may ask for.

    None of it enters the version of the table: a row holds what was resolved, so only rows that it changes are others.
    """

    NOT_IDENTITY: ClassVar[tuple[str, ...]] = (
        *("default_set", "seconds", "prompt_seconds", "takes", "guidance", "guidance_text", "temperature"),
        *("top_k", "top_p", "max_seconds", "max_takes", "shard_size"),
    )

    default_set: Literal["demo", "text"] = "text"
    """The requests of a run that names no file: `text`, descriptions alone, or `demo`, which refers to tracks of the
    demo corpus too, where the store has it."""
    seconds: float = Field(default=8.0, gt=0)
    """Length of a clip, seconds (AudioCraft's `set_generation_params` takes 15, or 30 in its demos; 8 keeps a first
    catalog cheap)."""
    prompt_seconds: float = Field(default=2.0, gt=0)
    """How much of a prompt a clip begins with, seconds (AudioCraft's continuation demo)."""
    takes: int = Field(default=1, ge=1)
    """Clips a request."""
    guidance: float = Field(default=3.0, ge=0)
    """Classifier-free guidance coefficient (MusicGen, arXiv:2306.05284, 3)."""
    guidance_text: float = Field(default=1.0, ge=0)
    """How far the description is followed beside other conditions; 1 is like them (MusicGen-Style's double guidance,
    arXiv:2407.12563)."""
    temperature: float = Field(default=1.0, ge=0)
    """The logits are divided by it before the softmax (MusicGen, 3)."""
    top_k: int = Field(default=250, ge=0)
    """Codes that may be drawn (MusicGen, 3)."""
    top_p: float = Field(default=0.0, ge=0, le=1)
    """Probability mass that may be drawn; 0 leaves it to `top_k` (AudioCraft's default)."""
    max_seconds: float = Field(default=300.0, gt=0)
    """Longest clip that a line may ask for, seconds: longer is taken for a mistake."""
    max_takes: int = Field(default=100, ge=1)
    """Most takes that a line may ask for."""
    shard_size: int = Field(default=64, ge=1)
    """Requests a shard."""


def plan_source(config: Config, context: Context, known: pa.Table, refused: pa.Table) -> SourcePlan:
    """Count what `read_source` would do; a line that would newly be refused counts as one to make."""
    change = _read_change(config, context, known, refused)
    same = sum(1 for row in change.rows if change.is_same(row))
    return SourcePlan(
        make=len(change.rows) - same + len(change.new_rejects),
        reuse=same,
        drop=len(change.before.keys() - {row["request_id"] for row in change.rows}) + change.settled,
        moved=sum(1 for row in change.rows if change.is_same(row) and change.before[row["request_id"]] != row),
    )


def read_source(config: Config, context: Context, known: pa.Table, refused: pa.Table) -> Iterator[ShardUpdate]:
    """Yield the shards that the requests file changes.

    Raises:
        ValueError: the file is not there, cannot be parsed, or asks for nothing.
    """
    change = _read_change(config, context, known, refused)
    before, after = _by_shard(change.before.values()), _by_shard(change.rows)
    numbers = sorted(number for number in before.keys() | after.keys() if before.get(number) != after.get(number))
    if not numbers and (change.new_rejects or change.settled):
        numbers = [min(after, default=0)]  # no row changed, and what was refused did
    for number in numbers:
        context.check_stopped()
        rows = list(after.get(number, {}).values())
        changed = sum(1 for row in rows if not change.is_same(row))
        yield ShardUpdate(number, rows, changed, change.rejects)


def _by_shard(rows: Iterable[Row]) -> dict[int, dict[str, Row]]:
    """Group rows by shard, and in each by id."""
    shards: dict[int, dict[str, Row]] = {}
    for row in rows:
        shards.setdefault(row["shard"], {})[row["request_id"]] = row
    return shards


@dataclass(frozen=True)
class _Change:
    """The requests of earlier runs by id, those of now in the order of their lines, and what is refused now."""

    before: Mapping[str, Row]
    rows: list[Row]
    rejects: list[Reject]
    refused_before: frozenset[tuple[str, str | None]]
    """Key and stamp of the rejects of earlier runs."""

    def is_same(self, row: Row) -> bool:
        """Return whether a request is as it was, wherever its line stands now."""
        before = self.before.get(row["request_id"])
        return before is not None and before | {"line": row["line"]} == row

    @cached_property
    def new_rejects(self) -> list[Reject]:
        return [reject for reject in self.rejects if (reject.key, reject.stamp) not in self.refused_before]

    @cached_property
    def settled(self) -> int:
        """How many rejects of earlier runs no longer hold."""
        return len({key for key, _ in self.refused_before} - {reject.key for reject in self.rejects})


def _read_change(config: Config, context: Context, known: pa.Table, refused: pa.Table) -> _Change:
    url = context.settings.requests
    # The demo set refers to pieces that only a store with the demo corpus has.
    default_set = config.default_set if context.store.versions(PIECES) else "text"
    path = url or str(files("stages.requests").joinpath(f"{default_set}_requests.csv"))
    reader = _RowReader(config, context, ReferencedFiles(_folder(url) if url else None))
    rows: dict[str, Row] = {}
    rejects, names = [], dict[str, int]()
    for line in read_requests_file(path).lines:
        number = line.number
        try:
            if isinstance(line.asked, RequestRefused):
                raise line.asked
            row = reader.row(number, line.asked)
            if row["name"] in names:
                message = f"expected each name once, got {row['name']!r} as in line {names[row['name']]}"
                raise RequestRefused("duplicate name", message)
            if row["request_id"] in rows:
                first = rows[row["request_id"]]["line"]
                message = f"it asks for the clip of line {first} again: a name makes it another one"
                raise RequestRefused("duplicate", message)
        except RequestRefused as error:
            message = f"line {number}: {error}"
            stamp = fingerprint([error.kind, message, path])
            rejects.append(Reject(f"line {number}", url or f"the {default_set} set", error.kind, message, stamp))
            continue
        rows[row["request_id"]] = row
        if row["name"] is not None:
            names[row["name"]] = number
    before = {row["request_id"]: row for row in known.to_pylist()}
    _assign_shards(rows, before, config.shard_size)
    refused_before = zip(refused.column("key").to_pylist(), refused.column("stamp").to_pylist(), strict=True)
    return _Change(before, list(rows.values()), rejects, frozenset(refused_before))


def _folder(url: str) -> str:
    return url.rpartition("/")[0] if "://" in url else os.path.dirname(os.path.abspath(url))


def _assign_shards(rows: Mapping[str, Row], before: Mapping[str, Row], size: int) -> None:
    """Give a known request its old shard, a new one the last shard, and begin another when that is full."""
    last = max((row["shard"] for row in before.values()), default=0)
    filled = sum(1 for name in rows if name in before and before[name]["shard"] == last)
    for name, row in rows.items():
        if name in before:
            row["shard"] = before[name]["shard"]
            continue
        if filled >= size:
            last, filled = last + 1, 0
        row["shard"], filled = last, filled + 1


@dataclass
class _RowReader:
    """Turns lines into rows of `requests`."""

    config: Config
    context: Context
    files: ReferencedFiles

    @cached_property
    def tracks(self) -> TrackNames:
        return TrackNames(self.context.rows(TRACKS, ["track_id", "title", "artist"]))

    def row(self, number: int, line: RequestLine) -> Row:
        """Return the row of a line, its shard not yet given.

        Raises:
            RequestRefused: the line asks for what no clip can have, or refers to what is not there.
        """
        row: Row = {name: getattr(line, name) for name in RequestLine.model_fields if name not in FIELDS}
        row["fields"] = [(name, value) for name in sorted(FIELDS) if (value := getattr(line, name)) is not None]
        for name in ("seconds", "takes", "guidance", "guidance_text", "temperature", "top_k", "top_p"):
            row[name] = getattr(self.config, name) if row[name] is None else row[name]
        if line.prompt and line.prompt_seconds is None:
            row["prompt_seconds"] = self.config.prompt_seconds
        self._check_limits(row)
        reading = self._read_chart(row)
        identity = row | {column: self._resolve(row, column) for column in ("melody", "clap", "prompt")}
        # A column that came later and says nothing leaves a request's id and seed as they were without it.
        identity = {name: value for name, value in identity.items() if name not in NOTHING or value != NOTHING[name]}
        if row["seed"] is None:
            sound = {name: value for name, value in identity.items() if name not in (*NOT_SOUND, "seed")}
            row["seed"] = identity["seed"] = int(fingerprint(sound)[:8], 16) >> 1
        identity = {name: value for name, value in identity.items() if name not in NOT_SOUND}
        return row | {"request_id": fingerprint(identity), "line": number, "reading": reading}

    def _read_chart(self, row: Row) -> str | None:
        """Spell the chords of a row in one way, and return how its tempo, metre and chords are read."""
        for column in ("meter", "chords"):
            if row[column] is not None and row["bpm"] is None:
                raise RequestRefused("bad value", f"{column}: expected bpm beside {column}, got none")
        if row["bpm"] is None:
            return None
        meter, chart = parse_meter(row["meter"] or DEFAULT_METER), None
        if row["chords"] is not None:
            try:
                chart = parse_chart(row["chords"], meter)
            except ValueError as error:
                raise RequestRefused("bad value", f"chords: {error}") from error
            row["chords"] = str(chart)
        return describe_chart(meter, row["bpm"], row["seconds"], chart)

    def _check_limits(self, row: Row) -> None:
        problem = None
        if row["seconds"] > self.config.max_seconds:
            problem = f"seconds: expected at most {self.config.max_seconds:g}, got {row['seconds']:g}"
        elif row["takes"] > self.config.max_takes:
            problem = f"takes: expected at most {self.config.max_takes}, got {row['takes']}"
        elif row["prompt_seconds"] is not None and row["prompt"] is None:
            problem = f"prompt_seconds: expected a prompt with it, got {row['prompt_seconds']:g} alone"
        elif row["prompt"] and row["prompt_seconds"] >= row["seconds"]:
            message = f"expected less than the clip's {row['seconds']:g} seconds, got {row['prompt_seconds']:g}"
            problem = f"prompt_seconds: {message}"
        if problem:
            raise RequestRefused("bad value", problem)

    def _resolve(self, row: Row, column: str) -> str | None:
        """Put the resolved reference into the row; return its identity, which is of the content, not of the place."""
        if row[column] is None:
            return None
        try:
            reference = parse_reference(row[column], (*SOUNDS, "text") if column == "clap" else SOUNDS)
            if reference.kind == "text":
                reference = Reference("text", reference.value or row["description"] or "")
                if not reference.value:
                    raise UnknownReference("expected a description for `text`, got none")
            elif reference.kind == "file":
                reference = self.files.resolve(reference)
            else:
                reference = self.tracks.resolve(reference)
            row[column] = str(reference)
            return f"content:{self.files.digest(reference)}" if reference.kind == "file" else str(reference)
        except UnknownReference as error:
            raise RequestRefused(f"unknown {column}", f"{column}: {error}") from error
