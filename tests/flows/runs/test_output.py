"""Progress as lines and bars, and tables whose cells are printed as they are."""

import io
import re
import subprocess
import sys
import time

from rich.console import Console

from flows.runs.output import be_quiet, print_table, result_rows
from flows.runs.progress import BarProgress, LineProgress
from flows.service.progress_artifact import ReadableProgress, Reading
from stages.pipeline.jobs import Counts
from stages.pipeline.runner import StageResult
from tests.worlds.command_line import ROOT


def test_lines_are_printed_at_the_start_at_intervals_and_at_the_end():
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


def test_an_empty_task_prints_no_line():
    lines = []
    LineProgress(lines.append).start("listening", 0, "clips")
    assert lines == []


def test_lines_contain_the_rate_and_the_time_left():
    lines = []
    progress = LineProgress(lines.append, seconds=0)
    progress.start("training", 10, "steps")
    progress.advance(5)
    assert "5/10 steps" in lines[1]
    assert "s left" in lines[1]


def test_what_an_interrupted_run_did_does_not_count_for_the_rate_and_the_time_left(monkeypatch):
    now, lines = [time.monotonic()], []
    monkeypatch.setattr("flows.runs.progress.time.monotonic", lambda: now[0])
    progress = ReadableProgress(LineProgress(lines.append, seconds=0))
    progress.begin_stage("train", 1)
    progress.start("training", 1000, "steps")
    progress.resume(400)
    assert progress.reading() == Reading(40.0, "train; training: 400/1000 steps, resumed")
    now[0] += 20.0
    progress.advance(10, "loss 2.1")
    expected = "training: 410/1000 steps, 2.0 s each, 1180 s left, loss 2.1"
    assert lines == ["training: 1000 steps", expected]
    assert progress.reading() == Reading(41.0, f"train; {expected}")


def test_bars_on_a_terminal_show_the_finished_part():
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


def test_bars_of_a_resumed_training_begin_where_it_was_interrupted():
    out = io.StringIO()
    with BarProgress(Console(file=out, force_terminal=True, width=120)) as progress:
        progress.start("training", 10, "steps")
        progress.resume(7)
    shown = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", out.getvalue())
    assert re.search(r"training .* 7/10 steps  resumed", shown)


def test_markup_in_cells_is_printed_as_text():
    out = io.StringIO()
    print_table(Console(file=out, width=100), [{"title": "[bold]x[/bold] [/]", "n": 3}])
    assert "[bold]x[/bold] [/]" in out.getvalue()


def test_a_name_without_spaces_is_broken_only_where_the_words_of_all_columns_have_no_room():
    rows = [
        {
            "n": 10,
            "by": "20261201T013714-bc1209-hourly",
            "rows": "chroma 2, generations 2, clips 2, reports 1",
            "": "shown",
        }
    ]
    printed = {}
    for width in (60, 40):
        out = io.StringIO()
        print_table(Console(file=out, width=width), rows)
        assert max(map(len, out.getvalue().splitlines())) <= width
        printed[width] = out.getvalue()
    assert rows[0]["by"] in printed[60]
    assert rows[0]["by"] not in printed[40]
    assert printed[40].count("g") == printed[60].count("g"), "nothing is cut off"


def test_result_rows_have_made_reused_refused_and_seconds():
    rows = result_rows([StageResult("ingest", Counts(3, 2, 1), 1.234)])
    assert rows == [{"stage": "ingest", "rows made": 3, "reused": 2, "refused": 1, "seconds": 1.2}]


def drawn(width, *steps):
    out = io.StringIO()
    with BarProgress(Console(file=out, force_terminal=True, width=width)) as progress:
        for step in steps:
            step(progress)
            progress._bars.refresh()
    return [
        line.rstrip() for line in re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", out.getvalue()).replace("\r", "\n").split("\n")
    ]


def test_a_bar_is_one_line_on_a_narrow_terminal_and_one_bar_counts_the_shards():
    lines = drawn(
        80,
        lambda progress: progress.begin_stage("tokenize", 48),
        lambda progress: progress.start("tokenizing recordings of a long name", 64, "recordings"),
        lambda progress: progress.advance(32, "loss 2.1234, and much more that has no room on a line at all"),
        lambda progress: progress.end_job(),
    )
    assert max(map(len, lines)) <= 80
    assert any(re.search(r"^tokenize, all .* 1/48 shards", line) for line in lines)
    assert any(re.search(r"^tokenizing recordings of .*… .* 32/64 recordings", line) for line in lines)


def test_a_stage_of_one_shard_has_no_bar_for_all_shards():
    lines = drawn(80, lambda progress: progress.begin_stage("train", 1), lambda progress: progress.end_job())
    assert not any("shards" in line for line in lines)


def test_lines_count_the_shards_of_a_stage_that_has_several():
    lines = []
    progress = LineProgress(lines.append, seconds=1000)
    for jobs in (1, 3):
        progress.begin_stage("tokenize", jobs)
        for _ in range(jobs):
            progress.end_job()
    assert [re.sub(r"\d+ s left", "… s left", line) for line in lines] == [
        "tokenize: 1/3 shards, … s left",
        "tokenize: 2/3 shards, … s left",
        "tokenize: 3/3 shards, done",
    ]


def test_a_run_ends_with_the_address_of_the_page_and_what_to_do_next(tmp_path):
    from flows.commands.foreground import next_lines
    from flows.recipes.recipe import Recipe
    from schemas import Store

    configured, store = Recipe().configured_stages(None), Store(str(tmp_path))
    page, after = next_lines(store, configured, ["decode", "report"])
    assert page == f"segue: the page is {tmp_path}/report/index.html"
    assert f"segue status --store {tmp_path}`" in after
    (line,) = next_lines(store, configured, ["demo", "ingest"])
    assert line == f"segue: next, `segue show tracks --store {tmp_path}` shows what ingest made"
    assert list(next_lines(store, configured, [])) == []


def test_prefects_messages_about_lost_events_are_not_printed():
    program = """
from flows.runs.output import be_quiet
be_quiet()
import prefect, logging
from prefect.logging.configuration import setup_logging
setup_logging()
from prefect._internal.concurrency import logger
logger.error("Service %r failed to process item %r", "EventsWorker", "an event of thirty lines")
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=ROOT)
    assert "EventsWorker" not in done.stdout + done.stderr


def test_transformers_shows_no_progress_bars_of_its_own(monkeypatch):
    from transformers.utils import logging

    monkeypatch.setattr(logging, "_tqdm_active", True)
    be_quiet()
    assert not logging.is_progress_bar_enabled()
