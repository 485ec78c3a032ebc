"""Requests: the clips that the catalog should hold, read from a requests file.

A request's id is the hash of what reaches the model, with defaults filled in and references resolved. So the same line
gives the same id wherever it stands, and changing a default changes the ids of the requests that rely on it. The title
and the number of takes are not part of the id: a new title is written into the files, and one more take is one more
clip. Two lines that differ only in their names are two clips. A request without a seed gets one that is derived from
what makes its id, except for the columns in `NOT_SEED`.

A file is read whole and checked. It replaces the last order only if it passes (`stages.requests.orders` says what is
checked). A line with a mistake becomes a reject that names the line. If such lines are accepted, the requests that they
were before stay, marked stale. A line that is removed takes its clips with it, which the user must allow.
"""

import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from importlib.resources import files
from typing import ClassVar, Literal

import pyarrow as pa
from pydantic import Field

import schemas
from model.conditioning.charts import DEFAULT_METER, describe_chart, parse_chart, parse_meter
from schemas import WeightsRef
from schemas.identity import fingerprint
from schemas.queries.picks import read_picks
from schemas.tables import HARMONY, PIECES, REQUESTS, RHYTHM, TRACKS, Row
from stages.audio.references import (
    Reference,
    ReferencedFiles,
    RequestRefused,
    TrackNames,
    UnknownReference,
    parse_reference,
)
from stages.checkpoints.adapter_files import AdapterNames, UnknownAdapter, parse_adapters
from stages.checkpoints.generation_config import is_deterministic
from stages.pipeline.contract import Context, Reject, ShardUpdate, SourcePlan
from stages.pipeline.remarks import Remarks
from stages.requests.held_out import held_out_lines
from stages.requests.lines import FIELDS, RequestLine
from stages.requests.orders import Order, Refusal, keep_refused, losses, order_checks
from stages.requests.reading import Line, read_requests_file
from stages.requests.retakes import RefusedTakes

READS, CONSULTS, WRITES, VERSION = (), (TRACKS, RHYTHM, HARMONY), REQUESTS, 4
STAGED = True

SOUNDS = ("track", "title", "file")
"""Kinds of references that a melody or a prompt may be."""

NOT_SOUND = ("title", "takes")
"""Columns that do not reach the model."""

NOT_SEED = (*NOT_SOUND, "seed", "guidance_asked", "adapters")
"""Columns from which a request's seed is not derived. Adapters are among them because their effect is best compared
with the same seed."""

NOTHING: Row = {"guidance_text": 1.0, "fields": [], "meter": None, "chords": None, "guidance_asked": False}
NOTHING |= {"adapters": []}
"""Columns that were added later, with the value that asks for nothing."""


REFERENCES = ("unknown melody", "unknown clap", "unknown prompt")
"""Kinds of rejects for references to something that does not exist, such as a recording that is still to be
ingested."""

EQUAL_TAKES = "takes that will be equal: at temperature 0, or top_k 1 without top_p, nothing is random"
"""The remark about requests for several takes that would be equal."""

NOT_IN_ORDER = "refused takes in the file of picks that are not part of this order"
"""The remark about picks that were made in another order."""


