"""A store, a context and rows of `tracks` for stages that read sound; a small separator and a small CLAP."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import soundfile

from schemas import Settings, Store
from schemas.tables import TRACKS
from schemas.weights import WeightsLibrary
from stages.demo import clap, separator
from stages.demo.config import ClapStandInConfig, SeparatorConfig
from stages.pipeline.contract import Context

SMALL_SEPARATOR = SeparatorConfig(channels=8, bottom_channels=16, depth=3, heads=2, training={"segment_seconds": 1.0})


def make_context(folder: Path, stage: str = "stage", **settings: object) -> Context:
    store = Store(str(folder / "store"))
    means = Settings.model_validate({"store": store.url, "device": "cpu", "offline": True, **settings})
    return Context(store, means, "run", stage, "version", {}, WeightsLibrary(store, offline=True), identity="identity")


def tracks_of(*paths: Path) -> pa.Table:
    """Rows of `tracks` whose ids are the files' names."""
    rows = [{"track_id": path.name, "uri": str(path), "shard": 0} for path in paths]
    return pa.Table.from_pylist(rows, schema=TRACKS.schema)


def write_sound(path: Path, samples: np.ndarray, sample_rate: int = 16_000) -> Path:
    soundfile.write(path, samples.T, sample_rate)
    return path


def save_separator(folder: Path, sample_rate: int = 16_000, seed: int = 0) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    separator.save_separator(separator.new_separator(SMALL_SEPARATOR, sample_rate, seed), folder)
    return folder


def save_clap(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    small = ClapStandInConfig(width=16, heads=(2, 4), text_width=16, text_layers=1, embedding=16)
    clap.save_clap(clap.new_clap(small, 16_000, 0), folder)
    return folder
