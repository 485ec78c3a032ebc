"""What is stale of a stage that maps: which of its shards must be made, by footers alone, and which rows of them.

A shard is done if and only if its footer's `input_key` is the identity of the keys that it would be made from now.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType, ModuleType

import pyarrow as pa

from schemas.identity import fingerprint, keys_digest
from schemas.storage.drafts import Drafts
from schemas.storage.row_files import absent_files, file_columns
from schemas.storage.shards import Footer, Rows, output_keys, row_keys
from schemas.tables import REJECTS, Table
from stages.pipeline.contract import Context
from stages.pipeline.keys import driver_of, driving_key, outdated_keys, repeated_columns, wanted_keys
from stages.pipeline.plans import ConfiguredStage, Content, Plan


def consulted_digest(module: ModuleType, context: Context) -> str | None:
    """Return the digest of what a stage may look up, so that what it refused is tried again once that changed."""
    tables = [table for table in getattr(module, "CONSULTS", ()) if table.name in context.versions]
    contents = {}
    for table in tables:
        footers = context.store.footers(table, context.versions[table.name])
        contents[table.name] = [footer.content for footer in footers.values()]
    return fingerprint(contents) if tables else None


@dataclass(frozen=True)
class _ShardPlan:
    """What a stage has to do for one shard."""

    has_work: bool
    make: int = 0
    reuse: int = 0
    drop: int = 0
    refused: int = 0
    """Rejects that stand."""
    reason: str = ""
    """Why rows whose keys are wanted are made again; empty where none are."""
    content: Rows = ()
    """What the shard will hold, where the rows that drive it are planned ones."""
    missing: Sequence[tuple[str, ...]] = ()
    """The keys of the rows to be made, where a driving row gives several."""


def plan_shards(stage: ConfiguredStage, context: Context, contents: Mapping[str, Content]) -> Plan:
    """Return what a stage that maps has to do: which shards, and how many rows of them it makes, keeps and drops.

    Args:
        contents: by table, what those that it reads will hold by then, where that is not what they hold.
    """
    planner = _Planner(stage.module, context, contents)
    shards = planner.shards()
    plans = {shard: plan for shard in shards if (plan := planner.plan(shard)) is not None}
    gone = tuple(shard for shard in planner.existing if shard not in shards)
    return Plan(
        stage.name,
        jobs=tuple(shard for shard, plan in plans.items() if plan.has_work),
        gone=gone,
        make=sum(plan.make for plan in plans.values()),
        reuse=sum(plan.reuse for plan in plans.values()),
        drop=sum(plan.drop for plan in plans.values()) + sum(planner.existing[shard].rows for shard in gone),
        refused=sum(plan.refused for plan in plans.values()),
        reason=next((plan.reason for plan in plans.values() if plan.reason), ""),
        content=None if planner.planned is None else {shard: plan.content for shard, plan in plans.items()},
        missing=tuple(key for plan in plans.values() for key in plan.missing),
    )


class _Planner:
    """Plans the shards of a stage that maps, one by one."""

    def __init__(self, module: ModuleType, context: Context, contents: Mapping[str, Content]) -> None:
        self.module, self.context, self.contents = module, context, contents
        self.source, self.version = module.READS[0], context.versions[module.READS[0].name]
        self.planned = contents.get(self.source.name)
        self.drafts = Drafts(context.store, module.WRITES, context.fingerprint)
        self.existing, self.in_work = self.drafts.footers(), self.drafts.rows_in_work()
        read = context.store.shards(self.source, self.version) if self.planned is None else ()
        self.read = {shard: context.store.shard_path(self.source, self.version, shard) for shard in read}
        self.footers = context.store.footers_of(self.read)
        self.consulted = consulted_digest(module, context)
        self.columns = [*file_columns(module.WRITES), *repeated_columns(module)]
        self.may_be_stale = bool(module.WRITES.files or repeated_columns(module))

    def shards(self) -> list[str]:
        """Return the shards that there will be by then."""
        return list(self.read if self.planned is None else self.planned)

    def plan(self, shard: str) -> _ShardPlan | None:
        """Return what there is to do for a shard; None where it is gone meanwhile."""
        read, written = self._input_key(shard), self.existing.get(shard)
        if read is None:
            return None
        if written is None:
            return self._plan_work(shard, None)
        up_to_date = written.input_key == read
        outputs = self.drafts.read([shard], self.columns) if self.may_be_stale or not up_to_date else None
        stale = self._stale(shard, outputs) if outputs is not None else {}
        if up_to_date and not stale and not _try_again(self.context, shard, written, self.consulted):
            content = () if self.planned is None else self.drafts.read([shard], self.module.WRITES.key)
            return _ShardPlan(False, reuse=written.rows, refused=written.refused, content=content)
        return self._plan_work(shard, self.drafts.read([shard], self.columns) if outputs is None else outputs, stale)

    def _input_key(self, shard: str) -> str | None:
        """Return the identity of what is made from a shard, as it will be by then; None where it is not there."""
        if self.planned is not None:
            return keys_digest(output_keys(self.source, self.planned[shard]))
        footer = self.footers.get(shard)
        return footer.output_key if footer else None

    def _plan_work(
        self, shard: str, outputs: pa.Table | None, stale: Mapping[tuple[str, ...], str] = MappingProxyType({})
    ) -> _ShardPlan:
        """Return the plan of a shard that is to be made, with those of its rows that can be kept.

        Args:
            outputs: its rows as they are; None where it was never made.
            stale: those of them that are to be made again, with the reason.
        """
        keys = set(row_keys(outputs, self.module.WRITES.key)) if outputs is not None else set()
        wanted = self._wanted(shard)
        kept = (keys - stale.keys() | set(self.in_work.get(shard, ()))) & wanted
        kept |= self._kept_in_history(shard, wanted - kept)
        missing = wanted - kept
        return _ShardPlan(
            True,
            make=len(missing),
            reuse=len(kept),
            drop=len(keys - kept),
            reason=next(iter(stale.values()), ""),
            content=() if self.planned is None else rows_of_keys(self.module.WRITES, wanted),
            missing=sorted(missing) if self.source.copies else (),
        )

    def _wanted(self, shard: str) -> set[tuple[str, ...]]:
        """Return the keys of the rows that a shard is to hold: all that follow from its driving rows, without those
        whose refusal stands."""
        columns = [*driving_key(self.module), *([self.source.copies] if self.source.copies else [])]
        store = self.context.store
        rows = store.read(self.source, self.version, [shard], columns) if self.planned is None else self.planned[shard]
        standing = _standing_refusals(self.context, shard, self.consulted)
        return {key for key in wanted_keys(self.module, rows) if driver_of(self.module, key) not in standing}

    def _kept_in_history(self, shard: str, keys: set[tuple[str, ...]]) -> set[tuple[str, ...]]:
        """Return those of some keys whose rows are in shards that were replaced, and are still right."""
        if not self.may_be_stale:
            return self.drafts.replaced_keys(keys)
        replaced = self.drafts.find_replaced(keys)
        return set(row_keys(replaced, self.module.WRITES.key)) - self._stale(shard, replaced).keys()

    def _stale(self, shard: str, rows: pa.Table) -> dict[tuple[str, ...], str]:
        """Return those of some rows of a shard that are to be made again though their keys are wanted: by key, with the
        reason."""
        module, store, stale = self.module, self.context.store, {}
        if module.WRITES.files:
            absent = absent_files(store, module.WRITES, rows)
            keys = row_keys(rows, module.WRITES.key)
            stale = {key: problem for key, problem in zip(keys, absent, strict=True) if problem}
        inputs: dict[str, Rows] = {}
        for table, names in getattr(module, "REPEATS", {}).items():
            planned = self.contents.get(table.name, {}).get(shard)
            version = self.context.versions[table.name]
            inputs[table.name] = (
                store.read(table, version, [shard], [*table.key, *names]) if planned is None else planned
            )
        return dict.fromkeys(outdated_keys(module, rows, inputs), "what it repeats has changed") | stale


def rows_of_keys(table: Table, keys: Iterable[tuple[str, ...]]) -> list[dict[str, str]]:
    """Return rows of a table with nothing but their keys."""
    return [dict(zip(table.key, key, strict=True)) for key in sorted(keys)]


def _standing_refusals(context: Context, shard: str, consulted: str | None) -> set[tuple[str, ...]]:
    """Return the keys of what was refused in a shard for a reason that stands, so that it is not tried again."""
    columns = ["key", "stamp", "passing"]
    return {
        tuple(row["key"].split("/"))
        for row in context.store.read(REJECTS, context.fingerprint, [shard], columns).to_pylist()
        if row["stamp"] == consulted and not row["passing"]
    }


def _try_again(context: Context, shard: str, written: Footer, consulted: str | None) -> bool:
    """Return whether some of what was refused may pass now: for a reason that has passed, or with other tables to look
    things up in."""
    if written.passing or not written.refused or consulted is None:
        return bool(written.passing)
    stamps = context.store.read(REJECTS, context.fingerprint, [shard], ["stamp"]).column("stamp").to_pylist()
    return any(stamp != consulted for stamp in stamps)
