"""Progress as a person sees it while a run works.

On a terminal there are bars; elsewhere plain lines at intervals, so that a log file stays readable.
"""

import threading
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field

from rich.console import Console
from rich.progress import BarColumn, Task, TaskID, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bars
from rich.table import Column
from rich.text import Text

from flows.console import wrap
from flows.runs.estimates import Estimate
from flows.runs.run_pace import RunPace
from stages.pipeline.contract import Progress

LINE_SECONDS = 10.0
"""Seconds between two lines about one piece of work."""

ROOMY = 110
"""Width of a terminal, in columns, from which on bars are long."""


@dataclass
class Work:
    """A piece of work in progress."""

    what: str
    total: int
    unit: str
    """What is counted, such as `shards`."""
    done: int = 0
    resumed: int = 0
    """How many of those done an interrupted run did."""
    note: str = ""
    bar: TaskID | None = None
    started: float = field(default_factory=time.monotonic)
    reported_at: float = field(default_factory=time.monotonic)
    """When the last line about it was written, by the monotonic clock, seconds."""

    def rate(self) -> float:
        return (self.done - self.resumed) / max(time.monotonic() - self.started, 1e-6)

    def seconds_left(self) -> float:
        return (self.total - self.done) / max(self.rate(), 1e-9)

    def line(self) -> str:
        """Return how far the work is, in one line; without a rate as long as none is known."""
        parts = [f"{self.what}: {self.done}/{self.total} {self.unit}"]
        if rate := self.rate():
            parts.append(f"{rate:.1f}/s" if rate >= 1 else f"{1 / rate:.1f} s each")
        if self.done >= self.total:
            parts.append("done")
        elif rate:
            parts.append(f"{self.seconds_left():.0f} s left")
        return ", ".join([*parts, self.note] if self.note else parts)

    def remove_from(self, bars: Bars) -> None:
        if self.bar is not None:
            bars.remove_task(self.bar)


def stage_share(stage: Work, works: Collection[Work]) -> float:
    """Return how much of a stage is done, 0 to 1, including the shares of its unfinished shards."""
    shares = [min(work.done / work.total, 1.0) for work in works if work.total]
    return min((stage.done + sum(shares)) / max(stage.total, len(shares), 1), 1.0)


class RunProgress(Progress):
    """The progress of a run, which may have estimates of what the run takes."""

    def __init__(self, known_lines: Collection[str]) -> None:
        self._pace = RunPace()
        self._known_lines = frozenset(known_lines)
        """Lines that whoever listens knows already."""

    def expect(self, estimates: Sequence[Estimate]) -> None:
        """Take the estimates of the stages that have work, before the first stage begins."""
        self._pace = RunPace(estimates)

    def _news(self, lines: Sequence[str]) -> list[str]:
        """Return the lines that are not known already."""
        return [line for line in lines if line not in self._known_lines]


class _TimeLeft(TimeRemainingColumn):
    """The time left of each bar by its own pace. Empty for the bar of the whole run, which shows its own estimate."""

    def render(self, task: Task) -> Text:
        return Text("") if task.fields.get("whole") else super().render(task)


