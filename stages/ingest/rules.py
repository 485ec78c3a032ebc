"""Rules: what a measured recording must meet to be a track. It was not taken down, the policy lets its licence pass,
and it meets the conditions of `ingest.accept`.

A recording's id is that of its sound, so it is the same recording under any name, and what was taken down stays out
wherever it comes from.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from schemas.licences import LicencePolicy
from schemas.queries.conditions import Conditions
from schemas.tables import TRACKS

LONGEST_VALUE = 80
"""Longest value in a reject's message, in characters."""


class Rules:
    """The rules of a run of ingest.

    Args:
        conditions: in SQL over the columns of `tracks`.
        taken_down: why each recording was taken down, by its `track_id`.

    Raises:
        ValueError: a condition is not valid.
    """

    def __init__(self, conditions: Sequence[str], licences: LicencePolicy, taken_down: Mapping[str, str]) -> None:
        self._conditions = Conditions(conditions, TRACKS.schema)
        self._licences, self._taken_down = licences, taken_down

    @property
    def has_any(self) -> bool:
        """Whether there is any rule that a recording could fail."""
        return bool(self._conditions.texts or self._licences.asks or self._taken_down)

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns of `tracks` that the rules need."""
        licence = ("licence",) if self._licences.asks else ()
        return tuple(dict.fromkeys(("track_id", *licence, *self._conditions.all_columns)))

    def met(self, rows: pa.Table) -> pa.ChunkedArray:
        """Return for each row whether it meets all rules, as booleans.

        Args:
            rows: must have at least `columns`.

        Raises:
            ValueError: a condition cannot be evaluated for one of the rows.
        """
        met = self._conditions.met(rows)
        if self._taken_down:
            out = pc.is_in(rows.column("track_id"), pa.array(sorted(self._taken_down), pa.string()))
            met = pc.and_(met, pc.invert(out))
        if self._licences.asks:
            different = pc.unique(rows.column("licence")).to_pylist()
            passing = pa.array([text for text in different if self._licences.refusal(text) is None], pa.string())
            met = pc.and_(met, pc.is_in(rows.column("licence"), passing))
        return met

    def refusals(self, rows: pa.Table) -> list[str]:
        """Return for each row a sentence that says why it is refused, empty if it is not.

        Args:
            rows: must have at least `columns`.

        Raises:
            ValueError: a condition cannot be evaluated for one of the rows.
        """
        named = rows.select(list(self.columns))
        failures = self._conditions.failed(named)
        return [self._refusal(row, failed) for row, failed in zip(named.to_pylist(), failures, strict=True)]

    def _refusal(self, row: Mapping[str, Any], failed: Sequence[str]) -> str:
        reason = self._taken_down.get(row["track_id"])
        if reason is not None:
            return f"expected a recording that was not taken down, got {row['track_id'][:12]}…: {reason}"
        if self._licences.asks and (refusal := self._licences.refusal(row["licence"])):
            return f"{refusal}; see `withheld`; ingest.licences sets the policy"
        if not failed:
            return ""
        names = dict.fromkeys(name for text in failed for name in self._conditions.columns[text])
        values = " and ".join(f"{name} = {_shown(row[name])}" for name in names) or "no such row"
        return f"expected {' and '.join(failed)}, got {values}; see `withheld`; ingest.accept sets the conditions"


def _shown(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.6g}"
    text = "NULL" if value is None else str(value)
    return text if len(text) <= LONGEST_VALUE else f"{text[:LONGEST_VALUE]}…"
