"""What a stage is given and what it gives back: the whole contract between a stage and what runs it.

A stage is a module with these names, and nothing else is asked of it:

```
READS: tuple[Table, ...]      what it is made from; the first one drives it
CONSULTS: tuple[Table, ...]   (optional) what it looks rows up in, by `context.rows(...)`: their versions enter the
                              stage's identity, their membership does not
STREAMS: tuple[Table, ...]    (optional, of one that reduces) those of READS that may be larger than memory: it is not
                              given them, and reads them itself, shard by shard
OPTIONAL: tuple[Table, ...]   (optional) those of READS that need not be there
WRITES: Table                 what it makes
VERSION: int                  raised when its code gives other results
class Config(schemas.Config)  its knobs; weights are fields of type `WeightsRef`, found there by the runner

def dependencies(config, weights) -> Dependencies
    (optional) which of its Config's weights and of CONSULTS have a say in its rows, where that follows from the weights
    themselves. Only those are looked for, and only they enter the stage's identity. `weights` finds weights by name.
```

and one of

```
def shard(config, context, *tables: pa.Table) -> Shard
    Maps: the rows of WRITES for one shard. `tables` are the rows of that shard of each of READS; the first holds only
    the rows that are still to be made. Its key columns that WRITES has too say which rows were made from which.

def reduce(config, context, *tables: pa.Table) -> ReduceResult
    Reduces: everything of READS at once, but for STREAMS. `context.identity` names the result. May also define
    `KINDS: tuple[str, ...]`, the kinds of checkpoint that it trains, and a Config field `refresh` ("missing", "changed"
    or "never", in NOT_IDENTITY), which says when a run of the whole catalog makes it anew.

def plan_source(config, context, known: pa.Table, refused: pa.Table) -> SourcePlan
def read_source(config, context, known: pa.Table, refused: pa.Table) -> Iterator[ShardUpdate]
    Takes in from outside the store: `known` are its rows of earlier runs, `refused` its rejects. `plan_source` only
    counts, and is given the columns `PLANNING_COLUMNS` of the rows alone where the stage names some. Each ShardUpdate
    is the complete new content of one shard; shards that do not change are not given.
```

A stage never imports another stage. It asks `context.check_stopped()` between batches, tells `context.progress`, and
raises only for what no item is to blame for; a bad item is a `Reject`.
"""

import shutil
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa

from schemas import Config, Settings, Store, WeightsRef
from schemas.tables import Table
from schemas.weights import LocalWeights, WeightsLibrary


class Stopped(Exception):
    """The run was asked to stop; what is done is kept and the next run goes on from there."""


@dataclass(frozen=True)
class Dependencies:
    """What has a say in a stage's rows."""

    config: Config
    """The stage's configuration, with None in place of weights that have none."""
    consults: tuple[Table, ...]
    """Those of CONSULTS that have one."""


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


@dataclass(frozen=True)
class Shard:
    """What `shard` made: rows as dicts by column (lists and numpy arrays for nested columns), and what it refused."""

    rows: Sequence[Mapping[str, Any]]
    rejects: Sequence[Reject] = ()


@dataclass(frozen=True)
class ReduceResult:
    """What `reduce` made: rows of WRITES and of other tables beside it."""

    rows: Sequence[Mapping[str, Any]]
    also: Mapping[str, Sequence[Mapping[str, Any]]] = field(default_factory=dict)
    """Rows by table name, e.g. `{"training": [...]}`; their version and shard are those of the rows."""
    rejects: Sequence[Reject] = ()


@dataclass(frozen=True)
class SourcePlan:
    """What `read_source` would do: counts of rows."""

    make: int
    reuse: int
    drop: int


@dataclass(frozen=True)
class ShardUpdate:
    """The complete new content of one shard of a stage that takes in from outside."""

    number: int
    rows: Sequence[Mapping[str, Any]]
    made: int
    """How many of the rows are new or changed."""
    rejects: Sequence[Reject] = ()
    """All rejects of the stage as they stand now: the unchanged ones of earlier runs and the new ones."""


class Progress:
    """How far a stage is; the command line draws it, and nobody needs to listen."""

    def start(self, what: str, total: int, unit: str) -> None:
        """A piece of work begins: `total` things to do, each a `unit` (`tracks`, `steps`, `clips`)."""

    def advance(self, count: int = 1, note: str = "") -> None:
        """`count` more things are done; `note` is a short reading, such as the loss."""


def device_of(settings: Settings) -> str:
    """`cpu` or `cuda`.

    Raises:
        ValueError: `cuda` is asked for where there is none.
    """
    import torch

    if settings.device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if settings.device == "cuda" and not torch.cuda.is_available():
        raise ValueError("expected a CUDA device, got a machine without one: use --set settings.device=cpu")
    return settings.device


@dataclass
class Context:
    """What a stage knows of the run it is in."""

    store: Store
    settings: Settings
    run_id: str
    stage: str
    fingerprint: str
    """The version that the stage writes."""
    versions: Mapping[str, str]
    """The version of every table that the stage reads or consults, by table name."""
    library: WeightsLibrary
    identity: str = ""
    """For stages that reduce: the fingerprint with the digest of the rows read; for `train…`, the checkpoint's id."""
    data_digest: str = ""
    """For stages that reduce: the digest of the rows read."""
    progress: Progress = field(default_factory=Progress)
    stop: threading.Event = field(default_factory=threading.Event)

    @property
    def device(self) -> str:
        """`cpu` or `cuda`."""
        return device_of(self.settings)

    def weights(self, reference: WeightsRef) -> LocalWeights:
        """The weights that a field of the stage's Config names, as a local file or folder."""
        return self.library.get(reference)

    def checkpoint(self, reference: WeightsRef) -> dict:
        """The row of `checkpoints` behind a reference `checkpoint:<kind or id>`."""
        row = self.library.checkpoint(reference.checkpoint or reference)
        if row is None:
            raise ValueError(f"expected a trained checkpoint for {str(reference)!r} in {self.store.url}, got none")
        return row

    def rows(self, table: Table, columns: Sequence[str] | None = None) -> pa.Table:
        """All rows of a table that the stage reads or consults, at this run's version."""
        if table.accumulates:
            return self.store.read_all(table, columns)
        if table.name not in self.versions:
            raise ValueError(f"expected {table.name} in READS or CONSULTS of {self.stage}, got {sorted(self.versions)}")
        return self.store.read(table, self.versions[table.name], columns=columns)

    def scratch(self) -> Path:
        """A local folder for the resumable state of this stage's work, kept until the runner has written the rows that
        come of it. On a remote store it is under the user's cache, so work goes on only on the same machine."""
        base = self._scratch_path()
        base.mkdir(parents=True, exist_ok=True)
        return base

    def clear_scratch(self) -> None:
        """Remove that folder."""
        shutil.rmtree(self._scratch_path(), ignore_errors=True)

    def _scratch_path(self) -> Path:
        from schemas.store import cache_folder

        relative = f"scratch/{self.stage}-{self.identity or self.fingerprint}"
        if self.store.is_local:
            return Path(self.store.path(relative))
        return cache_folder() / self.store.root.strip("/") / relative

    def __getstate__(self) -> dict:
        """What travels to another process: all but the listener and the event, which are this process's own."""
        return {name: value for name, value in self.__dict__.items() if name not in ("progress", "stop")}

    def __setstate__(self, state: dict) -> None:
        self.__dict__.update(state, progress=Progress(), stop=threading.Event())

    def check_stopped(self) -> None:
        """Raise `Stopped` if the run was asked to stop."""
        if self.stop.is_set():
            raise Stopped(f"{self.stage} was asked to stop")
