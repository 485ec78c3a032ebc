"""Which kernel multiplies a matrix: the one that was fastest where it runs, and numbers of rows that leave bits alone.

Processors differ in kind: at two rows MKL is three times as slow as oneDNN on one and faster on another. So each
kernel of a precision is timed, for every shape of matrix, when a model is prepared. What is fastest today may not be
tomorrow, with others on the machine, and kernels differ in the last bits of their sums. So a choice is made once and
then remembered (`KernelMemory`), and what cannot be remembered is not chosen: the usual kernel is taken then. One
machine thus gives one result.

Products must be batch-invariant (a row gets the same bits whatever is beside it), though sums in floating point follow
the shape that they are computed in. So one kernel is chosen for all numbers of rows, and the rows of a step are padded
to a number for which the kernel was seen, on this machine and for this shape of matrix, to give each row the bits that
it gives it among `MAX_ROWS` rows; if there is no other such number, to `MAX_ROWS`.
"""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from model.kernels.linear import MAX_ROWS, ConvolutionKernel, LinearKernel
from model.kernels.operators import Activation
from model.lm.config import Precision

SMALLER_SIZES = (2, 4, 6, 8, 12, 16, 20, 24, 32, 40, 48, 56, 64, 80)
"""Numbers of rows that are tried there for the same bits."""
SMALLEST_SIZE: dict[Precision, int] = {"float32": 4, "bfloat16": 4, "float16": 2, "int8": 2}
"""The least of these that the usual kernel gets where nothing is timed: oneDNN takes longer for two rows than for
four."""
MOST_LANES = 4
"""Among which a CPU's threads are divided at most (`model.decoding.lanes`): Python itself is a sixth of a step, and one
lane at a time can run it."""
MAX_ROWS_ELSEWHERE, SMALLER_SIZES_ELSEWHERE = 384, (8, 16, 32, 64, 128, 192, 256)
"""The same for other devices, where up to 128 requests go together."""

WEIGHED_ROWS = (2, 8, 16, 64)
"""Numbers of rows whose times, in times of the fastest kernel's, are added up: one, four, eight and 32 clips with
guidance."""
TIMED_SIZES = (2, 4, 8, 16, 32, 64, MAX_ROWS)
REPETITIONS, LEAST_REPETITIONS = 8, 4
"""Rounds in which all kernels take turns; the fastest of each counts, of even rounds and of odd ones."""
SECONDS = 0.15
"""After which no further round begins: a model has half a dozen shapes."""
MARGIN = 0.9
"""Share of the usual kernel's time that another must stay below, in even rounds and in odd ones: what is as good as
equal, or won by what others did on the machine just then, stays as it is."""
SMALLEST_TIMED = 2**18
"""Bytes in float32 of the smallest matrix that is timed; below, it is calling the kernel that takes the time."""
CACHED_BYTES = 2**26
"""Where a step reads more than this, each matrix comes from memory, and so it must when it is timed."""


@dataclass(frozen=True)
class MatrixKind:
    """What matrices have in common that are multiplied alike."""

    precision: Precision
    outputs: int
    inputs: int
    activation: Activation
    bias: bool
    of_float16: bool = False
    """Whether the weights, in float32, are numbers of float16, for which there is a kernel more."""

    def __str__(self) -> str:
        bias = ", bias" if self.bias else ""
        numbers = ", numbers of float16" if self.of_float16 else ""
        return f"{self.precision}, {self.inputs} to {self.outputs}, {self.activation}{bias}{numbers}"


@dataclass(frozen=True)
class KernelChoice:
    """A kernel by its name, and the numbers of rows that it is given, ascending; none where it takes any number."""

    kernel: str
    sizes: tuple[int, ...]


@runtime_checkable
class KernelMemory(Protocol):
    """What was chosen before, on this very machine and with this torch."""

    def recall(self, kind: str) -> KernelChoice | None:
        """Return what is remembered for a kind of matrix."""

    def keep(self, kind: str, choice: KernelChoice) -> KernelChoice | None:
        """Remember a choice, unless another was made meanwhile; return what is remembered from now on, None where
        nothing can be."""


