"""A store with a small world in it and the recipe of a small language model; run as a program, it trains."""

import io
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import ModuleType

import numpy as np
import pyarrow as pa
import torch
from safetensors.torch import load_file

from schemas import Settings, Store, WeightsRef
from schemas.tables import CHECKPOINTS, SAMPLES, TRAINING, Table
from stages import train
from stages.pipeline.contract import Context, Progress
from stages.pipeline.pipeline import Pipeline
from stages.pipeline.plans import ConfiguredStage
from stages.pipeline.runner import run_stage
from stages.train.corpus import Corpus
from stages.train.packing import PACKED, PackedTable, pack, packed_kind
from tests.worlds.tiny_models import CARDINALITY, CODEBOOKS, text_encoder, world

ROOT = Path(__file__).resolve().parents[2]
LANGUAGE_MODEL = {
    **{"codebooks": CODEBOOKS, "cardinality": CARDINALITY, "width": 32, "heads": 2, "layers": 2, "dropout": 0.1},
    **{"cross": ("description", "clap"), "prepend": ("chroma",)},
}


def recipe(folder: Path, **changes: object) -> train.Config:
    """A training that takes seconds; `optimization` is merged, every other change replaces."""
    optimization = {
        **{"steps": 30, "learning_rate": 3e-3, "warmup_steps": 5, "precision": "float32", "ema_decay": 0.9},
        **{"ema_interval": 1, "floor": 0.05},
        **changes.pop("optimization", {}),  # type: ignore[dict-item]
    }
    values = {
        "model": {
            "language_model": LANGUAGE_MODEL,
            "description": {"width": 16, "finetune": True},
            "chroma": {"frames": 16},
            "clap": {"width": 3},
        },
        "text_encoder": WeightsRef(str(folder / "encoder")),
        "optimization": optimization,
        "captions": {"merge": 0.1, "drop_words": 0.0},
        **{"batch_size": 6, "micro_batch_size": 4, "segment_seconds": 2.0, "condition_dropout": 0.1},
        **{"attribute_dropout": {"chroma": 0.1}},
        **{"log_every": 5, "valid_every": 10, "save_every": 4},
    }
    return train.Config.model_validate(values | changes)


def world_corpus(tables: Mapping[str, pa.Table]) -> Corpus:
    """The corpus of a world's tables."""
    return Corpus(tables["tracks"], *(in_memory(tables[table.name], column) for table, column in PACKED))


def in_memory(table: pa.Table, column: str) -> PackedTable:
    """A packed table that is not in a file."""
    values = io.BytesIO()
    rows = pack([table], column, values)
    return PackedTable(rows, np.frombuffer(values.getvalue(), packed_kind(table.schema.field(column).type)))


def fill(folder: Path, store_url: str | None = None, **tables: object) -> None:
    """Write a store, under `folder` or elsewhere, with the small world's tables (or those given), and a text encoder
    under `folder`."""
    store = Store(store_url or str(folder / "store"))
    found = world() | tables
    for table in train.READS:
        rows = found[table.name]
        store.write_shard(table, _version(table), "0", rows, input_key="all")
    if not (folder / "encoder").exists():
        text_encoder(folder / "encoder")


def _version(table: Table) -> str:
    return f"{table.name}-version"


class WorldPipeline(Pipeline):
    """A pipeline with one stage, whose input tables exist already."""

    def versions(self, name: str) -> dict[str, str]:
        return {table.name: _version(table) for table in train.READS}


def kept_weights(folder: Path, config: train.Config) -> dict[str, torch.Tensor]:
    """The weights of the checkpoint that a training has written."""
    _, context = make_context(folder, config)
    return load_file(folder / "store" / "models" / context.identity / "model.safetensors")


def kept_rows(folder: Path, config: train.Config) -> dict[str, list[dict]]:
    """The rows that a training left in the store, without columns of times."""
    _, context = make_context(folder, config)
    found = {}
    timed = ["tokens_per_second", "model_flops_utilisation"]
    for table, columns in ((CHECKPOINTS, ["created_at"]), (TRAINING, timed), (SAMPLES, [])):
        rows = context.store.read(table, context.fingerprint, [context.identity])
        found[table.name] = rows.drop_columns(columns).to_pylist()
    return found


def killed_and_undisturbed(
    folders: Sequence[Path],
    moments: Sequence[tuple[int, float]],
    changes: dict,
    processes: int = 1,
    parallel: str = "auto",
) -> list[int]:
    """Train in the first of two folders, killed at the given moments, and in the second; return the signals that ended
    the first.

    It runs in a process of its own, because it forks.
    """
    arguments = [*map(str, folders), json.dumps(moments), json.dumps(changes), str(processes), parallel]
    command = [sys.executable, "-m", "tests.worlds.training_world", *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=1200)
    if done.returncode:
        raise RuntimeError(done.stderr)
    return json.loads(done.stdout)


