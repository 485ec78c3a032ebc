"""What is stale: every stage's fingerprint, and which of its shards must be made, by footers alone.

A shard is done if and only if its footer's `input_key` is the identity of the keys that it would be made from now.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from types import ModuleType

import pyarrow as pa

from schemas import Config, Settings, Store, WeightsRef
from schemas.digests import add_digests
from schemas.drafts import Drafts
from schemas.identity import canonical, fingerprint, stage_fingerprint, weights_fields
from schemas.row_files import absent_files, file_columns
from schemas.shards import Footer, row_keys
from schemas.tables import CHECKPOINTS, REJECTS, REMARKS, Table
from schemas.take_downs import TakeDowns
from schemas.weights import LocalWeights, NotTrainedYet, WeightsLibrary, WeightsNotFetched
from stages.pipeline.contract import Context, Dependencies, Remark
from stages.pipeline.keys import driving_key, outdated_keys, repeated_columns, wanted_keys

EVERYTHING = "all"
"""The name of the one job of a stage that is not made shard by shard."""


@dataclass(frozen=True)
class ConfiguredStage:
    """A stage with its configuration, as part of a run."""

    name: str
    module: ModuleType
    config: Config
    after: str | None = None
    """The stage that makes the files that this one takes in, where one of the recipe does."""


@dataclass(frozen=True)
class Plan:
    """What a stage has to do."""

    stage: str
    jobs: tuple[str, ...] = ()
    """The shards to make, or `all`; none where nothing is to be done."""
    gone: tuple[str, ...] = ()
    """Shards whose input is no longer there."""
    make: int = 0
    reuse: int = 0
    drop: int = 0
    refused: int = 0
    """Rejects that stand from earlier runs."""
    reason: str = ""
    """Why the stage has work, or why the counts are estimates."""
    remarks: tuple[Remark, ...] = ()
    """What the stage notices at its source, where a plan can tell."""

    @property
    def estimated(self) -> bool:
        return self.reason.startswith("after ")


class Pipeline:
    """The stages of a recipe in their order, and the identity of each.

    A fingerprint may depend on a model that an earlier stage is still to train, so fingerprints are found when they are
    asked for.

    Args:
        stages: all stages of the recipe, in order, whether or not they are to run.
    """

    def __init__(self, stages: Sequence[ConfiguredStage], settings: Settings) -> None:
        self.stages = {stage.name: stage for stage in stages}
        self.settings = settings
        self.store = Store(settings.store)
        self.library = WeightsLibrary(self.store, offline=settings.offline)
        self._fingerprints: dict[str, str] = {}
        self._configs: dict[str, str] = {}

    def writer(self, table: Table) -> ConfiguredStage | None:
        """Return the stage that makes a table."""
        return next((stage for stage in self.stages.values() if table == stage.module.WRITES), None)

    def dependencies(self, name: str) -> Dependencies:
        """Return what has a say in what a stage makes: all that it names, unless it says less.

        Raises:
            MissingWeights: that depends on weights that cannot be had.
        """
        stage = self.stages[name]
        if hasattr(stage.module, "dependencies"):
            dependencies: Dependencies = stage.module.dependencies(stage.config, self._weights)
            return dependencies
        return Dependencies(stage.config, getattr(stage.module, "CONSULTS", ()))

    def reads(self, name: str) -> tuple[Table, ...]:
        """Return the tables that a stage is made from: those of its READS that have a say.

        Raises:
            NotTrainedYet: that depends on a model that is still to be trained.
        """
        reads = self.dependencies(name).reads
        return self.stages[name].module.READS if reads is None else reads

    def fetch(self, names: Sequence[str]) -> None:
        """Fetch the published weights that stages need before any work begins.

        Raises:
            MissingWeights: some cannot be found or fetched; what is missing is told all together.
        """
        fields: dict[WeightsRef, str] = {}
        for name in names:
            named = weights_fields(self.stages[name].config, name)
            try:
                wanted = weights_fields(self.dependencies(name).config, name)
            except NotTrainedYet:
                wanted = named
            except WeightsNotFetched as error:  # what else it needs is known when that is there
                wanted = {reference: field for reference, field in named.items() if reference in error.references}
                wanted = wanted or named
                self.library.offline = True  # a host that cannot be reached is waited for once
            fields |= {reference: field for reference, field in wanted.items() if reference not in fields}
        try:
            self.library.fetch_all(fields)
        except WeightsNotFetched as error:
            raise error.of_fields(fields) from error

    def fingerprint(self, name: str) -> str:
        """Return the version that a stage writes.

        Raises:
            NotTrainedYet: it depends on a model that is still to be trained.
            MissingWeights: it depends on weights that cannot be had.
        """
        if name not in self._fingerprints:
            stage = self.stages[name]
            config = self.dependencies(name).config
            fields = weights_fields(config, name)
            try:
                digests: dict[str, str] = {reference: self._weights(reference).digest for reference in fields}
            except WeightsNotFetched as error:
                raise error.of_fields(fields) from error
            version = stage_fingerprint(name, stage.module.VERSION, config, digests, self.versions(name))
            self._fingerprints[name], self._configs[name] = version, canonical(config, digests)
            for kind in getattr(stage.module, "KINDS", ()):
                self.library.recipes[kind] = version
        return self._fingerprints[name]

    def _weights(self, reference: WeightsRef) -> LocalWeights:
        """Return weights by name; `checkpoint:<kind>` is of this run's recipe where a stage of it trains that."""
        kind = reference.checkpoint
        trainer = next((stage for stage in self.stages.values() if kind in getattr(stage.module, "KINDS", ())), None)
        if trainer:
            self.fingerprint(trainer.name)
        try:
            return self.library.get(reference)
        except NotTrainedYet as error:
            if not trainer:
                raise
            raise NotTrainedYet(f"{error} (the stage {trainer.name})", trainer.name) from error

    def versions(self, name: str) -> dict[str, str]:
        """Return the version of each table that a stage reads or consults (records, which accumulate, have none)."""
        versions = {}
        for table in (*self.reads(name), *self.dependencies(name).consults):
            stage = self.writer(table)
            if stage is not None and not table.accumulates:
                versions[table.name] = self.fingerprint(stage.name)
        return versions

    def check_inputs(self, names: Sequence[str]) -> None:
        """See that every table that a run of the stages `names` reads is there, or made by one of them.

        Raises:
            ValueError: one is not.
        """
        for name in names:
            try:
                reads = self.reads(name)
            except NotTrainedYet:
                reads = self.stages[name].module.READS
            for table in reads:
                writer = self.writer(table)
                optional = table in getattr(self.stages[name].module, "OPTIONAL", ())
                if writer is None or writer.name in names or optional or table.accumulates:
                    continue
                try:
                    version = self.fingerprint(writer.name)
                except NotTrainedYet:
                    version = "of a model that is still to be trained"
                if not self.store.shards(table, version):
                    raise ValueError(
                        f"expected the table {table.name} (version {version}) for {name}, got nothing in "
                        f"{self.store.url}: run {writer.name} first, or beside it, with the same preset and settings"
                    )

    def context(self, name: str, run_id: str) -> Context:
        """Return the context of one stage of a run."""
        version = self.fingerprint(name)
        versions, config = self.versions(name), self._configs[name]
        context = Context(self.store, self.settings, run_id, name, version, versions, self.library, config)
        if hasattr(self.stages[name].module, "reduce"):
            columns = self.dependencies(name).columns
            digest = _data_digest(self.stages[name].module, context, columns)
            context = replace(context, data_digest=digest, identity=fingerprint({"recipe": version, "data": digest}))
        return context

    def upstream(self, name: str) -> ConfiguredStage | None:
        """Return the stage that makes what drives this one."""
        stage = self.stages[name]
        return self.writer(stage.module.READS[0]) if stage.module.READS else self.stages.get(stage.after or "")


