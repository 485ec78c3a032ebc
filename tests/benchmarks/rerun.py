"""The work of a night that brings 1 % new tracks: `python -m tests.benchmarks.rerun`.

A first run takes in a thousand recordings (1 to 3 s each, of all formats) and makes their chroma, CLAP embeddings and
codes by small models of random weights; then 1 % new ones come, and it runs again; then once more with nothing new.
Each run is a process of its own, which first imports everything and loads each model once, and then plans. Neither is
counted as work, since it costs the same for one new track or a thousand; what it takes is said too. That jobs load
their models again is counted.

That the rerun computed a row for each new track and no other, wrote one shard of each table, and left every old row as
it was, comes before any share.
"""

import argparse
import json
import tempfile
import time
from pathlib import Path

import torch

from flows.recipes.recipe import Recipe
from schemas import Settings, Store
from schemas.tables import CHROMA, CLAP, TOKENS, TRACKS
from stages.pipeline.pipeline import Pipeline
from stages.pipeline.planning import plan_pipeline
from stages.pipeline.runner import run_stage
from tests.benchmarks.ingest import make_file, processors_time
from tests.benchmarks.results import Figure, Report, table
from tests.benchmarks.running import alone, in_a_process, options
from tests.worlds.tiny_codec import codec_folder
from tests.worlds.world_of_sound import save_clap, save_separator

STAGES = {"ingest": TRACKS, "chroma": CHROMA, "clap": CLAP, "tokenize": TOKENS}
SHARD_SIZE, LONGEST = 128, 3.0
NEW = 0.01
"""Share of new tracks."""
SHARE_GOAL = 0.015


def pipeline_of(root: Path) -> Pipeline:
    """The stages of a recipe over the models and recordings under `root`."""
    recipe = Recipe.model_validate(
        {
            "preset": "miniature",
            "ingest": {"shard_size": SHARD_SIZE},
            "chroma": {"separator": str(root / "separator")},
            "clap": {"model": str(root / "clap")},
            "tokenize": {"codec": str(root / "codec")},
        }
    )
    settings = Settings(store=str(root / "store"), source=str(root / "music"), device="cpu", offline=True)
    return Pipeline(recipe.configured_stages(settings.source), settings)


def load_all(root: Path) -> None:
    """Import the modules that the stages work with, and load each model once."""
    import pyarrow.acero  # noqa: F401  sorting a table imports it

    from stages.checkpoints.codecs import load_codec
    from stages.networks.clap import load_joint_embedder
    from stages.networks.demucs import load_separator

    pipeline = pipeline_of(root)
    load_separator(pipeline.library.get(pipeline.stages["chroma"].config.separator), "cpu")  # type: ignore[attr-defined]
    load_joint_embedder(root / "clap", "cpu")
    load_codec(root / "codec", "cpu")


def run_once(root: Path, threads: int) -> dict:
    """Run the stages in this process: return processor seconds for the start, the plan and each stage, and the rows
    that each made."""
    torch.set_num_threads(threads)
    load_all(root)
    started = processors_time()
    plan_pipeline(pipeline_of(root), list(STAGES), True)
    planned = processors_time()
    pipeline, seconds, made = pipeline_of(root), {}, {}
    for name in STAGES:
        begun = processors_time()
        result = run_stage(pipeline.stages[name], pipeline.context(name, f"run-{time.time_ns()}"))
        seconds[name], made[name] = processors_time() - begun, result.counts.made
        if result.counts.refused:
            raise SystemExit(f"expected {name} to refuse nothing, got {result.counts}")
    return {"start": started, "plan": planned - started, "seconds": seconds, "made": made}


def shards_of(root: Path) -> dict[tuple[str, str], tuple[int, list[dict]]]:
    """Every shard of every stage's table: the file's inode number, which a rewrite changes, and its rows."""
    pipeline, store = pipeline_of(root), Store(str(root / "store"))
    found = {}
    for name, written in STAGES.items():
        version = pipeline.fingerprint(name)
        for shard in store.shards(written, version):
            place = Path(store.path(store.shard_path(written, version, shard)))
            found[name, shard] = (place.stat().st_ino, store.read(written, version, [shard]).to_pylist())
    return found


def check(before: dict, after: dict, new: int, made: dict[str, int]) -> None:
    """Raise SystemExit unless one shard of each table changed, by new rows only, and no other row was computed."""
    if made != dict.fromkeys(STAGES, new):
        raise SystemExit(f"expected {new} rows of each stage, got {made}")
    for name in STAGES:
        touched = [key for key, (place, _) in after.items() if key[0] == name and before.get(key, (None,))[0] != place]
        if len(touched) != 1:
            raise SystemExit(f"expected one shard of {name} to be written, got {touched}")
        rows = after[touched[0]][1]
        if any(row not in rows for row in before[touched[0]][1]) or len(rows) != len(before[touched[0]][1]) + new:
            raise SystemExit(f"expected {new} new rows in {touched[0]} and the others as they were")


def arguments() -> argparse.ArgumentParser:
    """The options."""
    parser = options(__doc__)
    parser.add_argument("--tracks", type=int, help="of the first run: 1,000")
    parser.add_argument("--run", type=Path, help="run the stages of what is there, and nothing else")
    return parser


def measure(args: argparse.Namespace) -> Report:
    """Make three runs: all tracks, 1 % more, and nothing new."""
    report = Report("1 % new tracks")
    tracks = args.tracks or (100 if args.small else 1000)
    new = round(NEW * tracks)
    with tempfile.TemporaryDirectory() as folder:
        root, call = Path(folder), ("rerun", "--run", folder, "--threads", str(args.threads))
        (root / "music").mkdir()
        save_separator(root / "separator")
        save_clap(root / "clap")
        codec_folder(root / "codec")
        for number in range(tracks):
            make_file(str(root / "music"), number, LONGEST)
        first, before = in_a_process(*call), shards_of(root)
        for number in range(tracks, tracks + new):
            make_file(str(root / "music"), number, LONGEST)
        second, after = in_a_process(*call), shards_of(root)
        check(before, after, new, second["made"])
        third = in_a_process(*call)
        if any(third["made"].values()) or shards_of(root) != after:
            raise SystemExit(f"expected a third run to make nothing, got {third['made']}")
    work = [sum(run["seconds"].values()) for run in (first, second, third)]
    checked = f"{new} rows made by each stage, one shard each written, old rows as they were"
    share = Figure("share of the first run's work", "%", 100 * work[1] / work[0], "less", goal=100 * SHARE_GOAL)
    report.add(Figure(**{**vars(share), "equal": checked}))
    rows = [
        [name, *(str(run["made"][name]) for run in (first, second)), *(f"{run['seconds'][name]:.2f}" for run in runs)]
        for runs in [(first, second, third)]
        for name in STAGES
    ]
    rows.append(["all", "", "", *(f"{one:.2f}" for one in work)])
    fixed = [f"{run['start']:.1f} s to start and load, {run['plan']:.2f} s to plan" for run in (first, second, third)]
    report.say(
        f"{tracks} tracks in shards of {SHARD_SIZE}, then {new} more. All is processors' time. Besides: "
        f"{fixed[0]} in the first run, {fixed[1]} in the second, {fixed[2]} in the third."
    )
    header = ["stage", "rows made, first", "second", "work of the first, s", "of the second", "of one with nothing new"]
    report.say(table(header, rows))
    return report


if __name__ == "__main__":
    chosen = arguments().parse_args()
    if chosen.run is None:
        alone(arguments(), measure)
    else:
        print(json.dumps(run_once(chosen.run, chosen.threads)))
