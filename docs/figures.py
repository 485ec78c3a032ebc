"""What the documentation says about speed, from the results of the benchmarks (`tests/benchmarks/results`)."""

from collections.abc import Sequence

from tests.benchmarks.keeping import KeptMachine, read_machines
from tests.benchmarks.results import Figure, goals, number, table

GENERATION, TRAINING, CODEC = "Generation", "Training step", "Tokenizing"

LOOPS: dict[str, tuple[str, str]] = {
    "decoding one clip, float32": (GENERATION, "float32, batch 1"),
    "decoding one clip, float32, weights from float16": (GENERATION, "float32 from float16, batch 1"),
    "decoding one clip, float16": (GENERATION, "float16, batch 1"),
    "decoding one clip, bfloat16": (GENERATION, "bfloat16, batch 1"),
    "decoding one clip, int8": (GENERATION, "int8, batch 1"),
    "decoding eight clips, float32": (GENERATION, "float32, batch 8"),
    "decoding eight clips, float32, weights from float16": (GENERATION, "float32 from float16, batch 8"),
    "decoding eight clips, float16": (GENERATION, "float16, batch 8"),
    "decoding eight clips, bfloat16": (GENERATION, "bfloat16, batch 8"),
    "decoding eight clips, int8": (GENERATION, "int8, batch 8"),
    "a training step, float32": (TRAINING, "float32"),
    "a training step, bfloat16": (TRAINING, "bfloat16"),
    "EnCodec at 32 kHz, encoding": (CODEC, "encoding"),
    "EnCodec at 32 kHz, decoding": (CODEC, "decoding"),
    "clips from requests.csv to FLAC": ("Clips an hour", "segue run"),
    "clips, without Prefect": ("Clips an hour", "without Prefect"),
    "clips, weights from float16": ("Clips an hour", "segue run, weights from float16"),
    "clips, weights from float16, without Prefect": ("Clips an hour", "without Prefect, weights from float16"),
    "a training set from a folder": ("From a folder", "whole set"),
    "chroma, from files to rows": ("From recordings", "chroma"),
    "CLAP, from files to rows": ("From recordings", "clap"),
    "tokens, from files to rows": ("From recordings", "tokenize"),
    "ingest, against a bare loop": ("Ingest", "sound taken in"),
    "ingest, against a loop for the same columns": ("Ingest", "sound taken in, against a loop for the same columns"),
    "adding 1 % new tracks": ("1 % new tracks", "share of the first run's work"),
    "planning 1,000,000 tracks, nothing to do": ("Planning", "time by the wall"),
    "memory of that plan": ("Planning", "memory at its highest"),
    "starting `segue --help`": ("Starting", "segue --help"),
    "starting `segue sql`": ("Starting", "segue sql 'select count(*) from tracks'"),
    "starting `segue plan`, a small store": ("Starting", "segue plan"),
    "`segue run` with nothing to do, a small store": ("Starting", "segue run, nothing to do"),
}
"""The loops of the tables, each with its benchmark's subject and its figure's name."""

SHORT = (
    *("decoding one clip, float32", "decoding eight clips, bfloat16", "a training step, bfloat16"),
    *("EnCodec at 32 kHz, encoding", "ingest, against a bare loop", "clips from requests.csv to FLAC"),
)
"""The loops in the README's table."""

RESULTS_HEAD = """# Results of the benchmarks

The last run of every benchmark on each machine, written by `python -m docs.generate` from the files in
[results](results), which `make bench` leaves. [docs/performance.md](../../docs/performance.md) says what
the figures mean and what the goals were, [docs/speed-trials.md](../../docs/speed-trials.md) what was tried."""


def loops_table(loops: Sequence[str] = tuple(LOOPS)) -> str:
    """Return the table of some loops, with a column for each machine. Loops that were measured nowhere are left out."""
    machines = read_machines()
    rows = [[loop, *(_cell(machine, *LOOPS[loop]) for machine in machines)] for loop in loops]
    header = ["loop", *(f"{machine.name}, {_days(machine)}" for machine in machines)]
    return table(header, [row for row in rows if any(row[1:])])


def short_table() -> str:
    """Return the README's table."""
    return loops_table(SHORT)


def goals_list() -> str:
    """Return how many goals each machine reaches, and which goals it misses."""
    return "\n".join(
        f"- {machine.name}: {goals([kept.report for kept in machine.reports])}" for machine in read_machines()
    )


def _days(machine: KeptMachine) -> str:
    """Return the days on which a machine's figures were measured."""
    dates = sorted({kept.date for kept in machine.reports})
    return dates[0] if len(dates) == 1 else f"{dates[0]} to {dates[-1]}"


def results_page() -> str:
    """Return the content of RESULTS.md."""
    parts = [RESULTS_HEAD]
    for machine in read_machines():
        parts.append(f"## {machine.name}\n\n{goals([kept.report for kept in machine.reports])}")
        parts += [f"{kept.report.markdown().rstrip()}\n\nMeasured {kept.circumstances}." for kept in machine.reports]
    return "\n\n".join(parts) + "\n"


def _cell(machine: KeptMachine, subject: str, what: str) -> str:
    figure = machine.figure(subject, what)
    return "" if figure is None else "; ".join(_parts(figure))


def _parts(figure: Figure) -> list[str]:
    """Return a figure, its ratio to the peer's figure and its share of the machine's limit, as far as they are known. A
    ratio below 1, which means that the peer is faster, is bold."""
    parts = [f"{number(figure.ours)} {figure.unit}"]
    if figure.ratio is not None:
        ratio = f"{figure.ratio:.2f} ×"
        parts.append(ratio if figure.ratio >= 1 else f"**{ratio}**")
    if figure.share_of_limit is not None:
        parts.append(f"{figure.share_of_limit:.0%} of the limit")
    if figure.beats_limit:
        parts.append("limit unknown")
    return parts
