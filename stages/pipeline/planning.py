"""Planning: what each stage has to do in a run, from what the store holds and from what earlier stages will make."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType, ModuleType

import pyarrow as pa

from schemas import Store
from schemas.identity import weights_fields
from schemas.storage.drafts import Drafts
from schemas.storage.row_files import absent_files
from schemas.storage.shards import row_keys
from schemas.storage.take_downs import TakeDowns
from schemas.tables import CHECKPOINTS, REJECTS, REMARKS, Table
from schemas.weights import NotTrainedYet
from stages.pipeline.changes import with_reasons
from stages.pipeline.contract import Context, Preview
from stages.pipeline.keys import driving_key, is_staged, wanted_keys
from stages.pipeline.pipeline import Pipeline
from stages.pipeline.plans import AFTER, EVERYTHING, ConfiguredStage, Content, Plan
from stages.pipeline.remarks import Remark
from stages.pipeline.shard_plans import plan_shards, rows_of_keys


def plan_stage(
    stage: ConfiguredStage, context: Context, by_name: bool, contents: Mapping[str, Content] = MappingProxyType({})
) -> Plan:
    """Return what a stage has to do now.

    Args:
        by_name: the stage was asked for by name, so a `refresh` policy does not hold it back.
        contents: for tables that will change before the stage runs: what they will hold, by table name.
    """
    if hasattr(stage.module, "shard"):
        return plan_shards(stage, context, contents)
    if hasattr(stage.module, "reduce"):
        return _plan_reduce(stage, context, by_name)
    return _plan_source(stage, context)


def _plan_source(stage: ConfiguredStage, context: Context) -> Plan:
    """Return the plan of a stage that reads from outside the store. It has work if rows, remarks or rejects
    change, if a check of its source fails, or if an earlier run of a staged source left drafts."""
    module, store = stage.module, context.store
    columns = getattr(module, "PLANNING_COLUMNS", None)
    drafts, staged = Drafts(store, module.WRITES, context.fingerprint), is_staged(module)
    known = store.read(module.WRITES, context.fingerprint, columns=columns) if staged else drafts.read(columns=columns)
    refused = store.read(REJECTS, context.fingerprint)
    planned = module.plan_source(stage.config, context, known, refused)
    reports_changed = planned.remarks is not None and set(planned.remarks) != _written_remarks(context)
    if planned.rejects is not None:
        standing = set(zip(refused.column("key").to_pylist(), refused.column("stamp").to_pylist(), strict=True))
        reports_changed |= standing != {(reject.key, reject.stamp) for reject in planned.rejects}
    has_unfinished = (staged and drafts.drafted()) or not all(check.passed for check in planned.checks)
    work = planned.make or planned.drop or planned.moved or reports_changed or has_unfinished
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
        notices=tuple(planned.notices),
        content=known_content if work and planned.content is not None else None,
    )


def _written_remarks(context: Context) -> set[Remark]:
    """Return the remarks of the stage's last job."""
    rows = context.store.read(REMARKS, context.fingerprint).to_pylist()
    return {Remark(row["what"], row["location"], row["count"], tuple(row["examples"])) for row in rows}


def _plan_reduce(stage: ConfiguredStage, context: Context, by_name: bool) -> Plan:
    """Return the plan of a reducing stage. It has no work if its result for the same data stands, or if its `refresh`
    policy holds it back and `by_name` is false."""
    writes = stage.module.WRITES
    drafts = Drafts(context.store, writes, context.fingerprint)
    footers, shard = drafts.footers(), reduced_shard(stage.module, context)
    footer, reason = footers.get(shard), ""
    # A model that learned from a recording that was taken down counts as not trained. Its shard is named by its id.
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
    """Return the problem of the first file that rows name and that is absent; empty if all exist."""
    return next(filter(None, absent_files(store, table, rows)), "") if table.files else ""


def reduced_shard(module: ModuleType, context: Context) -> str:
    """Return the shard that a reducing stage writes: named by the identity if its table accumulates, else always the
    same."""
    return context.identity if module.WRITES.accumulates else "0"


def plan_pipeline(pipeline: Pipeline, names: Sequence[str], by_name: bool) -> list[Plan]:
    """Return the plan of a run of the stages `names` without computing anything.

    If a stage follows another one that has work, its rows are counted from those that the other stage will make, if
    these are known now. Otherwise they are estimated, and the plan's `reason` says after which stage they are known.

    Raises:
        MissingWeights: published weights cannot be had, or no stage of the run trains a model that is needed.
        ValueError: a table that a stage reads does not exist, and no stage of the run makes it.
    """
    pipeline.fetch(names)
    with pipeline.store.remembering_footers():  # of the same tables once a stage
        return _plan_stages(pipeline, names, by_name)