def _data_digest(module: ModuleType, context: Context, columns: Mapping[str, Sequence[str]]) -> str:
    """Return the digest of the rows that a reducing stage reads, from the footers of their shards, however they lie in
    them.

    Args:
        columns: those that have a say, by table; of a table that is not named, all that are part of its identity.
    """
    store, contents = context.store, {}
    for table in module.READS:
        if not table.accumulates and table.name not in context.versions:
            continue  # the stage does not read it as it is configured
        versions = store.versions(table) if table.accumulates else [context.versions[table.name]]
        digests = add_digests(
            store.column_digests(table, version, shard)
            for version in versions
            for shard in store.shards(table, version)
        )
        chosen = columns.get(table.name, table.identity or table.schema.names)
        contents[table.name] = {name: digests[name] for name in chosen if name in digests}
    return fingerprint(contents)


def consulted_digest(module: ModuleType, context: Context) -> str | None:
    """Return the digest of what a stage may look up, so that what it refused is tried again once that changed."""
    tables = [table for table in getattr(module, "CONSULTS", ()) if table.name in context.versions]
    contents = {}
    for table in tables:
        version = context.versions[table.name]
        footers = [context.store.footer(table, version, shard) for shard in context.store.shards(table, version)]
        contents[table.name] = [footer.content for footer in footers if footer]
    return fingerprint(contents) if tables else None


