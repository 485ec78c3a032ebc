"""The steps of a language model's training, from where an earlier run of it was: drawn ahead, taken, noted, kept.

Nothing here waits for the device but where something is done every few steps: until then losses stay there, and the
host goes on to the next step. One thread draws, tokenises and stacks the next step's examples meanwhile.
"""

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import torch
from torch import Tensor

from model.music_model import MusicModel
from model.objective import LossModule, accumulate_gradients
from model.optim.mfu import matmul_rate, training_flops
from model.optim.train_state import TrainState
from stages.checkpoints.training_log import TrainingLog, load_state, save_state
from stages.pipeline.contract import Context
from stages.train.batches import TrainingBatch
from stages.train.config import Config
from stages.train.evaluation import Evaluator
from stages.train.ranks import Rank

READ_EVERY = {"cpu": 1, "cuda": 10}
"""Most steps between two looks at losses and gradients, which wait for the device; a CPU has nothing to wait for."""


def take_steps(
    config: Config,
    context: Context,
    rank: Rank,
    draw: Callable[[int], TrainingBatch],
    model: MusicModel,
    train_state: TrainState,
    evaluator: Evaluator | None,
) -> TrainingLog:
    """All steps that are left.

    Args:
        draw: gives what this process does of a step.
        evaluator: of the validations on the way, which the first process makes.

    Raises:
        ValueError: too many updates in a row had gradients that were not finite.
        Stopped: the run was asked to stop; the state is kept.
    """
    saved = load_state(context.scratch())
    training_log = saved.training_log if saved else TrainingLog()
    if saved:
        train_state.load(saved.tensors)
        saved.tensors.clear()  # five times the model's size, which is copied
    steps, precision = config.optimization.steps, config.optimization.precision
    context.progress.start("training", steps, "steps")
    context.progress.advance(train_state.updates, "resumed" if saved else "")
    rate = rank.world_size * matmul_rate(model.device, getattr(torch, precision))
    loss_module = rank.distributed(LossModule(model, precision))
    model.train()
    with ThreadPoolExecutor(max_workers=1) as reader:
        upcoming = reader.submit(draw, train_state.updates)
        unread, said = _Unread(training_log, rank), ""
        while train_state.updates < steps:
            if rank.broadcast_flag(context.stop.is_set()):
                unread.read()
                if rank.is_main:
                    save_state(context, train_state.state(), training_log)
                context.stop.set()
                context.check_stopped()
            drawn = upcoming.result()
            upcoming = reader.submit(draw, train_state.updates + 1)
            losses = accumulate_gradients(loss_module, drawn.micro_batches)
            stats = train_state.step()
            rank.broadcast_buffers(train_state.buffers.values())
            flops = training_flops(config.model.language_model, drawn.segment, frozen=config.lora is not None)
            unread.add(losses, len(losses) * drawn.frames, config.batch_size * flops)
            step, last = train_state.updates, train_state.updates == steps
            logs, validates, saves = (
                step % every == 0 or last for every in (config.log_every, config.valid_every, config.save_every)
            )
            if logs or validates or saves or len(unread.losses) == READ_EVERY[model.device.type]:
                train_state.check_finite()
                said = f"loss {unread.read():.3f}"
            if logs:
                training_log.log_training(step, stats, rate)
            if validates and evaluator and rank.is_main:
                with train_state.averaged():
                    training_log.log_held_out(step, "valid", evaluator.codebooks(model))
            if saves and rank.is_main:
                save_state(context, train_state.state(), training_log)
            if validates or saves:
                unread.begun = time.perf_counter()  # which was no training
            context.progress.advance(1, said)
    return training_log


@dataclass
class _Unread:
    """Steps whose losses are still on the device."""

    training_log: TrainingLog
    rank: Rank
    losses: list[Tensor] = field(default_factory=list)
    """What this process adds to each codebook's, of each step."""
    tokens: int = 0
    flops: int = 0
    begun: float = field(default_factory=time.perf_counter)

    def add(self, losses: Tensor, tokens: int, flops: int) -> None:
        self.losses.append(losses)
        self.tokens, self.flops = self.tokens + tokens, self.flops + flops

    def read(self) -> float:
        """Wait for the device, note what it says, and give the mean loss of the newest step."""
        if not self.losses:
            return float("nan")
        codebooks = self.rank.all_reduce(torch.stack(self.losses)).tolist()
        now = time.perf_counter()
        self.training_log.note(codebooks, self.tokens, self.flops, now - self.begun)
        self.losses, self.tokens, self.flops, self.begun = [], 0, 0, now
        return sum(codebooks[-1]) / len(codebooks[-1])
