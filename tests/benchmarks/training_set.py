"""Hours of recordings an hour, from a folder to a training set: `python -m tests.benchmarks.training_set`.

Ingest, chroma, CLAP and tokens run one after another over synthesised recordings, from an empty store to tables that
are published, with the models of `tests.benchmarks.embedding` (published shapes, random weights). Beside them are the
plain loops of the same models over the same files, whose models are in memory already; the stages' loading, planning,
checks and writing are counted. That every row is the loop's comes before any time.
"""

import argparse
import statistics
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from flows.commands.options import parse_run_options
from flows.runs.running import Run, run_stages
from schemas import Store
from schemas.queries.database import query
from stages.audio import encode_audio
from tests.benchmarks.embedding import RATE, STAGES, Loop
from tests.benchmarks.ingest import music, processors_time
from tests.benchmarks.results import Figure, Report, table
from tests.benchmarks.running import alone, options
from tests.benchmarks.timing import wall_clock

TABLES = {"chroma": "chroma", "clap": "clap", "tokenize": "tokens"}
KNOBS = {
    "chroma": ("chroma.separator", "separator"),
    "clap": ("clap.model", "model"),
    "tokenize": ("tokenize.codec", "codec"),
}
"""For each stage, the knob of its model and the field of its configuration."""


@dataclass(frozen=True)
class World:
    """Recordings, and the loops of both sides over them."""

    source: Path
    paths: list[str]
    seconds: float
    """Seconds of all recordings together."""
    loops: dict[str, Loop]


def make_world(root: Path, count: int, seconds: float, device: str, small: bool) -> World:
    """Write the recordings, alternately FLAC and MP3, and make the models."""
    source = root / "music"
    source.mkdir()
    paths = []
    for number in range(count):
        form = ("flac", "mp3")[number % 2]
        paths.append(str(source / f"{number:04d}.{form}"))
        Path(paths[-1]).write_bytes(encode_audio(music(seconds, RATE, number), RATE, form, {}))  # type: ignore[arg-type]
    loops = {}
    for name, make in STAGES.items():
        (root / name).mkdir()
        loops[name] = make(root / name, device, small)
    return World(source, paths, count * seconds, loops)


def run_ours(world: World, store: str, device: str) -> None:
    """Make the training set in a fresh store."""
    knobs = [f"{knob}={getattr(world.loops[name].config, field)}" for name, (knob, field) in KNOBS.items()]
    knobs += ["settings.offline=true", f"settings.device={device}"]
    options = {"store": store, "source": str(world.source)}
    run_stages(Run(parse_run_options(["ingest", *STAGES], "musicgen-melody", options, knobs).plan))


def run_theirs(world: World) -> dict[str, list[np.ndarray]]:
    """Do the same with plain loops: return the result of each stage's model for each recording."""
    return {name: [loop.plain(path) for path in world.paths] for name, loop in world.loops.items()}


def check(world: World, store: str, plain: dict[str, list[np.ndarray]]) -> str:
    """Return how close the rows are to the loops'; SystemExit if they are not close enough."""
    for name, loop in world.loops.items():
        sql = f"SELECT t.uri, r.* FROM {TABLES[name]} r JOIN tracks t USING (track_id) ORDER BY t.uri"
        rows = query(Store(store), sql).to_pylist()
        if len(rows) != len(world.paths):
            raise SystemExit(f"expected {len(world.paths)} rows of {name}, got {len(rows)}")
        for row, expected in zip(rows, plain[name], strict=True):
            made = loop.made(row)
            apart = float((made != expected).mean() if made.dtype == np.uint16 else np.abs(made - expected).max())
            if apart > loop.largest:
                raise SystemExit(f"expected rows of {name} at most {loop.largest} from the loop's, got {apart}")
    return "every row, as near as one stage's benchmark asks"


def arguments() -> argparse.ArgumentParser:
    """The options."""
    parser = options(__doc__)
    parser.add_argument("--recordings", type=int, default=4)
    parser.add_argument("--seconds", type=float, default=12.0, help="length of a recording")
    parser.add_argument("--rounds", type=int, default=1, help="runs of each side")
    return parser


def measure(args: argparse.Namespace) -> Report:
    """Let first the loops and then the stages work on the recordings."""
    torch.set_num_threads(args.threads)
    clock = processors_time if args.cpu_time else wall_clock(args.device)
    count, seconds = (2, 3.0) if args.small else (args.recordings, args.seconds)
    report = Report("From a folder to a training set", "plain loops")
    taken: dict[str, list[float]] = {"theirs": [], "ours": []}
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        world = make_world(root, count, seconds, args.device, args.small)
        # A run changes for its whole process what malloc does with freed memory, so the plain loops come first.
        for _ in range(args.rounds):
            begun = clock()
            plain = run_theirs(world)
            taken["theirs"].append(clock() - begun)
        for turn in range(args.rounds):
            begun = clock()
            run_ours(world, str(root / f"store{turn}"), args.device)
            taken["ours"].append(clock() - begun)
            equal = check(world, str(root / f"store{turn}"), plain)
        stages = query(Store(str(root / "store0")), "SELECT stage, seconds FROM runs ORDER BY started_at").to_pylist()
    hourly = {side: world.seconds / statistics.median(times) for side, times in taken.items()}
    what = "hours of recordings an hour"
    report.add(Figure("whole set", what, hourly["ours"], "more", peer=hourly["theirs"], equal=equal))
    report.say(f"{count} recordings of {seconds:g} s. The models of the plain loops are loaded beforehand.")
    report.say(table(["stage", "wall, s"], [[row["stage"], f"{row['seconds']:.1f}"] for row in stages]))
    return report


if __name__ == "__main__":
    alone(arguments(), measure)
