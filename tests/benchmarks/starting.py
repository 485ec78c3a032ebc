"""How long commands take that have little to do, which is how long they take to start:
`python -m tests.benchmarks.starting`.

The store is a small one, of a whole run of the miniature at its smallest, in which nothing is left to do. That a run
finds nothing to do comes before any time.
"""

import argparse
import statistics
import tempfile
from pathlib import Path

from schemas import Store
from schemas.queries.database import query
from tests.benchmarks.commands import Run, timed
from tests.benchmarks.results import Figure, Report, table
from tests.benchmarks.running import alone, options
from tests.worlds.smallest_run import command, environment

SQL = "select count(*) from tracks"
GOALS = {"--help": 0.5, "sql": 0.5, "plan": 0.5, "run": 1.0}
"""Goal of each command, seconds."""
WHAT = {"--help": "segue --help", "sql": f"segue sql '{SQL}'", "plan": "segue plan", "run": "segue run, nothing to do"}


def commands(store: Path) -> dict[str, list[str]]:
    """Return the timed commands, by their first word."""
    help_command = [*command(store)[:3], "--help"]
    sql = [*command(store)[:3], "sql", SQL, "--store", str(store)]
    return {"--help": help_command, "sql": sql, "plan": command(store, "plan"), "run": command(store, "run")}


def rows_made(store: Path) -> int:
    """Count the rows that all runs of a store have made."""
    (row,) = query(Store(str(store)), "SELECT coalesce(sum(rows_made), 0) AS made FROM runs").to_pylist()
    return int(row["made"])


def arguments() -> argparse.ArgumentParser:
    """The options."""
    parser = options(__doc__)
    parser.add_argument("--rounds", type=int, help="in which all commands take turns; 7, or 1 of small sizes")
    return parser


def measure(args: argparse.Namespace) -> Report:
    """Make the store, check that nothing is left to do, and let the commands take turns."""
    rounds = args.rounds or (1 if args.small else 7)
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        store, variables = root / "store", environment(root)
        every = commands(store)
        timed(every["run"], 1, variables)
        made = rows_made(store)
        runs: dict[str, list[Run]] = {word: [] for word in every}
        for _ in range(rounds):
            for word, words in every.items():
                runs[word].append(timed(words, 1, variables))
        if rows_made(store) != made:
            raise SystemExit(f"expected runs with nothing to do, got {rows_made(store) - made} rows made")
    part = "processor_seconds" if args.cpu_time else "seconds"
    report = Report("Starting, a small store")
    for word, goal in GOALS.items():
        middle = statistics.median(getattr(run, part) for run in runs[word])
        report.add(Figure(WHAT[word], "s", middle, "less", goal=goal, equal="no row made"))
    rows = []
    for word, of_word in runs.items():
        wall, processors = ([getattr(run, part) for run in of_word] for part in ("seconds", "processor_seconds"))
        cells = (min(wall), statistics.median(wall), min(processors), statistics.median(processors))
        rows.append([WHAT[word], *(f"{cell:.2f}" for cell in cells)])
    report.say(f"The middle of {rounds} runs of each, by turns, one thread.")
    report.say(table(["command", "wall, least, s", "middle", "processors, least, s", "middle"], rows))
    return report


if __name__ == "__main__":
    alone(arguments(), measure)
