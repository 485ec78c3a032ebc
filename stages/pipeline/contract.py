"""What a stage is: all that it gives to the runner, and all that it is given. Read this page to add a stage.

A stage is a module or a package with these names: no base class, no registry but a line in `flows/recipes/recipe.py`.

```
READS: tuple[Table, ...]      the tables that it is made from; the first one drives it
WRITES: Table                 the table that it makes
VERSION: int                  to be raised when its code gives other results
class Config(schemas.Config)  its knobs; weights are fields of type `WeightsRef`
```

Its rows depend on these alone: a table's version is a hash of the stage's name, VERSION, its Config with the digests of
the weights that it names, and the versions of the tables that it reads. So the runner knows what is stale, and a stage
never looks whether its work was done before. It defines one of three functions.

```
def shard(config: Config, context: Context, *tables: pa.Table) -> Iterator[Shard]
```

maps: it yields the rows of WRITES for one shard, each as soon as it is whole, for what it has yielded is kept whatever
ends the run. So a part is one track or one clip, or a batch of what is computed together, and nothing is computed ahead
of it. `tables` are the rows of that shard of each of READS, in their order; the first holds only those rows that are
still to be made. The key columns of that table that WRITES has too say which rows were made from which, and each row is
made or refused, once: one without either is an error. Where a row gives several of WRITES, as a request gives its
takes, `context.kept` names those that are there: they are not made again. Example: `stages/chroma.py`.

```
def reduce(config: Config, context: Context, *tables: pa.Table) -> ReduceResult
KINDS: tuple[str, ...]        (optional) the kinds of checkpoint that it trains
STREAMS: tuple[Table, ...]    (optional) those of READS that may be larger than memory: it is not given them, and reads
                              them itself, shard by shard
```

reduces: it makes its rows from everything of READS at once. `context.identity` names the result. Where Config has a
field `refresh` ("missing", "changed" or "never", in NOT_IDENTITY), that says when a run of the whole catalog makes it
anew. Example: `stages/report/`.

```
def plan_source(config: Config, context: Context, known: pa.Table, refused: pa.Table) -> SourcePlan
def read_source(config: Config, context: Context, known: pa.Table, refused: pa.Table) -> Iterator[ShardUpdate]
PLANNING_COLUMNS: tuple[str, ...]   (optional) what `Store.read` reads of `known` for `plan_source`; without it, all
STAGED: bool                  (optional) what it takes in replaces what was taken in last as a whole or not at all
```

take in what lies outside the store: `known` are the stage's rows of earlier runs, `refused` its rejects. `plan_source`
only counts; `read_source` yields the complete new content of each shard that changes. Example: `stages/ingest/`. Where
the source is STAGED, `known` is what users see, whatever a run that failed left behind, and the plan's own checks stand
in the place of the share that the settings let be refused. Example: `stages/requests/`. One whose items take long to
read has all of these besides, so that jobs on many machines share them (`stages.pipeline.parts`):

```
READING: pa.Schema            what is known of an item once it is read: at least its `uri` and `stamp`
def list_unread(config: Config, context: Context, known: pa.Table, refused: pa.Table) -> pa.Table
                              the items that `read_source` would read, in its order: at least `uri`, `stamp` and `size`
                              (bytes); of `known` it is given the column `files`, with `uri` and `stamp` alone
def read_part(config: Config, context: Context, unread: pa.Table) -> Iterator[Row]
                              rows of READING of some of them; `read_source` looks there first (`Readings`)
```

Any stage may also define:

```
def preview(config: Config, context: Context) -> Preview
                              what it would work on, told before it does by a plan that names the stage; it reads
                              little, and loads no torch
CONSULTS: tuple[Table, ...]   tables that it looks rows up in, by `context.rows`: their versions enter its version,
                              while new rows in them make nothing stale but what was refused
OPTIONAL: tuple[Table, ...]   those of READS and CONSULTS that need not be there: one that the store does not hold, and
                              the run does not make, has no version, and nothing is looked for that would name one
OUTDATED: Mapping[int, str]   VERSIONs up to which its rows cannot be gone on with after an upgrade, though nothing but
                              the release changed, each with the reason in a few words: such as keys that meant
                              something else
REPEATS: Mapping[Table, tuple[str, ...]]
                              columns of others of READS that its rows repeat, under the same names, for the same keys:
                              a row that no longer says the same is made again
def dependencies(config: Config, weights: Callable[[WeightsRef], LocalWeights]) -> Dependencies
                              which weights of its Config and which of READS and CONSULTS have a say in its rows, where
                              that follows from the Config or from the weights themselves; only those are fetched,
                              enter its version and must be there. Of READS, only those of STREAMS may be left out.
                              Of a stage that reduces, also which of their columns
```

A stage never imports another stage, and knows nothing of Prefect, of shards' files or of runs. What it loads for a
shard it gets by `context.borrow`, so that the next one has it, too. Between batches it calls
`context.check_stopped()` and `context.progress.advance()`. A bad item is a `Reject` with a message for a person; what
is odd but usable is a remark, `context.remarks.add(what, location, example)`, of which a run tells the commonest at its
end; a stage raises only what no item is to blame for.
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
    """The run was asked to stop; what is done is kept and the next run goes on from there."""


@dataclass(frozen=True)
class Dependencies:
    """What has a say in a stage's rows."""

    config: Config
    """The stage's configuration, with None in place of weights that have none."""
    consults: tuple[Table, ...]
    """Those of CONSULTS that have one."""
    reads: tuple[Table, ...] | None = None
    """Those of READS that have one; None for all."""
    columns: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Of stages that reduce: the columns that have one, by table, of those that are part of the table's identity; of a
    table that is not named, all of them."""


NOT_ACCEPTED = "not accepted"
"""The kind of a reject that the user's own conditions ask for; however many, they do not fail a stage."""


