"""How long a plan of a large catalog takes, and what memory: `python -m tests.benchmarks.planning --tracks 1000000`.

The catalog is made first: so many empty files, and a store whose tables are what ingest, chroma, clap and tokenize
would have left of them, so that there is nothing to do. Its making is not timed; the plan runs in a process of its own.
"""

import argparse
import hashlib
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import pyarrow as pa

from flows.recipe import Recipe
from schemas import Settings, Store
from schemas.content import row_keys
from schemas.identity import keys_digest
from schemas.table import Table
from schemas.tables import CHROMA, CLAP, TOKENS, TRACKS
from stages.intake.ledger import Ledger, split_of
from stages.intake.listing import list_source
from stages.planning import Chain, plan_chain

STAGES = ("ingest", "chroma", "clap", "tokenize")
MADE_OF_TRACKS: dict[str, tuple[Table, dict[str, Any]]] = {
    "chroma": (CHROMA, {"frame_rate": 7.8, "chroma": []}),
    "clap": (CLAP, {"starts": [], "embeddings": []}),
    "tokenize": (TOKENS, {"frame_rate": 50.0, "cardinality": 2048, "frames": 1, "codes": [[1]]}),
}
"""What a row of each table holds beside its track: as little as can be, for a plan reads footers alone."""


def chain_of(root: Path, shard_size: int) -> Chain:
    """The stages of a recipe whose weights are all a folder there."""
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
    return Chain(recipe.steps(settings.source), settings)


def make_catalog(root: Path, tracks: int, shard_size: int) -> None:
    """Recordings, and a store that has nothing left to do for them."""
    for first in range(0, tracks, 1000):
        folder = root / "source" / f"{first // 1000:06d}"
        folder.mkdir(parents=True)
        for number in range(first, min(first + 1000, tracks)):
            (folder / f"{number:08d}.flac").touch()
    (root / "weights").mkdir()
    (root / "weights" / "model").write_text("weights")
    chain = chain_of(root, shard_size)
    versions = {name: chain.fingerprint(name) for name in STAGES}
    listing = list_source(str(root / "source"), f"file://{root}/store")
    stamps = Ledger([], listing, -1, shard_size, (0.05, 0.05))
    store = Store(str(root / "store"))
    for first in range(0, tracks, shard_size):
        shard = str(first // shard_size)
        rows = [_track(file, stamps, int(shard)) for file in listing.recordings[first : first + shard_size]]
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


def _track(file, stamps: Ledger, shard: int) -> dict:  # type: ignore[no-untyped-def]
    """The row that an examined recording would have."""
    track_id = hashlib.sha256(file.uri.encode()).hexdigest()
    files = [{"uri": file.uri, "stamp": file.stamp, "tags": '{"values": {}, "warnings": []}'}]
    artist = f"Artist {track_id[:3]}"
    return {
        "track_id": track_id,
        "uri": file.uri,
        "files": files,
        "metadata_stamp": stamps._metadata_stamp(files),
        "format": "FLAC",
        "sample_rate": 44_100,
        "channels": 2,
        "frames": 44_100 * 200,
        "seconds": 200.0,
        "loudness": -14.0,
        "true_peak": -1.0,
        "silence": 0.0,
        "clipping": 0.0,
        "title": f"Title {track_id[:8]}",
        "artist": artist,
        "genre": "rock",
        "moods": ["calm"],
        "keywords": [],
        "split": split_of(artist, track_id, 0.05, 0.05),
        "warnings": [],
        "shard": shard,
    }


def measure(root: Path, shard_size: int) -> dict:
    """Plan once in this process: seconds, processor seconds, memory at its highest, and jobs (none, or it is wrong)."""
    begun = time.perf_counter()
    plans = plan_chain(chain_of(root, shard_size), STAGES, True)
    return {
        "seconds": round(time.perf_counter() - begun, 2),
        "processor_seconds": round(time.process_time(), 2),
        "megabytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
        "jobs": sum(len(plan.jobs) for plan in plans),
        "rows": plans[0].reuse,
    }


def main() -> None:
    """Print a line for RESULTS.md."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tracks", type=int, default=1_000_000)
    parser.add_argument("--shard-size", type=int, default=500)
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument("--measure", type=Path, help="plan the catalog that is there, and nothing else")
    given = parser.parse_args()
    if given.measure is not None:
        print(json.dumps(measure(given.measure, given.shard_size)))
        return
    with tempfile.TemporaryDirectory() as folder:
        make_catalog(Path(folder), given.tracks, given.shard_size)
        print(
            f"{given.tracks} tracks, {given.shard_size} a shard; {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}",
            flush=True,
        )
        for _ in range(given.repetitions):
            command = [sys.executable, "-m", "tests.benchmarks.planning", "--measure", folder]
            done = subprocess.run(
                [*command, "--shard-size", str(given.shard_size)], check=True, capture_output=True, text=True
            )
            found = json.loads(done.stdout)
            if found["jobs"] or found["rows"] != given.tracks:
                raise SystemExit(f"expected a plan without work over {given.tracks} rows, got {found}")
            print(found, flush=True)


if __name__ == "__main__":
    main()