class Config(schemas.Config):
    """The defaults of a line, and the limits for all lines.

    None of them is part of the table's version: a row holds resolved values, so only rows whose values change differ.
    """

    NOT_IDENTITY: ClassVar[tuple[str, ...]] = (
        *("default_set", "seconds", "prompt_seconds", "takes", "picks", "guidance", "guidance_text", "temperature"),
        *(
            "top_k",
            "top_p",
            "adapters",
            "held_out",
            "held_out_seconds",
            "min_seconds",
            "max_seconds",
            "max_takes",
            "shard_size",
            "shard_seconds",
        ),
    )

    default_set: Literal["demo", "text"] = "text"
    """The requests of a run that names no file. `text` has only descriptions; `demo` also refers to tracks of the demo
    corpus, if the store has it."""
    seconds: float = Field(default=8.0, gt=0)
    """Length of a clip, seconds (AudioCraft's `set_generation_params` takes 15, or 30 in its demos; 8 keeps a first
    catalog cheap)."""
    prompt_seconds: float = Field(default=2.0, gt=0)
    """How much of a prompt a clip begins with, seconds (AudioCraft's continuation demo)."""
    takes: int = Field(default=1, ge=1)
    """Clips for each request."""
    picks: str | None = None
    """File of picks, as the page saves it. A request gets one more clip for each of its takes that was refused. The
    file belongs to the order: without it, those clips would be dropped again."""
    guidance: float = Field(default=3.0, ge=0)
    """Classifier-free guidance coefficient (MusicGen, arXiv:2306.05284, 3). A model that learned guidance by
    distillation takes 1 if a line sets none."""
    guidance_text: float = Field(default=1.0, ge=0)
    """How strongly the description is followed compared with other conditions; 1 means equally (MusicGen-Style's double
    guidance, arXiv:2407.12563)."""
    temperature: float = Field(default=1.0, ge=0)
    """The logits are divided by it before the softmax (MusicGen, 3)."""
    top_k: int = Field(default=250, ge=0)
    """How many of the likeliest codes may be drawn (MusicGen, 3)."""
    top_p: float = Field(default=0.0, ge=0, le=1)
    """Probability mass that may be drawn; 0 leaves it to `top_k` (AudioCraft's default)."""
    adapters: Mapping[str, WeightsRef] = {}
    """Adapters that lines may name, besides those of the store. Each is a folder of peft's, a hub id or a checkpoint
    with an adapter inside."""
    held_out: int = Field(default=0, ge=0)
    """How many held-out tracks are requested in a run that names no file, besides the preset's own requests. Each such
    request asks for what its track is, so that the clip can be measured against music that the model never heard."""
    held_out_seconds: float = Field(default=6.0, gt=0)
    """Length of the clips for held-out tracks, seconds; shorter tracks are left out."""
    min_seconds: float = Field(default=0.4, gt=0)
    """Shortest clip that a line may ask for, seconds. Loudness is measured in blocks of 0.4 s (ITU-R BS.1770-5), so a
    shorter clip has none and cannot be brought to the catalog's loudness."""
    max_seconds: float = Field(default=300.0, gt=0)
    """Longest clip that a line may ask for, seconds; a longer one is taken for a mistake."""
    max_takes: int = Field(default=100, ge=1)
    """Most takes that a line may ask for."""
    shard_size: int = Field(default=64, ge=1)
    """The most requests of a shard, which is the unit of work of the stages that make clips."""
    shard_seconds: float = Field(default=1920.0, gt=0)
    """The most sound that the requests of a shard ask for, seconds, with all takes; a request for more gets a shard of
    its own. With 64 clips of 30 s, MusicGen-small keeps two cores busy for a quarter of an hour and fills half of a
    GPU's 128 slots."""


def plan_source(config: Config, context: Context, known: pa.Table, refused: pa.Table) -> SourcePlan:
    """Count what `read_source` would do, and report what the order rejects and drops.

    Raises:
        ValueError: the file does not exist, cannot be parsed, or asks for nothing.
    """
    order, lines = _read_order(config, context, known)
    unchanged = [row for row in order.rows if order.is_same(row)]
    return SourcePlan(
        make=len(order.rows) - len(unchanged),
        reuse=len(unchanged),
        drop=len(order.before.keys() - {row["request_id"] for row in order.rows}),
        moved=sum(1 for row in unchanged if order.before[row["request_id"]] != row),
        remarks=order.remarks,
        rejects=order.rejects,
        checks=list(order_checks(order, context.settings, lines)),
        notices=list(losses(order)),
        content={number: list(rows.values()) for number, rows in _by_shard(order.rows).items()},
    )


def read_source(config: Config, context: Context, known: pa.Table, refused: pa.Table) -> Iterator[ShardUpdate]:
    """Yield the shards that the requests file changes.

    Raises:
        ValueError: the file does not exist, cannot be parsed, or asks for nothing.
    """
    order, _ = _read_order(config, context, known)
    for remark in order.remarks:
        context.remarks.add_all(remark.what, remark.location, remark.examples, remark.count)
    before, after = _by_shard(order.before.values()), _by_shard(order.rows)
    numbers = sorted(number for number in before.keys() | after.keys() if before.get(number) != after.get(number))
    standing = set(zip(refused.column("key").to_pylist(), refused.column("stamp").to_pylist(), strict=True))
    if not numbers and standing != {(reject.key, reject.stamp) for reject in order.rejects}:
        numbers = [min(after, default=0)]  # no row changed, but rejects did
    for number in numbers:
        context.check_stopped()
        rows = list(after.get(number, {}).values())
        changed = sum(1 for row in rows if not order.is_same(row))
        yield ShardUpdate(number, rows, changed, order.rejects)


