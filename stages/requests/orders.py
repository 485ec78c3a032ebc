"""An order: what a requests file asks for, compared with the last order, and whether it may replace that.

Requests of the last order that the new one does not have are dropped, which the user must allow. A line that cannot be
understood drops nothing: the request that it was before stays as it is, marked stale, with its clips.
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
"""How many dropped requests a message names."""


@dataclass(frozen=True)
class Refusal:
    """A line that is refused, and its row of `rejects`."""

    line: Line
    reject: Reject


@dataclass(frozen=True)
class Order:
    """The requests of a file together with those of the last order."""

    before: Mapping[str, Row]
    """The requests of the last order, by id."""
    rows: Sequence[Row]
    """The requests of this order in the order of their lines, then those that stay although their lines are refused."""
    refusals: Sequence[Refusal]
    remarks: Sequence[Remark]
    """What was guessed about the file, and what is odd about what it asks for."""

    @property
    def rejects(self) -> list[Reject]:
        return [refusal.reject for refusal in self.refusals]

    def is_same(self, row: Row) -> bool:
        """Return whether a request is unchanged, apart from its line number and whether it is stale."""
        before = self.before.get(row["request_id"])
        return before is not None and before | {"line": row["line"], "stale": row["stale"]} == row

    @cached_property
    def dropped(self) -> list[Row]:
        """The requests of the last order that would lose some or all of their clips, in the order of their lines."""
        takes = {row["request_id"]: row["takes"] for row in self.rows}
        fewer = [row for name, row in self.before.items() if takes.get(name, 0) < row["takes"]]
        return sorted(fewer, key=lambda row: int(row["line"]))

    @cached_property
    def dropped_clips(self) -> int:
        takes = {row["request_id"]: row["takes"] for row in self.rows}
        return sum(row["takes"] - takes.get(row["request_id"], 0) for row in self.dropped)


def keep_refused(rows: Mapping[str, Row], refusals: Sequence[Refusal], before: Mapping[str, Row]) -> list[Row]:
    """Return the requests of the last order whose lines are refused now: unchanged, but marked stale with the reason.

    A refused line belongs to the old request with its name. Without a name, it belongs to the old request at its place,
    counted from the nearest line above it whose request is unchanged.

    Args:
        rows: the requests of the lines that are not refused, by id.
        before: the requests of the last order, by id.
    """
    names = {row["name"] for row in rows.values()} - {None}
    missing = [row for name, row in before.items() if name not in rows and row["name"] not in names]
    by_name = {row["name"]: row for row in missing if row["name"] is not None}
    by_line = {row["line"]: row for row in missing}
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
    """Return the line number that a line of this file had in the last order."""
    above = [row for row in rows.values() if row["line"] < number and row["request_id"] in before]
    nearest = max(above, key=lambda row: int(row["line"]), default=None)
    return number if nearest is None else number - nearest["line"] + before[nearest["request_id"]]["line"]


def order_checks(order: Order, settings: Settings, lines: int) -> Iterator[CheckResult]:
    """Yield the checks that an order must pass before it replaces the last one.

    Args:
        lines: how many lines the file has.
    """
    refused, of_file = len(order.refusals), settings.requests is not None
    # A preset's own requests may refer to recordings that a smaller corpus does not have.
    accepted = accepted_lines(settings.accept_refused, lines) if of_file else int(settings.max_refused * lines)
    limit = f"settings.accept_refused = {settings.accept_refused:g} accepts {accepted}"
    stands = "the last order stays" if order.before else "no order is accepted"
    first = f"{order.rejects[0].message}; " if refused else ""
    yield CheckResult(
        "refused",
        REJECTS.name,
        "error",
        refused,
        accepted,
        f"refused {refused} of {lines} lines of {settings.requests or 'the default set'}, {limit}: {stands}. {first}"
        f"correct them, or go on without them by --accept-refused {refused}; list all: SELECT key, kind, message FROM "
        "rejects WHERE stage = 'requests'",
    )
    yield CheckResult(
        "dropped",
        REQUESTS.name,
        "error",
        0 if settings.drop_requests else order.dropped_clips,
        0,
        f"{dropped_text(order)}: the last order stays. Allow this by --drop (settings.drop_requests), or give the "
        "files that contain them (--requests; requests.picks)",
    )


def accepted_lines(accept: float, lines: int) -> int:
    """Return how many refused lines are accepted. `accept` is that number, or, if it is below 1, a share of the
    file."""
    return int(accept) if accept >= 1 else int(accept * lines)


def losses(order: Order) -> Iterator[str]:
    """Yield what a person should know before an order is taken in: what stays although its line is broken, and what is
    dropped."""
    stale = [row for row in order.rows if row["stale"]]
    if stale:
        yield f"{_clips(sum(row['takes'] for row in stale))} of {_requests(stale)} would stay as they are, marked stale"
    if order.dropped:
        yield dropped_text(order)


def dropped_text(order: Order) -> str:
    """Return a text on which clips of the last order are dropped."""
    rest = len(order.dropped) - LISTED
    named = ", ".join(_name(row) for row in order.dropped[:LISTED]) + (f" and {rest} more" if rest > 0 else "")
    return f"would drop {_clips(order.dropped_clips)} of {_requests(order.dropped)} of the last order ({named})"


def _name(row: Row) -> str:
    return f"{row['name']}" if row["name"] else f"line {row['line']}"


def _clips(count: int) -> str:
    return f"{count:,} clip{'' if count == 1 else 's'}"


def _requests(rows: Collection[Row]) -> str:
    return f"{len(rows):,} request{'' if len(rows) == 1 else 's'}"