@dataclass(frozen=True)
class Reject:
    """Something that a stage refused."""

    key: str
    """The row's key in the driving table, or the URI or line where it has none yet."""
    uri: str
    kind: str
    """A short word: `unreadable`, `empty`, `silent`, `too short`, `not finite`, `unknown melody` …"""
    message: str
    """What was expected, what came, and what to do, for a person."""
    stamp: str | None = None
    """From `read_source`: the state of the file, so that it is read again only after it changed."""
    passing: bool = False
    """For want of a file, a mount, a connection or memory, which says nothing of the item: the next run tries again."""


@dataclass(frozen=True)
class CheckResult:
    """What one check found: a row of `checks`, but for the run and the stage."""

    check: str
    table: str
    severity: Severity
    value: float
    """What was counted: rows, keys or columns that are wrong, or a share."""
    threshold: float
    """The most that passes."""
    message: str
    """What was expected, what came, and what to do."""

    @property
    def passed(self) -> bool:
        return self.value <= self.threshold


@dataclass(frozen=True)
class Shard:
    """What `shard` yields: rows by column (lists and numpy arrays for nested columns) that are whole, and what it
    refused."""

    rows: Sequence[Mapping[str, Any]]
    rejects: Sequence[Reject] = ()


@dataclass(frozen=True)
class ReduceResult:
    """What `reduce` returns: rows of WRITES, and of other tables beside it."""

    rows: Sequence[Mapping[str, Any]]
    also: Mapping[str, Sequence[Mapping[str, Any]]] = field(default_factory=dict)
    """Rows by table name, e.g. `{"training": [...]}`; their version and shard are those of the rows."""
    rejects: Sequence[Reject] = ()


@dataclass(frozen=True)
class SourcePlan:
    """What `plan_source` returns: how many rows `read_source` would make, keep and drop."""

    make: int
    reuse: int
    drop: int
    moved: int = 0
    """Rows that are as they were but for where they stand in the source: written anew, and not made."""
    remarks: Sequence[Remark] | None = None
    """What `read_source` would notice if no row changed, where that can be told now: where the store holds other
    remarks, there is something to do."""
    rejects: Sequence[Reject] | None = None
    """What it would refuse, where that can be told now: where the store holds others, there is something to do."""
    checks: Sequence[CheckResult] = ()
    """What must hold of the source before users see what was taken in."""
    told: Sequence[str] = ()
    """What a person is to know before it is done, a sentence or more each."""
    content: Mapping[int, Sequence[Row]] | None = None
    """All rows of WRITES as they would be, by shard, where they can be told now: what follows from them can be planned
    too."""


@dataclass(frozen=True)
class Preview:
    """What `preview` returns."""

    lines: Sequence[str]
    """What it would work on, a line a fact."""
    remarks: Sequence[Remark] = ()
    """What it would notice."""


