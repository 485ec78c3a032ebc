"""What is stale: every stage's fingerprint, and what it has to do in a run, from what follows from what."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType, ModuleType

import pyarrow as pa

from schemas import Settings, Store, WeightsRef
from schemas.digests import add_digests
from schemas.drafts import Drafts
from schemas.identity import canonical, fingerprint, stage_fingerprint, weights_fields
from schemas.row_files import absent_files
from schemas.shards import row_keys
from schemas.tables import CHECKPOINTS, REJECTS, REMARKS, Table
from schemas.take_downs import TakeDowns
from schemas.weights import LocalWeights, NotTrainedYet, WeightsLibrary, WeightsNotFetched
from stages.pipeline.contract import Context, Dependencies, Remark
from stages.pipeline.keys import driving_key, is_staged, wanted_keys
from stages.pipeline.plans import AFTER, EVERYTHING, ConfiguredStage, Content, Plan
from stages.pipeline.shard_plans import plan_shards, rows_of_keys


class Pipeline:
    """The stages of a recipe in their order, and the identity of each.

    A fingerprint may depend on a model that an earlier stage is still to train, so fingerprints are found when they are
    asked for.

    Args:
        stages: all stages of the recipe, in order, whether or not they are to run.
        names: those that are to run; None for all.
        kept: versions that stages go on with, by the stage, though the code of now would write others.
    """

    def __init__(
        self,
        stages: Sequence[ConfiguredStage],
        settings: Settings,
        names: Collection[str] | None = None,
        kept: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
        self.stages = {stage.name: stage for stage in stages}
        self.names = frozenset(self.stages if names is None else names)
        self.settings = settings
        self.store = Store(settings.store)
        self.library = WeightsLibrary(self.store, offline=settings.offline)
        self._fingerprints: dict[str, str] = {}
        self._dependencies: dict[str, Dependencies] = {}
        self._configs: dict[str, str] = {}
        self._held: dict[str, bool] = {}
        self._kept = dict(kept)

    def writer(self, table: Table) -> ConfiguredStage | None:
        """Return the stage that makes a table."""
        return next((stage for stage in self.stages.values() if table == stage.module.WRITES), None)

    def dependencies(self, name: str) -> Dependencies:
        """Return what has a say in what a stage makes: all that it names, unless it says less.

        Raises:
            MissingWeights: that depends on weights that cannot be had.
        """
        stage = self.stages[name]
        if name in self._dependencies:
            return self._dependencies[name]
        if hasattr(stage.module, "dependencies"):
            dependencies: Dependencies = stage.module.dependencies(stage.config, self.weights)
            return dependencies
        return Dependencies(stage.config, getattr(stage.module, "CONSULTS", ()))

    def reads(self, name: str) -> tuple[Table, ...]:
        """Return the tables that a stage is made from: those of its READS that have a say.

        Raises:
            NotTrainedYet: that depends on a model that is still to be trained.
        """
        return self._reads(name, self.dependencies(name))

    def _reads(self, name: str, dependencies: Dependencies) -> tuple[Table, ...]:
        return self.stages[name].module.READS if dependencies.reads is None else dependencies.reads

    def fetch(self, names: Sequence[str]) -> None:
        """Fetch the published weights that stages need before any work begins.

        Raises:
            MissingWeights: some cannot be found or fetched; what is missing is told all together.
        """
        fields: dict[WeightsRef, str] = {}
        waiting, known = list(names), set(names)
        for name in waiting:
            named = weights_fields(self.stages[name].config, name)
            try:
                dependencies = self.dependencies(name)
                wanted, tables = weights_fields(dependencies.config, name), self._versioned(name, dependencies)
            except NotTrainedYet:
                wanted, tables = named, []
            except WeightsNotFetched as error:  # what else it needs is known when that is there
                wanted = {reference: field for reference, field in named.items() if reference in error.references}
                wanted, tables = wanted or named, []
                self.library.offline = True  # a host that cannot be reached is waited for once
            fields |= {reference: field for reference, field in wanted.items() if reference not in fields}
            # The version of what it reads is named by weights too, whether or not that is made now.
            upstream = {writer.name: None for table in tables if (writer := self.writer(table)) is not None}
            waiting += [name for name in upstream if name not in known]
            known |= upstream.keys()
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
            stage, dependencies = self.stages[name], self.dependencies(name)
            config = dependencies.config
            fields = weights_fields(config, name)
            try:
                digests: dict[str, str] = {reference: self.weights(reference).digest for reference in fields}
            except WeightsNotFetched as error:
                raise error.of_fields(fields) from error
            version = stage_fingerprint(name, stage.module.VERSION, config, digests, self.versions(name))
            self._configs[name] = canonical(config, digests)
            self._dependencies[name] = dependencies  # as they entered the identity, which stands from now on
            self._set_fingerprint(name, self._kept.get(name, version))
        return self._fingerprints[name]

    def keep(self, name: str, version: str) -> None:
        """Have a stage go on with a version of its table, which is what those that read it then read."""
        self._kept[name] = version
        self._set_fingerprint(name, version)

    def _set_fingerprint(self, name: str, version: str) -> None:
        self._fingerprints[name] = version
        for kind in getattr(self.stages[name].module, "KINDS", ()):
            self.library.recipes[kind] = version

    def config(self, name: str) -> str:
        """Return the configuration of a stage as canonical JSON, with the digests of the weights that it names.

        Raises:
            MissingWeights: it names weights that cannot be had.
        """
        self.fingerprint(name)
        return self._configs[name]

    def weights(self, reference: WeightsRef) -> LocalWeights:
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
        for table in self._versioned(name, self.dependencies(name)):
            if (stage := self.writer(table)) is not None:
                versions[table.name] = self.fingerprint(stage.name)
        return versions

    def _versioned(self, name: str, dependencies: Dependencies) -> list[Table]:
        """Return the tables that a stage reads or consults in one version: of those that need not be there, the ones
        that are, or that this run makes. The others would be no more than named, by weights that nobody may have."""
        optional = getattr(self.stages[name].module, "OPTIONAL", ())
        return [
            table
            for table in (*self._reads(name, dependencies), *dependencies.consults)
            if not table.accumulates and (table not in optional or self._is_held(table))
        ]

    def _is_held(self, table: Table) -> bool:
        """Tell whether the store holds a table, or this run makes it; once known, it stays so for this pipeline."""
        if table.name not in self._held:
            stage = self.writer(table)
            is_made = stage is not None and stage.name in self.names
            self._held[table.name] = is_made or bool(self.store.versions(table))
        return self._held[table.name]

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
        versions, config = self.versions(name), self.config(name)
        context = Context(self.store, self.settings, run_id, name, version, versions, self.library, config)
        if hasattr(self.stages[name].module, "reduce"):
            context = replace(context, data_columns=self.dependencies(name).columns)
            digest = data_digest(self.stages[name].module, context)
            context = replace(context, data_digest=digest, identity=fingerprint({"recipe": version, "data": digest}))
        return context

    def upstream(self, name: str) -> ConfiguredStage | None:
        """Return the stage that makes what drives this one."""
        stage = self.stages[name]
        return self.writer(stage.module.READS[0]) if stage.module.READS else self.stages.get(stage.after or "")


def data_digest(module: ModuleType, context: Context) -> str:
    """Return the digest of the rows that a reducing stage reads, from the footers of their shards, however they lie in
    them; of a table that `context.data_columns` does not name, all columns that are part of its identity."""
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
        chosen = context.data_columns.get(table.name, table.identity or table.schema.names)
        contents[table.name] = {name: digests[name] for name in chosen if name in digests}
    return fingerprint(contents)


def plan_stage(
    stage: ConfiguredStage, context: Context, by_name: bool, contents: Mapping[str, Content] = MappingProxyType({})
) -> Plan:
    """Return what a stage has to do now.

    Args:
        by_name: the stage was asked for by name, so a `refresh` policy does not hold it back.
        contents: by table, what those that it reads will hold by then, where that is not what they hold.
    """
    if hasattr(stage.module, "shard"):
        return plan_shards(stage, context, contents)
    if hasattr(stage.module, "reduce"):
        return _plan_reduce(stage, context, by_name)
    return _plan_source(stage, context)


def _plan_source(stage: ConfiguredStage, context: Context) -> Plan:
    module, store = stage.module, context.store
    columns = getattr(module, "PLANNING_COLUMNS", None)
    drafts, staged = Drafts(store, module.WRITES, context.fingerprint), is_staged(module)
    known = store.read(module.WRITES, context.fingerprint, columns=columns) if staged else drafts.read(columns=columns)
    refused = store.read(REJECTS, context.fingerprint)
    planned = module.plan_source(stage.config, context, known, refused)
    told_anew = planned.remarks is not None and set(planned.remarks) != _written_remarks(context)
    if planned.rejects is not None:
        standing = set(zip(refused.column("key").to_pylist(), refused.column("stamp").to_pylist(), strict=True))
        told_anew |= standing != {(reject.key, reject.stamp) for reject in planned.rejects}
    unsettled = (staged and drafts.drafted()) or not all(check.passed for check in planned.checks)
    work = planned.make or planned.drop or planned.moved or told_anew or unsettled
    known_content = {str(number): rows for number, rows in (planned.content or {}).items()}
    return Plan(
        stage.name,
        (EVERYTHING,) if work else (),
        make=planned.make,
        reuse=planned.reuse,
        drop=planned.drop,
        refused=refused.num_rows if planned.rejects is None else len(planned.rejects),
        remarks=tuple(planned.remarks or ()),
        rejects=tuple(planned.rejects or ()),
        checks=tuple(planned.checks),
        told=tuple(planned.told),
        content=known_content if work and planned.content is not None else None,
    )


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


def plan_pipeline(pipeline: Pipeline, names: Sequence[str], by_name: bool) -> list[Plan]:
    """Return the plan of a run of the stages `names`, computing nothing.

    What follows from a stage that has work itself is counted where that stage's rows can be told now, and estimated
    otherwise: its `reason` says after which stage it is known.

    Raises:
        MissingWeights: published weights cannot be had, or a model that no stage of the run trains.
        ValueError: a table that a stage reads is not there, and no stage of the run makes it.
    """
    pipeline.fetch(names)
    plans: dict[str, Plan] = {}
    contents: dict[str, Content] = {}
    anew: dict[str, str] = {}  # stages whose version is another once a model is trained -> what trains it
    for name in names:
        stage, upstream = pipeline.stages[name], pipeline.upstream(name)
        driver = plans.get(upstream.name) if upstream else None
        if driver is not None and driver.jobs and stage.after:  # what it takes in is not there to be planned from
            plans[name] = Plan(
                name, (EVERYTHING,), make=driver.make, reuse=driver.reuse, reason=f"{AFTER}{driver.stage}"
            )
            continue
        trainer = (anew.get(upstream.name) if upstream else None) or _trainer_at_work(pipeline, stage, plans)
        try:
            if trainer is not None and hasattr(stage.module, "shard"):
                raise NotTrainedYet(f"{name} waits for {trainer}", trainer)
            plan = plan_stage(stage, pipeline.context(name, run_id="plan"), by_name, contents)
        except NotTrainedYet as error:
            if error.trainer not in names:
                raise
            anew[name] = error.trainer
            plan = _plan_anew(pipeline, stage, driver, error.trainer, contents)
        if driver is not None and driver.jobs:
            plan = _follow(plan, stage, driver, by_name)
        plans[name] = _await_looked_up(pipeline, stage, plan, plans)
        if plan.content is not None:
            contents[stage.module.WRITES.name] = plan.content
    pipeline.check_inputs(names)
    return list(plans.values())


def _trainer_at_work(pipeline: Pipeline, stage: ConfiguredStage, plans: Mapping[str, Plan]) -> str | None:
    """Return the stage of the run that is to train a model which this one reads, if one is."""
    kinds = {reference.checkpoint for reference in weights_fields(stage.config, stage.name)}
    for name, plan in plans.items():
        if plan.jobs and not kinds.isdisjoint(getattr(pipeline.stages[name].module, "KINDS", ())):
            return name
    return None


def _plan_anew(
    pipeline: Pipeline, stage: ConfiguredStage, driver: Plan | None, trainer: str, contents: Mapping[str, Content]
) -> Plan:
    """Return the plan of a stage that makes all of its rows, for its version is another once a model is trained."""
    reason = f"{AFTER}{trainer}"
    inputs = _inputs_of(pipeline, stage, contents) if hasattr(stage.module, "shard") else None
    if inputs is None:
        rows = driver.make + driver.reuse if driver else 1
        return Plan(stage.name, driver.jobs if driver and driver.jobs else ("?",), make=rows, reason=reason)
    content: Content = {
        shard: rows_of_keys(stage.module.WRITES, wanted_keys(stage.module, rows)) for shard, rows in inputs.items()
    }
    keys = tuple(key for rows in content.values() for key in row_keys(rows, stage.module.WRITES.key))
    return Plan(
        stage.name,
        tuple(content) or ("?",),
        make=len(keys),
        reason=reason,
        content=content,
        missing=keys if stage.module.READS[0].copies else (),
        exact=not (driver and driver.estimated),
    )


def _inputs_of(pipeline: Pipeline, stage: ConfiguredStage, contents: Mapping[str, Content]) -> Content | None:
    """Return the rows that drive a stage, as they will be; None where they cannot be told yet."""
    table = stage.module.READS[0]
    writer = pipeline.writer(table)
    if table.name in contents or writer is None:
        return contents.get(table.name)
    try:
        version = pipeline.fingerprint(writer.name)
    except NotTrainedYet:
        return None
    columns = [*driving_key(stage.module), *([table.copies] if table.copies else [])]
    shards = pipeline.store.shards(table, version)
    return {shard: pipeline.store.read(table, version, [shard], columns) for shard in shards} or None


def _await_looked_up(pipeline: Pipeline, stage: ConfiguredStage, plan: Plan, plans: Mapping[str, Plan]) -> Plan:
    """Return the plan of a stage as an estimate where it refuses what a table that is still to be made may hold."""
    if not plan.rejects or hasattr(stage.module, "shard"):
        return plan
    writers = [pipeline.writer(table) for table in getattr(stage.module, "CONSULTS", ())]
    waits = next((writer.name for writer in writers if writer and writer.name in plans and plans[writer.name].jobs), "")
    return replace(plan, jobs=(EVERYTHING,), reason=f"{AFTER}{waits}") if waits else plan


def _follow(plan: Plan, stage: ConfiguredStage, driver: Plan, by_name: bool) -> Plan:
    """Return the plan of a stage whose driving stage has work to do first."""
    reason = plan.reason or f"{AFTER}{driver.stage}"
    if hasattr(stage.module, "reduce"):
        held = not plan.jobs and not by_name and getattr(stage.config, "refresh", "changed") != "changed"
        return plan if held else replace(plan, jobs=(EVERYTHING,), make=1, reason=reason)
    if driver.content is not None:
        return replace(plan, reason=reason if plan.jobs else plan.reason, exact=not driver.estimated)
    total, reuse = driver.make + driver.reuse, min(plan.reuse, driver.reuse)
    return replace(plan, jobs=plan.jobs or driver.jobs, make=max(plan.make, total - reuse), reuse=reuse, reason=reason)
