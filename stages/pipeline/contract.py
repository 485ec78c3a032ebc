"""What a stage is: all that it gives to the runner, and all that it gets. Read this page to add a stage.

A stage is a module or a package with these names: no base class, no registry but a line in `flows/recipes/recipe.py`.

```
READS: tuple[Table, ...]      the tables that it is made from; the first one is its driving table
WRITES: Table                 the table that it makes
VERSION: int                  raise it when the code gives other results
class Config(schemas.Config)  its knobs; weights are fields of type `WeightsRef`
```

The rows of a stage depend on nothing else: a table's version is a hash of the stage's name, VERSION, its Config with
the digests of the weights that it names, and the versions of the tables that it reads. So the runner knows what is
stale, and a stage never checks whether its work was done before. A stage defines one of three functions.

```
def shard(config: Config, context: Context, *tables: pa.Table) -> Iterator[Shard]
```

maps rows to rows. It yields the rows of WRITES for one shard, each as soon as it is whole, since what it has yielded is
kept whatever ends the run. So it should yield one track or one clip at a time, or a batch that is computed together,
and compute nothing ahead of that. `tables` are the rows of that shard of each table of READS, in order; the first holds
only the rows that are still to be made. The key columns that the first table shares with WRITES say which rows were
made from which. Each row is made or rejected, once; a row with neither is an error. Where one row gives several rows of
WRITES, as a request gives its takes, `context.kept` names those that exist and are not made again. Example:
`stages/chroma.py`.

```
def reduce(config: Config, context: Context, *tables: pa.Table) -> ReduceResult
KINDS: tuple[str, ...]        (optional) the kinds of checkpoint that it trains
STREAMS: tuple[Table, ...]    (optional) tables of READS that may be larger than memory: they are not passed to it, and
                              it reads them itself, shard by shard
```

reduces: it makes its rows from all rows of READS at once. `context.identity` names the result. If Config has a field
`refresh` ("missing", "changed" or "never", in NOT_IDENTITY), that field says when a run of the whole catalog makes the
result again. Example: `stages/report/`.

```
def plan_source(config: Config, context: Context, known: pa.Table, refused: pa.Table) -> SourcePlan
def read_source(config: Config, context: Context, known: pa.Table, refused: pa.Table) -> Iterator[ShardUpdate]
PLANNING_COLUMNS: tuple[str, ...]   (optional) the columns of `known` that `plan_source` needs; without it, all
STAGED: bool                  (optional) whether new content replaces all of the old content or, if a check fails, none
```

read what lies outside the store: `known` are the stage's rows of earlier runs, `refused` its rejects. `plan_source`
only counts; `read_source` yields the complete new content of each shard that changes. Example: `stages/ingest/`. If
the source is STAGED, `known` is what was published last, whatever a failed run left behind, and the plan's own checks
replace the limit on the share of rejects in the settings. Example: `stages/requests/`. A stage whose items take long to
read also has all of the following, so that jobs on many machines can share the reading (`stages.pipeline.parts`):

```
READING: pa.Schema            what is known about an item once it is read: at least its `uri` and `stamp`
def list_unread(config: Config, context: Context, known: pa.Table, refused: pa.Table) -> pa.Table
                              the items that `read_source` would read, in its order: at least `uri`, `stamp` and `size`
                              (bytes); `known` has only the column `files`, with only `uri` and `stamp`
def read_part(config: Config, context: Context, unread: pa.Table) -> Iterator[Row]
                              rows of READING for some of these items; `read_source` uses them first (`Readings`)
```

Any stage may also define:

```
def preview(config: Config, context: Context) -> Preview
                              what it would work on, printed by a plan that names the stage; it reads little, and does
                              not load torch
CONSULTS: tuple[Table, ...]   tables that it looks rows up in, by `context.rows`. Their versions are part of its
                              version. New rows in them make no rows stale, but what it rejected is tried again
OPTIONAL: tuple[Table, ...]   tables of READS and CONSULTS that need not exist: one that the store does not hold and the
                              run does not make has no version, and what would name its version is not looked for
OUTDATED: Mapping[int, str]   VERSIONs up to which its rows cannot be kept after an upgrade, even if nothing but the
                              release changed, each with the reason in a few words, such as keys that meant something
                              else
REPEATS: Mapping[Table, tuple[str, ...]]
                              columns of other tables of READS that its rows repeat, under the same names, for the same
                              keys: a row whose values differ from these is made again
SHOWS: tuple[Table, ...]      tables of READS that a run that makes both publishes together with WRITES, not before:
                              an order of clips is shown once its clips are
def dependencies(config: Config, weights: Callable[[WeightsRef], LocalWeights]) -> Dependencies
                              which weights of its Config and which tables of READS and CONSULTS affect its rows, if
                              that follows from the Config or from the weights themselves. Only these are fetched,
                              are part of its version and must exist. Of READS, only those in STREAMS may be left out.
                              For a stage that reduces, also which of their columns affect its rows
```

A stage never imports another stage, and knows nothing of Prefect, of shards' files or of runs. It loads models by
`context.borrow`, so that the next shard can use them too. Between batches it calls `context.check_stopped()` and
`context.progress.advance()`. A bad item is a `Reject` with a message for a person. What is odd but usable is a remark,
`context.remarks.add(what, location, example)`; a run prints the most frequent ones at its end. A stage raises an error
only for what is not the fault of an item.
"""

