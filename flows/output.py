"""What a person sees: progress while a run works, the tables that runs and plans end with, answers to queries.

A bar where there is a terminal; elsewhere plain lines at intervals, which a log file keeps readable.
"""

import csv
import json
import math
import os
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta
from datetime import time as time_of_day
from typing import Any, Literal

import pyarrow as pa
from rich.console import Console
from rich.progress import BarColumn, TaskID, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bars
from rich.table import Table as Grid
from rich.text import Text

from stages.pipeline.contract import Progress
from stages.pipeline.plans import Plan
from stages.pipeline.runner import StageResult

QUIET = {
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "DO_NOT_TRACK": "1",
    # The command line tells what happened itself; Prefect's own log still reaches its server.
    "PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL": "CRITICAL",
    "PREFECT_SERVER_LOGGING_LEVEL": "CRITICAL",
    # It warns of every MusicGen that its special token comes after the codes.
    "TRANSFORMERS_VERBOSITY": "error",
}
"""What the command line sets where the user has not."""

LINE_SECONDS = 10.0
"""Time between two lines on one piece of work."""

WIDE = 200
"""Columns of a table that is not printed on a terminal."""

LONGEST_LIST = 60
"""Characters of a list in a cell of a table, such as codes or a vector; CSV and JSON hold all of them, as cells hold
all of a text."""


def be_quiet() -> None:
    """Leave it to this command line to tell what happens; transformers looks only once, when it is imported."""
    from huggingface_hub.utils import disable_progress_bars

    for name, value in QUIET.items():
        os.environ.setdefault(name, value)
    disable_progress_bars()  # whatever had to be fetched is here; transformers' bars would break into ours


@dataclass
class _Work:
    """A piece of work that is going on."""

    what: str
    total: int
    unit: str
    done: int = 0
    note: str = ""
    bar: TaskID | None = None
    started: float = field(default_factory=time.monotonic)
    told: float = field(default_factory=time.monotonic)

    def rate(self) -> float:
        return self.done / max(time.monotonic() - self.started, 1e-6)


class BarProgress(Progress):
    """Bars with rate and time left, one for each piece of work at once (each thread has its own)."""

    def __init__(self, console: Console) -> None:
        self._bars = Bars(
            TextColumn("{task.description}"),
            BarColumn(bar_width=30),
            TextColumn("{task.completed:.0f}/{task.total:.0f} {task.fields[reading]}"),
            TimeRemainingColumn(),
            console=console,
            transient=True,
        )
        self._works: dict[int, _Work] = {}
        self._lock = threading.Lock()

    def __enter__(self) -> "BarProgress":
        self._bars.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bars.stop()

    def start(self, what: str, total: int, unit: str) -> None:
        with self._lock:
            before = self._works.get(threading.get_ident())
            if before is not None and before.bar is not None:
                self._bars.remove_task(before.bar)
            bar = self._bars.add_task(what, total=total, reading=unit)
            self._works[threading.get_ident()] = _Work(what, total, unit, bar=bar)

    def advance(self, count: int = 1, note: str = "") -> None:
        with self._lock:
            work = self._works.get(threading.get_ident())
            if work is None or work.bar is None:
                return
            work.done += count
            reading = f"{work.unit}  {work.rate():.1f}/s  {note}".rstrip()
            self._bars.update(work.bar, advance=count, reading=reading)

    def tell(self, lines: Sequence[str]) -> None:
        for line in lines:
            self._bars.console.print(Text(line))


class LineProgress(Progress):
    """A line at the start and the end of each piece of work, and one every ten seconds between."""

    def __init__(self, write: Callable[[str], object], seconds: float = LINE_SECONDS) -> None:
        self._write = write
        self._seconds = seconds
        self._works: dict[int, _Work] = {}
        self._lock = threading.Lock()

    def start(self, what: str, total: int, unit: str) -> None:
        with self._lock:
            self._works[threading.get_ident()] = _Work(what, total, unit)
        self._write(f"{what}: {total} {unit}")

    def advance(self, count: int = 1, note: str = "") -> None:
        with self._lock:
            work = self._works.get(threading.get_ident())
            if work is None:
                return
            work.done, work.note = work.done + count, note
            ended = work.done >= work.total
            if not ended and time.monotonic() - work.told < self._seconds:
                return
            work.told = time.monotonic()
            left = "done" if ended else f"{(work.total - work.done) / max(work.rate(), 1e-9):.0f} s left"
            line = f"{work.what}: {work.done}/{work.total} {work.unit}, {work.rate():.1f}/s, {left}"
            if ended:
                del self._works[threading.get_ident()]
        self._write(f"{line}, {note}" if note else line)

    def tell(self, lines: Sequence[str]) -> None:
        for line in lines:
            self._write(line)