def plan_stage(stage: ConfiguredStage, context: Context, by_name: bool) -> Plan:
    """Return what a stage has to do now.

    Args:
        by_name: the stage was asked for by name, so a `refresh` policy does not hold it back.
    """
    if hasattr(stage.module, "shard"):
        return _plan_shards(stage, context)
    if hasattr(stage.module, "reduce"):
        return _plan_reduce(stage, context, by_name)
    return _plan_source(stage, context)


def _plan_source(stage: ConfiguredStage, context: Context) -> Plan:
    columns = getattr(stage.module, "PLANNING_COLUMNS", None)
    known = Drafts(context.store, stage.module.WRITES, context.fingerprint).read(columns=columns)
    refused = context.store.read(REJECTS, context.fingerprint)
    planned = stage.module.plan_source(stage.config, context, known, refused)
    told_anew = planned.remarks is not None and set(planned.remarks) != _written_remarks(context)
    jobs = (EVERYTHING,) if planned.make or planned.drop or planned.moved or told_anew else ()
    remarks = tuple(planned.remarks or ())
    return Plan(stage.name, jobs, (), planned.make, planned.reuse, planned.drop, refused.num_rows, remarks=remarks)


def _written_remarks(context: Context) -> set[Remark]:
    """Return the remarks of the stage's last job."""
    rows = context.store.read(REMARKS, context.fingerprint).to_pylist()
    return {Remark(row["what"], row["location"], row["count"], tuple(row["examples"])) for row in rows}


def _plan_reduce(stage: ConfiguredStage, context: Context, by_name: bool) -> Plan:
    writes = stage.module.WRITES
    drafts = Drafts(context.store, writes, context.fingerprint)
    footers, shard = drafts.footers(), reduced_shard(stage.module, context)
    footer, reason = footers.get(shard), ""
    # A model that learned from what was taken down counts as not trained; its shard bears its name.
    hidden = TakeDowns(context.store).hidden.checkpoint_id if writes is CHECKPOINTS and footers else frozenset()
    standing = footers.keys() - hidden
    if footer is not None and shard in standing and footer.input_key == context.identity:
        reason = _absent(context.store, writes, drafts.read([shard]))
        if not reason:
            return Plan(stage.name, reuse=footer.rows, refused=footer.refused)
    refresh = getattr(stage.config, "refresh", "changed")
    if not by_name and not reason and (refresh == "never" or (refresh == "missing" and standing)):
        return Plan(stage.name, reuse=len(standing))
    if footers and not standing:
        reason = "it learned from a recording that was taken down"
    return Plan(stage.name, (EVERYTHING,), make=1, reason=reason)


def _absent(store: Store, table: Table, rows: pa.Table) -> str:
    """Say which file that rows name is not there; empty where all are."""
    return next(filter(None, absent_files(store, table, rows)), "") if table.files else ""


def reduced_shard(module: ModuleType, context: Context) -> str:
    """Return the shard that a reducing stage writes: one an identity where its table accumulates, else the only one."""
    return context.identity if module.WRITES.accumulates else "0"


