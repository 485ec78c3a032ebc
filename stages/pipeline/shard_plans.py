"""Plans of mapping stages: which shards must be made, judged by their footers alone, and which of their rows.

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
    """Return the digest of the tables that a stage looks rows up in; None if it has none. What the stage rejected is
    tried again once this digest changes."""
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
    """How many rejects still stand."""
    reason: str = ""
    """Why rows with wanted keys are made again; empty if there are none."""
    content: Rows = ()
    """The rows that the shard will hold, if its driving rows are planned ones."""
    missing: Sequence[tuple[str, ...]] = ()
    """The keys of the rows to make, if one driving row gives several."""


def plan_shards(stage: ConfiguredStage, context: Context, contents: Mapping[str, Content]) -> Plan:
    """Return what a mapping stage has to do: which shards, and how many of their rows it makes, keeps and drops.

    Args:
        contents: for tables that will change before the stage runs: what they will hold, by table name.
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
    """Plans the shards of a mapping stage one by one."""

    def __init__(self, module: ModuleType, context: Context, contents: Mapping[str, Content]) -> None:
        self.module, self.context, self.contents = module, context, contents
        self.source, self.version = module.READS[0], context.versions[module.READS[0].name]
        self.planned = contents.get(self.source.name)
        self.drafts = Drafts(context.store, module.WRITES, context.fingerprint)
        self.existing, self.in_work = self.drafts.footers(), self.drafts.unfinished_keys()
        read = context.store.shards(self.source, self.version) if self.planned is None else ()
        self.read = {shard: context.store.shard_path(self.source, self.version, shard) for shard in read}
        self.footers = context.store.footers_of(self.read)
        self.consulted = consulted_digest(module, context)
        self.columns = [*file_columns(module.WRITES), *repeated_columns(module)]
        self.may_be_stale = bool(module.WRITES.files or repeated_columns(module))

    def shards(self) -> list[str]:
        """Return the shards that the driving table will have when the stage runs."""
        return list(self.read if self.planned is None else self.planned)

    def plan(self, shard: str) -> _ShardPlan | None:
        """Return what there is to do for a shard; None if the shard has been removed meanwhile."""
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
        """Return the identity of what is made from a shard, as it will be when the stage runs; None if there is no such
        shard."""
        if self.planned is not None:
            return keys_digest(output_keys(self.source, self.planned[shard]))
        footer = self.footers.get(shard)
        return footer.output_key if footer else None

    def _plan_work(
        self, shard: str, outputs: pa.Table | None, stale: Mapping[tuple[str, ...], str] = MappingProxyType({})
    ) -> _ShardPlan:
        """Return the plan of a shard that is to be made, with the rows of it that can be kept.

        Args:
            outputs: the shard's rows as they are; None if it was never made.
            stale: by key, the rows among these that are to be made again, with the reason.
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
        """Return the keys of the rows that a shard should hold: all that follow from its driving rows, without those
        whose rejection stands."""
        columns = [*driving_key(self.module), *([self.source.copies] if self.source.copies else [])]
        store = self.context.store
        rows = store.read(self.source, self.version, [shard], columns) if self.planned is None else self.planned[shard]
        standing = _standing_refusals(self.context, shard, self.consulted)
        return {key for key in wanted_keys(self.module, rows) if driver_of(self.module, key) not in standing}

    def _kept_in_history(self, shard: str, keys: set[tuple[str, ...]]) -> set[tuple[str, ...]]:
        """Return those of the keys whose rows are in replaced shards of the history and are still right."""
        if not self.may_be_stale:
            return self.drafts.replaced_keys(keys)
        replaced = self.drafts.find_replaced(keys)
        return set(row_keys(replaced, self.module.WRITES.key)) - self._stale(shard, replaced).keys()

    def _stale(self, shard: str, rows: pa.Table) -> dict[tuple[str, ...], str]:
        """Return the rows of a shard that are to be made again although their keys are wanted: by key, with the
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
    """Return rows of a table that hold their keys and nothing else."""
    return [dict(zip(table.key, key, strict=True)) for key in sorted(keys)]


def _standing_refusals(context: Context, shard: str, consulted: str | None) -> set[tuple[str, ...]]:
    """Return the keys that were rejected in a shard for a reason that still stands, so that they are not tried
    again."""
    columns = ["key", "stamp", "passing"]
    return {
        tuple(row["key"].split("/"))
        for row in context.store.read(REJECTS, context.fingerprint, [shard], columns).to_pylist()
        if row["stamp"] == consulted and not row["passing"]
    }


def _try_again(context: Context, shard: str, written: Footer, consulted: str | None) -> bool:
    """Return whether some rejected rows may pass now: their reason was a passing one, or the tables that the stage
    looks rows up in have changed."""
    if written.passing or not written.refused or consulted is None:
        return bool(written.passing)
    stamps = context.store.read(REJECTS, context.fingerprint, [shard], ["stamp"]).column("stamp").to_pylist()
    return any(stamp != consulted for stamp in stamps)
