"""A run in the foreground: progress while it works, then a table of results and the reasons for rejects.

Prefect, which takes seconds, is imported only once there is something to do.
"""

import sys
from collections.abc import Collection, Iterator, Sequence
from contextlib import nullcontext
from typing import TYPE_CHECKING

from flows.commands.options import RunOptions
from flows.console import tell, typed_place
from flows.runs.server import start_server, wait_for_server
from flows.runs.stopping import stoppable

if TYPE_CHECKING:
    from flows.runs.progress import RunProgress
    from flows.runs.running import Run
    from schemas import Store
    from stages.pipeline.plans import ConfiguredStage

STARTING = "segue: starting Prefect's server …"


def run_and_tell(options: RunOptions) -> int:
    """Run what a command line asks for, print what was made and what to do next, and return the exit code."""
    from schemas import Store

    stages = run_and_show(options)
    for line in next_lines(Store(options.plan.settings.store), options.plan.stages, stages):
        tell(line)
    return 0


def run_and_show(options: RunOptions, known_lines: Collection[str] = ()) -> list[str]:
    """Run what a command line asks for, print what was made, and return the stages that ran, in order.

    Args:
        known_lines: lines that were printed just before and are not printed again.
    """
    from rich.console import Console

    from flows.runs.output import open_console, print_table, result_rows
    from flows.runs.progress import BarProgress, LineProgress
    from flows.runs.reasons import reason_lines
    from flows.runs.running import Run
    from schemas import Store

    errors = Console(stderr=True)
    progress = BarProgress(errors, known_lines) if errors.is_terminal else LineProgress(tell, known_lines=known_lines)
    current = Run(options.plan, progress=progress)
    try:
        with stoppable(current.stop), progress if isinstance(progress, BarProgress) else nullcontext():
            _run(options, current, progress)
    finally:
        print_table(open_console(), result_rows(current.results))
        stages = [result.stage for result in current.results]
        for line in reason_lines(Store(options.plan.settings.store), stages) if stages else ():
            tell(line)
    return stages


def next_lines(store: "Store", configured: Sequence["ConfiguredStage"], stages: Sequence[str]) -> Iterator[str]:
    """Yield where to find what a run has made, and what to do with it. Nothing if no stage ran.

    Args:
        stages: the stages that ran, in order.
    """
    from stages.report import PAGE

    if not stages:
        return
    place = typed_place(store.location())
    if "report" in stages:
        yield f"segue: the page is {store.location(PAGE)}"
        yield f"segue: next, `segue status --store {place}` shows what is there, `segue sql` answers any query"
    else:
        table = {stage.name: stage.module.WRITES.name for stage in configured}[stages[-1]]
        yield f"segue: next, `segue show {table} --store {place}` shows what {stages[-1]} made"


def _run(options: RunOptions, current: "Run", progress: "RunProgress") -> None:
    """Run what is asked for: as a Prefect flow if there is work, and without Prefect if there is none."""
    from flows.recipes.recipe import GPU_STAGES
    from flows.runs.estimates import estimate, total_line
    from flows.runs.orders import advice_lines, notice_lines
    from flows.runs.running import current_run, run_stages
    from flows.runs.upgrading import settled_plan
    from schemas import Store
    from stages.pipeline.contract import device_of
    from stages.pipeline.memory import keep_freed_memory

    Store(current.plan.settings.store).check_bucket()
    settled = settled_plan(current.plan, _ask if sys.stdin.isatty() and sys.stderr.isatty() else None)
    current.plan, current.stage_plans = settled.plan, settled.stage_plans
    settings = current.plan.settings
    for line in settled.lines:
        tell(f"segue: {line}")
    for line in notice_lines(current.stage_plans):  # what will be dropped is printed first
        tell(line)
    for line in advice_lines(options.recipe):
        tell(f"segue: {line}")
    estimates = estimate(current.plan.pipeline(), current.stage_plans)
    progress.expect(estimates)
    if total := total_line(estimates):
        tell(f"segue: {total}")
    Store(settings.store).check_writable()  # before Prefect's start, which takes seconds
    working = {plan.stage for plan in current.stage_plans if plan.jobs}
    if settings.device == "cuda" and settings.task_runner == "threads" and working & GPU_STAGES:
        device_of(settings)  # raises now if there is no GPU, not after hours of ingest
    if not working:
        run_stages(current)
        return
    for line in current.other_runs_lines():
        tell(f"segue: {line}")
    from flows.runs.output import be_quiet

    keep_freed_memory()  # before Prefect's threads
    be_quiet()
    tell(STARTING)
    start_server()
    from flows.catalog import catalog

    if settings.task_runner == "threads" and working & GPU_STAGES:
        _import_networks()
    wait_for_server()
    token = current_run.set(current)
    try:
        catalog(recipe=options.recipe, settings=options.settings, stages=options.requested)
    finally:
        current_run.reset(token)


def _import_networks() -> None:
    """Import the slow modules of stages with networks while the run waits for Prefect's server to start."""
    import torch  # noqa: F401
    import transformers.modeling_utils  # noqa: F401


def _ask(lines: Sequence[str]) -> str:
    """Show a person what a release changed, and return the answer."""
    for line in ("a release changed:", *lines):
        tell(f"segue: {line}")
    print("segue: remake, keep, or stop? ", file=sys.stderr, end="", flush=True)
    return sys.stdin.readline().strip()