class ProcessMemory:
    """A memory that lasts as long as the process does."""

    def __init__(self) -> None:
        self.choices: dict[str, KernelChoice] = {}

    def recall(self, kind: str) -> KernelChoice | None:
        """Return what is remembered for a kind of matrix."""
        return self.choices.get(kind)

    def keep(self, kind: str, choice: KernelChoice) -> KernelChoice | None:
        """Remember a choice unless there is one, and return what is remembered."""
        return self.choices.setdefault(kind, choice)


class KernelChooser:
    """Chooses for all matrices of a model.

    Args:
        memory: of earlier choices; without one every matrix has the usual kernel of its precision.
        step_bytes: what a step reads of weights.
        clock: seconds, for timing; `timing_clock()` unless it is given.
    """

    def __init__(
        self,
        memory: KernelMemory | None = None,
        step_bytes: int = 0,
        clock: Callable[[], float] | None = None,
    ) -> None:
        self.memory, self.clock = memory, timing_clock() if clock is None else clock
        self.chosen: dict[MatrixKind, KernelChoice] = {}
        self.evicting = torch.zeros(CACHED_BYTES // 4) if memory is not None and step_bytes > CACHED_BYTES else None
        """What is read so that nothing else is left in the processor's cache."""

    def choose(
        self, kind: MatrixKind, makers: Mapping[str, Callable[[], LinearKernel]], weight: Float[Tensor, "Y X"]
    ) -> KernelChoice:
        """Return the choice for a kind of matrix, of which `weight` is one.

        Args:
            makers: of each kernel, the usual one first.
        """
        if kind not in self.chosen:
            self.chosen[kind] = self._remembered(kind, makers, weight) or self._usual(kind, makers, weight)
        return self.chosen[kind]

    def _usual(
        self, kind: MatrixKind, makers: Mapping[str, Callable[[], LinearKernel]], weight: Tensor
    ) -> KernelChoice:
        name = next(iter(makers))
        return KernelChoice(
            name, find_invariant_sizes(makers[name](), weight, candidate_sizes(weight.device, kind.precision))
        )

    def _remembered(
        self, kind: MatrixKind, makers: Mapping[str, Callable[[], LinearKernel]], weight: Tensor
    ) -> KernelChoice | None:
        """Return what is remembered, or what is chosen now to be; None where nothing is to be chosen."""
        if self.memory is None or weight.device.type != "cpu" or 4 * weight.numel() < SMALLEST_TIMED:
            return None
        known = self.memory.recall(str(kind))
        if known is None or known.kernel not in makers:
            known = self.memory.keep(str(kind), self._fastest(makers, weight))
        return known if known is not None and known.kernel in makers else None

    def _fastest(self, makers: Mapping[str, Callable[[], LinearKernel]], weight: Tensor) -> KernelChoice:
        linear_kernels = {name: make() for name, make in makers.items()}
        choices = {
            name: KernelChoice(name, find_invariant_sizes(kernel, weight, _sizes_to_try(kernel)))
            for name, kernel in linear_kernels.items()
        }
        halves = self._time(linear_kernels, choices, weight)
        usual, *others = makers
        costs = {name: [weighed_seconds(half, name) for half in halves] for name in makers}
        best = min(others, key=lambda name: max(costs[name]), default=usual)
        faster = all(one < MARGIN * other for one, other in zip(costs[best], costs[usual], strict=True))
        taken = best if faster else usual
        least = {size: min(half[taken][size] for half in halves) for size in halves[0][taken]}
        return replace(choices[taken], sizes=_without_slower_sizes(choices[taken].sizes, least))

    def _time(
        self, linear_kernels: Mapping[str, LinearKernel], choices: Mapping[str, KernelChoice], weight: Tensor
    ) -> list[dict[str, dict[int, float]]]:
        """Return the least seconds of each kernel for each of its sizes, in even rounds and in odd ones; all take
        turns."""
        rows = random_rows(MAX_ROWS, weight.shape[1], weight.dtype)
        turns = [(name, size) for size in TIMED_SIZES for name in choices if size in choices[name].sizes]
        halves: list[dict[str, dict[int, float]]] = [{name: {} for name in choices} for _ in range(2)]
        begun = time.perf_counter()
        for repetition in range(REPETITIONS):
            seconds = halves[repetition % 2]
            for name, size in turns:
                if self.evicting is not None:
                    self.evicting.sum()
                start = self.clock()
                linear_kernels[name](rows[:size])
                taken = self.clock() - start
                seconds[name][size] = min(taken, seconds[name].get(size, float("inf")))
            if repetition + 1 >= LEAST_REPETITIONS and time.perf_counter() - begun > SECONDS:
                break
        return halves


def _sizes_to_try(kernel: LinearKernel) -> tuple[int, ...]:
    """Return the numbers of rows that a kernel may be given by all of the calling thread's threads and by a lane's."""
    if not isinstance(kernel, ConvolutionKernel):
        return (*SMALLER_SIZES, MAX_ROWS)
    suited = set(SMALLER_SIZES) | {MAX_ROWS}
    for threads in lane_threads():
        with computing_with(threads):
            suited &= set(kernel.suited_sizes())
    return tuple(sorted(suited))


def timing_clock() -> Callable[[], float]:
    """Return the clock that kernels are timed by, in seconds: the processor time of the calling thread where it
    computes alone, which others on the machine do not lengthen; else the wall's, for it counts how threads wait for one
    another."""
    return time.thread_time if torch.get_num_threads() == 1 else time.perf_counter


def weighed_seconds(seconds: Mapping[str, Mapping[int, float]], name: str) -> float:
    """Add up a kernel's times for `WEIGHED_ROWS`, each in times of the fastest kernel's, at least 1 nanosecond."""

    def padded(kernel: str, rows: int) -> float:
        return max(1e-9, min(taken for size, taken in seconds[kernel].items() if size >= rows))

    return sum(padded(name, rows) / min(padded(kernel, rows) for kernel in seconds) for rows in WEIGHED_ROWS)


def _without_slower_sizes(sizes: Sequence[int], seconds: Mapping[int, float]) -> tuple[int, ...]:
    """Leave out the numbers of rows for which a larger one takes less time."""
    return tuple(
        size
        for size in sizes
        if size not in seconds or seconds[size] <= min(taken for other, taken in seconds.items() if other >= size)
    )


def candidate_sizes(device: torch.device, precision: Precision) -> tuple[int, ...]:
    """Return numbers of rows that may leave a row's bits as they are; the last of them does by definition."""
    if device.type == "cpu":
        return (*(size for size in SMALLER_SIZES if size >= SMALLEST_SIZE[precision]), MAX_ROWS)
    # A device that holds nothing has no bits to compare.
    return (MAX_ROWS_ELSEWHERE,) if device.type == "meta" else (*SMALLER_SIZES_ELSEWHERE, MAX_ROWS_ELSEWHERE)


def find_invariant_sizes(
    kernel: LinearKernel, weight: Float[Tensor, "Y X"], candidates: tuple[int, ...]
) -> tuple[int, ...]:
    """Return the numbers of rows in which rows have the bits that they have among as many as the last of them, by all
    of the calling thread's threads or by a lane's."""
    *smaller, most = candidates
    rows = random_rows(most, weight.shape[1], weight.dtype).to(weight.device)
    expected = kernel(rows)

    def invariant(size: int) -> bool:
        ends = (slice(0, size), slice(most - size, most))
        return all(torch.equal(kernel(rows[end]), expected[end]) for end in ends)

    for threads in lane_threads() if weight.device.type == "cpu" else [torch.get_num_threads()]:
        with computing_with(threads):
            smaller = [size for size in smaller if invariant(size)]
    return (*smaller, most)


def lane_threads() -> list[int]:
    """Return all numbers of threads that a lane of the calling thread may have, all of its own first."""
    threads = torch.get_num_threads()
    return list(dict.fromkeys(threads // lanes for lanes in range(1, min(MOST_LANES, threads) + 1)))


@contextmanager
def computing_with(threads: int) -> Iterator[None]:
    """Have the calling thread compute with so many threads as long as the context lasts."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def random_rows(count: int, inputs: int, dtype: torch.dtype = torch.float32) -> Float[Tensor, "count X"]:
    """Return rows of so many numbers to multiply a matrix by, always the same."""
    return torch.randn((count, inputs), generator=torch.Generator().manual_seed(0), dtype=dtype)
