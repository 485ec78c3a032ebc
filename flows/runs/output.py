"""What a person sees: the tables at the end of runs, plans and queries, without the messages of libraries."""

import os
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from rich.cells import cell_len
from rich.console import Console
from rich.table import Table as Grid
from rich.text import Text

if TYPE_CHECKING:  # a query prints a table without importing runs
    from flows.runs.estimates import Estimate
    from stages.pipeline.plans import Plan
    from stages.pipeline.runner import StageResult

QUIET = {
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "DO_NOT_TRACK": "1",
    # The command line reports what happened itself; Prefect's own log still reaches its server.
    "PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL": "CRITICAL",
    "PREFECT_SERVER_LOGGING_LEVEL": "CRITICAL",
    # If its server is late on a busy machine, Prefect prints each event in full, thirty lines, into the bars.
    "PREFECT_INTERNAL_LOGGING_LEVEL": "CRITICAL",
    # Transformers warns for every MusicGen that its special token comes after the codes.
    "TRANSFORMERS_VERBOSITY": "error",
}
"""Environment variables that the command line sets if the user has not."""

WIDE = 200
"""Width in columns of a table that is not printed on a terminal."""

BETWEEN = 2
"""Columns between two columns of a table."""


def be_quiet() -> None:
    """Silence the messages of libraries. Transformers reads its settings only when it is imported; if it is imported
    already, it is told directly."""
    from huggingface_hub.utils import disable_progress_bars

    for name, value in QUIET.items():
        os.environ.setdefault(name, value)
    disable_progress_bars()  # everything is fetched by now; transformers' bars would break into ours
    if "transformers" in sys.modules:  # imported by a plan that had to read a model
        from transformers.utils.logging import disable_progress_bar

        disable_progress_bar()


def result_rows(results: "Sequence[StageResult]") -> list[dict[str, str | int | float]]:
    """Return the table printed at the end of a run, as rows."""
    return [
        {
            "stage": result.stage,
            "rows made": result.counts.made,
            "reused": result.counts.reused,
            "refused": result.counts.refused,
            "seconds": round(result.seconds, 1),
        }
        for result in results
    ]


def plan_rows(plans: "Sequence[Plan]", estimates: "Sequence[Estimate]" = ()) -> list[dict[str, str | int | float]]:
    """Return what each stage would do, and how long that takes where it is known, as rows."""
    from flows.runs.estimates import Estimate, amount
    from stages.pipeline.durations import duration

    by_stage = {each.stage: each for each in estimates}
    nothing = Estimate("", None, None)
    return [
        {
            "stage": plan.stage,
            "shards": len(plan.jobs),
            "make": f"~{plan.make}" if plan.estimated else plan.make,
            "reuse": plan.reuse,
            "drop": plan.drop,
            "refused": plan.refused,
            "about": _formatted(by_stage.get(plan.stage, nothing).seconds, duration),
            "size": _formatted(by_stage.get(plan.stage, nothing).bytes, amount),
            "why": plan.reason,
        }
        for plan in plans
    ]


def _formatted(value: float | None, format_value: Callable[[float], str]) -> str:
    return "" if value is None else format_value(value)


def open_console() -> Console:
    """Return a console on standard output, as wide as the terminal, or wide enough for any table if there is none."""
    console = Console(emoji=False)
    return console if console.is_terminal else Console(width=WIDE, emoji=False)


def print_table(console: Console, rows: Sequence[Mapping[str, object]]) -> None:
    """Print rows as a table of text; cells are data, never markup.

    Numbers, and columns without a space in any cell, such as names of versions, are kept whole if there is room for the
    longest word of each column. Otherwise any text is broken where it must be, so that nothing is cut off.
    """
    if not rows:
        return
    room = sum(longest_word(name, rows) for name in rows[0]) + BETWEEN * (len(rows[0]) - 1) <= console.width
    grid = Grid(box=None, pad_edge=False, header_style="bold")
    for name in rows[0]:
        numeric = all(isinstance(row[name], int | float) or str(row[name]).startswith("~") for row in rows)
        whole = numeric or (room and not any(" " in str(row[name]) for row in rows))
        grid.add_column(name, justify="right" if numeric else "left", no_wrap=whole, overflow="fold")
    for row in rows:
        grid.add_row(*(Text(str(value)) for value in row.values()))
    console.print(grid)


def longest_word(name: str, rows: Sequence[Mapping[str, object]]) -> int:
    """Return how many terminal columns the longest word of a table's column takes, its name included."""
    return max(cell_len(word) for text in (name, *(str(row[name]) for row in rows)) for word in text.split() or [""])
