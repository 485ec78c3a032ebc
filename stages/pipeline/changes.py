"""Reasons for plans that make a new version of a table: knobs that have other values, and tables that are read in
another version.
"""

import json
from collections.abc import Iterable
from dataclasses import replace

from schemas.storage.versions import Version, Versions
from schemas.tables import RUNS, Row
from stages.pipeline.pipeline import Pipeline
from stages.pipeline.plans import Plan

LONGEST = 60
"""Maximum number of characters of a knob and its two values in a reason."""


def with_reasons(pipeline: Pipeline, plans: Iterable[Plan]) -> list[Plan]:
    """Return the plans, with a reason added to those that have work, state none, and make a version of their table that
    the store does not have: what differs from the version that the stage made last."""
    versions, runs = Versions(pipeline.store), None
    explained = []
    for plan in plans:
        table = pipeline.stages[plan.stage].module.WRITES
        if plan.jobs and not plan.reason and not pipeline.store.shards(table, pipeline.fingerprint(plan.stage)):
            if runs is None:
                runs = pipeline.store.read(RUNS, "1", columns=["stage", "fingerprint", "started_at"]).to_pylist()
            plan = replace(plan, reason=_changes(pipeline, plan.stage, versions, runs))
        explained.append(plan)
    return explained


def _changes(pipeline: Pipeline, name: str, versions: Versions, runs: Iterable[Row]) -> str:
    """Return what differs between the version that a stage will make and its last one; empty without a last one."""
    fingerprint = pipeline.fingerprint(name)
    code = pipeline.stages[name].module.VERSION
    after = Version(fingerprint, name, code, json.loads(pipeline.config(name)), pipeline.versions(name))
    earlier = [run for run in runs if run["stage"] == name and run["fingerprint"] != fingerprint]
    last = max(earlier, key=lambda run: run["started_at"], default=None)
    before = versions.all.get(last["fingerprint"]) if last else None
    if before is None:
        return ""
    knobs = [_short(knob) for knob in versions.changed_knobs(before, after)]
    if knobs:
        return knobs[0] + (f", and {len(knobs) - 1} more" if len(knobs) > 1 else "")
    shared = before.inputs.keys() & after.inputs.keys()
    tables = sorted(table for table in shared if before.inputs[table] != after.inputs[table])
    return f"reads other {' and '.join(tables)}" if tables else ""


def _short(text: str) -> str:
    return text if len(text) <= LONGEST else f"{text[: LONGEST - 1]}…"
