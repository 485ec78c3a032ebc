"""Progress as lines and bars, and tables whose cells are data."""

import io
import re

from rich.console import Console

from flows.output import BarProgress, LineProgress, print_table, result_rows
from stages.pipeline.jobs import Counts
from stages.pipeline.runner import StageResult


def test_lines_come_at_the_start_at_intervals_and_at_the_end():
    lines = []
    progress = LineProgress(lines.append, seconds=1000)
    progress.start("reading", 3, "tracks")
    for _ in range(3):
        progress.advance(1, "loss 1.5")
    progress.advance()
    assert lines[0] == "reading: 3 tracks"
    assert len(lines) == 2
    assert lines[1].startswith("reading: 3/3 tracks, ")
    assert lines[1].endswith("done, loss 1.5")


def test_lines_tell_rate_and_time_left():
    lines = []
    progress = LineProgress(lines.append, seconds=0)
    progress.start("training", 10, "steps")
    progress.advance(5)
    assert "5/10 steps" in lines[1]
    assert "s left" in lines[1]


def test_bars_show_what_is_done_on_a_terminal():
    out = io.StringIO()
    console = Console(file=out, force_terminal=True, width=120)
    with BarProgress(console) as progress:
        progress.start("reading", 2, "tracks")
        progress.advance(2)
        progress.start("training", 10, "steps")
        progress.advance(4, "loss 2.1")
    shown = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", out.getvalue())
    assert "reading" in shown
    assert re.search(r"training .* 4/10 steps  .*/s  loss 2\.1", shown)


def test_cells_are_data_never_markup():
    out = io.StringIO()
    print_table(Console(file=out, width=100), [{"title": "[bold]x[/bold] [/]", "n": 3}])
    assert "[bold]x[/bold] [/]" in out.getvalue()


def test_results_are_rows_with_made_reused_refused_and_seconds():
    rows = result_rows([StageResult("ingest", Counts(3, 2, 1), 1.234)])
    assert rows == [{"stage": "ingest", "rows made": 3, "reused": 2, "refused": 1, "seconds": 1.2}]