def _plan_shards(stage: ConfiguredStage, context: Context) -> Plan:
    store, module = context.store, stage.module
    source, version = module.READS[0], context.versions[module.READS[0].name]
    drafts = Drafts(store, module.WRITES, context.fingerprint)
    wanted, existing, in_work = store.shards(source, version), drafts.footers(), drafts.rows_in_work()
    consulted = consulted_digest(module, context)
    jobs, make, reuse, drop, refused, reason = [], 0, 0, 0, 0, ""
    for shard in wanted:
        read, written = store.footer(source, version, shard), existing.get(shard)
        if read is None:
            continue
        up_to_date = written is not None and written.input_key == read.output_key
        columns = [*file_columns(module.WRITES), *repeated_columns(module)]
        looked_into = bool(module.WRITES.files or repeated_columns(module))
        outputs = drafts.read([shard], columns) if written and (looked_into or not up_to_date) else None
        stale = _stale_rows(module, context, shard, outputs) if outputs is not None else {}
        if up_to_date and written and not stale and not _try_again(context, shard, written, consulted):
            reuse, refused = reuse + written.rows, refused + written.refused
            continue
        jobs.append(shard)
        reason = reason or next(iter(stale.values()), "")
        names = [*driving_key(module), *([source.copies] if source.copies else [])]
        inputs = set(wanted_keys(module, store.read(source, version, [shard], names)))
        if outputs is None and written:
            outputs = drafts.read([shard], columns)
        keys = row_keys(outputs, module.WRITES.key) if outputs is not None else []
        kept = (set(keys) - stale.keys() | set(in_work.get(shard, ()))) & inputs
        kept |= drafts.replaced_keys(inputs - kept)
        make, reuse, drop = make + len(inputs - kept), reuse + len(kept), drop + len(set(keys) - kept)
    gone = tuple(shard for shard in existing if shard not in wanted)
    drop += sum(existing[shard].rows for shard in gone)
    return Plan(stage.name, tuple(jobs), gone, make, reuse, drop, refused, reason)


def _stale_rows(module: ModuleType, context: Context, shard: str, rows: pa.Table) -> dict[tuple[str, ...], str]:
    """Return the rows of a shard that are to be made again though their keys are wanted: by key, with the reason."""
    stale = {}
    if module.WRITES.files:
        absent = absent_files(context.store, module.WRITES, rows)
        keys = row_keys(rows, module.WRITES.key)
        stale = {key: problem for key, problem in zip(keys, absent, strict=True) if problem}
    inputs = {
        table.name: context.store.read(table, context.versions[table.name], [shard], [*table.key, *names])
        for table, names in getattr(module, "REPEATS", {}).items()
    }
    return dict.fromkeys(outdated_keys(module, rows, inputs), "what it repeats has changed") | stale


def _try_again(context: Context, shard: str, written: Footer, consulted: str | None) -> bool:
    """Return whether some of what was refused may pass now: for a reason that has passed, or with other tables to look
    things up in."""
    if written.passing or not written.refused or consulted is None:
        return bool(written.passing)
    stamps = context.store.read(REJECTS, context.fingerprint, [shard], ["stamp"]).column("stamp").to_pylist()
    return any(stamp != consulted for stamp in stamps)


def plan_pipeline(pipeline: Pipeline, names: Sequence[str], by_name: bool) -> list[Plan]:
    """Return the plan of a run of the stages `names`, computing nothing.

    What follows from a stage that has work itself is estimated: its `reason` says after which stage it is known.

    Raises:
        MissingWeights: published weights cannot be had, or a model that no stage of the run trains.
        ValueError: a table that a stage reads is not there, and no stage of the run makes it.
    """
    pipeline.fetch(names)
    plans: dict[str, Plan] = {}
    for name in names:
        stage, upstream = pipeline.stages[name], pipeline.upstream(name)
        driver = plans.get(upstream.name) if upstream else None
        if driver is not None and driver.jobs and stage.after:  # what it takes in is not there to be planned from
            plans[name] = Plan(
                name, (EVERYTHING,), make=driver.make, reuse=driver.reuse, reason=f"after {driver.stage}"
            )
            continue
        try:
            plan = plan_stage(stage, pipeline.context(name, run_id="plan"), by_name)
        except NotTrainedYet as error:
            if error.trainer not in names:
                raise
            rows = driver.make + driver.reuse if driver else 1
            plan = Plan(
                name, driver.jobs if driver and driver.jobs else ("?",), make=rows, reason=f"after {error.trainer}"
            )
        plans[name] = _follow(plan, stage, driver, by_name) if driver is not None and driver.jobs else plan
    pipeline.check_inputs(names)
    return list(plans.values())


def _follow(plan: Plan, stage: ConfiguredStage, driver: Plan, by_name: bool) -> Plan:
    """Return the estimate for a stage whose driving stage has work to do first."""
    reason = plan.reason or f"after {driver.stage}"
    if hasattr(stage.module, "reduce"):
        held = not plan.jobs and not by_name and getattr(stage.config, "refresh", "changed") != "changed"
        return plan if held else replace(plan, jobs=(EVERYTHING,), make=1, reason=reason)
    total, reuse = driver.make + driver.reuse, min(plan.reuse, driver.reuse)
    return replace(plan, jobs=plan.jobs or driver.jobs, make=max(plan.make, total - reuse), reuse=reuse, reason=reason)
