"""The command line: `segue run`, `plan`, `sql` and `presets`.

What a person got wrong is one line and exit code 2; a run that did not do all that was asked ends with 1, a stopped one
with 130. Prefect is imported only once there is something to run: its start takes seconds.
"""

import os
import signal
import sys
import threading
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from types import FrameType
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from pydantic import ValidationError
from rich.console import Console
from typer.exceptions import TyperException

from flows.answers import print_answer
from flows.console import BarProgress, LineProgress, plan_rows, print_table, result_rows
from flows.failures import is_fault, tell
from flows.overrides import explain, merge, parse_overrides
from flows.presets import PRESETS, about, preset_difference
from flows.running import Run, current_run, in_turn, run_stages
from schemas import Settings, Store
from stages.contract import Stopped
from stages.planning import Chain, Plan, Step, plan_chain

if TYPE_CHECKING:
    from flows.recipe import Recipe

INTERRUPTED = 130
"""The exit code of a run that was asked to stop (128 + SIGINT), by whichever signal."""

STOPPED = "segue: stopped; what is done is kept, and the same command goes on from there"

GRACE_SECONDS = 15.0
"""What a run that was asked to stop has to end in good order; after that it ends at once, which the store survives as
it survives a kill."""

WIDE = 200
"""Columns of a table that is not printed on a terminal."""

QUIET_PREFECT = {
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "DO_NOT_TRACK": "1",
    # Several first starts at once on a small machine need longer than Prefect's 20 seconds.
    "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "120",
    # The command line tells what happened itself; Prefect's own log still reaches its server.
    "PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL": "CRITICAL",
    "PREFECT_SERVER_LOGGING_LEVEL": "CRITICAL",
}
"""What a run from the command line sets where the user has not."""

app = typer.Typer(
    help="From a folder of recordings to a catalog of generated clips.",
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    add_completion=False,
    no_args_is_help=True,
)

Stages = Annotated[list[str] | None, typer.Argument(metavar="[STAGE]...", help="Stages to run; none means all.")]
Preset = Annotated[str, typer.Option(help="What fills whatever is not set; see `segue presets`.")]
Source = Annotated[str | None, typer.Option(help="Recordings: a folder or URL.")]
Place = Annotated[str | None, typer.Option("--store", help="The store: a folder or URL.")]
Requests = Annotated[str | None, typer.Option(help="What to generate: a CSV, JSONL or Parquet file.")]
Sets = Annotated[list[str] | None, typer.Option("--set", metavar="STAGE.FIELD=VALUE", help="Any knob, or settings.…")]


class Mistake(ValueError):
    """Something on the command line that cannot be meant."""


@dataclass(frozen=True)
class Asked:
    """What a command line asks for."""

    recipe: "Recipe"
    given: Settings
    """As given: whether there is a source of one's own decides which stages take part."""
    settings: Settings
    """With the demo corpus for a source where none was given."""
    steps: list[Step]
    names: list[str]
    by_name: bool

    def plans(self) -> list[Plan]:
        return plan_chain(Chain(self.steps, self.settings), self.names, self.by_name)


@app.command()
def run(
    stages: Stages = None,
    preset: Preset = "miniature",
    source: Source = None,
    store: Place = None,
    requests: Requests = None,
    set_: Sets = None,
) -> int:
    """Run the whole catalog, or some stages, and end with a table of what was made."""
    asked = _understand(stages, preset, source, store, requests, set_)
    errors = Console(stderr=True)
    progress = BarProgress(errors) if errors.is_terminal else LineProgress(lambda line: print(line, file=sys.stderr))
    current = Run(progress=progress)
    try:
        with _stoppable(current), progress if isinstance(progress, BarProgress) else nullcontext():
            _start(asked, stages, current)
    finally:
        print_table(_console(), result_rows(current.results))
    return 0


