"""Results that are kept: a file a machine in `tests/benchmarks/results`, with the last run of every benchmark there.

RESULTS.md and the tables of figures in README.md and docs/performance.md are written from these files alone
(`docs.figures`, by `python -m docs.generate`), so that a page cannot say what no benchmark said.
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
    """What one benchmark found on a machine when it last ran there."""

    date: str
    """ISO 8601."""
    circumstances: str
    """The time, the load of the machine and the versions of what was measured."""
    report: Report


@dataclass(frozen=True)
class KeptMachine:
    """All that is kept of a machine."""

    name: str
    """Processor, cores, threads and accelerator, as `tests.benchmarks.machine.describe` says them."""
    reports: list[KeptReport] = field(default_factory=list)

    def figure(self, subject: str, what: str) -> Figure | None:
        """Return the figure of a benchmark, by how the benchmark's subject begins and by its own name; None if none."""
        figures = [
            figure
            for kept in self.reports
            if kept.report.subject.startswith(subject)
            for figure in kept.report.figures
            if figure.what == what
        ]
        return figures[0] if figures else None


def keep(folder: Path, machine: str, circumstances: str, reports: Sequence[Report]) -> Path:
    """Write reports of this day into a machine's file, each in place of the last of its subject; return the file."""
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
    """Return what is kept of a machine."""
    content: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    return KeptMachine(content["machine"], [_kept(entry) for entry in content["reports"]])


def read_machines(folder: Path = FOLDER) -> list[KeptMachine]:
    """Return what is kept of every machine, by the names of the files."""
    return [read_machine(file) for file in sorted(folder.glob("*.json"))]


def _kept(entry: dict[str, Any]) -> KeptReport:
    report = entry["report"]
    figures = [Figure(**figure) for figure in report["figures"]]
    return KeptReport(
        entry["date"], entry["circumstances"], Report(report["subject"], report["peer"], figures, report["remarks"])
    )
