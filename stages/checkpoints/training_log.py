"""A training's log and state, saved so that a killed training resumes as if nothing had happened.

One file in the stage's scratch folder holds both, and is replaced atomically: the tensors of the optimisation, and in
its header the rows of `training` so far with the sums for the next row. A remote store gets a copy, so that another
machine can resume.
"""

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from model.optim.train_state import StepStats
from schemas.tables import TRAINING
from stages.checkpoints.disk_errors import disk_errors
from stages.pipeline.contract import Context

STATE = "state.safetensors"


@dataclass
class TrainingLog:
    """The rows of `training`, and the sums over the steps since the last row."""

    rows: list[dict[str, Any]] = field(default_factory=list)
    samples: list[dict[str, Any]] = field(default_factory=list)
    """Rows of `samples`, without the column of the checkpoint."""
    codebooks: list[float] = field(default_factory=list)
    """Sum of each codebook's cross-entropy over the steps since the last row, nats."""
    steps: int = 0
    tokens: int = 0
    seconds: float = 0.0
    flops: int = 0
    """Floating-point operations of the steps since the last row; `steps`, `tokens` and `seconds` count these steps
    too."""

    def note(self, losses: Sequence[Sequence[float]], tokens: int, flops: int, seconds: float) -> None:
        """Add steps of training, each with the losses of its codebooks. A step whose loss is not finite does not count
        in the mean loss."""
        self.tokens, self.flops, self.seconds = self.tokens + tokens, self.flops + flops, self.seconds + seconds
        for codebooks in losses:
            if abs(sum(codebooks)) < float("inf"):
                before = self.codebooks or [0.0] * len(codebooks)
                self.codebooks = [total + value for total, value in zip(before, codebooks, strict=True)]
                self.steps += 1

    def log_training(self, step: int, stats: StepStats, matmul_rate: float) -> None:
        """Add a row for the steps since the last one: their mean loss, the learning rate and gradient norm of the
        newest step, and their speed, also as a share of the device's `matmul_rate`, FLOP a second
        (`model.optim.mfu`)."""
        means = [total / self.steps for total in self.codebooks]
        self._log(step, "train", means)
        self.rows[-1] |= {"learning_rate": stats.learning_rate, "gradient_norm": float(stats.gradient_norm)}
        self.rows[-1] |= {"tokens_per_second": self.tokens / self.seconds if self.seconds else None}
        self.rows[-1] |= {"model_flops_utilisation": self.flops / self.seconds / matmul_rate if self.seconds else None}
        self.codebooks, self.steps, self.tokens, self.seconds, self.flops = [], 0, 0, 0.0, 0

    def log_held_out(self, step: int, split: str, codebooks: Sequence[float]) -> None:
        """Add a row for a validation."""
        self._log(step, split, list(codebooks))

    def _log(self, step: int, split: str, codebooks: list[float]) -> None:
        loss = sum(codebooks) / len(codebooks) if codebooks else None
        self.rows.append({"step": step, "split": split, "loss": loss, "codebook_loss": codebooks})

    def training_rows(self, checkpoint_id: str) -> list[dict[str, Any]]:
        """Return the rows in the form of the table `training`."""
        return [{"checkpoint_id": checkpoint_id} | row for row in self.rows]


@disk_errors()
def save_state(context: Context, state: Mapping[str, Tensor], training_log: TrainingLog) -> None:
    """Save the state, then publish the rows so far, so that a long training can be followed by SQL."""
    folder = context.scratch()
    temporary = folder / f"{STATE}.{os.getpid()}.inprogress"
    save_file(dict(state), temporary, metadata={"training_log": json.dumps(asdict(training_log))})
    with open(temporary, "rb") as file:
        os.fsync(file.fileno())
    os.replace(temporary, folder / STATE)
    context.scratch_area.keep(STATE, int(state["updates"]))
    publish_log(context, training_log)


def publish_log(context: Context, training_log: TrainingLog) -> None:
    """Write the rows so far into the store."""
    rows = pa.Table.from_pylist(training_log.training_rows(context.identity), schema=TRAINING.schema)
    context.store.write_shard(TRAINING, context.fingerprint, context.identity, rows, input_key=context.identity)


@dataclass(frozen=True)
class SavedState:
    """The state that `save_state` wrote."""

    tensors: dict[str, Tensor]
    training_log: TrainingLog


def fetch_state(context: Context) -> None:
    """Fetch the state that another machine saved in a remote store, where it has more updates than the local one."""
    updates, path = -1, context.scratch() / STATE
    if path.exists():
        with safe_open(path, framework="pt") as file:
            updates = int(file.get_tensor("updates"))
    context.scratch_area.fetch(STATE, updates)


def load_state(folder: Path) -> SavedState | None:
    """Load the state of an earlier run of the same training; None where there is none. Remove the leftovers of
    interrupted saves."""
    for leftover in folder.glob(f"{STATE}.*.inprogress"):
        leftover.unlink(missing_ok=True)  # several processes may do this at once
    if not (folder / STATE).exists():
        return None
    with safe_open(folder / STATE, framework="pt") as file:
        training_log = TrainingLog(**json.loads(file.metadata()["training_log"]))
        return SavedState({name: file.get_tensor(name) for name in file.keys()}, training_log)  # noqa: SIM118
