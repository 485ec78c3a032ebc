"""What a training has logged and where it stands, kept so that a killed one goes on as if nothing had happened.

One file in the stage's scratch folder holds all of it, replaced in one step: the tensors of the optimisation, and in
the header the rows of `training` so far with the sums for the next one. A remote store has a copy of it, so that
another machine may go on.
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
    """Rows of `training`, and what happened since the last one."""

    rows: list[dict[str, Any]] = field(default_factory=list)
    samples: list[dict[str, Any]] = field(default_factory=list)
    """Rows of `samples`, but for the checkpoint."""
    codebooks: list[float] = field(default_factory=list)
    """Sum of each codebook's cross-entropy over the steps since."""
    steps: int = 0
    tokens: int = 0
    seconds: float = 0.0
    flops: int = 0
    """Floating-point operations of the steps since, as are steps, tokens and seconds."""

    def note(self, losses: Sequence[Sequence[float]], tokens: int, flops: int, seconds: float) -> None:
        """Add some more steps of training, each by its codebooks' losses. One that is not finite adds nothing to the
        loss."""
        self.tokens, self.flops, self.seconds = self.tokens + tokens, self.flops + flops, self.seconds + seconds
        for codebooks in losses:
            if abs(sum(codebooks)) < float("inf"):
                before = self.codebooks or [0.0] * len(codebooks)
                self.codebooks = [total + value for total, value in zip(before, codebooks, strict=True)]
                self.steps += 1

    def log_training(self, step: int, stats: StepStats, matmul_rate: float) -> None:
        """Add a row for the steps since the last one: their mean loss, with the rate and gradient of the newest, and
        how fast they were, also as a share of the device's `matmul_rate`, FLOP a second (`model.optim.mfu`)."""
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
        """Return the rows as the table `training` has them."""
        return [{"checkpoint_id": checkpoint_id} | row for row in self.rows]


@disk_errors()
def save_state(context: Context, state: Mapping[str, Tensor], training_log: TrainingLog) -> None:
    """Keep the state, then publish the rows so far, so that a long training can be followed by SQL."""
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
    """What `save_state` kept."""

    tensors: dict[str, Tensor]
    training_log: TrainingLog


def fetch_state(context: Context) -> None:
    """Fetch the state that another machine kept in a remote store, where it is further along than what is here."""
    updates, path = -1, context.scratch() / STATE
    if path.exists():
        with safe_open(path, framework="pt") as file:
            updates = int(file.get_tensor("updates"))
    context.scratch_area.fetch(STATE, updates)


def load_state(folder: Path) -> SavedState | None:
    """Load the state of an earlier run of the same training, if there is one, and remove what a save cut short left."""
    for leftover in folder.glob(f"{STATE}.*.inprogress"):
        leftover.unlink(missing_ok=True)  # several processes may look at once
    if not (folder / STATE).exists():
        return None
    with safe_open(folder / STATE, framework="pt") as file:
        training_log = TrainingLog(**json.loads(file.metadata()["training_log"]))
        return SavedState({name: file.get_tensor(name) for name in file.keys()}, training_log)  # noqa: SIM118
