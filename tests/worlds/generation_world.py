"""A store with one track and a language model of random weights, for tests of generation."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from model.conditioning.config import FRAME_WISE, MusicModelConfig
from model.music_model import MusicModel
from schemas import Settings, Store
from schemas.tables import CHECKPOINTS, CHROMA, CLAP, GENERATIONS, REJECTS, REQUESTS, TOKENS, TRACKS
from schemas.weights import WeightsLibrary, folder_digest
from stages import generate
from stages.checkpoints.facts import CheckpointFacts, CodecFacts
from stages.checkpoints.native import load_text_encoder, save_checkpoint
from stages.generate import Config
from stages.pipeline.contract import Context
from stages.pipeline.plans import ConfiguredStage
from stages.pipeline.runner import run_stage
from tests.worlds.tiny_codec import CARDINALITY, CODEBOOKS, FRAME_RATE
from tests.worlds.tiny_models import text_encoder

TRACK = "ab" * 32
SECONDS = 2.0
"""Seconds of the segments that the model was trained on."""
VERSIONS = {"requests": "r", "tracks": "t", "chroma": "h", "clap": "e", "tokens": "k"}
DEFAULTS: dict[str, Any] = {
    **{"description": None, "melody": None, "clap": None, "prompt": None, "prompt_seconds": None, "seconds": 1.2},
    **{"key": None, "bpm": None, "meter": None, "chords": None, "fields": [], "takes": 1, "seed": 5, "shard": 0},
    **{"guidance": 3.0, "guidance_text": 1.0, "temperature": 1.0, "top_k": 250, "top_p": 0.0},
}
"""A request for 1.2 seconds of anything."""


def model_config(
    prepend: tuple[str, ...] = ("chroma",), codebooks: int = CODEBOOKS, **changes: Any
) -> MusicModelConfig:
    """Configuration of a model that reads text, melody and joint embedding by default; beat and chords if asked for."""
    values: dict[str, Any] = {
        "description": {"width": 16, "finetune": True},
        "chroma": {"frames": 16},
        "clap": {"width": 3},
        "fields": {},
    } | changes
    read = [name for name in ("description", "chroma", "clap") if values[name] is not None] + list(values["fields"])
    fused = {
        "sum": [name for name in FRAME_WISE if values.get(name) is not None],
        "prepend": [name for name in read if name in prepend],
        "cross": [name for name in read if name not in prepend],
    }
    sizes = {"codebooks": codebooks, "cardinality": CARDINALITY, "width": 32, "heads": 2, "layers": 2}
    return MusicModelConfig.model_validate(values | {"language_model": sizes | fused})


def put_checkpoint(
    store: Store,
    folder: Path,
    name: str,
    config: MusicModelConfig,
    day: int = 1,
    codec: CodecFacts | None = None,
    learned: bool = True,
) -> None:
    """Put a language model of random weights into the store as a checkpoint; `learned` from its tables, or from
    others."""
    encoder, tokenizer = load_text_encoder(text_encoder(folder / "encoder")) if config.description else (None, None)
    torch.manual_seed(day)
    model = MusicModel(config, encoder, tokenizer)
    with torch.no_grad():
        for value in model.parameters():
            value.mul_(3.0)  # otherwise all codes are about equally likely, whatever the conditions
    facts = CheckpointFacts(
        model=config,
        frame_rate=FRAME_RATE,
        segment_seconds=SECONDS,
        text_encoder="encoder" if encoder else None,
        text_encoder_digest=None,
        versions={name: version for name, version in VERSIONS.items() if learned and name != "requests"},
        codec=codec,
    )
    with store.new_folder(f"models/{name}") as new:
        save_checkpoint(new, model, facts)
        digest = folder_digest(new)
    row: dict[str, Any] = {"checkpoint_id": name, "kind": "language_model", "path": f"models/{name}", "digest": digest}
    row["created_at"] = datetime(2026, 1, day, tzinfo=UTC)
    store.write_shard(CHECKPOINTS, "c", name, pa.Table.from_pylist([row], schema=CHECKPOINTS.schema), name)


def filled_store(folder: Path) -> Store:
    """A store of one track, with a language model of random weights trained on it."""
    store = Store(str(folder / "store"))
    random = np.random.default_rng(2)
    codes = list(random.integers(CARDINALITY, size=(CODEBOOKS, 80)).astype(np.uint16))
    melody = list(np.eye(12, dtype=np.float32)[random.integers(12, size=25)])
    rows: dict[Any, dict] = {
        TRACKS: {"track_id": TRACK, "title": "One", "shard": 3},
        CHROMA: {"track_id": TRACK, "frame_rate": 7.8125, "chroma": melody},
        CLAP: {
            "track_id": TRACK,
            "starts": [0.0, 10.0],
            "embeddings": [np.ones(3, np.float32), np.zeros(3, np.float32)],
        },
        TOKENS: {"track_id": TRACK, "frame_rate": FRAME_RATE, "cardinality": CARDINALITY, "frames": 80, "codes": codes},
    }
    for table, row in rows.items():
        shown = pa.Table.from_pylist([row], schema=table.schema)
        store.write_shard(table, VERSIONS[table.name], "3", shown, "k")
    put_checkpoint(store, folder, "one", model_config())
    return store


def rejects_in(store: Store) -> list[dict]:
    return store.read(REJECTS, "g").to_pylist()


def context_for(store: Store, **settings: Any) -> Context:
    chosen = Settings(store=store.url, device="cpu", max_refused=1.0, **settings)
    return Context(store, chosen, "run", "generate", "g", VERSIONS, WeightsLibrary(store))


def generate_rows(store: Store, requests: list[dict], config: Config | None = None) -> dict[tuple[str, int], dict]:
    """Generate, and return the rows by request and take, without their times; refusals are in the table of rejects."""
    rows = [DEFAULTS | {"request_id": f"{n:016x}", "line": n + 2} | request for n, request in enumerate(requests)]
    store.write_shard(REQUESTS, "r", "0", pa.Table.from_pylist(rows, schema=REQUESTS.schema), "k")
    run_stage(ConfiguredStage("generate", generate, config or config_of()), context_for(store))
    rows_made = store.read(GENERATIONS, "g").drop_columns(["created_at"]).to_pylist()
    return {(row["request_id"], row["take"]): row for row in rows_made}


def config_of(**fields: Any) -> Config:
    """Configuration for a catalog whose requests name no files and no texts for embeddings."""
    return Config.model_validate({"codec": None, "separator": None, "clap": None, "vocabulary": None} | fields)
