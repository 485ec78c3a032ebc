"""`segue gates`: measure recordings against the gate's limits, to set the limits before a catalog is made."""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from flows.commands.options import SetOption, StoreOption, UsageError, existing_store
from flows.commands.sql import FormatOption
from flows.console import tell

if TYPE_CHECKING:
    from flows.commands.answers import Format
    from schemas.tables import Row
    from stages.checkpoints.codecs import AnyCodec
    from stages.gate.config import Limits
    from stages.gate.corpus import Excerpt, LimitSummary

app = typer.Typer()

MOST_SHOWN = 12
"""How many failing excerpts are listed."""

BESIDE = ("measured", "in")
"""Columns that have a table of their own where a terminal is too narrow for all: a name may be as long as it likes."""


@app.command()
def gates(
    source: Annotated[list[str], typer.Option(help="Recordings: a folder or URL. Repeatable.")],
    seconds: Annotated[
        float, typer.Option(min=1, help="Length of an excerpt in seconds: as long as clips will be.")
    ] = 10.0,
    step: Annotated[float, typer.Option(min=0.5, help="Seconds from one excerpt to the next.")] = 5.0,
    share: Annotated[
        float,
        typer.Option(min=0.5, max=1, help="Share of the recordings that should pass; less than 1 if some are bad."),
    ] = 1.0,
    codec: Annotated[
        str | None, typer.Option(metavar="WEIGHTS", help="A codec, for the limits on codes: a folder, a hub id, …")
    ] = None,
    store: StoreOption = None,
    overrides: SetOption = None,
    format: FormatOption = "table",
) -> int:
    """Measure recordings against the gate's limits, list those that would fail, and suggest limits."""
    from flows.runs.output import be_quiet

    be_quiet()
    try:
        limits = _limits(overrides or [])
        excerpts = _measured(source, limits, seconds, step, _codec(codec, store))
    except (OSError, ValueError) as error:
        raise UsageError(str(error)) from error
    if not excerpts:
        raise UsageError(f"expected readable recordings under {', '.join(source)}, got none")
    from stages.gate.corpus import summarise

    summaries = summarise(excerpts, limits, share)
    _print(summaries, format)
    for line in (*_failing_lines(excerpts), *_suggestion_lines(summaries)):
        tell(line)
    return int(any(each.reasons for each in excerpts))


def _limits(overrides: Sequence[str]) -> "Limits":
    """Return the gate's limits, changed by the options `--set gate.limits.NAME=VALUE`.

    Raises:
        ValueError: another knob is given, or a value that the limit cannot have.
    """
    from pydantic import ValidationError

    from flows.recipes.overrides import explain, parse_overrides
    from stages import gate

    difference = parse_overrides(overrides, {"gate": gate.Config})
    try:
        return gate.Config.model_validate(difference.get("gate", {})).limits
    except ValidationError as error:
        raise ValueError(explain(error, gate.Config, "gate.")) from error


def _codec(reference: str | None, store: str | None) -> "AnyCodec | None":
    """Load the codec with a name, from the store if it is one of the store's own; None if no name is given.

    Raises:
        ValueError: the weights are not a codec, or cannot be had.
    """
    if reference is None:
        return None
    import tempfile

    from schemas import Store, WeightsRef
    from schemas.weights import WeightsLibrary
    from stages.checkpoints.codecs import load_codec

    with tempfile.TemporaryDirectory() as empty_store:
        home = Store(empty_store) if store is None else existing_store(store)
        return load_codec(WeightsLibrary(home).get(WeightsRef(reference)).path)


def _measured(
    sources: Sequence[str], limits: "Limits", seconds: float, step: float, codec: "AnyCodec | None"
) -> "list[Excerpt]":
    """Measure every readable recording, one after the other, and report those that cannot be read.

    Raises:
        ValueError: a source does not exist or is empty.
        OSError: the network failed.
    """
    from stages.audio import AudioError
    from stages.audio.reading import read_audio
    from stages.gate.corpus import measure_recording
    from stages.ingest.sources import list_sources

    excerpts: list[Excerpt] = []
    for file in list_sources(sources).recordings:
        try:
            audio = read_audio(file.uri)
        except AudioError as error:
            tell(f"segue: {file.relative} is left out: {error}")
            continue
        excerpts += measure_recording(
            file.relative, audio.samples, audio.sample_rate, limits, codec, seconds=seconds, step=step
        )
    return excerpts


def _print(summaries: "Sequence[LimitSummary]", format: "Format") -> None:
    """Print the limits, in two tables where one is too wide for the terminal."""
    import pyarrow as pa

    from flows.commands.answers import fits, print_answer
    from flows.runs.output import open_console, print_table

    console, rows = open_console(), [_row(each) for each in summaries]
    if format != "table" or fits(rows, console.width):
        print_answer(pa.Table.from_pylist(rows), format, console)
        return
    print_table(console, [{name: value for name, value in row.items() if name not in BESIDE} for row in rows])
    console.print()
    print_table(console, [{name: row[name] for name in ("limit", *BESIDE)} for row in rows])


def _row(summary: "LimitSummary") -> "Row":
    """Return the row of a limit in the printed table."""
    return {
        "limit": summary.limit,
        "passes": "off" if summary.value is None else f"{'≥' if summary.is_floor else '≤'} {summary.value:g}",
        "measured": summary.measured,
        "median": _rounded(summary.median),
        "passing": _rounded(summary.furthest_passing),
        "furthest": _rounded(summary.furthest),
        "in": summary.furthest_name,
        "failing": summary.failing,
        "suggested": _value(summary.suggested),
    }


def _value(limit: float | None) -> str:
    return "null" if limit is None else f"{limit:g}"


def _rounded(value: float | None) -> float | None:
    return None if value is None else float(f"{value:.3g}")


def _failing_lines(excerpts: "Sequence[Excerpt]") -> Iterator[str]:
    """Yield how many recordings and excerpts pass, then the first failing ones with their reasons."""
    whole = [each for each in excerpts if each.is_whole]
    yield (
        f"{_passing(whole)} of {len(whole)} recordings pass as a whole, "
        f"and {_passing(excerpts) - _passing(whole)} of {len(excerpts) - len(whole)} of their excerpts"
    )
    failing = [each for each in excerpts if each.reasons]
    for each in failing[:MOST_SHOWN]:
        yield f"  {each.name}{'' if each.is_whole else f' at {each.begin:g} s'}: {'; '.join(each.reasons)}"
    if len(failing) > MOST_SHOWN:
        yield f"  and {len(failing) - MOST_SHOWN} more"


def _passing(excerpts: "Sequence[Excerpt]") -> int:
    return sum(not each.reasons for each in excerpts)


def _suggestion_lines(summaries: "Sequence[LimitSummary]") -> Iterator[str]:
    """Yield the options that set the suggested limits, if these differ from the limits."""
    options = [f"--set gate.limits.{each.limit}={_value(each.suggested)}" for each in summaries if each.is_other]
    if options:
        yield f"segue: for these recordings: {' '.join(options)}"
