"""Upgrades: tables that a run would make again only because a new release changed the stage that makes them.

If a release raises a stage's VERSION or adds a knob to it, the stage's table gets another version although the user
changed nothing. The store records what each version was made with. So this case can be told apart from a change by the
user before anything is made.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from schemas import Settings
from schemas.identity import weights_fields
from schemas.storage.drafts import Drafts
from schemas.storage.versions import Version, Versions, knobs
from schemas.tables import RUNS
from schemas.weights import MissingWeights
from stages.pipeline.pipeline import Pipeline
from stages.pipeline.plans import ConfiguredStage


@dataclass(frozen=True)
class Upgrade:
    """A table that the current code would make again, although everything that the user set is unchanged."""

    stage: str
    before: str
    """The version of the table that is in the store."""
    text: str
    """What the release changed: `version 3 -> 4`, knobs that were added or removed."""
    outdated: str = ""
    """Why the rows of the old version cannot be kept; empty if they can."""


def find_upgrades(stages: Sequence[ConfiguredStage], settings: Settings, names: Sequence[str]) -> list[Upgrade]:
    """Return the upgrades that a run of the stages `names` meets, each stage before those that read it.

    A table whose version changes only because an input's version does is not an upgrade of its own. If the old version
    of the input is kept, the version of the table that is made from it stays too; if not, that table is made again with
    its input.

    Raises:
        MissingWeights: published weights that the run needs cannot be had.
    """
    pipeline = Pipeline(stages, settings, names)
    recorded = Versions(pipeline.store)
    pipeline.fetch(names)
    pipeline.library.offline = True  # for stages that the run only reads from, nothing is downloaded
    upgrades = []
    for name in _with_upstream(pipeline, names):
        try:
            version, inputs = pipeline.fingerprint(name), pipeline.versions(name)
            config = json.loads(pipeline.config(name))
        except MissingWeights:  # of a model that is still to be trained: there is no table to keep
            continue
        if _is_begun(pipeline, name, version):
            continue
        code = pipeline.stages[name].module.VERSION
        now = Version(version, name, code, config, inputs)
        candidates = [each for each in recorded.all.values() if _differs_by_release(each, now)]
        before = _latest(pipeline, [each for each in candidates if _is_begun(pipeline, name, each.fingerprint)])
        if before is not None:
            outdated = _why_outdated(getattr(pipeline.stages[name].module, "OUTDATED", {}), before)
            upgrades.append(Upgrade(name, before.fingerprint, _text(before, now), outdated))
            if not outdated:
                pipeline.keep(name, before.fingerprint)
    return upgrades


def _why_outdated(outdated: Mapping[int, str], before: Version) -> str:
    """Return why a stage cannot continue with a version of its table; empty if it can."""
    if before.stage_version is None:
        return ""
    return next((why for last, why in sorted(outdated.items()) if before.stage_version <= last), "")


def _with_upstream(pipeline: Pipeline, names: Sequence[str]) -> list[str]:
    """Return the named stages and all stages that make what these read or load, in the order of the recipe."""
    waiting = list(names)
    for name in waiting:
        stage = pipeline.stages[name]
        tables = (*stage.module.READS, *getattr(stage.module, "CONSULTS", ()))
        kinds = {reference.checkpoint for reference in weights_fields(stage.config)}
        waiting += [
            other.name
            for other in pipeline.stages.values()
            if other.name not in waiting
            and (other.module.WRITES in tables or not kinds.isdisjoint(getattr(other.module, "KINDS", ())))
        ]
    return [name for name in pipeline.stages if name in waiting]


def _is_begun(pipeline: Pipeline, name: str, version: str) -> bool:
    """Return whether the store has any shard of a version of a stage's table, drafts included."""
    table = pipeline.stages[name].module.WRITES
    return bool(Drafts(pipeline.store, table, version).shards())


def _differs_by_release(before: Version, now: Version) -> bool:
    """Return whether nothing that a user sets differs between two versions of a table: knobs that both have hold equal
    values, and tables that both read have equal versions."""
    if before.stage != now.stage or before.fingerprint == now.fingerprint:
        return False
    old, new = knobs(before.config), knobs(now.config)
    if _groups_turned_on(old, new) or _groups_turned_on(new, old):
        return False
    return all(old[name] == new[name] for name in old.keys() & new.keys()) and all(
        before.inputs[table] == now.inputs[table] for table in before.inputs.keys() & now.inputs.keys()
    )


def _groups_turned_on(before: Mapping[str, Any], after: Mapping[str, Any]) -> bool:
    """Return whether a user replaced the value None of a knob, such as `decode.credentials`, with a group of knobs."""
    return any(name.startswith(f"{group}.") for group in before.keys() - after.keys() for name in after)


def _latest(pipeline: Pipeline, versions: Sequence[Version]) -> Version | None:
    """Return the version that a run worked on last; None if there are no versions."""
    if len(versions) < 2:
        return versions[0] if versions else None
    rows = pipeline.store.read(RUNS, "1", columns=["fingerprint", "started_at"]).to_pylist()
    last = {row["fingerprint"]: row["started_at"] for row in sorted(rows, key=lambda row: row["started_at"])}
    known = [version for version in versions if version.fingerprint in last]
    return max(known, key=lambda version: last[version.fingerprint]) if known else versions[-1]


def _text(before: Version, now: Version) -> str:
    """Return what changed between two versions, as text."""
    old, new = knobs(before.config), knobs(now.config)
    parts = []
    if before.stage_version != now.stage_version:
        parts.append(f"version {before.stage_version} -> {now.stage_version}")
    for word, names in (("new knobs", new.keys() - old.keys()), ("removed knobs", old.keys() - new.keys())):
        if names:
            parts.append(f"{word} {', '.join(sorted(names))}")
    if tables := before.inputs.keys() ^ now.inputs.keys():
        parts.append(f"reads other tables ({', '.join(sorted(tables))})")
    return ", ".join(parts)
