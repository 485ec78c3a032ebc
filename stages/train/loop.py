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
from stages.checkpoints.training_log import Journal, load_state, save_state
from stages.pipeline.contract import Context
from stages.train.batches import Drawn
from stages.train.config import Config
from stages.train.evaluation import Judging
from stages.train.ranks import Rank

READ_EVERY = {"cpu": 1, "cuda": 10}
"""Most steps between two looks at losses and gradients, which wait for the device; a CPU has nothing to wait for."""


def take_steps(
    config: Config,
    context: Context,
    rank: Rank,
    draw: Callable[[int], Drawn],
    model: MusicModel,
    train_state: TrainState,
    judge: Judging | None,
) -> Journal:
    """All steps that are left.

    Args:
        draw: gives what this process does of a step.
        judge: of the validations on the way, which the first process makes.

    Raises:
        ValueError: too many updates in a row had gradients that were not finite.
        Stopped: the run was asked to stop; the state is kept.
    """
    saved = load_state(context.scratch())
    journal = saved.journal if saved else Journal()
    if saved:
        train_state.load(saved.tensors)
        saved.tensors.clear()  # five times the model's size, which is copied
    steps, precision = config.optimization.steps, config.optimization.precision
    context.progress.start("training", steps, "steps")
    context.progress.advance(train_state.updates, "resumed" if saved else "")
    rate = rank.count * matmul_rate(model.device, getattr(torch, precision))
    loss_module = rank.distributed(LossModule(model, precision))
    model.train()
    with ThreadPoolExecutor(max_workers=1) as reader:
        upcoming = reader.submit(draw, train_state.updates)
        unread, said = _Unread(journal, rank), ""
        while train_state.updates < steps:
            if rank.agreed(context.stop.is_set()):
                unread.read()
                if rank.leads:
                    save_state(context, train_state.state(), journal)
                context.stop.set()
                context.check_stopped()
            drawn = upcoming.result()
            upcoming = reader.submit(draw, train_state.updates + 1)
            losses = accumulate_gradients(loss_module, drawn.micro_batches)
            stats = train_state.step()
            rank.follow_the_first(train_state.buffers.values())
            flops = training_flops(config.model.language_model, drawn.segment, frozen=config.lora is not None)
            unread.add(losses, len(losses) * drawn.frames, config.batch_size * flops)
            step, last = train_state.updates, train_state.updates == steps
            logs, judges, saves = (
                step % every == 0 or last for every in (config.log_every, config.valid_every, config.save_every)
            )
            if logs or judges or saves or len(unread.losses) == READ_EVERY[model.device.type]:
                train_state.check_finite()
                said = f"loss {unread.read():.3f}"
            if logs:
                journal.log_training(step, stats, rate)
            if judges and judge and rank.leads:
                with train_state.averaged():
                    journal.log_held_out(step, "valid", judge.codebooks(model))
            if saves and rank.leads:
                save_state(context, train_state.state(), journal)
            if judges or saves:
                unread.begun = time.perf_counter()  # which was no training
            context.progress.advance(1, said)
    return journal


@dataclass
class _Unread:
    """Steps whose losses are still on the device."""

    journal: Journal
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
        codebooks = self.rank.added(torch.stack(self.losses)).tolist()
        now = time.perf_counter()
        self.journal.note(codebooks, self.tokens, self.flops, now - self.begun)
        self.losses, self.tokens, self.flops, self.begun = [], 0, 0, now
        return sum(codebooks[-1]) / len(codebooks[-1])
