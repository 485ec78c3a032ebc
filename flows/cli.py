"""The command line: `segue run`, `plan` and `presets`, and the commands of `flows/commands/`.

A user's mistake is reported in one line with exit code 2. A run that did not do all of its work ends with 1. A run that
waits for a decision about what a release changed ends with 3, and a stopped run with 130. A run prints its first line
before it imports slow modules. Prefect, which takes seconds, is imported only once there is work.
"""

import gc
import os
import sys
import traceback
from collections.abc import Iterator, Sequence
from typing import Annotated, Any

import typer
from typer.exceptions import TyperException

from flows.commands import (
    convert,
    doctor,
    export,
    finetune,
    gates,
    generate,
    init,
    page,
    pattern,
    provenance,
    publish,
    sql,
    up,
    upkeep,
    verify,
)
from flows.commands.extra_words import with_advice
from flows.commands.foreground import run_and_tell
from flows.commands.listing import WIDEST_HELP, CommandList
from flows.commands.options import RunOptions, UsageError, with_run_options
from flows.console import say, tell
from flows.recipes.presets import OVERLAYS, PRESETS, describe_preset
from flows.runs.stopping import INTERRUPTED, STOPPED

PLANNING = "segue: planning …"

GARBAGE = 20_000
"""New objects between two searches of the garbage collector for cycles. With Python's default of 700, a command
searches everything that its imports made again and again. Without any search, `segue sql` took 14 % and a plan 3 % less
processor time (least of 8 runs each, taken alternately). With this value, a plan, which ends with 446,000 objects,
searches 105 times and never through all of them."""

TORCHRUN = "TORCHELASTIC_RUN_ID"
"""An environment variable that torchrun, or another of torch's elastic agents, sets for the processes it starts."""

app = typer.Typer(
    cls=CommandList,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    no_args_is_help=True,
    context_settings={"max_content_width": WIDEST_HELP},
)


app.add_typer(init.app)
app.add_typer(generate.app)
app.add_typer(finetune.app)
app.add_typer(sql.app)
app.add_typer(publish.app)
app.add_typer(upkeep.app)
app.add_typer(provenance.app)
app.add_typer(verify.app)
app.add_typer(gates.app)
app.add_typer(export.app)
app.add_typer(convert.app)
app.add_typer(pattern.app)
app.add_typer(up.app)
app.add_typer(doctor.app)
app.add_typer(page.app)


def _say_release(asked: bool) -> None:
    """Print the version and the commit, and exit, if `asked`."""
    if asked:
        from stages.pipeline.release import release_text

        say(release_text())
        raise typer.Exit


@app.callback()
def segue(
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_say_release, is_eager=True, help="Show the version and the commit, and exit."
        ),
    ] = False,
) -> None:
    """From a folder of recordings to a catalog of generated clips."""


@app.command()
@with_run_options(PLANNING)
def run(options: RunOptions) -> int:
    """Run the whole pipeline or some of its stages, and report what was made."""
    if TORCHRUN in os.environ:
        from stages.train.following import world_of_torchrun

        with world_of_torchrun() as world:
            return run_and_tell(options) if world.rank.is_main else world.follow()
    return run_and_tell(options)


@app.command()
@with_run_options()
def plan(
    options: RunOptions,
    *,
    estimate_tracks: Annotated[
        int | None,
        typer.Option(
            "--estimate",
            metavar="TRACKS",
            min=1,
            help="Instead estimate what this many recordings would take.",
        ),
    ] = None,
    track_seconds: Annotated[
        float | None, typer.Option(min=0, help="Length of each, in seconds; by default as in the store.")
    ] = None,
    clips: Annotated[int, typer.Option(min=0, help="With --estimate: the number of clips.")] = 0,
    clip_seconds: Annotated[
        float | None, typer.Option(min=0, help="Length of each, in seconds; by default as in the store.")
    ] = None,
    workers: Annotated[
        int, typer.Option(min=1, help="With --estimate: the number of machines like that of the runs.")
    ] = 1,
) -> int:
    """Show what a run would make, reuse and drop, without computing anything."""
    if estimate_tracks is not None:
        return _tell_estimate(options, estimate_tracks, track_seconds, clips, clip_seconds, workers)
    if track_seconds is not None or clips or clip_seconds is not None or workers > 1:
        raise UsageError("expected --estimate TRACKS with --track-seconds, --clips, --clip-seconds or --workers")
    from flows.runs.codecs import disagreement_lines
    from flows.runs.estimates import estimate, total_line
    from flows.runs.orders import advice_lines, notice_lines, order_lines, stopping_lines
    from flows.runs.output import open_console, plan_rows, print_table
    from flows.runs.reasons import plan_remark_lines, remark_line
    from flows.runs.running import other_runs_lines
    from flows.runs.upgrading import WAITS, settle, waiting_line
    from schemas import Store

    Store(options.plan.settings.store).check_bucket()
    settled = settle(options.plan)
    pipeline, plans = settled.plan.pipeline(), settled.stage_plans
    estimates = estimate(pipeline, plans)
    print_table(open_console(), plan_rows(plans, estimates))
    for line in order_lines(pipeline, plans, estimates):
        say(line)
    if total := total_line(estimates):
        say(f"in all: {total}")
    reasons = (*stopping_lines(plans), *disagreement_lines(pipeline, settled.plan.names))
    stopping = [f"segue: a run would stop: {line}" for line in reasons]
    for line in plan_remark_lines(plans):
        tell(line)
    for stage, preview in settled.plan.previews(plans).items():
        for line in preview.lines:
            say(f"{stage}: {line}")
        for remark in preview.remarks:
            tell(remark_line(stage, remark))
    remarks = (*advice_lines(options.recipe), *other_runs_lines(Store(options.plan.settings.store)))
    for line in (*notice_lines(plans), *(f"segue: {line}" for line in remarks), *stopping):
        tell(line)
    if settled.waits:
        tell(f"segue: a run would wait for an answer: {waiting_line(settled)}")
        return WAITS
    for line in settled.lines:
        tell(f"segue: {line}")
    return 1 if stopping else 0


