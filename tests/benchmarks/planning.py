"""How long a plan of a large catalog takes, and what memory: `python -m tests.benchmarks.planning --tracks 1000000`.

The catalog is made first: so many empty files, and a store whose tables are what ingest, chroma, clap and tokenize
would have left of them, so that there is nothing to do. Its making is not timed; the plan runs in a process of its own.
"""

import argparse
import hashlib
import json
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import pyarrow as pa

from flows.recipes.recipe import Recipe
from schemas import Settings, Store
from schemas.arrow import leave_pandas_out
from schemas.identity import keys_digest
from schemas.storage.shards import row_keys
from schemas.tables import CHROMA, CLAP, TOKENS, TRACKS, Table
from stages.ingest.artists import artist_key, split_of
from stages.ingest.index import TrackIndex
from stages.ingest.listing import list_source
from stages.ingest.metadata import SourceMetadata
from stages.pipeline.pipeline import Pipeline
from stages.pipeline.planning import plan_pipeline
from tests.benchmarks.machine import peak_megabytes
from tests.benchmarks.results import Figure, Report
from tests.benchmarks.running import alone, in_a_process, options

SECONDS_GOAL, MEGABYTES_GOAL = 10.0, 1000.0
"""Goals for 1,000,000 tracks in 2,000 shards."""

STAGES = ("ingest", "chroma", "clap", "tokenize")
MADE_OF_TRACKS: dict[str, tuple[Table, dict[str, Any]]] = {
    "chroma": (CHROMA, {"frame_rate": 7.8, "chroma": []}),
    "clap": (CLAP, {"starts": [], "embeddings": []}),
    "tokenize": (TOKENS, {"frame_rate": 50.0, "cardinality": 2048, "frames": 1, "codes": [[1]]}),
}
"""Columns of a row of each table beside its track: as few as possible, because a plan reads only footers."""


def pipeline_of(root: Path, shard_size: int) -> Pipeline:
    """The stages of a recipe whose weights are all one folder under `root`."""
    weights = str(root / "weights")
    recipe = Recipe.model_validate(
        {
            "preset": "miniature",
            "chroma": {"separator": None},
            "clap": {"model": weights},
            "tokenize": {"codec": weights},
            "ingest": {"shard_size": shard_size},
        }
    )
    settings = Settings(store=str(root / "store"), source=str(root / "source"))
    return Pipeline(recipe.configured_stages(settings.source), settings)


