"""A folder of short pieces, its store, and a codec training of a few seconds; run as a program, it trains."""

import hashlib
import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import soundfile
import torch

from schemas import Settings, Store
from schemas.tables import CHECKPOINTS, TOKENS, TRACKS
from stages import tokenize, train_codec
from stages.pipeline.contract import Context, Progress
from stages.pipeline.pipeline import Pipeline
from stages.pipeline.plans import ConfiguredStage
from stages.pipeline.runner import run_stage

SAMPLE_RATE, HOP, CODEBOOKS, CARDINALITY = 8_000, 80, 3, 16

ADVERSARIAL: dict[str, Any] = {
    "training": {
        "adversarial": {
            "spectrogram": {"filters": 2, "ffts": (128, 64), "hops": (32, 16), "windows": (128, 64)},
            "period": {"periods": (2, 3), "filters": (2, 4)},
            "scale": {"scales": 2, "filters": 4, "strides": (4,), "largest": 8},
            "update_probability": 0.6,
        },
        "balancer": {"decay": 0.9},
        "weight_norm": True,
    },
    "mix": 0.5,
}
"""Changes to `recipe`: discriminators of every kind, balanced gradients, mixed segments."""


def piece(number: int, seconds: float = 2.0, sample_rate: int = SAMPLE_RATE) -> np.ndarray:
    """Two chords of harmonic tones: float32 [N]."""
    random, time = np.random.default_rng(number), np.arange(round(seconds * sample_rate)) / sample_rate
    sound = np.zeros(len(time))
    for chord in range(2):
        for hertz in 110 * 2 ** random.uniform(0, 2, size=2):
            for harmonic in (1, 2, 3):
                wave = np.sin(2 * np.pi * harmonic * hertz * time + random.uniform(0, 6)) / harmonic
                sound += wave * ((time >= seconds / 2) == bool(chord))
    return (0.12 * sound).astype(np.float32)


def track(path: Path, samples: np.ndarray, split: str, sample_rate: int = SAMPLE_RATE, silence: float = 0.0) -> dict:
    """Write a recording [N] or [N, C]; return its row of `tracks`."""
    soundfile.write(path, samples, sample_rate, subtype="PCM_16")
    return {
        "track_id": hashlib.sha256(path.name.encode()).hexdigest(),
        "uri": str(path),
        "sample_rate": sample_rate,
        "frames": len(samples),
        "seconds": len(samples) / sample_rate,
        "silence": silence,
        "split": split,
        "shard": 0,
    }


def tracks(folder: Path, count: int = 10) -> list[dict]:
    """Pieces, of which every fifth is held out."""
    folder.mkdir(parents=True, exist_ok=True)
    return [track(folder / f"{n}.wav", piece(n), "valid" if n % 5 == 0 else "train") for n in range(count)]


def recipe(**changes: object) -> train_codec.Config:
    """A training that takes a second or two; `optimization` and `training` are merged, every other change replaces."""
    optimization = {
        **{"steps": 12, "learning_rate": 3e-3, "warmup_steps": 3, "betas": (0.9, 0.95), "weight_decay": 0.0},
        **{"ema_decay": 0.5, "ema_interval": 1, "precision": "float32"},
        **changes.pop("optimization", {}),  # type: ignore[dict-item]
    }
    training = {
        **{"optimization": optimization, "batch_size": 4, "segment": 0.25, "quantizer_start": 4, "start_batches": 4},
        **{"waveform_weight": 50.0, "spectral_weight": 1.0, "quantizer": {"decay": 0.9, "dropout": 0.2}},
        **{"adversarial": None, "balancer": None, "weight_norm": False},
        "spectral": {
            **{"range_start": 7, "range_end": 9, "mel_bands": 16},
            **{"linear_weight": 0.0, "logarithm": "absolute", "normalized": False},
        },
    }
    training |= changes.pop("training", {})  # type: ignore[arg-type]
    network = {
        **{"sample_rate": SAMPLE_RATE, "filters": 4, "ratios": (4, 5, 4), "width": 16, "lstm_layers": 1},
        **{"codebooks": CODEBOOKS, "cardinality": CARDINALITY},
    }
    values = {"network": network, "training": training, "gain": (-6.0, 6.0)}
    values |= {"log_every": 5, "valid_every": 6, "save_every": 2}
    return train_codec.Config.model_validate(values | changes)


class RowsPipeline(Pipeline):
    """A pipeline whose tracks exist already."""

    def versions(self, name: str) -> dict[str, str]:
        return {TRACKS.name: "given"}


def context_of(folder: Path | str, stage: ConfiguredStage, rows: list[dict], **settings: object) -> Context:
    """The context of a stage over a store that holds `rows` of tracks."""
    store = Store(str(folder))
    store.write_shard(TRACKS, "given", "0", pa.Table.from_pylist(rows, schema=TRACKS.schema), input_key="all")
    chosen = Settings.model_validate({"store": str(folder), "device": "cpu"} | settings)
    return RowsPipeline([stage], chosen).context(stage.name, "run")


def train_in(
    folder: Path | str,
    rows: list[dict],
    config: train_codec.Config,
    progress: Progress | None = None,
    **settings: object,
) -> tuple[dict, Context]:
    """Train through the runner; the row of `checkpoints`."""
    stage = ConfiguredStage("train_codec", train_codec, config)
    context = context_of(folder, stage, rows, **settings)
    context.progress = progress or Progress()
    run_stage(stage, context)
    return context.store.read(CHECKPOINTS, context.fingerprint).to_pylist()[-1], context


def tokens_of(
    folder: Path, rows: list[dict], config: tokenize.Config, **settings: object
) -> tuple[dict[str, dict], Context]:
    """Tokenize through the runner; rows of `tokens` by track."""
    stage = ConfiguredStage("tokenize", tokenize, config)
    context = context_of(folder, stage, rows, **settings)
    run_stage(stage, context)
    found = context.store.read(TOKENS, context.fingerprint).to_pylist()
    return {row["track_id"]: row for row in found}, context


class KillAt(Progress):
    """Kills this process when a number of steps is done."""

    def __init__(self, step: int) -> None:
        self.step, self.done = step, 0

    def advance(self, count: int = 1, note: str = "") -> None:
        self.done += count
        if self.done >= self.step:
            os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    torch.set_num_threads(1)
    place, rows_file, changed, at = Path(sys.argv[1]), Path(sys.argv[2]), json.loads(sys.argv[3]), int(sys.argv[4])
    train_in(place, json.loads(rows_file.read_text()), recipe(**changed), KillAt(at))
