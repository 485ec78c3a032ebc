"""What a run would take: seconds and bytes for each stage, from the rates of this store's own runs and files.

A stage that makes rows one by one takes a fixed time for each row, or, if its rows are clips, for each second of sound.
A stage that makes all rows at once takes as long as it did last time. A training takes as long as one of the same sizes
did, in proportion to its steps. What no run of the store has done yet is not known, and nothing is guessed.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import TYPE_CHECKING, Any

from schemas import Store
from schemas.identity import canonical, weights_fields
from schemas.storage.publications import Publications
from schemas.storage.versions import Versions, knobs
from schemas.tables import CLIPS, GENERATIONS, REQUESTS, RUNS, Row, Table
from schemas.weights import MissingWeights
from stages.pipeline.durations import duration
from stages.pipeline.plans import Plan

if TYPE_CHECKING:
    from stages.pipeline.pipeline import Pipeline

LATEST_RUNS = 5
"""How many runs of a stage its rate is measured on. Recent runs are most like the present machine and settings."""

STEPS = ("optimization.steps", "training.steps")
"""Knobs that a training takes as long as, all else equal."""

FREE = ("seed", *(f"optimization.{name}" for name in ("learning_rate", "warmup_steps", "floor", "weight_decay")))
"""Knobs of trainings that steps take as long with."""


@dataclass(frozen=True)
class Estimate:
    """What one stage would take."""

    stage: str
    seconds: float | None
    """How long it takes; None if no run of this store has done the stage."""
    bytes: float | None
    """The size of its new rows and of the files that they name; None if its table has no rows yet."""


def estimate(pipeline: "Pipeline", plans: Sequence[Plan]) -> list[Estimate]:
    """Return what the stages of a plan that have work would take, in their order."""
    working = [plan for plan in plans if plan.jobs]
    if not working:
        return []
    latest = latest_runs(pipeline.store)
    sizes = _bytes_a_row(pipeline, [pipeline.stages[plan.stage].module.WRITES for plan in working])
    length = _length(pipeline, plans)
    estimates = []
    for plan in working:
        module = pipeline.stages[plan.stage].module
        runs = latest.get(plan.stage)
        if runs is None:
            seconds = None
        elif hasattr(module, "KINDS"):
            seconds = _training_seconds(pipeline, plan.stage, runs)
        elif hasattr(module, "reduce"):
            seconds = float(runs[-1]["seconds"])
        else:
            seconds = plan.make * seconds_a_row(runs)
            if makes_clips(module):
                seconds *= length
        size = sizes.get(module.WRITES.name)
        if size is not None and makes_clips(module):
            size *= length
        estimates.append(Estimate(plan.stage, seconds, None if size is None else plan.make * size))
    return estimates


def _training_seconds(pipeline: "Pipeline", stage: str, runs: Sequence[Row]) -> float | None:
    """Return how long a training takes, by the newest run that trained such a model in such a way; None where none did,
    or the recipe names weights that are not there."""
    try:
        config = pipeline.dependencies(stage).config
        digests: dict[str, str] = {
            reference: pipeline.weights(reference).digest for reference in weights_fields(config)
        }
    except MissingWeights:
        return None
    wanted, versions = knobs(json.loads(canonical(config, digests))), Versions(pipeline.store).all
    for run in reversed(runs):
        version = versions.get(run["fingerprint"])
        times = None if version is None else _times_as_many_steps(knobs(version.config), wanted)
        if times is not None:
            return times * float(run["seconds"])
    return None


def _times_as_many_steps(before: Mapping[str, Any], after: Mapping[str, Any]) -> float | None:
    """Return how many times the steps of a training another one has; None where its steps may take another time."""
    times = 1.0
    for name in before.keys() | after.keys():
        value, other = before.get(name), after.get(name)
        if name in STEPS and value and other:
            times *= other / value
        elif value != other and name not in FREE and not _is_of_one_release(name, before, after):
            return None
    return times


def _is_of_one_release(name: str, before: Mapping[str, Any], after: Mapping[str, Any]) -> bool:
    """Return whether a knob is one that a release brought or took away: the other configuration has nothing in its
    place, such as a group of knobs that was none."""
    other = after if name in before else before
    around = [name.rpartition(".")[0], *(each for each in other if each.startswith(f"{name}."))]
    return name not in other and not any(each in other for each in around)


def makes_clips(module: ModuleType) -> bool:
    """Return whether a stage has a row for each clip, so that its time depends on the clips' length."""
    return bool(module.WRITES.key == GENERATIONS.key)


