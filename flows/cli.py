"""The command line: `segue run`, `plan`, `sql`, `presets`, `convert` and `pattern`.

What a person got wrong is one line and exit code 2; a run that did not do all that was asked ends with 1, a stopped one
with 130. Prefect is imported only once there is something to run: its start takes seconds.
"""

import os
import sys
import traceback
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from rich.console import Console
from typer.exceptions import TyperException

from flows.answers import print_answer
from flows.failures import is_fault, tell
from flows.options import Asked, Mistake, Place, asking, store_at
from flows.output import BarProgress, LineProgress, plan_rows, print_table, result_rows
from flows.presets import PRESETS, about, preset_difference
from flows.running import Run, current_run, in_turn, run_stages
from flows.server import start_server
from flows.stopping import INTERRUPTED, STOPPED, stoppable
from schemas import Settings, Store
from stages.pipeline.contract import Stopped, device_of
from stages.pipeline.planning import Plan

Form = Literal["hf", "audiocraft", "segue"]
"""The forms of checkpoints, as `segue convert --to` names them."""

WIDE = 200
"""Columns of a table that is not printed on a terminal."""

QUIET = {
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "DO_NOT_TRACK": "1",
    # Several first starts at once on a small machine need longer than Prefect's 20 seconds.
    "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "120",
    # The command line tells what happened itself; Prefect's own log still reaches its server.
    "PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL": "CRITICAL",
    "PREFECT_SERVER_LOGGING_LEVEL": "CRITICAL",
    # It warns of every MusicGen that its special token comes after the codes.
    "TRANSFORMERS_VERBOSITY": "error",
}
"""What the command line sets where the user has not."""

app = typer.Typer(
    help="From a folder of recordings to a catalog of generated clips.",
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    add_completion=False,
    no_args_is_help=True,
)


@app.command()
@asking
def run(asked: Asked) -> int:
    """Run the whole catalog or some stages, and tell what was made."""
    errors = Console(stderr=True)
    progress = BarProgress(errors) if errors.is_terminal else LineProgress(lambda line: print(line, file=sys.stderr))
    current = Run(progress=progress)
    try:
        with stoppable(current.stop), progress if isinstance(progress, BarProgress) else nullcontext():
            _start(asked, current)
    finally:
        print_table(_console(), result_rows(current.results))
    return 0


@app.command()
@asking
def plan(asked: Asked) -> int:
    """Tell what a run would make, reuse and drop, and compute nothing."""
    print_table(_console(), plan_rows(asked.plans()))
    return 0


@app.command()
def sql(
    query: Annotated[str, typer.Argument(help="One SELECT over the store's tables.")],
    store: Place = None,
    format: Annotated[Literal["table", "csv", "json"], typer.Option(help="How the answer is printed.")] = "table",
) -> int:
    """Answer a question to the store; nothing can be changed by it."""
    from schemas.database import query as answer

    place = store_at(store or Settings().store)
    if not place.filesystem.exists(place.root):
        raise Mistake(f"expected a store at {place.url}, got nothing there: give --store")
    try:
        print_answer(answer(place, query), format, _console())
    except ValueError as error:
        raise Mistake(str(error)) from error
    return 0


@app.command()
def presets() -> int:
    """List the presets, and what each sets differently."""
    for name in PRESETS:
        print(f"{name}: {about(name)}")
        for line in _lines(preset_difference(name)):
            print(f"    {line}")
    return 0


@app.command()
def convert(
    source: Annotated[str, typer.Argument(metavar="SRC", help="A checkpoint: a folder, a hub id, checkpoint:ID.")],
    destination: Annotated[Path, typer.Argument(metavar="DST", help="The folder to write; new, or empty.")],
    to: Annotated[Form, typer.Option(help="Hugging Face's MusicGen, AudioCraft, or this project's own.")],
    codec: Annotated[str | None, typer.Option(help="The codec, where the checkpoint neither has nor names it.")] = None,
    store: Place = None,
) -> int:
    """Write a checkpoint in another form, with all that it needs."""
    from flows.conversion import convert_checkpoint

    _be_quiet()
    try:
        print(convert_checkpoint(source, destination, to, codec, store))
    except ValueError as error:
        if is_fault(error):
            raise
        raise Mistake(str(error)) from error
    return 0


