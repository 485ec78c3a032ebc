"""A store with generations of a tiny model, and the gate for them."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from schemas import Settings, Store
from schemas.tables import VERDICTS
from schemas.weights import WeightsLibrary
from stages import gate
from stages.gate import Config
from stages.pipeline.contract import Context
from stages.pipeline.plans import ConfiguredStage
from stages.pipeline.runner import run_stage
from tests.worlds.generation_world import VERSIONS, filled_store, generate_rows
from tests.worlds.tiny_codec import codec_folder

EVERYTHING_PASSES = dict.fromkeys(gate.Limits.model_fields)
"""Limits that everything passes."""

PASSED: dict[str, Any] = {"retake": 0, "passed": True, "reasons": [], "codes": None, "tries": []}
"""Fields of a verdict on a first try that passed."""


class GateWorld:
    """Takes of requests, with a codec of random weights, which decodes codes to noise that depends only on them."""

    def __init__(self, folder: Path, requests: list[dict[str, Any]]) -> None:
        self.store: Store = filled_store(folder)
        self.codec = codec_folder(folder / "codec", loudness=30.0)
        self.generations = generate_rows(self.store, requests)

    def config(self, retakes: int = 2, **limits: Any) -> Config:
        """Configuration of a gate with only these limits."""
        elsewhere = dict.fromkeys(("codec", "separator", "clap", "vocabulary"))
        chosen = {"codec": str(self.codec), "generation": elsewhere, "limits": EVERYTHING_PASSES | limits}
        return Config.model_validate({"retakes": retakes} | chosen)

    def context(self, version: str = "v") -> Context:
        settings = Settings(store=self.store.url, device="cpu", max_refused=1.0)
        versions = VERSIONS | {"generations": "g"}
        return Context(self.store, settings, "run", "gate", version, versions, WeightsLibrary(self.store))

    def verdicts(self, config: Config, version: str = "v") -> dict[tuple[str, int], dict[str, Any]]:
        """Run the gate, and return its rows by request and take."""
        run_stage(ConfiguredStage("gate", gate, config), replace(self.context(version)))
        rows = self.store.read(VERDICTS, version).to_pylist()
        return {(row["request_id"], row["take"]): row for row in rows}

    def measured(self, name: str) -> dict[tuple[str, int], float]:
        """The gate's measurements of each first try."""
        rows = self.verdicts(self.config(retakes=0), "measured")
        return {key: row["tries"][0][name] for key, row in rows.items()}


def codes_of(row: dict[str, Any]) -> np.ndarray:
    """The codes of a row of `generations` or `verdicts`."""
    return np.array(row["codes"])


def passed(generations: list[dict[str, Any]]) -> pa.Table:
    """Verdicts that pass all given generations."""
    names = ("request_id", "take", "checkpoint_id", "seed")
    rows = [{name: row.get(name) for name in names} for row in generations]
    return pa.Table.from_pylist([row | PASSED for row in rows], schema=VERDICTS.schema)