def _by_shard(rows: Iterable[Row]) -> dict[int, dict[str, Row]]:
    """Return rows by shard and id."""
    shards: dict[int, dict[str, Row]] = {}
    for row in rows:
        shards.setdefault(row["shard"], {})[row["request_id"]] = row
    return shards


def _read_order(config: Config, context: Context, known: pa.Table) -> tuple[Order, int]:
    """Return the order that the requests file makes, with the last order, and the number of lines of the file."""
    url = context.settings.requests
    # The demo set refers to pieces that only a store with the demo corpus has.
    default_set = config.default_set if context.store.versions(PIECES) else "text"
    path = url or str(files("stages.requests").joinpath(f"{default_set}_requests.csv"))
    reader = RowReader(config, context, ReferencedFiles(_folder(url) if url else None))
    refused_takes = RefusedTakes(read_picks(config.picks).refused if config.picks else (), config.max_takes)
    file, remarks = read_requests_file(path), Remarks()
    rows: dict[str, Row] = {}
    refusals, names = [], dict[str, int]()
    before = {row["request_id"]: row for row in known.to_pylist()}
    names_before = [row["name"] for row in before.values() if row["name"]]
    # A user's own file is the whole order.
    count = 0 if url else config.held_out
    asked = held_out_lines(context, count, config.held_out_seconds, names_before)
    last = max(line.number for line in file.lines)
    held_out = [Line(number, line.name, line) for number, line in enumerate(asked, start=last + 1)]
    for line in [*file.lines, *held_out]:
        try:
            row = reader.row(line)
            if row["name"] in names:
                message = f"expected each name once, got {row['name']!r} as in line {names[row['name']]}"
                raise RequestRefused("duplicate name", message)
            if row["request_id"] in rows:
                first = rows[row["request_id"]]["line"]
                message = f"it asks for the same clip as line {first}: give it a name to get another clip"
                raise RequestRefused("duplicate", message)
            row["takes"] += refused_takes.retakes_of(row)
        except RequestRefused as error:
            message = f"line {line.number}: {error}"
            stamp = fingerprint([error.kind, message, path])
            where = url or f"the {default_set} set"
            refusals.append(Refusal(line, Reject(f"line {line.number}", where, error.kind, message, stamp)))
            continue
        rows[row["request_id"]] = row
        if row["name"] is not None:
            names[row["name"]] = line.number
        if row["takes"] > 1 and is_deterministic(row):
            remarks.add(EQUAL_TAKES, url or "", f"line {line.number}: {row['takes']} takes")
    for request, take in refused_takes.not_asked_for:
        remarks.add(NOT_IN_ORDER, config.picks or "", f"{request}/{take}")
    for note in file.notes if url else ():
        remarks.add(note, path)
    rows |= {row["request_id"]: row for row in keep_refused(rows, refusals, before)}
    _assign_shards(rows, before, config)
    return Order(before, list(rows.values()), refusals, remarks.all()), len(file.lines)


def _folder(url: str) -> str:
    return url.rpartition("/")[0] if "://" in url else os.path.dirname(os.path.abspath(url))


def _assign_shards(rows: Mapping[str, Row], before: Mapping[str, Row], config: Config) -> None:
    """Give known requests their old shards, and new ones the last shard. Begin another shard when it would be too
    full."""
    last = max((row["shard"] for row in before.values()), default=0)
    in_last = [row for name, row in rows.items() if name in before and before[name]["shard"] == last]
    filled, sound = len(in_last), sum(map(_sound, in_last))
    for name, row in rows.items():
        if name in before:
            row["shard"] = before[name]["shard"]
            continue
        if filled >= config.shard_size or (filled and sound + _sound(row) > config.shard_seconds):
            last, filled, sound = last + 1, 0, 0.0
        row["shard"], filled, sound = last, filled + 1, sound + _sound(row)


def _sound(row: Row) -> float:
    """Return how many seconds of sound a request asks for, with all takes."""
    return float(row["seconds"] * row["takes"])


