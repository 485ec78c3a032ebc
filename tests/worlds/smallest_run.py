"""The whole miniature pipeline at its smallest: every stage is real, and the trainings are too short to learn
anything."""

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from schemas import Store
from schemas.storage.digests import column_digests, digest_of_columns
from schemas.tables import CHECKS, PUBLICATIONS, RUNS, TABLES, WEIGHTS
from tests.worlds.open_gate import OPEN_GATE

ROOT = Path(__file__).resolve().parents[2]

SMALLEST = {
    "demo.pieces": "16",
    "ingest.shard_size": "8",
    "ingest.valid": "0.2",
    "demo_models.pieces": "32",
    "demo_models.held_out": "4",
    "demo_models.separator.training.optimization.steps": "4",
    "demo_models.separator.training.segment_seconds": "1",
    "demo_models.clap.training.optimization.steps": "4",
    # A quarter of the preset's frames a second, because the cost of clips is proportional to their frames.
    "train_codec.network.sample_rate": "8000",
    "train_codec.network.ratios": "[8, 5, 4, 4]",
    "train_codec.network.filters": "4",
    "train_codec.training.start_batches": "12",
    "train_codec.training.optimization.steps": "12",
    "train_codec.held_out_tracks": "4",
    "train_codec.held_out_seconds": "2",
    "train_codec.save_every": "3",
    "train.model.language_model.width": "64",
    "train.model.language_model.heads": "2",
    "train.model.language_model.layers": "2",
    "train.model.chroma.frame_rate": "12.5",
    "train.model.chroma.frames": "75",
    "train.segment_seconds": "2",
    "train.held_out_windows": "8",
    "train.optimization.steps": "8",
    "train.log_every": "2",
    "train.valid_every": "4",
    "train.save_every": "2",
    "controls.untrained": "4",
    **OPEN_GATE,
}
"""Differences from the preset `miniature`."""

REQUESTED = {
    "settings.requests": str(Path(__file__).with_name("smallest_requests.csv")),
    "settings.accept_refused": "1",
}
"""The requests for clips: a line of each kind, where the demo has several lines, and longer clips. One line refers to a
track that does not exist."""


def environment(home: Path) -> dict[str, str]:
    """An environment with a private Prefect and cache, and one thread."""
    (home / "prefect").mkdir(parents=True, exist_ok=True)  # its server does not make parents
    private = {"PREFECT_HOME": str(home / "prefect"), "XDG_CACHE_HOME": str(home / "cache"), "OMP_NUM_THREADS": "1"}
    return {**os.environ, **private, "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "120", "HF_HUB_OFFLINE": "1"}


def command(store: Path | str, *words: str) -> list[str]:
    """The command `segue` on a store, at the smallest settings and, unless others are named, with the requests here."""
    knobs = SMALLEST if "--requests" in words else SMALLEST | REQUESTED
    sets = [part for name, value in knobs.items() for part in ("--set", f"{name}={value}")]
    return [sys.executable, "-c", "from flows.cli import main; main()", *words, "--store", str(store), *sets]


def segue(store: Path, home: Path, words: Sequence[str] = ("run",)) -> subprocess.CompletedProcess[str]:
    """Run `segue` to its end."""
    return subprocess.run(
        command(store, *words), cwd=ROOT, env=environment(home), capture_output=True, text=True, check=False
    )


def digests(store: Store) -> dict[tuple[str, str, str], tuple[str, str]]:
    """Contents and inputs of every shard, without times and places; the clips' own bytes are in `clips`."""
    found = {}
    for table in TABLES.values():
        if table in (RUNS, WEIGHTS, CHECKS, PUBLICATIONS):  # the history, which a kill changes
            continue
        for version in store.versions(table):
            for shard in store.shards(table, version):
                footer = store.footer(table, version, shard)
                assert footer is not None
                rows = store.read(table, version, [shard])
                assert digest_of_columns(column_digests(table, rows)) == footer.content
                found[table.name, version, shard] = (footer.input_key, footer.content)
    return found