import threading
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa

from schemas import Config, Settings, Store, WeightsRef
from schemas.queries.checks import Check, Severity
from schemas.storage.take_downs import HIDDEN_BY, TakeDowns
from schemas.tables import Row, Table
from schemas.weights import LocalWeights, WeightsLibrary
from stages.pipeline.loans import Loaded, Loans
from stages.pipeline.remarks import Remark, Remarks
from stages.pipeline.scratch import Scratch


class Stopped(Exception):
    """The run was asked to stop; finished work is kept and the next run continues from there."""


@dataclass(frozen=True)
class Dependencies:
    """What affects a stage's rows."""

    config: Config
    """The stage's configuration, with None in place of weights that do not affect them."""
    consults: tuple[Table, ...]
    """The tables of CONSULTS that affect them."""
    reads: tuple[Table, ...] | None = None
    """The tables of READS that affect them; None for all."""
    columns: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """For stages that reduce: by table, the columns that affect them, among those that are part of the table's
    identity. A table that is not named here counts with all of these."""


NOT_ACCEPTED = "not accepted"
"""The kind of a reject that the user's own conditions ask for. Such rejects, however many, do not fail a stage."""


@dataclass(frozen=True)
class Reject:
    """An item that a stage refused."""

    key: str
    """The row's key in the driving table; the URI or the line if it has no key yet."""
    uri: str
    kind: str
    """A short text: `unreadable`, `empty`, `silent`, `too short`, `not finite`, `unknown melody` …"""
    message: str
    """What was expected, what came, and what to do, for a person."""
    stamp: str | None = None
    """From `read_source`: the state of the file. The file is read again only after its state changed."""
    passing: bool = False
    """Whether the reason is a missing file, mount or connection or lack of memory, which says nothing about the item.
    The next run tries again."""


@dataclass(frozen=True)
class CheckResult:
    """What one check found: a row of `checks` without its run and stage."""

    check: str
    table: str
    severity: Severity
    value: float
    """What was counted: the number of wrong rows, keys or columns, or a share."""
    threshold: float
    """The highest value that passes."""
    message: str
    """What was expected, what came, and what to do."""

    @property
    def passed(self) -> bool:
        return self.value <= self.threshold


@dataclass(frozen=True)
class Shard:
    """What `shard` yields: whole rows, each a mapping by column (lists and numpy arrays for nested columns), and
    rejects."""

    rows: Sequence[Mapping[str, Any]]
    rejects: Sequence[Reject] = ()


