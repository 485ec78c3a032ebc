"""A catalog from recordings to clips: a model that reads melodies, with small models around it."""

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

from flows.recipes.recipe import Recipe
from flows.runs.running import Run, RunPlan, run_stages
from schemas import Settings, Store
from schemas.queries.database import query
from tests.worlds.open_gate import OPEN_LIMITS

STAGES = [
    *("ingest", "chroma", "tokenize", "train", "requests"),
    *("generate", "gate", "decode", "evaluate", "controls"),
]
SECONDS, PROMPT_SECONDS = 1.2, 0.4
"""Seconds of every clip, and of the prompts that two of them continue."""


def melody_recipe(
    preset: str,
    codec: Path,
    sizes: dict[str, Any],
    tokenize: dict[str, Any] | None = None,
    chroma: dict[str, Any] | None = None,
) -> Recipe:
    """A model trained in a few steps to read melodies.

    Args:
            sizes: differences of the language model's codes from the smallest ones: codebooks, cardinality, delays.
            tokenize: changes of that stage, in addition to the codec.
            chroma: changes of that stage, in addition to the separator.
    """
    learning = {"steps": 4, "warmup_steps": 1, "precision": "float32", "ema_interval": 1}
    model = {
        "language_model": {"width": 32, "heads": 2, "layers": 1, "cross": (), "prepend": ("chroma",)} | sizes,
        **{"description": None, "chroma": {"frames": 16}},
    }
    differences = {
        "ingest": {"valid": 0.0, "test": 0.0},
        "chroma": {"separator": None} | (chroma or {}),
        "clap": {"model": None},
        "tokenize": {"codec": str(codec)} | (tokenize or {}),
        "train": {
            **{"model": model, "text_encoder": None, "optimization": learning},
            **{"batch_size": 2, "micro_batch_size": 2, "segment_seconds": 1.5, "shortest_seconds": 0.5},
        },
        "gate": {"limits": OPEN_LIMITS},
        "decode": {"format": "wav"},
        "controls": {"untrained": 1},
    }
    return Recipe.model_validate({"preset": preset, **differences})


def settings_of(folder: Path, recordings: dict[str, np.ndarray], sample_rate: int) -> Settings:
    """Recordings [N] or [N, C] by their names without `.wav` in a folder, and the settings for a store beside them."""
    (folder / "recordings").mkdir()
    for name, samples in recordings.items():
        soundfile.write(folder / "recordings" / f"{name}.wav", samples, sample_rate)
    return Settings(
        store=str(folder / "store"), source=str(folder / "recordings"), workers=1, requests=str(folder / "requests.csv")
    )


def filled_store(recipe: Recipe, settings: Settings, more: Sequence[dict[str, Any]] = ()) -> Store:
    """A store with three clips made from the recording named `0`: with its melody, and with it as a prompt, as a track
    and as a file.

    Args:
        more: other requests.
    """
    stages, store = recipe.configured_stages(settings.source), Store(settings.store)
    run_stages(Run(RunPlan(stages, STAGES[:3], settings, True)))
    track = rows_of(store, "SELECT track_id FROM tracks WHERE uri LIKE '%0.wav'")[0]["track_id"]
    rows = [
        {"name": "melody", "melody": f"track:{track}"},
        {"name": "from a track", "prompt": f"track:{track}", "prompt_seconds": PROMPT_SECONDS},
        {"name": "from a file", "prompt": f"file:{settings.source}/0.wav", "prompt_seconds": PROMPT_SECONDS},
    ]
    assert settings.requests is not None
    with open(settings.requests, "w", newline="") as file:
        writer = csv.DictWriter(file, ["name", "melody", "prompt", "seconds", "prompt_seconds"])
        writer.writeheader()
        writer.writerows(row | {"seconds": SECONDS} for row in [*rows, *more])
    run_stages(Run(RunPlan(stages, STAGES, settings, True)))
    return store


def rows_of(store: Store, sql: str) -> list[dict]:
    """The rows of a query over the store's views."""
    return query(store, sql).to_pylist()


def continued(store: Store, frames: int) -> dict[str, np.ndarray]:
    """The first frames [K, T] of the clips that continue a prompt, by name, and those of the recording itself as
    `recording`."""
    rows = rows_of(
        store,
        "SELECT requests.name, generations.codes FROM generations JOIN requests USING (request_id) "
        "WHERE prompt IS NOT NULL",
    )
    rows += rows_of(
        store, "SELECT 'recording' AS name, codes FROM tokens JOIN tracks USING (track_id) WHERE uri LIKE '%0.wav'"
    )
    return {row["name"]: np.array(row["codes"])[:, :frames] for row in rows}
