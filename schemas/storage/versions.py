"""Versions: what each version of a stage's table was made with, and which knob makes two of them differ.

A fingerprint tells versions apart, but does not say how they differ. So the first run that makes a version records what
its fingerprint is the hash of: the version of the stage's code, its configuration with the digests of its weights, and
the versions that it reads.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import pyarrow as pa

from schemas.identity import WeightsRef
from schemas.storage.store import Store
from schemas.tables import CHECKPOINTS, VERSIONS, WEIGHTS, Row

SHORT = 8
"""How many digits of a digest are shown to people."""


@dataclass(frozen=True)
class Version:
    """What a version of a stage's table was made with."""

    fingerprint: str
    stage: str
    stage_version: int
    config: Mapping[str, Any]
    """The stage's configuration; weights are `{"weights": digest}`."""
    inputs: Mapping[str, str]
    """The version of each table that the stage reads or consults, by the table's name."""

    def fields(self) -> dict[str, str]:
        """Return a field that names each of its weights, as `stage.field`, by the weights' digest."""
        items = knobs(self.config).items()
        return {value["weights"]: f"{self.stage}.{name}" for name, value in items if _is_weights(value)}

    def weights(self) -> set[str]:
        """Return the digests of all weights that its configuration names."""
        return weights_of_config(self.config)


def weights_of_config(config: Mapping[str, Any]) -> set[str]:
    """Return the digests of all weights that a configuration names; in it, weights are `{"weights": digest}`."""
    return {value["weights"] for value in knobs(config).values() if _is_weights(value)}


def record_version(
    store: Store, fingerprint: str, stage: str, stage_version: int, config: str, inputs: Mapping[str, str]
) -> None:
    """Record what a version is made with, unless that is recorded already.

    Args:
        config: the stage's configuration as canonical JSON.
    """
    where = store.shard_path(VERSIONS, "1", fingerprint)
    if store.exists(where):
        return
    row = {"fingerprint": fingerprint, "stage": stage, "stage_version": stage_version, "config": config}
    rows = pa.Table.from_pylist([row | {"inputs": list(inputs.items())}], schema=VERSIONS.schema)
    store.write_shard(VERSIONS, "1", fingerprint, rows, fingerprint)


class Versions:
    """The versions recorded in a store. Early releases recorded none."""

    def __init__(self, store: Store) -> None:
        self._store = store

    @cached_property
    def all(self) -> Mapping[str, Version]:
        """Every recorded version, by its fingerprint."""
        return {row["fingerprint"]: _of_row(row) for row in self._store.read_all(VERSIONS).to_pylist()}

    def upstream(self, fingerprint: str) -> set[str]:
        """Return the versions that a version is made from, directly or not, including itself."""
        ancestors, waiting = set(), [fingerprint]
        while waiting:
            version = waiting.pop()
            if version not in ancestors:
                ancestors.add(version)
                waiting += self.all[version].inputs.values() if version in self.all else ()
        return ancestors

    def differences(self, before: str, after: str) -> list[str]:
        """Return what makes two versions differ, a line for each difference: knobs, code or weights. This includes
        differences between the versions that they are made from, and in what trained weights were trained with."""
        return list(dict.fromkeys(self._differences(before, after, "", set())))

    def changed_knobs(self, before: Version, after: Version) -> list[str]:
        """Return the knobs that two versions both have with other values, as `name: before → after`, by name."""
        old, new = knobs(before.config), knobs(after.config)
        return [
            f"{name}: {self._shown(old[name])} → {self._shown(new[name])}"
            for name in sorted(old.keys() & new.keys())
            if old[name] != new[name]
        ]

    def _differences(self, before: str, after: str, through: str, seen: set[tuple[str, str]]) -> Iterator[str]:
        if before == after or (before, after) in seen:
            return
        seen.add((before, after))
        old, new = self.all.get(before), self.all.get(after)
        for fingerprint, version in ((before, old), (after, new)):
            if version is None:
                yield f"version {fingerprint[:SHORT]} was made by a release that did not record what it was made with"
        if old is None or new is None:
            return
        if old.stage != new.stage:
            yield f"the stage {old.stage} → {new.stage}"
        if old.stage_version != new.stage_version:
            yield f"the code of {new.stage}: VERSION {old.stage_version} → {new.stage_version}{through}"
        knobs_before, knobs_after = knobs(old.config), knobs(new.config)
        for name in sorted(knobs_before.keys() | knobs_after.keys()):
            value, other = knobs_before.get(name, _ABSENT), knobs_after.get(name, _ABSENT)
            if value != other:
                yield f"{new.stage}.{name}: {self._shown(value)} → {self._shown(other)}{through}"
                if _is_weights(value) and _is_weights(other):
                    yield from self._trained(value["weights"], other["weights"], f", through {new.stage}.{name}", seen)
        for table in sorted(old.inputs.keys() | new.inputs.keys()):
            pair = old.inputs.get(table), new.inputs.get(table)
            if None in pair:
                yield f"{new.stage} {'no longer reads' if pair[1] is None else 'now reads'} {table}{through}"
            else:
                yield from self._differences(str(pair[0]), str(pair[1]), f", through {table}", seen)

    def _trained(self, before: str, after: str, through: str, seen: set[tuple[str, str]]) -> Iterator[str]:
        """Yield how two models that this store trained differ; nothing where either was not trained here."""
        old, new = self._checkpoints.get(before), self._checkpoints.get(after)
        if old is None or new is None:
            return
        if old["recipe"] == new["recipe"] and old["data_digest"] != new["data_digest"]:
            yield f"{new['kind']}: trained on other rows ({old['rows_seen']:,} → {new['rows_seen']:,}){through}"
        yield from self._differences(old["recipe"], new["recipe"], through, seen)

    def reference(self, digest: str | None) -> WeightsRef | None:
        """Return a name that the store has for the weights with a digest; None where it has none."""
        if (checkpoint := self._checkpoints.get(digest or "")) is not None:
            return WeightsRef.to_checkpoint(checkpoint["checkpoint_id"])
        name = self._references.get(digest or "")
        return None if name is None else WeightsRef(name)

    @cached_property
    def _checkpoints(self) -> Mapping[str, Row]:
        """Rows of models that this store trained, by the digest of their weights."""
        return {row["digest"]: row for row in self._store.read_all(CHECKPOINTS).to_pylist()}

    @cached_property
    def _references(self) -> Mapping[str, str]:
        """Names of published weights, by their digest."""
        return {row["digest"]: row["reference"] for row in self._store.read_all(WEIGHTS).to_pylist()}

    def _shown(self, value: Any) -> str:
        if value is _ABSENT:
            return "(no such knob)"
        if not _is_weights(value):
            return json.dumps(value, ensure_ascii=False)
        digest = value["weights"]
        return f"{self.reference(digest) or 'weights'} ({digest[:SHORT]})"


_ABSENT = object()


def _is_weights(value: Any) -> bool:
    return isinstance(value, dict) and value.keys() == {"weights"}


def knobs(config: Any, name: str = "") -> dict[str, Any]:
    """Return the values of a configuration by dotted name; `{"weights": digest}` counts as one value."""
    if isinstance(config, dict) and config and not _is_weights(config):
        fields: dict[str, Any] = {}
        for field, value in config.items():
            fields |= knobs(value, f"{name}.{field}" if name else field)
        return fields
    return {name: config} if name else {}


def _of_row(row: Row) -> Version:
    return Version(**(row | {"config": json.loads(row["config"]), "inputs": dict(row["inputs"])}))