@dataclass(frozen=True)
class ReduceResult:
    """What `reduce` returns: rows of WRITES, and of other tables written along with it."""

    rows: Sequence[Mapping[str, Any]]
    also: Mapping[str, Sequence[Mapping[str, Any]]] = field(default_factory=dict)
    """Rows of other tables by table name, e.g. `{"training": [...]}`. They get the version and shard of `rows`."""
    rejects: Sequence[Reject] = ()


@dataclass(frozen=True)
class SourcePlan:
    """What `plan_source` returns: how many rows `read_source` would make, keep and drop, and what it would report."""

    make: int
    reuse: int
    drop: int
    moved: int = 0
    """Rows that changed only their position in the source: they are written again but not made again."""
    remarks: Sequence[Remark] | None = None
    """What `read_source` would notice if no row changed, if that is known now. If the store holds other remarks, there
    is work to do."""
    rejects: Sequence[Reject] | None = None
    """What it would reject, if that is known now. If the store holds other rejects, there is work to do."""
    checks: Sequence[CheckResult] = ()
    """What the source must satisfy before users see what was read."""
    notices: Sequence[str] = ()
    """What a person should know before the work is done, one text of one or more sentences each."""
    content: Mapping[int, Sequence[Row]] | None = None
    """All rows of WRITES as they would be, by shard, if they are known now. Then what follows from them can be planned
    too."""


@dataclass(frozen=True)
class Preview:
    """What `preview` returns."""

    lines: Sequence[str]
    """What the stage would work on, one fact a line."""
    remarks: Sequence[Remark] = ()
    """What the stage would notice."""


@dataclass(frozen=True)
class ShardUpdate:
    """What `read_source` yields: the complete new content of one shard."""

    number: int
    rows: Sequence[Mapping[str, Any]]
    made: int
    """How many of the rows are new or changed."""
    rejects: Sequence[Reject] = ()
    """All rejects of the stage that stand now: unchanged ones of earlier runs and new ones."""
    also: Mapping[str, Sequence[Mapping[str, Any]]] = field(default_factory=dict)
    """The whole content of the same shard of other tables, by name. It is written before the rows."""


class Progress:
    """How far a stage is. The command line draws it; this base class ignores all reports."""

    def begin_stage(self, stage: str, jobs: int) -> None:
        """Begin a stage with a number of jobs, each of which is a shard or the whole stage."""

    def end_job(self) -> None:
        """Count one job of the stage as done."""

    def start(self, what: str, total: int, unit: str) -> None:
        """Begin a piece of work with `total` things to do, each a `unit` (`tracks`, `steps`, `clips`)."""

    def advance(self, count: int = 1, note: str = "") -> None:
        """Count `count` more things as done; `note` is a short figure to show, such as the loss."""

    def resume(self, count: int) -> None:
        """Count `count` things as done that an interrupted run did, and that say nothing about the rate of this one."""
        self.advance(count, "resumed")

    def tell(self, lines: Sequence[str]) -> None:
        """Show what a person should know before the work is done, such as what it is done on."""


def device_of(settings: Settings) -> str:
    """Return the device that the settings mean: `cpu` or `cuda`.

    Raises:
        ValueError: the settings ask for `cuda` and there is none.
    """
    import torch

    if settings.device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if settings.device == "cuda" and not torch.cuda.is_available():
        raise ValueError("expected a CUDA device, got a machine without one: use --set settings.device=cpu")
    return settings.device