@app.command()
def plan(
    stages: Stages = None,
    preset: Preset = "miniature",
    source: Source = None,
    store: Place = None,
    requests: Requests = None,
    set_: Sets = None,
) -> int:
    """Tell what a run would make, reuse and drop, and compute nothing."""
    asked = _understand(stages, preset, source, store, requests, set_)
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

    place = Store(store or Settings().store)
    if not place.filesystem.exists(place.root):
        raise Mistake(f"expected a store at {place.url}, got nothing there: give --store")
    try:
        print_answer(answer(place, query), format, _console())
    except ValueError as error:
        raise Mistake(str(error)) from error
    return 0


@app.command()
def presets() -> int:
    """List the presets, and how each differs from the stages' own defaults."""
    for name in PRESETS:
        print(f"{name}: {about(name)}")
        for line in _lines(preset_difference(name)):
            print(f"    {line}")
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


def _understand(
    stages: Sequence[str] | None,
    preset: str,
    source: str | None,
    store: str | None,
    requests: str | None,
    sets: Sequence[str] | None,
) -> Asked:
    """What a command line asks for.

    Raises:
        Mistake: a preset, stage, field or value is not one of those allowed.
    """
    from flows.recipe import Recipe, chosen, stage_models, with_source  # every stage, which `segue sql` does without

    try:
        preset_difference(preset)
        difference = parse_overrides(sets or (), stage_models())
        options = {"source": source, "store": store, "requests": requests}
        given: dict[str, Any] = {name: value for name, value in options.items() if value is not None}
        given = merge(given, difference.pop("settings", {}))
        try:
            settings = Settings.model_validate(given)
        except ValidationError as error:
            raise Mistake(explain(error, Settings, "settings.")) from error
        try:
            recipe = Recipe.model_validate({"preset": preset, **difference})
        except ValidationError as error:
            raise Mistake(explain(error, Recipe)) from error
        steps = recipe.steps(settings.source)
        names = chosen(steps, list(stages or ()), preset)
        complete = with_source(settings, names, [step.name for step in steps])
    except Mistake:
        raise
    except ValueError as error:
        raise Mistake(str(error)) from error
    return Asked(recipe, settings, complete, steps, names, bool(stages))


def _start(asked: Asked, stages: Sequence[str] | None, current: Run) -> None:
    """Run what is asked, as a flow of Prefect where there is work, and without one where there is none."""
    if not any(plan.jobs for plan in asked.plans()):
        run_stages(asked.steps, asked.settings, asked.names, asked.by_name, current, in_turn)
        return
    for name, value in QUIET_PREFECT.items():
        os.environ.setdefault(name, value)
    from huggingface_hub.utils import disable_progress_bars

    disable_progress_bars()  # whatever had to be fetched is here; transformers' bars would break into ours
    from flows.catalog import catalog

    _start_server()
    token = current_run.set(current)
    try:
        catalog(recipe=asked.recipe, settings=asked.given, stages=list(stages) if stages else None)
    finally:
        current_run.reset(token)


def _start_server() -> None:
    """Start Prefect's own server, where no other is set, deaf to Ctrl-C: a terminal sends that to every process, and a
    run that is asked to stop still has its end to tell."""
    from prefect.server.api.server import SubprocessASGIServer
    from prefect.settings import PREFECT_API_URL

    if PREFECT_API_URL.value():
        return
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})  # a child begins with the mask of its parent
    try:
        SubprocessASGIServer().start()
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})


def _end_at_once() -> None:
    print(STOPPED, file=sys.stderr, flush=True)
    os._exit(INTERRUPTED)


@contextmanager
def _stoppable(current: Run) -> Iterator[None]:
    """The first SIGINT or SIGTERM asks the run to stop at its next batch; the second ends the process at once, which
    the store survives as it survives a kill."""
    received: list[int] = []

    def stop(number: int, frame: FrameType | None) -> None:
        received.append(number)
        if len(received) > 1:
            os._exit(INTERRUPTED)
        current.stop.set()
        # Whatever still works then, or waits for a server that has gone, is not waited for any longer.
        late = threading.Timer(GRACE_SECONDS, _end_at_once)
        late.daemon = True
        late.start()
        raise KeyboardInterrupt

    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


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