def _plan_stages(pipeline: Pipeline, names: Sequence[str], by_name: bool) -> list[Plan]:
    plans: dict[str, Plan] = {}
    contents: dict[str, Content] = {}
    remade: dict[str, str] = {}  # stages that get another version once a model is trained -> the stage that trains it
    for name in names:
        stage, upstream = pipeline.stages[name], pipeline.upstream(name)
        driver = plans.get(upstream.name) if upstream else None
        if driver is not None and driver.jobs and stage.after:  # the files that it reads do not exist yet
            plans[name] = Plan(
                name, (EVERYTHING,), make=driver.make, reuse=driver.reuse, reason=f"{AFTER}{driver.stage}"
            )
            continue
        trainer = (remade.get(upstream.name) if upstream else None) or _trainer_at_work(pipeline, stage, plans)
        try:
            if trainer is not None and hasattr(stage.module, "shard"):
                raise NotTrainedYet(f"{name} waits for {trainer}", trainer)
            plan = plan_stage(stage, pipeline.context(name, run_id="plan"), by_name, contents)
        except NotTrainedYet as error:
            if error.trainer not in names:
                raise
            remade[name] = error.trainer
            plan = _plan_remaking(pipeline, stage, driver, error.trainer, contents)
        if driver is not None and (driver.jobs or driver.drop):
            plan = _follow(plan, stage, driver, by_name)
        plans[name] = _await_tables(pipeline, stage, plan, plans)
        if plan.content is not None:
            contents[stage.module.WRITES.name] = plan.content
    pipeline.check_inputs(names)
    return with_reasons(pipeline, plans.values())


def preview_stages(pipeline: Pipeline, plans: Sequence[Plan]) -> dict[str, Preview]:
    """Return the previews of the plan's stages that have one, by stage name. A stage is left out if a table that it
    reads is still to be made by another stage of the plan.

    Raises:
        ValueError: a shard of a table cannot be read.
    """
    working = {plan.stage for plan in plans if plan.jobs or plan.gone}
    previews = {}
    for plan in plans:
        stage = pipeline.stages[plan.stage]
        if not hasattr(stage.module, "preview") or plan.estimated:
            continue
        writers = {writer.name for table in pipeline.reads(plan.stage) if (writer := pipeline.writer(table))}
        if not writers & working:
            previews[plan.stage] = stage.module.preview(stage.config, pipeline.context(plan.stage, run_id="plan"))
    return previews


def _trainer_at_work(pipeline: Pipeline, stage: ConfiguredStage, plans: Mapping[str, Plan]) -> str | None:
    """Return the stage of the run that has yet to train a model that this stage reads; None if there is none."""
    kinds = {reference.checkpoint for reference in weights_fields(stage.config, stage.name)}
    for name, plan in plans.items():
        if plan.jobs and not kinds.isdisjoint(getattr(pipeline.stages[name].module, "KINDS", ())):
            return name
    return None


def _plan_remaking(
    pipeline: Pipeline, stage: ConfiguredStage, driver: Plan | None, trainer: str, contents: Mapping[str, Content]
) -> Plan:
    """Return the plan of a stage that makes all of its rows, because its version changes once a model is trained."""
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
    """Return the rows of a stage's driving table as they will be; None if they are not known yet."""
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


def _await_tables(pipeline: Pipeline, stage: ConfiguredStage, plan: Plan, plans: Mapping[str, Plan]) -> Plan:
    """Return the plan of a stage. It becomes an estimate if the stage rejects what a table that is still to be made may
    hold."""
    if not plan.rejects or hasattr(stage.module, "shard"):
        return plan
    writers = [pipeline.writer(table) for table in getattr(stage.module, "CONSULTS", ())]
    waits = next((writer.name for writer in writers if writer and writer.name in plans and plans[writer.name].jobs), "")
    return replace(plan, jobs=(EVERYTHING,), reason=f"{AFTER}{waits}") if waits else plan


def _follow(plan: Plan, stage: ConfiguredStage, driver: Plan, by_name: bool) -> Plan:
    """Return the plan of a stage whose driving stage has work to do first. Rows that the driving stage drops are not
    kept."""
    reason = plan.reason or f"{AFTER}{driver.stage}"
    if hasattr(stage.module, "reduce"):
        held = not plan.jobs and not by_name and getattr(stage.config, "refresh", "changed") != "changed"
        return plan if held else replace(plan, jobs=(EVERYTHING,), make=1, reuse=0, reason=reason)
    if driver.content is not None:
        return replace(plan, reason=reason if plan.jobs else plan.reason, exact=not driver.estimated)
    total, reuse = driver.make + driver.reuse, min(plan.reuse, driver.reuse)
    jobs, make, drop = plan.jobs or driver.jobs, max(plan.make, total - reuse), plan.drop + plan.reuse - reuse
    return replace(plan, jobs=jobs, make=make, reuse=reuse, drop=drop, reason=reason if jobs or drop else plan.reason)
