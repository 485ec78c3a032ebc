"""A store of three recordings, and requests files for it."""

import json
from pathlib import Path
from typing import Any

import pyarrow as pa

from schemas import Settings, Store
from schemas.tables import REJECTS, REQUESTS, TRACKS
from schemas.weights import WeightsLibrary
from stages import requests
from stages.pipeline.contract import Context
from stages.pipeline.plans import ConfiguredStage
from stages.pipeline.runner import StageResult, run_stage
from stages.requests import Config

TRACK_ROWS = [
    {"track_id": "aaaa1111" * 8, "title": "Silver Window", "artist": "Glass Harbour"},
    {"track_id": "aaaa2222" * 8, "title": "Silver Window", "artist": "Kilo Sunday"},
    {"track_id": "bbbb3333" * 8, "title": "=cmd|'/c calc'!A0", "artist": "../../etc/passwd"},
]


def store_of_tracks(folder: Path) -> Store:
    """A store with three recordings, two of which have the same title."""
    store = Store(str(folder))
    store.write_shard(TRACKS, "t", "0", pa.Table.from_pylist(TRACK_ROWS, schema=TRACKS.schema), "k")
    return store


def context_for(store: Store, file: Path | str | None, **settings: Any) -> Context:
    """The stage's context; by default refused lines are accepted and requests may be dropped."""
    given = {"max_refused": 1.0, "accept_refused": 1_000, "drop_requests": True} | settings
    chosen = Settings(store=store.url, requests=None if file is None else str(file), **given)
    return Context(store, chosen, "run", "requests", "r", {"tracks": "t"}, WeightsLibrary(store))


def take_in(store: Store, file: Path | str | None, config: Config | None = None, **settings: Any) -> StageResult:
    """Run the stage on a requests file."""
    return run_stage(ConfiguredStage("requests", requests, config or Config()), context_for(store, file, **settings))


def rows_of(store: Store) -> list[dict]:
    return sorted(store.read(REQUESTS, "r").to_pylist(), key=lambda row: row["line"])


def rejects_of(store: Store) -> dict[str, dict]:
    return {row["key"]: row for row in store.read(REJECTS, "r").to_pylist()}


def write(path: Path, *lines: dict | str) -> Path:
    path.write_text("".join((line if isinstance(line, str) else json.dumps(line)) + "\n" for line in lines))
    return path
