"""Cleaning: which parts of a store are still needed and why, and what may be removed.

Needed are the rows of every publication that views show or may be taken back to, what recent and present runs make, and
the models that any of these were made with. Nothing younger than an hour is removed, since a run at work may be about
to name it.
"""

import os
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import cached_property

from schemas.storage.file_store import STALE_SECONDS
from schemas.storage.holdings import (
    FILE_FOLDERS,
    age_of,
    holdings,
    leftovers,
    named_files,
    size_of,
    unnamed_files,
    versions_of,
)
from schemas.storage.leases import live_leases
from schemas.storage.publications import Publications
from schemas.storage.row_files import file_columns
from schemas.storage.store import Store
from schemas.storage.take_downs import HIDDEN_BY, TakeDowns
from schemas.storage.versions import Versions
from schemas.tables import (
    BESIDE,
    CHECKPOINTS,
    CLIPS,
    GENERATIONS,
    LEARNED,
    PUBLICATIONS,
    PUBLISHED,
    RECONSTRUCTIONS,
    RUNS,
    SAMPLES,
    TRAINING,
    VERDICTS,
    Row,
    Table,
)
from schemas.upkeep.inspection import DAMAGED


@dataclass(frozen=True)
class Item:
    """A file or folder of the store, and why it is removed or kept."""

    path: str
    bytes: int
    why: str

    @property
    def group(self) -> str:
        """The table or folder that it belongs to."""
        return self.path.partition("/")[0]


@dataclass
class CleaningPlan:
    """What to remove, in an order that may be interrupted anywhere, and what is kept."""

    remove: list[Item] = field(default_factory=list)
    keep: list[Item] = field(default_factory=list)


def plan_cleaning(store: Store, keep: timedelta, now: datetime | None = None) -> CleaningPlan:
    """Return what may be removed.

    Args:
        keep: how long to keep what is no longer shown; at least an hour.
        now: the present; None takes the clock's.

    Raises:
        ValueError: something is damaged, so it is not known what it needs.
    """
    return _Cleaning(store, keep, now or datetime.now(UTC)).plan()


def clean(store: Store, plan: CleaningPlan) -> None:
    """Remove what a plan lists. A file that names others is listed, and so removed, before them."""
    for item in plan.remove:
        store.remove(item.path)
        if store.is_local and item.group in FILE_FOLDERS:
            folder = os.path.dirname(item.path)
            with suppress(OSError):  # stop at the first folder that is not empty
                while "/" in folder:
                    os.rmdir(store.path(folder))
                    folder = os.path.dirname(folder)