def result_rows(results: Sequence[StageResult]) -> list[dict[str, str | int | float]]:
    """Return the table that a run ends with, as rows."""
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


def plan_rows(plans: Sequence[Plan]) -> list[dict[str, str | int | float]]:
    """Return what each stage would do, as rows."""
    return [
        {
            "stage": plan.stage,
            "shards": len(plan.jobs),
            "make": f"~{plan.make}" if plan.estimated else plan.make,
            "reuse": plan.reuse,
            "drop": plan.drop,
            "refused": plan.refused,
            "why": plan.reason,
        }
        for plan in plans
    ]


def open_console() -> Console:
    """Return standard output: as wide as the terminal, or wide enough for any table where there is none."""
    console = Console()
    return console if console.is_terminal else Console(width=WIDE)


def print_table(console: Console, rows: Sequence[Mapping[str, object]]) -> None:
    """Print rows as a table of text; cells are data, never markup."""
    if not rows:
        return
    grid = Grid(box=None, pad_edge=False, header_style="bold")
    for name in rows[0]:
        numeric = all(isinstance(row[name], int | float) or str(row[name]).startswith("~") for row in rows)
        grid.add_column(name, justify="right" if numeric else "left", no_wrap=numeric, overflow="fold")
    for row in rows:
        grid.add_row(*(Text(str(value)) for value in row.values()))
    console.print(grid)


def print_answer(answer: pa.Table, format: Literal["table", "csv", "json"], console: Console) -> None:
    """Print the answer to a query to standard output."""
    rows = [{name: _json_value(value) for name, value in row.items()} for row in _answer_rows(answer)]
    if format == "json":
        json.dump(rows, sys.stdout, ensure_ascii=False, indent=1, allow_nan=False)
        print()
    elif format == "csv":
        writer = csv.writer(sys.stdout, lineterminator="\n")
        writer.writerow(answer.column_names)
        writer.writerows([_csv_cell(value) for value in row.values()] for row in rows)
    else:
        print_table(console, [{name: _table_cell(value) for name, value in row.items()} for row in rows])
        print(f"({len(rows)} row{'' if len(rows) == 1 else 's'})")


def _answer_rows(answer: pa.Table) -> list[dict[str, Any]]:
    """Return rows by column name; a name that stands twice gets a number."""
    names: list[str] = []
    for name in answer.column_names:
        names.append(name if name not in names else f"{name}_{len(names)}")
    rows: list[dict[str, Any]] = answer.rename_columns(names).to_pylist()
    return rows


def _json_value(value: Any) -> Any:
    """Return a value as JSON knows it."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, datetime | date | time_of_day):
        return value.isoformat()
    if isinstance(value, timedelta):
        return value.total_seconds()
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, dict):
        return {str(name): _json_value(item) for name, item in value.items()}
    if isinstance(value, list):
        if value and all(isinstance(item, tuple) and len(item) == 2 for item in value):  # a map
            return {str(name): _json_value(item) for name, item in value}
        return [_json_value(item) for item in value]
    return value if value is None or isinstance(value, bool | int | str) else str(value)


def _csv_cell(value: Any) -> Any:
    return json.dumps(value, ensure_ascii=False) if isinstance(value, list | dict) else value


def _table_cell(value: Any) -> Any:
    if value is None:
        return ""
    if isinstance(value, bool) or not isinstance(value, int | float):
        text = str(_csv_cell(value))
        is_list = isinstance(value, list | dict)
        return f"{text[: LONGEST_LIST - 1]}…" if is_list and len(text) > LONGEST_LIST else text
    return value if isinstance(value, int) else f"{value:.6g}"