@dataclass
class Context:
    """What a stage knows about the run that it is part of."""

    store: Store
    settings: Settings
    run_id: str
    stage: str
    fingerprint: str
    """The version that the stage writes."""
    versions: Mapping[str, str]
    """The version of every table that the stage reads or consults, by table name."""
    library: WeightsLibrary
    config: str = ""
    """The stage's configuration as canonical JSON, with the digests of the weights that it names."""
    identity: str = ""
    """For stages that reduce: a hash of the fingerprint and the digest of the rows read. It is the id of a
    checkpoint."""
    data_digest: str = ""
    """For stages that reduce: the digest of the rows read."""
    data_columns: Mapping[str, Sequence[str]] = field(default_factory=dict)
    """The columns that enter this digest, by table; of a table that is not named, all columns of its identity do."""
    kept: frozenset[tuple[str, ...]] = frozenset()
    """For stages that map: keys of the rows of WRITES that need not be made again, as `schemas.storage.shards.row_keys`
    gives them: one text for each column of the key."""
    checks: tuple[Check, ...] = ()
    """The user's own checks, which must pass before anything is published."""
    shown_later: bool = False
    """Whether a later stage of the run publishes the table that this stage makes (`SHOWS`)."""
    progress: Progress = field(default_factory=Progress)
    stop: threading.Event = field(default_factory=threading.Event)
    remarks: Remarks = field(default_factory=Remarks)
    """Collects what the stage notices; each job has its own."""
    loans: Loans = field(default_factory=Loans)
    """The models that the job has borrowed; each job has its own."""

    @property
    def device(self) -> str:
        """`cpu` or `cuda`."""
        return device_of(self.settings)

    def weights(self, reference: WeightsRef) -> LocalWeights:
        """Return the weights that a field of the stage's Config names, as a local file or folder."""
        return self.library.get(reference)

    def borrow(self, key: Hashable, load: Callable[[], Loaded]) -> Loaded:
        """Return a model that stays in memory for the next job of this version of the stage. It is loaded now if none
        is kept (`stages.pipeline.loans`).

        Args:
            key: identifies the model among all that the stage borrows.
            load: loads the model. The model must hold nothing that belongs to this job, such as this context.
        """
        return self.loans.borrow(key, load)

    def checkpoint(self, reference: WeightsRef) -> Row:
        """Return the row of `checkpoints` behind a reference `checkpoint:<kind or id>`.

        Raises:
            ValueError: there is no such checkpoint.
        """
        row = self.library.checkpoint(reference.checkpoint or reference)
        if row is None:
            raise ValueError(f"expected a trained checkpoint for {str(reference)!r} in {self.store.url}, got none")
        return row

    def rows(self, table: Table, columns: Sequence[str] | None = None) -> pa.Table:
        """Return all rows of a table that the stage reads or consults, at this run's version, without those that are
        hidden after a take-down."""
        if table.name in HIDDEN_BY:
            names = table.schema.names if columns is None else columns
            whole = self._all_rows(table, tuple(dict.fromkeys((*names, *HIDDEN_BY[table.name]))))
            return TakeDowns(self.store).hidden.shown(table, whole).select(list(names))
        return self._all_rows(table, columns)

    def _all_rows(self, table: Table, columns: Sequence[str] | None) -> pa.Table:
        if table.accumulates:
            return self.store.read_all(table, columns)
        if table.name not in self.versions:
            raise ValueError(f"expected {table.name} in READS or CONSULTS of {self.stage}, got {sorted(self.versions)}")
        return self.store.read(table, self.versions[table.name], columns=columns)

    def scratch(self) -> Path:
        """Return a local folder for the resumable state of this stage's work. It is kept until the runner has written
        the result. For a remote store it is under the user's cache; `scratch_area` copies files of it to the store."""
        folder = self.scratch_area.folder
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    @property
    def scratch_area(self) -> Scratch:
        """The scratch folder with its place in the store."""
        return Scratch(self.store, self.stage, self.identity or self.fingerprint)

    def clear_scratch(self) -> None:
        """Remove the scratch folder, and those of the stage that were abandoned long ago."""
        self.scratch_area.clear()

    def __getstate__(self) -> dict[str, Any]:
        """Return what is pickled for another process: everything except what belongs to this process, such as the
        listener and the event."""
        own = ("progress", "stop", "remarks", "loans")
        return {name: value for name, value in self.__dict__.items() if name not in own}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state, progress=Progress(), stop=threading.Event(), remarks=Remarks(), loans=Loans())

    def check_stopped(self) -> None:
        """Raise `Stopped` if the run was asked to stop."""
        if self.stop.is_set():
            raise Stopped(f"{self.stage} was asked to stop")
