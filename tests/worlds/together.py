"""Small pieces of work for several processes; run as a program, it does one of them until it is asked to stop."""

import os
import signal
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import torch

from model.music_model import Attributes
from model.objective import Batch, LossModule, accumulate_gradients
from model.optim.config import OptimizationConfig
from model.optim.train_state import TrainState
from schemas import Settings, Store
from schemas.weights import WeightsLibrary
from stages.pipeline.contract import Context, Stopped
from stages.train.distributed import Rank
from stages.train.following import run_together
from tests.worlds.every_condition import everything, music_model
from tests.worlds.steps import micro_batches_of
from tests.worlds.tiny_model import random_codes


def context_in(folder: Path) -> Context:
    store = Store(str(folder / "store"))
    settings = Settings(store=store.url, device="cpu", processes=2)
    return Context(store, settings, "run", "train", "version", {}, WeightsLibrary(store), identity="identity")


def tell(context: Context, rank: Rank) -> list[float]:
    """Let each process report its progress, and return what all know of each other."""
    context.progress.start("telling", 3, "words")
    for word in ("one", "two", "three"):
        context.progress.advance(1, f"{word} of {rank.number}")
    buffer = torch.tensor([10.0 + rank.number])
    rank.broadcast_buffers([buffer])
    threads = torch.get_num_threads()
    return [
        rank.all_reduce(torch.tensor(2.0**rank.number)).item(),
        buffer.item(),
        rank.any_flag(not rank.is_main),
        threads,
    ]


def learn(context: Context, rank: Rank) -> dict[str, bool | float]:
    """Make three steps of a small model, in the second of which the last process has a gradient that is not finite;
    return what the first process knows of it, and whether all agree."""
    model = music_model()
    settings = OptimizationConfig(steps=3, warmup_steps=0, learning_rate=1e-2, precision="float32")
    train_state, loss_module = TrainState(model, settings), rank.distributed(LossModule(model, "float32"))
    batch = Batch(random_codes(3, 6, codebooks=2, cardinality=11), torch.tensor([6, 5, 6]), [Attributes()] * 3)
    batch = replace(batch, attributes=[everything(item) for item in range(3)])
    micro_batches = micro_batches_of(model, batch, 1)[rank.number :: rank.world_size]
    found: dict[str, bool | float] = {}
    for step in range(3):
        broken = step == 1 and rank.number == rank.world_size - 1
        before = _vector(model.parameters())
        accumulate_gradients(
            loss_module,
            [replace(one, loss_weights=one.loss_weights * torch.inf) if broken else one for one in micro_batches],
        )
        stats = train_state.step()
        rank.broadcast_buffers(train_state.buffers.values())
        after = _vector([*model.parameters(), *train_state.average.values(), *train_state.buffers.values()])
        found[f"applied {step}"], found[f"norm {step}"] = bool(stats.applied), float(stats.gradient_norm)
        found[f"stayed {step}"] = torch.equal(before, _vector(model.parameters()))
        found[f"agree {step}"] = torch.equal(rank.all_reduce(after), rank.world_size * after)
    return found | {f"weight {place}": value for place, value in enumerate(_vector(model.parameters()).tolist()[:50])}


def tell_and_learn(context: Context, rank: Rank) -> tuple[list[float], dict[str, bool | float]]:
    """Do both in the same processes, which take longer to start than to do it."""
    return tell(context, rank), learn(context, rank)


def _vector(tensors) -> torch.Tensor:  # type: ignore[no-untyped-def]
    return torch.cat([tensor.detach().double().flatten() for tensor in tensors])


def object_to_it(context: Context, rank: Rank) -> None:
    """Let the last process raise an error, while the first one waits for it in vain."""
    if not rank.is_main:
        raise ValueError("expected something else, got this")
    rank.any_flag(True)
    rank.all_reduce(torch.zeros(1))


def die(context: Context, rank: Rank) -> None:
    """Kill the last process, while the first one waits for it in vain."""
    if not rank.is_main:
        os.kill(os.getpid(), signal.SIGKILL)
    rank.all_reduce(torch.zeros(1))


def work_until_asked(context: Context, rank: Rank) -> None:
    """Write the process's id to a file in the scratch folder, and another file after being asked to stop."""
    place = context.scratch()
    (place / f"{rank.number}.pid").write_text(str(os.getpid()))
    while not rank.any_flag(context.stop.is_set()):
        time.sleep(0.01)
    (place / f"{rank.number}.stopped").touch()
    context.stop.set()
    context.check_stopped()


def main() -> None:
    """Work in the given folder until a signal asks to stop; then exit with 130."""
    context = context_in(Path(sys.argv[1]))
    signal.signal(signal.SIGINT, lambda number, frame: context.stop.set())
    status = []

    def work() -> None:
        try:
            run_together(work_until_asked, context, 2)
        except Stopped:
            status.append(130)

    thread = threading.Thread(target=work)  # as a task of a flow does
    thread.start()
    thread.join()
    sys.exit(*status)


if __name__ == "__main__":
    main()