def deaths_that_change_nothing(
    place: Path,
    moments: Sequence[tuple[int, float]],
    changes: dict,
    processes: int = 1,
    parallel: str = "auto",
) -> list[int]:
    """Train in the folder `killed` of `place`, killed at the given moments, and in `undisturbed`; return the signals
    that ended the first. Check that both leave the same weights bit for bit, the same rows, and nothing else."""
    killed, undisturbed = place / "killed", place / "undisturbed"
    for folder in (killed, undisturbed):
        fill(folder)  # the same files under another path are the same weights, so this is one recipe
    deaths = killed_and_undisturbed((killed, undisturbed), moments, changes, processes, parallel)
    got, expected = (kept_weights(folder, recipe(folder, **changes)) for folder in (killed, undisturbed))
    assert expected.keys() == got.keys()
    assert all(torch.equal(expected[name], got[name]) for name in expected)
    assert kept_rows(killed, recipe(killed, **changes)) == kept_rows(undisturbed, recipe(undisturbed, **changes))
    assert not list((killed / "store" / "scratch").iterdir())
    return deaths


def make_context(
    folder: Path,
    config: train.Config,
    progress: Progress | None = None,
    processes: int = 1,
    store_url: str | None = None,
    parallel: str = "auto",
) -> tuple[ConfiguredStage, Context]:
    stage, store = ConfiguredStage("train", _train_module(), config), store_url or str(folder / "store")
    pipeline = WorldPipeline([stage], Settings(store=store, device="cpu", processes=processes, parallel=parallel))
    context = pipeline.context("train", "run")
    context.progress = progress or Progress()
    return stage, context


def _train_module() -> ModuleType:
    return train


def train_in(
    folder: Path,
    config: train.Config,
    progress: Progress | None = None,
    processes: int = 1,
    store_url: str | None = None,
    parallel: str = "auto",
) -> dict:
    """Train through the runner; the row of `checkpoints`."""
    stage, context = make_context(folder, config, progress, processes, store_url, parallel)
    run_stage(stage, context)
    return context.store.read(CHECKPOINTS, context.fingerprint).to_pylist()[-1]


def trained_alone(folder: Path, changes: Mapping[str, object]) -> Path:
    """A new folder with the small world and the result of training it in one process, for several tests of a file."""
    import pytest  # not needed by the programs in this module

    fill(folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(folder / "cache"))
        train_in(folder, recipe(folder, **changes))
    return folder


class StopAt(Progress):
    """Asks a run to stop after a number of steps."""

    def __init__(self, context: Context, step: int) -> None:
        self.context, self.step, self.done = context, step, 0

    def advance(self, count: int = 1, note: str = "") -> None:
        self.done += count
        if self.done >= self.step:
            self.context.stop.set()


class KillAt(Progress):
    """Kills this process after a number of steps, or during the next one.

    Args:
            step: number of steps that are made before.
            share: how far into the next step the process lives, as a share of the last step's time: a number of seconds
            would be many steps on a fast machine.
    """

    def __init__(self, step: int, share: float) -> None:
        self.step, self.share, self.done, self.last = step, share, 0, time.monotonic()

    def start(self, what: str, total: int, unit: str) -> None:
        self.last = time.monotonic()

    def advance(self, count: int = 1, note: str = "") -> None:
        self.done += count
        now = time.monotonic()
        if self.done == self.step:
            threading.Timer(self.share * (now - self.last), os.kill, (os.getpid(), signal.SIGKILL)).start()
        self.last = now


def train_in_a_process_of_its_own(
    folder: Path, changes: dict, kill: KillAt | None, processes: int, parallel: str
) -> int:
    """Train in a fork of this process; return the signal that ended it, 0 for none."""
    child = os.fork()
    if child == 0:
        status = 1
        try:
            torch.set_num_threads(1)
            train_in(folder, recipe(folder, **changes), kill, processes, parallel=parallel)
            status = 0
        finally:
            os._exit(status)
    _, ended = os.waitpid(child, 0)
    if os.WIFEXITED(ended) and os.WEXITSTATUS(ended):
        raise RuntimeError(f"the training in {folder} failed")
    return os.WTERMSIG(ended) if os.WIFSIGNALED(ended) else 0


def main() -> None:
    """Train in the first folder, killed once for each of the given moments, and then to the end; then in the second
    folder, undisturbed. Print the signal that ended each training. Both use the recipe with the given changes, and the
    given number of processes and kind of parallel training."""
    killed, undisturbed = Path(sys.argv[1]), Path(sys.argv[2])
    changes, processes, parallel = json.loads(sys.argv[4]), int(sys.argv[5]), sys.argv[6]
    moments = [KillAt(step, share) for step, share in json.loads(sys.argv[3])]
    shared = (processes, parallel)
    print(json.dumps([train_in_a_process_of_its_own(killed, changes, one, *shared) for one in [*moments, None]]))
    train_in_a_process_of_its_own(undisturbed, changes, None, *shared)


if __name__ == "__main__":
    main()
