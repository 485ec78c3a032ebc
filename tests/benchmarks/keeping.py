"""Stored results: a file a machine in `tests/benchmarks/results`, with the last run of every benchmark there.

RESULTS.md and the tables of figures in README.md and docs/performance.md are written from these files alone
(`docs.figures`, by `python -m docs.generate`), so that a page cannot contain a figure that no benchmark found.
"""

import datetime
import json
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from tests.benchmarks.results import Figure, Report

FOLDER = Path(__file__).with_name("results")


@dataclass(frozen=True)
class KeptReport:
    """The report of one benchmark's last run on a machine."""

    date: str
    """Date of the run, ISO 8601."""
    circumstances: str
    """The time, the load of the machine and the versions of what was measured."""
    report: Report


@dataclass(frozen=True)
class KeptMachine:
    """All stored reports of a machine."""

    name: str
    """Processor, cores, threads and accelerator, as `tests.benchmarks.machine.describe` returns them."""
    reports: list[KeptReport] = field(default_factory=list)

    def figure(self, subject: str, what: str) -> Figure | None:
        """Return the figure of a benchmark, by the beginning of the benchmark's subject and by its own name; None if
        there is none."""
        figures = [
            figure
            for kept in self.reports
            if kept.report.subject.startswith(subject)
            for figure in kept.report.figures
            if figure.what == what
        ]
        return figures[0] if figures else None


def keep(folder: Path, machine: str, circumstances: str, reports: Sequence[Report]) -> Path:
    """Write today's reports into a machine's file, each replacing the last one of its subject; return the file."""
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / f"{re.sub(r'[^a-z0-9]+', '-', machine.lower()).strip('-')}.json"
    known = read_machine(file).reports if file.exists() else []
    today = datetime.date.today().isoformat()
    new = {report.subject: KeptReport(today, circumstances, report) for report in reports}
    merged = {kept.report.subject: kept for kept in known} | new
    content = {"machine": machine, "reports": [asdict(kept) for kept in merged.values()]}
    file.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    return file


def read_machine(file: Path) -> KeptMachine:
    """Return the stored reports of a machine."""
    content: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    return KeptMachine(content["machine"], [_kept(entry) for entry in content["reports"]])


def read_machines(folder: Path = FOLDER) -> list[KeptMachine]:
    """Return the stored reports of every machine, by the names of the files."""
    return [read_machine(file) for file in sorted(folder.glob("*.json"))]


def _kept(entry: dict[str, Any]) -> KeptReport:
    report = entry["report"]
    figures = [Figure(**figure) for figure in report["figures"]]
    return KeptReport(
        entry["date"], entry["circumstances"], Report(report["subject"], report["peer"], figures, report["remarks"])
    )