def planned_requests(pipeline: "Pipeline", plans: Sequence[Plan]) -> dict[str, Row] | None:
    """Return the requests as they will be after the plan, by id; None if the plan reads no requests file."""
    plan = next((plan for plan in plans if plan.stage == "requests"), None)
    if plan is None:
        return None
    if plan.content is not None:
        rows = [dict(row) for shard in plan.content.values() for row in shard if isinstance(row, Mapping)]
    else:
        rows = pipeline.store.read(REQUESTS, pipeline.fingerprint("requests")).to_pylist()
    return {row["request_id"]: row for row in rows}


def planned_takes(pipeline: "Pipeline", plans: Sequence[Plan]) -> list[Row]:
    """Return the request of each take that a plan would generate, if the plan reads a requests file."""
    rows = planned_requests(pipeline, plans) or {}
    generate = next((plan for plan in plans if plan.stage == "generate"), None)
    return [] if generate is None else [rows[key[0]] for key in generate.missing if key[0] in rows]


def _length(pipeline: "Pipeline", plans: Sequence[Plan]) -> float:
    """Return the mean length of the clips in a plan, relative to that of the clips that the store's rates are from."""
    takes = planned_takes(pipeline, plans)
    if not takes:
        return 1.0
    files = Publications(pipeline.store).shown_files([CLIPS.name]).get(CLIPS.name, [])
    before = pipeline.store.read_files(CLIPS, files, ["seconds"]).column("seconds").drop_null().to_pylist()
    planned = sum(row["seconds"] for row in takes) / len(takes)
    return float(planned / (sum(before) / len(before))) if sum(before) else 1.0


def total_line(estimates: Sequence[Estimate]) -> str | None:
    """Return a line about what all stages together would take, and of which that is unknown; None if of all."""
    known = [each for each in estimates if each.seconds is not None]
    if not known:
        return None
    unknown = [each.stage for each in estimates if each.seconds is None]
    seconds, size = sum(each.seconds or 0 for each in known), sum(each.bytes or 0 for each in known)
    total = f"about {duration(seconds)} and {amount(size)}, judging by earlier runs of this store"
    return f"{total}; unknown for {', '.join(unknown)}, which never ran here in this way" if unknown else total


def latest_runs(store: Store) -> Mapping[str, Sequence[Row]]:
    """Return the latest runs of each stage that made rows and did not fail, newest last, by stage."""
    latest: dict[str, list[Row]] = {}
    columns = ["stage", "fingerprint", "started_at", "seconds", "rows_made", "error"]
    for row in store.read(RUNS, "1", columns=columns).to_pylist():
        if row["rows_made"] and not row["error"]:
            latest.setdefault(row["stage"], []).append(row)
    return {stage: sorted(runs, key=lambda run: run["started_at"])[-LATEST_RUNS:] for stage, runs in latest.items()}


def seconds_a_row(runs: Sequence[Row]) -> float:
    """Return the mean seconds that some runs took for each row."""
    return float(sum(run["seconds"] for run in runs) / sum(run["rows_made"] for run in runs))


def _bytes_a_row(pipeline: "Pipeline", tables: Sequence[Table]) -> Mapping[str, float]:
    """Return the mean bytes of a published row of each table, including the clip's file, by table; without empty
    tables."""
    shown = Publications(pipeline.store).shown_files([table.name for table in tables])
    means = {}
    for table in tables:
        files = shown.get(table.name, [])
        rows = pipeline.store.read_files(table, files, ["bytes"] if table is CLIPS else list(table.key))
        if rows.num_rows:
            size = sum(pipeline.store.size(file) or 0 for file in files)
            named = sum(rows.column("bytes").to_pylist()) if table is CLIPS else 0
            means[table.name] = (size + named) / rows.num_rows
    return means


def amount(size: float) -> str:
    """Return a number of bytes as text, in a suitable unit."""
    for unit, bytes_ in (("GB", 1e9), ("MB", 1e6)):
        if size >= bytes_:
            return f"{size / bytes_:,.1f} {unit}"
    return f"{size / 1e3:,.0f} kB"
