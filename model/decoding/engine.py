"""Decoding all tasks: who is in which slot, from the first step to the last."""

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from jaxtyping import Int
from torch import Tensor

from model.decoding.dynamic_shapes import ExactSteps
from model.decoding.graphs import CapturedSteps
from model.decoding.memory import MOST_SLOTS, MemoryPlan, plan_memory
from model.decoding.sequences import GenerationStoppedError, Slot, Task
from model.decoding.static_shapes import FixedSteps
from model.kernels.inference import for_decoding
from model.lm.config import Precision
from model.lm.language_model import LanguageModel


@dataclass(frozen=True, eq=False)
class Resources:
    """What decoding may take of the machine. On a CPU the codes are the same whatever this says."""

    slots: int | None = None
    """Sequences that are decoded together at most; never more than `MOST_SLOTS` of the device."""
    free_memory: Callable[[], int] | None = None
    """Says how many bytes of the device's memory may be taken; without it nothing is held to."""
    tell: Callable[[MemoryPlan], None] | None = None
    """Is told how many sequences go together, before the first step."""
    cuda_graphs: bool = True
    """Whether steps on CUDA are captured as graphs, or launched kernel by kernel."""


Steps = ExactSteps | FixedSteps
"""A way of taking steps: `begin` reads what is known of a task into a slot, `step` draws the next codes of every slot
and reads them, `finished` gives the sequence of a slot whose last step is drawn."""


def complete(
    model: LanguageModel,
    tasks: Sequence[Task],
    stop: Callable[[], bool] | None = None,
    progress: Callable[[int], None] | None = None,
    precision: Precision = "float32",
    resources: Resources = Resources(),
) -> list[Int[Tensor, "K _"]]:
    """The whole sequence of each task, on the CPU.

    Raises GenerationStoppedError when `stop` says so, FloatingPointError where logits are not finite, ValueError for a
    precision that the device has no kernel for and where memory is too small for a single sequence.
    """
    if not tasks:
        return []
    device = model.device.type
    most = min(resources.slots or MOST_SLOTS[device], MOST_SLOTS[device], len(tasks))
    free = None if resources.free_memory is None else resources.free_memory()
    plan = plan_memory(model, tasks, precision, most, free)
    if resources.tell is not None:
        resources.tell(plan)
    ready = for_decoding(model, precision)
    steps: Steps
    if device == "cpu":
        steps = ExactSteps(ready, tasks, plan.slots)
    else:
        steps = FixedSteps(ready, tasks, plan.slots, CapturedSteps if resources.cuda_graphs else None)
    return decode(steps, tasks, plan.slots, stop, progress)


def decode(
    steps: Steps,
    tasks: Sequence[Task],
    slots: int,
    stop: Callable[[], bool] | None = None,
    progress: Callable[[int], None] | None = None,
) -> list[Int[Tensor, "K _"]]:
    """`complete` by a given way of taking steps. Nothing here asks a device for anything but finished sequences."""
    # The longest first, so that no slot is left to run by itself for long.
    waiting = deque(sorted(range(len(tasks)), key=lambda number: tasks[number].start - tasks[number].steps))
    running: list[Slot] = []
    done: dict[int, Tensor] = {}
    places = list(range(slots))
    while waiting or running:
        for place in places:
            if waiting:
                number = waiting.popleft()
                steps.begin(place, tasks[number])
                running.append(Slot(number, tasks[number], place, tasks[number].start))
        running.sort(key=lambda slot: slot.place)
        if stop is not None and stop():
            raise GenerationStoppedError(f"stopped at step {running[0].step} of {running[0].task.steps}")
        steps.step(running)
        made = sum(slot.task.frames_made(slot.step) for slot in running)
        over = [slot for slot in running if slot.last]
        done |= {slot.number: steps.finished(slot) for slot in over}
        running = [slot for slot in running if not slot.last]
        places = [slot.place for slot in over]
        for slot in running:
            slot.step += 1
        if progress is not None and made:
            progress(made)
    return [done[number] for number in range(len(tasks))]
