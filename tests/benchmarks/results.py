"""Figures of a benchmark beside their peer, their goal and the machine's limit, and their form as Markdown."""

import datetime
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Literal

HEADER = ("what", "unit", "peer", "here", "ratio", "goal", "reached", "limit", "share of the limit", "equal")
"""Header of a table of figures."""


@dataclass(frozen=True)
class Figure:
    """One measured number, and what it is compared with."""

    what: str
    """What was measured, such as `float32, batch 8`."""
    unit: str
    """Unit, such as `ms a step`."""
    ours: float
    better: Literal["less", "more"]
    """Whether smaller or larger numbers are better: less of a time, more of a rate."""
    peer: float | None = None
    """The peer's number, in the same unit and from the same run."""
    ratio_goal: float | None = None
    """Goal of the ratio: how many times better than the peer's the number should be at least."""
    goal: float | None = None
    """The number to reach, if the goal is not a ratio."""
    limit: float | None = None
    """The number that the machine's measured limits would allow, in the same unit."""
    equal: str = ""
    """How equal the results of both sides were, in words."""

    @property
    def ratio(self) -> float | None:
        """How many times better than the peer's number it is."""
        return None if self.peer is None else self._times_better(self.peer)

    @property
    def share_of_limit(self) -> float | None:
        """Share of the limit: 1 is all that the machine can do; None if no limit is known, or if the assumed limit is
        beaten."""
        return None if self.limit is None or self.beats_limit else self._times_better(self.limit)

    @property
    def beats_limit(self) -> bool:
        """Whether the number is better than the assumed limit of the machine, which then is none."""
        return self.limit is not None and self._times_better(self.limit) > 1

    @property
    def reached(self) -> bool | None:
        """Whether it reaches its goal; None if there is no goal."""
        if self.ratio_goal is not None and self.ratio is not None:
            return self.ratio >= self.ratio_goal
        return None if self.goal is None else self._times_better(self.goal) >= 1

    def _times_better(self, other: float) -> float:
        return other / self.ours if self.better == "less" else self.ours / other

    def cells(self) -> list[str]:
        """The row of a table below `HEADER`."""
        goal = f"{'≤' if self.better == 'less' else '≥'} {number(self.goal)}" if self.goal is not None else ""
        ratio_goal = f"≥ {number(self.ratio_goal)} ×" if self.ratio_goal is not None else goal
        reached = {None: "", True: "yes", False: "no"}[self.reached]
        share = "unknown" if self.beats_limit else "" if self.share_of_limit is None else f"{self.share_of_limit:.0%}"
        ratio = "" if self.ratio is None else f"{self.ratio:.2f}"
        figures = [number(self.peer), number(self.ours), ratio, ratio_goal, reached, number(self.limit), share]
        return [self.what, self.unit, *figures, self.equal]


@dataclass
class Report:
    """The results of one benchmark. Every figure is printed on the error output as soon as it is added."""

    subject: str
    """What was measured, for a heading."""
    peer: str = ""
    """Name of the peer, if there is one."""
    figures: list[Figure] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)
    """Paragraphs and further tables, which come after the figures."""

    def add(self, figure: Figure) -> None:
        self.figures.append(figure)
        print(row(figure.cells()), file=sys.stderr, flush=True)

    def say(self, remark: str) -> None:
        """Add a paragraph, or a table made by `table`."""
        self.remarks.append(remark)

    def markdown(self) -> str:
        """The whole report below a heading of its own; columns that no figure fills are left out."""
        rows = [figure.cells() for figure in self.figures]
        filled = [place for place in range(len(HEADER)) if any(cells[place] for cells in rows)]
        header = [self.peer if HEADER[place] == "peer" else HEADER[place] for place in filled]
        figures = table(header, [[cells[place] for place in filled] for cells in rows])
        return "\n\n".join([f"### {self.subject}", figures, *self.remarks]) + "\n"


def headed(reports: Sequence[Report], machine: str, circumstances: str) -> str:
    """Reports of one run below a heading of date and hardware, beginning with the goals that they reach."""
    head = f"## {datetime.date.today()}, {machine}\n\n{circumstances}. {goals(reports)}\n"
    return "\n".join([head, *(report.markdown() for report in reports)])


def goals(reports: Iterable[Report]) -> str:
    """How many goals are reached, and the names of the figures that miss theirs."""
    judged = [(report, figure) for report in reports for figure in report.figures if figure.reached is not None]
    missed = [
        f"{report.subject.split(',')[0].lower()}: {figure.what}" for report, figure in judged if not figure.reached
    ]
    reached = f"{len(judged) - len(missed)} of {len(judged)} goals are reached"
    return f"{reached}; missed: {'; '.join(missed)}." if missed else f"{reached}."


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table."""
    return "\n".join([row(header), row(["---"] * len(header)), *map(row, rows)])


def row(cells: Sequence[str]) -> str:
    """A row of a Markdown table."""
    return f"| {' | '.join(cells)} |"


def number(value: float | None) -> str:
    """The number with three digits, or with all digits of its integer part; empty for None."""
    if value is None:
        return ""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"