@app.command()
def pattern(
    name: Annotated[Literal["delay", "unroll", "coarse_first", "grouped"], typer.Argument(help="The pattern.")],
    codebooks: Annotated[int, typer.Option(help="K, codebooks of the codec.")] = 4,
    frames: Annotated[int, typer.Option(min=1, help="How many frames are shown.")] = 6,
    delays: Annotated[str | None, typer.Option(help="One a codebook, such as 0,0,1,1,2,2,3,3 for stereo.")] = None,
    group: Annotated[int, typer.Option(help="Codebooks of a group of the pattern grouped.")] = 2,
    svg: Annotated[Path | None, typer.Option(help="A file to draw it into, rather than on the terminal.")] = None,
    title: Annotated[str | None, typer.Option(help="What stands over the image; by default, the command.")] = None,
) -> int:
    """Show in which order a pattern has the codes predicted."""
    from flows.figures import draw_pattern

    knobs: dict[str, Any] = {"pattern": name, "codebooks": codebooks, "group": group}
    if delays is not None:
        knobs["delays"] = delays.split(",")
    said = title or f"{name}, {codebooks} codebooks" + (f", delays {delays}" if delays else "")
    try:
        drawn = draw_pattern(knobs, frames, said if svg else None)
        if svg:
            svg.write_text(drawn, encoding="utf-8")
        else:
            print(drawn)
    except (ValueError, OSError) as error:
        raise Mistake(str(error)) from error
    return 0


def main() -> None:
    """The `segue` command."""
    sys.exit(run_command(sys.argv[1:]))


def run_command(arguments: Sequence[str]) -> int:
    """Run a command line and give its exit code; whatever went wrong is told on standard error."""
    try:
        code = app(list(arguments), standalone_mode=False)
        sys.stdout.flush()
        if code == INTERRUPTED:  # what typer makes of a KeyboardInterrupt
            raise Stopped("interrupted")
        return code if isinstance(code, int) else 0
    except TyperException as error:
        message = getattr(error, "format_message", lambda: str(error))()
        help_asked = message.startswith("Usage:")
        message = message.replace("Value error, ", "")  # which pydantic, of whom typer asks, says before every reason
        print(message if help_asked else f"segue: {' '.join(message.split())}", file=sys.stderr)
        return 2
    except Mistake as error:
        print(f"segue: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    except (KeyboardInterrupt, Stopped):
        print(STOPPED, file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # whoever read has gone; nothing more to tell
        return 1
    except Exception as error:
        if is_fault(error):
            traceback.print_exception(error)
        print(f"segue: {tell(error)}", file=sys.stderr)
        return 1


def _start(asked: Asked, current: Run) -> None:
    """Run what is asked, as a flow of Prefect where there is work, and without one where there is none."""
    plans = asked.plans()
    Store(asked.settings.store).check_writable()  # before Prefect's start, which takes seconds
    _check_device(asked, plans)
    if not any(plan.jobs for plan in plans):
        run_stages(asked.stages, asked.settings, asked.names, asked.requested is not None, current, in_turn, plans)
        return
    _be_quiet()
    from flows.catalog import catalog

    start_server()
    token = current_run.set(current)
    try:
        catalog(recipe=asked.recipe, settings=asked.given, stages=asked.requested)
    finally:
        current_run.reset(token)


def _check_device(asked: Asked, plans: Sequence[Plan]) -> None:
    """Tell at once, not after hours of taking recordings in, that the device asked for is not there."""
    from flows.recipe import GPU_STAGES

    here = asked.settings.task_runner == "threads"
    if asked.settings.device == "cuda" and here and any(plan.jobs and plan.stage in GPU_STAGES for plan in plans):
        device_of(asked.settings)


def _be_quiet() -> None:
    """Leave it to this command line to tell what happens; transformers looks only once, when it is imported."""
    from huggingface_hub.utils import disable_progress_bars

    for name, value in QUIET.items():
        os.environ.setdefault(name, value)
    disable_progress_bars()  # whatever had to be fetched is here; transformers' bars would break into ours


def _console() -> Console:
    console = Console()
    return console if console.is_terminal else Console(width=WIDE)


def _lines(difference: Any, path: str = "") -> Iterator[str]:
    """A difference as `stage.field=value` lines, as `--set` takes them."""
    if isinstance(difference, dict):
        for name, value in difference.items():
            yield from _lines(value, f"{path}.{name}" if path else str(name))
    else:
        yield f"{path}={difference}"