def _tell_estimate(
    options: RunOptions,
    tracks: int,
    track_seconds: float | None,
    clips: int,
    clip_seconds: float | None,
    workers: int,
) -> int:
    """Print what a catalog of another size would take, from the rates of the store, and return the exit code.

    Raises:
        UsageError: neither the store nor the options say how long a recording or a clip is.
    """
    from flows.runs.output import open_console, print_table
    from flows.runs.scaling import Size, measure_rates, stage_rows, table_rows, total_lines

    rates = measure_rates(options.plan.pipeline())
    own = rates.size
    size = Size(
        tracks=tracks,
        track_seconds=own.track_seconds if track_seconds is None else track_seconds,
        clips=clips,
        clip_seconds=own.clip_seconds if clip_seconds is None else clip_seconds,
    )
    if not size.track_seconds or (clips and not size.clip_seconds):
        raise UsageError("expected --track-seconds and --clip-seconds, got a store without rows to take them from")
    clips_text = f"{clips:,} clips of {size.clip_seconds:.1f} s" if clips else "no clips"
    measured = f"measured on {own.tracks:,} recordings and {own.clips:,} clips"
    say(f"{tracks:,} recordings of {size.track_seconds:.1f} s, {clips_text}; {measured}")
    for rows in (stage_rows(rates, size, workers), table_rows(rates, size)):
        print_table(open_console(), rows)
    for line in total_lines(rates, size, workers):
        say(line)
    return 0


@app.command()
def presets() -> int:
    """List the presets and what each of them changes."""
    for name, difference in {**PRESETS, **OVERLAYS}.items():
        say(f"{name}: {describe_preset(name)}")
        for line in _override_lines(difference()):
            say(f"    {line}", hang=8)
    return 0


def main() -> None:
    """Run the `segue` command."""
    open_standard_streams()
    gc.set_threshold(GARBAGE)
    sys.exit(run_command(sys.argv[1:]))


def open_standard_streams() -> None:
    """Send standard streams that are closed to the null device. Otherwise Python has no such stream, and the next file
    that is opened, such as a shard, gets the stream's number and with it whatever a library prints."""
    while (number := os.open(os.devnull, os.O_RDWR)) <= 2:  # the lowest free number is the one that is given
        os.set_inheritable(number, True)
    os.close(number)
    sys.stdin = sys.stdin or os.fdopen(0)
    sys.stdout = sys.stdout or os.fdopen(1, "w")
    sys.stderr = sys.stderr or os.fdopen(2, "w")


def run_command(arguments: Sequence[str]) -> int:
    """Run a command line and return its exit code; errors are reported on standard error."""
    try:
        code = app(list(arguments), standalone_mode=False)
        sys.stdout.flush()
        if code == INTERRUPTED:  # typer's code for a KeyboardInterrupt
            raise KeyboardInterrupt
        return code if isinstance(code, int) else 0
    except TyperException as error:
        message = getattr(error, "format_message", error.__str__)()
        is_help = message.startswith("Usage:")
        message = message.replace("Value error, ", "")  # a prefix that pydantic adds to every message
        message = with_advice(message, arguments)
        tell(message if is_help else f"segue: {' '.join(message.split())}")
        return 2
    except UsageError as error:
        tell(f"segue: {' '.join(str(error).split())}")
        return 2
    except KeyboardInterrupt:
        tell(STOPPED)
        return INTERRUPTED
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # the reader is gone, so output goes nowhere
        return 1
    except Exception as error:
        return _report(error)


def _report(error: Exception) -> int:
    """Report the error that ended a command, and return the exit code."""
    from flows.runs.failures import format_error, is_fault
    from flows.runs.upgrading import WAITS, UpgradeWaits
    from stages.pipeline.contract import Stopped

    if isinstance(error, Stopped):
        tell(STOPPED)
        return INTERRUPTED
    if is_fault(error):
        traceback.print_exception(error)
    tell(f"segue: {format_error(error)}")
    return WAITS if isinstance(error, UpgradeWaits) else 1


def _override_lines(difference: Any, path: str = "") -> Iterator[str]:
    """Yield a difference as lines of `stage.field=value`, in the form that `--set` takes."""
    if isinstance(difference, dict):
        for name, value in difference.items():
            yield from _override_lines(value, f"{path}.{name}" if path else str(name))
    else:
        yield f"{path}={difference}"


if __name__ == "__main__":
    main()