class BarProgress(RunProgress):
    """Bars with rate and time left, one for each current piece of work (each thread has its own). Above them is a bar
    for all shards of the stage if there are several, and one for the whole run if its time is known. Each is one line,
    however narrow the terminal is."""

    def __init__(self, console: Console, known_lines: Collection[str] = ()) -> None:
        super().__init__(known_lines)
        self._bars = Bars(
            TextColumn("{task.description}", table_column=Column(no_wrap=True, overflow="ellipsis", max_width=26)),
            BarColumn(bar_width=30 if console.width >= ROOMY else 10),
            TextColumn(
                "{task.fields[count]}/{task.total:.0f} {task.fields[reading]}",
                table_column=Column(no_wrap=True, overflow="ellipsis", ratio=1),
            ),
            _TimeLeft(compact=True),
            console=console,
            transient=True,
            expand=True,
        )
        self._works: dict[int, Work] = {}
        self._stage: Work | None = None
        self._run: TaskID | None = None
        self._lock = threading.Lock()

    def __enter__(self) -> "BarProgress":
        self._bars.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bars.stop()

    def begin_stage(self, stage: str, jobs: int) -> None:
        with self._lock:
            for before in list(self._bars.task_ids):
                self._bars.remove_task(before)
            self._works.clear()
            self._pace.begin(stage)
            stages = self._pace.stages
            self._run = (
                self._bars.add_task("the run", total=stages, count=0, reading="stages", whole=True)
                if stages > 1
                else None
            )
            bar = self._bars.add_task(f"{stage}, all", total=jobs, count=0, reading="shards") if jobs > 1 else None
            self._stage = Work(stage, jobs, "shards", bar=bar)
            self._draw_stage()

    def end_job(self) -> None:
        with self._lock:
            self._works.pop(threading.get_ident(), Work("", 0, "")).remove_from(self._bars)
            if self._stage is not None:
                self._stage.done += 1
                self._draw_stage()

    def _draw_stage(self) -> None:
        """Update the bars of all shards and of the run with what is done, including the shares of unfinished shards."""
        if self._stage is None:
            return
        share = stage_share(self._stage, self._works.values())
        if self._stage.bar is not None:
            self._bars.update(self._stage.bar, completed=share * self._stage.total, count=self._stage.done)
        if self._run is not None:
            left, done = self._pace.left(share, self._stage.done), self._pace.done
            reading = f"stages  {left}" if left else "stages"
            self._bars.update(self._run, completed=done + share, count=done, reading=reading)

    def start(self, what: str, total: int, unit: str) -> None:
        with self._lock:
            self._works.pop(threading.get_ident(), Work("", 0, "")).remove_from(self._bars)
            bar = self._bars.add_task(what, total=total, count=0, reading=unit)
            self._works[threading.get_ident()] = Work(what, total, unit, bar=bar)

    def advance(self, count: int = 1, note: str = "") -> None:
        with self._lock:
            work = self._works.get(threading.get_ident())
            if work is None or work.bar is None:
                return
            work.done += count
            reading = f"{work.unit}  {work.rate():.1f}/s  {note}".rstrip()
            self._bars.update(work.bar, advance=count, count=work.done, reading=reading)
            self._draw_stage()

    def resume(self, count: int) -> None:
        with self._lock:
            work = self._works.get(threading.get_ident())
            if work is None or work.bar is None:
                return
            work.done, work.resumed = work.done + count, work.resumed + count
            self._bars.reset(work.bar, completed=work.done, count=work.done, reading=f"{work.unit}  resumed")
            self._draw_stage()

    def tell(self, lines: Sequence[str]) -> None:
        for line in self._news(lines):
            self._bars.console.print(Text(wrap(line, self._bars.console.width)), soft_wrap=True)


class LineProgress(RunProgress):
    """A line at the start and the end of each piece of work, one every ten seconds in between, and one for each shard
    of a stage that has several. Each line ends with what is left of the whole run, if that is known."""

    def __init__(
        self, write: Callable[[str], object], seconds: float = LINE_SECONDS, known_lines: Collection[str] = ()
    ) -> None:
        super().__init__(known_lines)
        self._write = write
        self._seconds = seconds
        self._works: dict[int, Work] = {}
        self._stage: Work | None = None
        self._lock = threading.Lock()

    def begin_stage(self, stage: str, jobs: int) -> None:
        with self._lock:
            self._stage = Work(stage, jobs, "shards")
            self._works.clear()
            self._pace.begin(stage)

    def end_job(self) -> None:
        with self._lock:
            stage = self._stage
            self._works.pop(threading.get_ident(), None)
            if stage is None:
                return
            stage.done += 1
            if stage.total < 2:
                return
            left = "done" if stage.done >= stage.total else f"{stage.seconds_left():.0f} s left"
            line = f"{stage.what}: {stage.done}/{stage.total} shards, {left}{self._of_run()}"
        self._write(line)

    def _of_run(self) -> str:
        """Return the end of a line, about the whole run; empty if its time is not known."""
        stage = self._stage
        left = None if stage is None else self._pace.left(stage_share(stage, self._works.values()), stage.done)
        return f"; the run: {left}" if left else ""

    def start(self, what: str, total: int, unit: str) -> None:
        with self._lock:
            self._works[threading.get_ident()] = Work(what, total, unit)
        if total:
            self._write(f"{what}: {total} {unit}")

    def advance(self, count: int = 1, note: str = "") -> None:
        with self._lock:
            work = self._works.get(threading.get_ident())
            if work is None:
                return
            work.done, work.note = work.done + count, note
            ended = work.done >= work.total
            if not ended and time.monotonic() - work.reported_at < self._seconds:
                return
            work.reported_at = time.monotonic()
            line = f"{work.line()}{self._of_run()}"
            if ended:
                del self._works[threading.get_ident()]
        self._write(line)

    def resume(self, count: int) -> None:
        with self._lock:
            work = self._works.get(threading.get_ident())
            if work is not None:
                work.resumed += count
        self.advance(count, "resumed")

    def tell(self, lines: Sequence[str]) -> None:
        for line in self._news(lines):
            self._write(line)
