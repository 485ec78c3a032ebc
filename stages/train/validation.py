"""Validation during training: the averaged weights are evaluated on held-out tracks, and the best may be kept.

Every validation is a row of `training`. Everything else follows from these rows: which validation was the best, how
many came since, and whether training should end (early stopping; L. Prechelt, 1998, whose criterion UP counts
validations without progress). Only the weights of the best validation are kept besides, in the saved state of the
training.
"""

import math
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager

from torch import Tensor

from model.music_model import MusicModel
from model.optim.train_state import TrainState
from stages.checkpoints.training_log import TrainingLog
from stages.pipeline.remarks import Remarks
from stages.train.config import Config
from stages.train.distributed import Rank
from stages.train.evaluation import Evaluator

SPLIT = "valid"


class Validation:
    """The validations of a training, and what follows from them.

    Args:
        evaluator: None without held-out tracks.
        rank: this process, which evaluates alone or together with all others.
        best: the best weights so far of a resumed training; empty at its beginning.

    Raises:
        ValueError: the training is to stop early, but there are no held-out tracks.
    """

    def __init__(
        self,
        config: Config,
        evaluator: Evaluator | None,
        model: MusicModel,
        train_state: TrainState,
        training_log: TrainingLog,
        rank: Rank,
        best: Mapping[str, Tensor],
    ) -> None:
        if config.early_stop is not None and evaluator is None:
            raise ValueError(
                "expected held-out tracks for early stopping (train.early_stop), got none: provide two tracks or more, "
                "or set train.early_stop = null"
            )
        self._config, self._evaluator, self._model = config, evaluator, model
        self._train_state, self.training_log = train_state, training_log
        self._rank = rank
        self.best = dict(best)
        """The best weights so far, by the parameter's name; empty where training does not stop early."""

    @property
    def _interval(self) -> int:
        """Steps between two validations."""
        early_stop = self._config.early_stop
        return self._config.valid_every if early_stop is None else early_stop.every

    def is_due(self, step: int) -> bool:
        """Return whether the model is evaluated after a step; it is always evaluated after the last one."""
        return step % self._interval == 0

    def count_left(self, steps: int) -> int:
        """Count the validations in a number of steps, the one after the last step included."""
        return 0 if self._evaluator is None else math.ceil(steps / self._interval)

    def run_initial(self) -> None:
        """Evaluate the checkpoint that training begins with, unless that was done before."""
        if self._config.initial is not None and self.initial_loss is None:
            self.run(0)

    def run(self, step: int) -> None:
        """Evaluate the averaged weights, and keep them if training may stop early and they are the best so far."""
        if self._evaluator is None:
            return
        with self._train_state.averaged():
            losses = self._rank.agreed(self._evaluator.codebooks(self._model))
            self.training_log.log_held_out(step, SPLIT, losses)
            if self._config.early_stop is not None and step and self.best_step == step:
                self.best = {name: value.detach().clone() for name, value in self._train_state.parameters.items()}

    @property
    def initial_loss(self) -> float | None:
        """Cross-entropy of the checkpoint that training began with, nats; None for fresh weights."""
        return self._losses.get(0)

    @property
    def best_step(self) -> int | None:
        """The step with the lowest cross-entropy, the first if there are several; None before the first validation."""
        losses = {step: loss for step, loss in self._losses.items() if step}
        return min(losses, key=losses.__getitem__) if losses else None

    @property
    def should_stop(self) -> bool:
        """Whether the last `patience` validations brought no progress, so that training ends."""
        early_stop, best = self._config.early_stop, self.best_step
        return (
            early_stop is not None
            and best is not None
            and sum(step > best for step in self._losses) >= early_stop.patience
        )

    @property
    def _losses(self) -> dict[int, float]:
        """The cross-entropy of each validation, nats, by step; infinite where it is not finite."""
        rows = [row for row in self.training_log.rows if row["split"] == SPLIT]
        return {row["step"]: row["loss"] if math.isfinite(row["loss"]) else math.inf for row in rows}

    @property
    def kept_step(self) -> int:
        """The number of updates that the kept weights have had."""
        best = self.best_step if self.best else None
        return self._train_state.updates if best is None else best

    def kept_weights(self) -> AbstractContextManager[None]:
        """Return a context in which the model has the weights that are kept: the best where training may stop early, or
        else the averaged weights."""
        return self._train_state.replaced(self.best) if self.best else self._train_state.averaged()

    def metrics(self) -> dict[str, float]:
        """Return the metrics of a checkpoint that follow from the validations."""
        metrics = {}
        if self.initial_loss is not None:
            metrics[f"{SPLIT}_cross_entropy_initial"] = self.initial_loss
        if self._config.early_stop is not None:
            metrics |= {"best_step": float(self.kept_step), "last_step": float(self._train_state.updates)}
        return metrics

    def tell(self) -> Iterator[str]:
        """Yield lines on how the training went, one fact a line."""
        losses, best = self._losses, self.best_step
        if best is None:
            return
        last, initial = self._train_state.updates, self.initial_loss
        if self._config.early_stop is not None:
            stopped_early = (
                f"stopped after {last:,} steps, {self._config.early_stop.patience} validations without progress"
            )
            ending = stopped_early if self.should_stop else f"all {last:,} steps"
            yield f"train: {ending}; the weights of step {self.kept_step:,} are kept"
        if initial is not None:
            kept_loss = losses[self.kept_step] if self.kept_step in losses else losses[best]
            yield f"train: cross-entropy on held-out tracks {kept_loss:.4f} nats, {initial:.4f} before the training"

    def remark(self, remarks: Remarks) -> None:
        """Add a remark if the training brought no progress over the checkpoint that it began with."""
        initial, best = self.initial_loss, self.best_step
        if initial is not None and best is not None and self._losses[best] >= initial:
            what = (
                "the cross-entropy on held-out tracks never fell below that of the checkpoint that training began with"
            )
            remarks.add(what, "train.initial", f"{initial:.4f} nats before, {self._losses[best]:.4f} at best")