@dataclass(frozen=True)
class ShardUpdate:
    """What `read_source` yields: the complete new content of one shard."""

    number: int
    rows: Sequence[Mapping[str, Any]]
    made: int
    """How many of the rows are new or changed."""
    rejects: Sequence[Reject] = ()
    """All rejects of the stage as they stand now: the unchanged ones of earlier runs and the new ones."""
    also: Mapping[str, Sequence[Mapping[str, Any]]] = field(default_factory=dict)
    """The whole content of the same shard of other tables, by name; it is written before the rows."""


class Progress:
    """How far a stage is; the command line draws it, and nobody needs to listen."""

    def begin_stage(self, stage: str, jobs: int) -> None:
        """Begin a stage of so many jobs, each a shard, or all of it."""

    def end_job(self) -> None:
        """Count a job of the stage as done."""

    def start(self, what: str, total: int, unit: str) -> None:
        """Begin a piece of work: `total` things to do, each a `unit` (`tracks`, `steps`, `clips`)."""

    def advance(self, count: int = 1, note: str = "") -> None:
        """Count `count` more things as done; `note` is a short reading, such as the loss."""

    def tell(self, lines: Sequence[str]) -> None:
        """Say something that a person should know before the work is done, such as what it is done on."""


def device_of(settings: Settings) -> str:
    """Return `cpu` or `cuda`.

    Raises:
        ValueError: the settings want `cuda` where there is none.
    """
    import torch

    if settings.device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if settings.device == "cuda" and not torch.cuda.is_available():
        raise ValueError("expected a CUDA device, got a machine without one: use --set settings.device=cpu")
    return settings.device


@dataclass
class Context:
    """What a stage knows of the run that it is in."""

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
    """For stages that reduce, a hash of the fingerprint and the digest of the rows read: the id of a checkpoint."""
    data_digest: str = ""
    """For stages that reduce: the digest of the rows read."""
    data_columns: Mapping[str, Sequence[str]] = field(default_factory=dict)
    """The columns that have a say in it, by table, where not all do."""
    kept: frozenset[tuple[str, ...]] = frozenset()
    """For stages that map: keys of WRITES' rows that need not be made again, each as `schemas.storage.shards.row_keys`
    gives it: a text for each column of the key."""
    checks: tuple[Check, ...] = ()
    """What the user wants to hold before anything is published."""
    progress: Progress = field(default_factory=Progress)
    stop: threading.Event = field(default_factory=threading.Event)
    remarks: Remarks = field(default_factory=Remarks)
    """What the stage notices; each job has its own."""
    loans: Loans = field(default_factory=Loans)
    """The models that the job has; each job has its own."""

    @property
    def device(self) -> str:
        """`cpu` or `cuda`."""
        return device_of(self.settings)

    def weights(self, reference: WeightsRef) -> LocalWeights:
        """Return the weights that a field of the stage's Config names, as a local file or folder."""
        return self.library.get(reference)

    def borrow(self, key: Hashable, load: Callable[[], Loaded]) -> Loaded:
        """Return a model that stays in memory for the next job of this version of the stage, here and now loaded if
        there is none (`stages.pipeline.loans`).

        Args:
            key: what the stage knows it by, among all that it borrows.
            load: loads it. What it gives holds nothing of this job's own, such as this context.
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
        """Return all rows of a table that the stage reads or consults, at this run's version, but for those that are
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
        """Return a local folder for the resumable state of this stage's work, kept until the runner has written what
        comes of it. On a remote store it is under the user's cache; `scratch_area` takes files of it further."""
        folder = self.scratch_area.folder
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    @property
    def scratch_area(self) -> Scratch:
        """The folder and its place in the store."""
        return Scratch(self.store, self.stage, self.identity or self.fingerprint)

    def clear_scratch(self) -> None:
        """Remove the scratch folder, and those of the stage that were abandoned long ago."""
        self.scratch_area.clear()

    def __getstate__(self) -> dict[str, Any]:
        """Return what travels to another process: all but what is this process's own, such as the listener and the
        event."""
        own = ("progress", "stop", "remarks", "loans")
        return {name: value for name, value in self.__dict__.items() if name not in own}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state, progress=Progress(), stop=threading.Event(), remarks=Remarks(), loans=Loans())

    def check_stopped(self) -> None:
        """Raise `Stopped` if the run was asked to stop."""
        if self.stop.is_set():
            raise Stopped(f"{self.stage} was asked to stop")