def make_catalog(root: Path, tracks: int, shard_size: int) -> None:
    """Make recordings, and a store that has nothing left to do for them."""
    for first in range(0, tracks, 1000):
        folder = root / "source" / f"{first // 1000:06d}"
        folder.mkdir(parents=True)
        for number in range(first, min(first + 1000, tracks)):
            (folder / f"{number:08d}.flac").touch()
    (root / "weights").mkdir()
    (root / "weights" / "model").write_text("weights")
    pipeline = pipeline_of(root, shard_size)
    versions = {name: pipeline.fingerprint(name) for name in STAGES}
    listing = list_source(str(root / "source"), f"file://{root}/store")
    index = TrackIndex([], listing, SourceMetadata(listing.recordings, []), -1, shard_size, (0.05, 0.05))
    store = Store(str(root / "store"))
    for first in range(0, tracks, shard_size):
        shard = str(first // shard_size)
        rows = [_track(file, index, int(shard)) for file in listing.recordings[first : first + shard_size]]
        table = pa.Table.from_pylist(rows, schema=TRACKS.schema)
        key = keys_digest(sorted(row_keys(table, TRACKS.key)))
        store.write_shard(TRACKS, versions["ingest"], shard, table, key)
        footer = store.footer(TRACKS, versions["ingest"], shard)
        assert footer is not None
        for name, (written, values) in MADE_OF_TRACKS.items():
            made = pa.Table.from_pylist(
                [{"track_id": row["track_id"], **values} for row in rows], schema=written.schema
            )
            store.write_shard(written, versions[name], shard, made, footer.output_key)


def _track(file, index: TrackIndex, shard: int) -> dict:  # type: ignore[no-untyped-def]
    """The row that a probed recording would have."""
    track_id = hashlib.sha256(file.uri.encode()).hexdigest()
    artist = f"Artist {track_id[:3]}"
    texts = {"title": f"Title {track_id[:8]}", "artist": artist, "genre": "rock", "moods": ["calm"]}
    tags = json.dumps({"values": {**texts, "description": f"As long as a comment may be: {track_id}"}, "warnings": []})
    files = [{"uri": file.uri, "stamp": file.stamp, "tags": tags}]
    return {
        "track_id": track_id,
        "uri": file.uri,
        "files": files,
        "metadata_stamp": index._metadata_stamp(files),
        "format": "FLAC",
        "sample_rate": 44_100,
        "channels": 2,
        "frames": 44_100 * 200,
        "seconds": 200.0,
        "loudness": -14.0,
        "true_peak": -1.0,
        "silence": 0.0,
        "clipping": 0.0,
        "copies_of": [],
        **texts,
        "keywords": [],
        "artists": [artist],
        "split": split_of(f"artist:{artist_key(artist)}", 0.05, 0.05),
        "warnings": [],
        "shard": shard,
    }


def plan_once(root: Path, shard_size: int) -> dict:
    """Plan in this process: return seconds, processor seconds, peak memory, and jobs (any job is an error)."""
    leave_pandas_out()  # as every command does
    begun = time.perf_counter()
    plans = plan_pipeline(pipeline_of(root, shard_size), STAGES, True)
    return {
        "seconds": round(time.perf_counter() - begun, 2),
        "processor_seconds": round(time.process_time(), 2),
        "megabytes": round(peak_megabytes()),
        "jobs": sum(len(plan.jobs) for plan in plans),
        "rows": plans[0].reuse,
    }


def arguments() -> argparse.ArgumentParser:
    """The options."""
    parser = options(__doc__)
    parser.add_argument("--tracks", type=int, help="1,000,000")
    parser.add_argument("--shard-size", type=int, default=500)
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument("--plan", type=Path, help="plan the catalog that is there, and nothing else")
    return parser


def measure(args: argparse.Namespace) -> Report:
    """Make a catalog, and plan it several times, each in a process of its own."""
    report = Report("Planning, nothing to do")
    tracks = args.tracks or (10_000 if args.small else 1_000_000)
    plans: list[dict] = []
    with tempfile.TemporaryDirectory() as folder:
        make_catalog(Path(folder), tracks, args.shard_size)
        for _ in range(1 if args.small else args.repetitions):
            found = in_a_process("planning", "--plan", folder, "--shard-size", str(args.shard_size))
            if found["jobs"] or found["rows"] != tracks:
                raise SystemExit(f"expected a plan without work over {tracks} rows, got {found}")
            plans.append(found)
    shards = -(-tracks // args.shard_size)
    clock, taken = ("processors", "processor_seconds") if args.cpu_time else ("wall", "seconds")
    seconds, memory = (statistics.median(plan[name] for plan in plans) for name in (taken, "megabytes"))
    checked = f"no job, {tracks:,} rows in place"
    report.add(Figure(f"time by the {clock}", "s", seconds, "less", goal=SECONDS_GOAL, equal=checked))
    report.add(Figure("memory at its highest", "MB", memory, "less", goal=MEGABYTES_GOAL))
    each = "; ".join(f"{plan['seconds']} s, {plan['processor_seconds']} of the processors" for plan in plans)
    report.say(f"{tracks:,} tracks in {shards:,} shards. Each plan, imports included in the processors' time: {each}.")
    return report


if __name__ == "__main__":
    chosen = arguments().parse_args()
    if chosen.plan is None:
        alone(arguments(), measure)
    else:
        print(json.dumps(plan_once(chosen.plan, chosen.shard_size)))
