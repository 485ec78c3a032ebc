"""An order: what a requests file asks for beside what the last one asked for, and whether it may take its place.

What the last order has and the new one has not is dropped, which needs a word. A line that cannot be understood drops
nothing: the request that it was before stays as it is, marked stale, with its clips.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from schemas import Settings
from schemas.tables import REJECTS, REQUESTS, Row
from stages.pipeline.contract import CheckResult, Reject
from stages.pipeline.remarks import Remark
from stages.requests.reading import Line

LISTED = 20
"""Requests that are listed by their names where they are dropped."""


@dataclass(frozen=True)
class Refusal:
    """A line that is refused, and what it becomes in `rejects`."""

    line: Line
    reject: Reject


@dataclass(frozen=True)
class Order:
    """The requests of a file beside those of the last one."""

    before: Mapping[str, Row]
    """The requests of the last order, by id."""
    rows: Sequence[Row]
    """Those of this one in the order of their lines, and then those that stay though their lines are refused."""
    refusals: Sequence[Refusal]
    remarks: Sequence[Remark]
    """What was guessed of the file, and what is odd about what it asks for."""

    @property
    def rejects(self) -> list[Reject]:
        return [refusal.reject for refusal in self.refusals]

    def is_same(self, row: Row) -> bool:
        """Return whether a request is as it was, wherever its line stands now and whatever is the matter with it."""
        before = self.before.get(row["request_id"])
        return before is not None and before | {"line": row["line"], "stale": row["stale"]} == row

    @cached_property
    def dropped(self) -> list[Row]:
        """The requests of the last order of whose clips some or all would go, in the order of their lines."""
        takes = {row["request_id"]: row["takes"] for row in self.rows}
        fewer = [row for name, row in self.before.items() if takes.get(name, 0) < row["takes"]]
        return sorted(fewer, key=lambda row: int(row["line"]))

    @cached_property
    def dropped_clips(self) -> int:
        takes = {row["request_id"]: row["takes"] for row in self.rows}
        return sum(row["takes"] - takes.get(row["request_id"], 0) for row in self.dropped)


def keep_refused(rows: Mapping[str, Row], refusals: Sequence[Refusal], before: Mapping[str, Row]) -> list[Row]:
    """Return the requests of the last order whose lines are refused now, as they were, marked stale with the reason.

    A line is the request of its name; without a name that of the same place, counted from the nearest line above it
    that asks for what it asked for before.

    Args:
        rows: the requests of the lines that are not refused, by id.
        before: those of the last order, by id.
    """
    names = {row["name"] for row in rows.values()} - {None}
    gone = [row for name, row in before.items() if name not in rows and row["name"] not in names]
    by_name = {row["name"]: row for row in gone if row["name"] is not None}
    by_line = {row["line"]: row for row in gone}
    kept: dict[str, Row] = {}
    for refusal in refusals:
        line = refusal.line
        row = by_name.get(line.name) if line.name else by_line.get(_line_before(line.number, rows, before))
        named_otherwise = row is not None and row["name"] != line.name and refusal.reject.kind != "unreadable"
        if row is None or named_otherwise or row["request_id"] in kept:
            continue
        kept[row["request_id"]] = row | {"line": line.number, "stale": refusal.reject.message}
    return list(kept.values())


def _line_before(number: int, rows: Mapping[str, Row], before: Mapping[str, Row]) -> int:
    """Return the line in which the last order had what stands in a line now."""
    above = [row for row in rows.values() if row["line"] < number and row["request_id"] in before]
    nearest = max(above, key=lambda row: int(row["line"]), default=None)
    return number if nearest is None else number - nearest["line"] + before[nearest["request_id"]]["line"]


def order_checks(order: Order, settings: Settings, lines: int) -> Iterator[CheckResult]:
    """Yield what must hold before an order takes the place of the last one.

    Args:
        lines: how many lines the file has.
    """
    refused, of_file = len(order.refusals), settings.requests is not None
    # A preset's own requests may refer to recordings that a smaller corpus has not.
    accepted = accepted_lines(settings.accept_refused, lines) if of_file else int(settings.max_refused * lines)
    limit = f"settings.accept_refused = {settings.accept_refused:g} accepts {accepted}"
    stands = "the last order stays" if order.before else "nothing is taken in"
    first = f"{order.rejects[0].message}; " if refused else ""
    yield CheckResult(
        "refused",
        REJECTS.name,
        "error",
        refused,
        accepted,
        f"refused {refused} of {lines} lines of {settings.requests or 'the default set'}, {limit}: {stands}. {first}"
        f"mend them, or go on without them by --accept-refused {refused}; all of them: SELECT key, kind, message FROM "
        "rejects WHERE stage = 'requests'",
    )
    yield CheckResult(
        "dropped",
        REQUESTS.name,
        "error",
        0 if settings.drop_requests else order.dropped_clips,
        0,
        f"{dropped_text(order)}: the last order stays. Let them go by --drop (settings.drop_requests), or give the "
        "files that have them (--requests; requests.picks)",
    )


def accepted_lines(accept: float, lines: int) -> int:
    """Return how many refused lines are accepted: a number of them, or, below 1, a share of the file."""
    return int(accept) if accept >= 1 else int(accept * lines)


def losses(order: Order) -> Iterator[str]:
    """Yield what a person is to know before an order is taken in: what stays though it is broken, and what goes."""
    stale = [row for row in order.rows if row["stale"]]
    if stale:
        yield f"{_clips(sum(row['takes'] for row in stale))} of {_requests(stale)} would stay as they are, marked stale"
    if order.dropped:
        yield dropped_text(order)


def dropped_text(order: Order) -> str:
    """Say which clips of the last order go."""
    rest = len(order.dropped) - LISTED
    named = ", ".join(_name(row) for row in order.dropped[:LISTED]) + (f" and {rest} more" if rest > 0 else "")
    return f"would drop {_clips(order.dropped_clips)} of {_requests(order.dropped)} of the last order ({named})"


def _name(row: Row) -> str:
    return f"{row['name']}" if row["name"] else f"line {row['line']}"


def _clips(count: int) -> str:
    return f"{count:,} clip{'' if count == 1 else 's'}"


def _requests(rows: Collection[Row]) -> str:
    return f"{len(rows):,} request{'' if len(rows) == 1 else 's'}"