@dataclass
class RowReader:
    """Turns lines into rows of `requests`."""

    config: Config
    context: Context
    files: ReferencedFiles

    @cached_property
    def tracks(self) -> TrackNames:
        return TrackNames(self.context.rows(TRACKS, ["track_id", "title", "artist"]))

    @cached_property
    def adapters(self) -> AdapterNames:
        return AdapterNames(self.config.adapters, self.context)

    def row(self, numbered: Line) -> Row:
        """Return the row of a line, without its shard.

        Raises:
            RequestRefused: the line cannot be understood, asks for what no clip can have, or refers to something that
                does not exist.
        """
        line = numbered.asked
        if isinstance(line, RequestRefused):
            raise line
        row: Row = {name: getattr(line, name) for name in RequestLine.model_fields if name not in FIELDS}
        row["fields"] = [(name, value) for name in sorted(FIELDS) if (value := getattr(line, name)) is not None]
        for name in ("seconds", "takes", "guidance", "guidance_text", "temperature", "top_k", "top_p"):
            row[name] = getattr(self.config, name) if row[name] is None else row[name]
        row["guidance_asked"] = line.guidance is not None
        if line.prompt and line.prompt_seconds is None:
            row["prompt_seconds"] = self.config.prompt_seconds
        self._check_limits(row)
        reading = self._read_chart(row)
        identity = row | {column: self._resolve(row, column) for column in ("melody", "clap", "prompt")}
        row["adapters"] = self._find_adapters(line)
        identity["adapters"] = [f"{each['digest']}:{each['strength']:g}" for each in row["adapters"]]
        # A column that was added later and asks for nothing does not change a request's id and seed.
        identity = {name: value for name, value in identity.items() if name not in NOTHING or value != NOTHING[name]}
        if row["seed"] is None:
            sound = {name: value for name, value in identity.items() if name not in NOT_SEED}
            row["seed"] = identity["seed"] = int(fingerprint(sound)[:8], 16) >> 1
        identity = {name: value for name, value in identity.items() if name not in NOT_SOUND}
        return row | {"request_id": fingerprint(identity), "line": numbered.number, "reading": reading, "stale": None}

    def _find_adapters(self, line: RequestLine) -> list[Row]:
        """Return the adapters that a line names, in the form of a row of `requests`."""
        rows = []
        for choice in parse_adapters(line.adapters or ""):
            try:
                use = self.adapters.find(choice)
            except UnknownAdapter as error:
                raise RequestRefused("unknown adapter", f"adapters: {error}") from error
            rows.append({"name": choice.name, **asdict(use)})
        return rows

    def _read_chart(self, row: Row) -> str | None:
        """Write the chords of the row in their standard spelling, and return how its tempo, metre and chords are read.
        None if the row has no tempo."""
        for column in ("meter", "chords"):
            if row[column] is not None and row["bpm"] is None:
                raise RequestRefused("bad value", f"{column}: expected bpm with {column}, got none")
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
        if row["seconds"] < self.config.min_seconds:
            shortest = f"at least {self.config.min_seconds:g} seconds (requests.min_seconds)"
            problem = f"seconds: expected {shortest}, because shorter sound has no loudness, got {row['seconds']:g}"
        elif row["seconds"] > self.config.max_seconds:
            longest = f"at most {self.config.max_seconds:g} seconds (requests.max_seconds)"
            problem = f"seconds: expected {longest}, got {row['seconds']:g}"
        elif row["takes"] > self.config.max_takes:
            problem = f"takes: expected at most {self.config.max_takes} (requests.max_takes), got {row['takes']}"
        elif row["prompt_seconds"] is not None and row["prompt"] is None:
            problem = f"prompt_seconds: expected a prompt with it, got {row['prompt_seconds']:g} seconds alone"
        elif row["prompt"] and row["prompt_seconds"] >= row["seconds"]:
            message = f"expected less than the clip's {row['seconds']:g} seconds, got {row['prompt_seconds']:g}"
            problem = f"prompt_seconds: {message}"
        if problem:
            raise RequestRefused("bad value", problem)

    def _resolve(self, row: Row, column: str) -> str | None:
        """Put the resolved reference of a column into the row and return its identity; None if there is none. For a
        file the identity is that of its content, not its path."""
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