class _Cleaning:
    def __init__(self, store: Store, keep: timedelta, now: datetime) -> None:
        self._store, self._now, self._time = store, now, now.timestamp()
        self._keep = max(keep, timedelta(seconds=STALE_SECONDS))
        self._cutoff = now - self._keep
        self._publications, self._versions = Publications(store), Versions(store)
        self._leases, self._hidden = live_leases(store), TakeDowns(store).hidden
        self._leased = {name.rpartition("-")[2] for name in self._leases}
        self._plan = CleaningPlan()
        self._kept_versions: set[str] = set()
        self._named: set[str] = set()
        self._used_checkpoints: set[str] = set()

    def plan(self) -> CleaningPlan:
        for sequence in sorted(set(self._publications.sequences()) - self._needed_publications):
            path = self._store.shard_path(PUBLICATIONS, "1", f"{sequence:012d}")
            self._remove(path, f"older than {self._days}")
        for table in PUBLISHED.values():
            for version in versions_of(self._store, table):
                self._table_version(table, version)
        for table in BESIDE:
            for version in versions_of(self._store, table):
                if version not in self._kept_versions | self._whole.keys():
                    self._remove(self._store.folder(table, version), "of a version that nothing uses")
        self._checkpoints()
        for path, size in unnamed_files(self._store, self._named, self._time).items():
            self._plan.remove.append(Item(path, size, "no row that is kept names it"))
        self._remains()
        return self._plan

    def _remove(self, path: str, why: str, age: float = STALE_SECONDS) -> bool:
        """Plan to remove a path unless it is younger than `age` seconds; return whether it is to be removed."""
        if age_of(self._store, path, self._time) <= age:
            return False
        self._plan.remove.append(Item(path, size_of(self._store, path), why))
        return True

    # -- what is needed -----------------------------------------------------------------------------------------------

    @property
    def _days(self) -> str:
        return f"{self._keep / timedelta(days=1):g} days"

    @cached_property
    def _needed_publications(self) -> set[int]:
        """Numbers of the records that were in effect in the time to keep, and of the records that those show."""
        records = [self._publications.record(sequence) for sequence in self._publications.sequences()]
        before = [record for record in records if record.created_at < self._cutoff]
        kept = [*before[-1:], *(record for record in records if record.created_at >= self._cutoff), *records[-1:]]
        numbers = {record.sequence for record in kept}
        for record in kept:
            numbers |= {*record.shown.values(), *record.passed.values()}
        return numbers & {record.sequence for record in records}

    @cached_property
    def _needed_shards(self) -> dict[tuple[str, str], dict[tuple[str, str], int]]:
        """The shards of the needed publications, as name and digest with the number of one such publication, by table
        and version."""
        needed: dict[tuple[str, str], dict[tuple[str, str], int]] = {}
        for sequence in sorted(self._needed_publications):
            record = self._publications.record(sequence)
            for name, version in record.versions.items():
                shards = {(shard.shard, shard.digest): sequence for shard in record.shards[name]}
                needed.setdefault((name, version), {}).update(shards)
        return needed

    @cached_property
    def _whole(self) -> dict[str, str]:
        """Versions that are kept completely, with the reason."""
        runs = sorted(self._store.read(RUNS, "1").to_pylist(), key=lambda row: row["sequence"] or 0)
        reasons = {
            run["fingerprint"]: f"the last run of {run['stage']}" for run in {r["stage"]: r for r in runs}.values()
        }
        for run in runs:
            if run["started_at"] >= self._cutoff:
                versions = (run["fingerprint"], *dict(run["inputs"]).values())
                reasons |= dict.fromkeys(versions, f"a run of the last {self._days}")
        reasons |= dict.fromkeys(self._leased, "a run is making it now")
        for fingerprint, why in list(reasons.items()):
            for version in self._versions.upstream(fingerprint):
                reasons.setdefault(version, why)
        return reasons

    # -- tables -------------------------------------------------------------------------------------------------------

    def _table_version(self, table: Table, version: str) -> None:
        """Decide on one version of a table that stages publish."""
        folder, needed = self._store.folder(table, version), self._needed_shards.get((table.name, version), {})
        why = self._whole.get(version, "")
        if needed:
            why = self._why_published(table, version)
        elif not why and table.name not in self._ever_published:
            why = "made by a release without publications"
        if not why:
            if self._remove(folder, "nothing uses this version"):
                return
            why = "written in the last hour"
        self._kept_versions.add(version)
        size = 0
        for holding in holdings(self._store, table, version):
            if holding.kind == "history" and (holding.shard, holding.digest) not in needed:
                removed = self._remove(holding.path, "replaced, and no publication that is kept shows it")
            elif holding.kind in ("draft", "part") and version not in self._leased:
                removed = self._remove(
                    holding.path, f"of a run that ended {self._days} ago", self._keep.total_seconds()
                )
            else:
                removed = False
            if not removed:
                size += holding.bytes
                self._name_files(table, holding.path)
        self._plan.keep.append(Item(folder, size, why))

    @cached_property
    def _ever_published(self) -> set[str]:
        latest = self._publications.latest()
        return set(latest.passed) if latest else set()

    def _why_published(self, table: Table, version: str) -> str:
        latest = self._publications.latest()
        for name in ("shown", "passed"):
            number = getattr(latest, name).get(table.name)
            if number is not None and self._publications.record(number).versions[table.name] == version:
                return f"{'shown' if name == 'shown' else 'passed last'} (publication {number})"
        return f"publication {max(self._needed_shards[table.name, version].values())} can be taken back"

    def _name_files(self, table: Table, path: str) -> None:
        """Record the files and checkpoints that the rows of a kept file name."""
        columns = dict.fromkeys((*HIDDEN_BY.get(table.name, ()), *(file_columns(table) if table.files else ())))
        if not columns:
            return
        rows = self._store.read_files(table, [path], list(columns))
        shown = self._hidden.shown(table, rows)  # hidden rows never come back, so their files may be removed
        if table in (GENERATIONS, VERDICTS, CLIPS):
            self._used_checkpoints |= set(shown.column("checkpoint_id").to_pylist())
        if table.files:
            self._named |= named_files(table, shown)

    # -- checkpoints --------------------------------------------------------------------------------------------------

    def _checkpoints(self) -> None:
        """Decide on trained models: a shard of `checkpoints` is removed if none of its models is in use."""
        shards = [
            (version, shard, self._store.read(CHECKPOINTS, version, [shard]).to_pylist())
            for version in versions_of(self._store, CHECKPOINTS)
            for shard in self._store.shards(CHECKPOINTS, version)
        ]
        used = self._checkpoints_in_use([row for _, _, rows in shards for row in rows])
        training_sets = set[str]()
        for version, shard, rows in shards:
            paths = [
                self._store.shard_path(table, version, shard)
                for table in (CHECKPOINTS, TRAINING, RECONSTRUCTIONS, SAMPLES)
            ]
            removed = not any(row["checkpoint_id"] in used for row in rows) and self._remove(
                paths[0], "no clip or table that is kept was made with this model"
            )
            if removed:
                for path in paths[1:]:
                    if self._store.exists(path):
                        self._remove(path, "of a model that is removed", 0.0)
                continue
            self._named |= {row["path"] for row in rows if row["path"]}
            training_sets |= {row["training_set"] for row in rows}
            self._plan.keep.append(
                Item(
                    f"models/{shard}",
                    sum(size_of(self._store, row["path"]) for row in rows),
                    self._why_trained(rows, used),
                )
            )
            self._name_files(RECONSTRUCTIONS, paths[2])
            self._name_files(SAMPLES, paths[3])
        for name in self._store.shards(LEARNED, "1"):
            if name not in training_sets:
                self._remove(self._store.shard_path(LEARNED, "1", name), "no model that is kept learned from these")

    def _checkpoints_in_use(self, rows: list[Row]) -> dict[str, str]:
        """Return the ids of the models to keep, with the reason."""
        used = dict.fromkeys(self._used_checkpoints, "clips that are kept were made with it")
        versions = self._kept_versions | self._whole.keys()
        unknown = self._kept_versions - self._versions.all.keys()
        weights = {
            digest for name in versions & self._versions.all.keys() for digest in self._versions.all[name].weights()
        }
        newest: dict[str, Row] = {}
        for row in sorted(rows, key=lambda row: row["created_at"]):
            newest[f"kind {row['kind']}"] = newest[f"recipe {row['recipe']}"] = row
        for row in rows:
            if unknown:
                used.setdefault(row["checkpoint_id"], "it is unknown what some versions were made with")
            elif row["digest"] in weights:
                used.setdefault(row["checkpoint_id"], "tables that are kept were made with it")
            elif row["checkpoint_id"] in self._hidden.checkpoint_id and row["created_at"] < self._cutoff:
                continue  # a model hidden by a take-down counts as not trained
            elif newest[f"kind {row['kind']}"] is row:
                used.setdefault(row["checkpoint_id"], "the newest of its kind")
            elif row["created_at"] >= self._cutoff:
                used.setdefault(row["checkpoint_id"], f"trained in the last {self._days}")
            elif row["recipe"] in self._whole and newest[f"recipe {row['recipe']}"] is row:
                used.setdefault(row["checkpoint_id"], self._whole[row["recipe"]])
        by_id = {row["checkpoint_id"]: row for row in rows}
        waiting = list(used)
        while waiting:
            for parent in by_id.get(waiting.pop(), {}).get("parents") or ():
                if parent not in used:
                    used[parent] = "a model that is kept was trained from it"
                    waiting.append(parent)
        return used

    @staticmethod
    def _why_trained(rows: list[Row], used: dict[str, str]) -> str:
        return next(
            (used[row["checkpoint_id"]] for row in rows if row["checkpoint_id"] in used), "written in the last hour"
        )

    # -- leftovers ----------------------------------------------------------------------------------------------------

    def _remains(self) -> None:
        """Plan to remove what killed runs left, the state of trainings that nobody resumed, and what a repair set
        aside."""
        store, seconds = self._store, self._keep.total_seconds()
        for path, size in leftovers(store, self._time).items():
            self._plan.remove.append(Item(path, size, "left by a killed run"))
        at_work = {name.rpartition("-")[0] for name in self._leases}
        for name in store.folders("scratch"):
            if name.rpartition("-")[0] not in at_work:
                self._remove(f"scratch/{name}", f"work that nobody resumed for {self._days}", seconds)
        for name in store.folders("leases"):
            if name not in self._leases:
                self._remove(f"leases/{name}", "of a run that has ended")
        for path in _files(store, DAMAGED):
            self._remove(path, f"set aside by a repair {self._days} ago", seconds)


def _files(store: Store, folder: str) -> Iterator[str]:
    for name in store.files(folder):
        yield f"{folder}/{name}"
    for name in store.folders(folder):
        yield from _files(store, f"{folder}/{name}")
