"""The choice of kernels for matrices: the kernel that is fastest on this machine, and batch-invariant numbers of rows.

Processors differ: with two rows, MKL is three times as slow as oneDNN on one processor and faster on another. So the
kernels of a precision are timed, for every shape of matrix, when a model is prepared. Timings vary with the load of the
machine, and kernels differ in the last bits of their sums. So a choice is made once and then remembered
(`KernelMemory`). Where a choice cannot be remembered, none is made, and the default kernel is used. Thus one machine
always gives the same result.

Products must be batch-invariant (the bits of a row do not depend on the other rows), but the rounding of sums depends
on the shape of the product. So one kernel is chosen for all numbers of rows, and the rows of a step are padded to a
tested number: one with which, on this machine and for this shape of matrix, the kernel gives each row the same bits as
among `MAX_ROWS` rows. If no smaller number passes, rows are padded to `MAX_ROWS`.
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
"""Numbers of rows below `MAX_ROWS` that are tested for equal bits on a CPU."""
SMALLEST_SIZE: dict[Precision, int] = {"float32": 4, "bfloat16": 4, "float16": 2, "int8": 2}
"""Smallest number of rows for the default kernel where nothing is timed: oneDNN is slower with two rows than with
four."""
MOST_LANES = 4
"""Maximum number of lanes that a CPU's threads are divided among (`model.decoding.lanes`): Python takes a sixth of a
step, and only one lane at a time can run it."""
MAX_ROWS_ELSEWHERE, SMALLER_SIZES_ELSEWHERE = 384, (8, 16, 32, 64, 128, 192, 256)
"""`MAX_ROWS` and `SMALLER_SIZES` of other devices, where up to 128 requests are decoded together."""

WEIGHED_ROWS = (2, 8, 16, 64)
"""Numbers of rows whose times are summed to compare kernels, each relative to the fastest kernel: those of 1, 4, 8 and
32 clips with guidance."""
TIMED_SIZES = (2, 4, 8, 16, 32, 64, MAX_ROWS)
"""Numbers of rows that kernels are timed with."""
REPETITIONS, MIN_REPETITIONS = 8, 4
"""Maximum and minimum number of rounds. Every round times all kernels; the fastest of the even rounds and the fastest
of the odd rounds count."""
TIMING_SECONDS = 0.15
"""Time after which no further round begins, seconds; a model has half a dozen shapes to time."""
MARGIN = 0.9
"""A kernel replaces the default only if it takes less than this share of the default's time, both in even and in odd
rounds. A difference that is small, or caused by other load on the machine, changes nothing."""
SMALLEST_TIMED = 2**18
"""Size of the smallest matrix that is timed, bytes in float32; below it, the overhead of the call dominates."""
CACHED_BYTES = 2**26
"""If a step reads more bytes of weights than this, matrices are read from memory, not from the processor's cache, and
must be when they are timed."""


@dataclass(frozen=True)
class MatrixKind:
    """A kind of matrix: all matrices of a kind use the same kernel."""

    precision: Precision
    outputs: int
    inputs: int
    activation: Activation
    bias: bool
    of_float16: bool = False
    """Whether the weights, in float32, are exactly representable in float16; then there is one more kernel."""

    def __str__(self) -> str:
        bias = ", bias" if self.bias else ""
        numbers = ", numbers of float16" if self.of_float16 else ""
        return f"{self.precision}, {self.inputs} to {self.outputs}, {self.activation}{bias}{numbers}"


@dataclass(frozen=True)
class KernelChoice:
    """The name of a kernel, and the numbers of rows that it is called with, ascending; empty if it takes any number."""

    kernel: str
    sizes: tuple[int, ...]


@runtime_checkable
class KernelMemory(Protocol):
    """Earlier choices on this machine with this version of torch."""

    def recall(self, kind: str) -> KernelChoice | None:
        """Return the remembered choice for a kind of matrix; None if there is none."""

    def keep(self, kind: str, choice: KernelChoice) -> KernelChoice | None:
        """Remember a choice unless another was made meanwhile; return the choice that is remembered from now on, None
        if it cannot be remembered."""


class ProcessMemory:
    """A memory of choices that lasts as long as the process."""

    def __init__(self) -> None:
        self.choices: dict[str, KernelChoice] = {}

    def recall(self, kind: str) -> KernelChoice | None:
        """Return the remembered choice for a kind of matrix; None if there is none."""
        return self.choices.get(kind)

    def keep(self, kind: str, choice: KernelChoice) -> KernelChoice | None:
        """Remember a choice unless there is one already, and return the remembered choice."""
        return self.choices.setdefault(kind, choice)


class KernelChooser:
    """Chooses kernels for all matrices of a model.

    Args:
        memory: memory of earlier choices; without it every matrix gets the default kernel of its precision.
        step_bytes: bytes of weights that a step reads.
        clock: returns the time in seconds; `timing_clock()` if None.
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
        """Read before each timing, to evict the matrix from the processor's cache; None if that is not needed."""

    def choose(
        self, kind: MatrixKind, makers: Mapping[str, Callable[[], LinearKernel]], weight: Float[Tensor, "Y X"]
    ) -> KernelChoice:
        """Return the choice for a kind of matrix.

        Args:
            makers: functions that make each kernel, by name, the default first.
            weight: a matrix of this kind.
        """
        if kind not in self.chosen:
            self.chosen[kind] = self._remembered(kind, makers, weight) or self._default_choice(kind, makers, weight)
        return self.chosen[kind]

    def _default_choice(
        self, kind: MatrixKind, makers: Mapping[str, Callable[[], LinearKernel]], weight: Tensor
    ) -> KernelChoice:
        name = next(iter(makers))
        return KernelChoice(
            name, find_invariant_sizes(makers[name](), weight, candidate_sizes(weight.device, kind.precision))
        )

    def _remembered(
        self, kind: MatrixKind, makers: Mapping[str, Callable[[], LinearKernel]], weight: Tensor
    ) -> KernelChoice | None:
        """Return the remembered choice, or make one now and remember it; None where the default kernel is used."""
        if self.memory is None or weight.device.type != "cpu" or 4 * weight.numel() < SMALLEST_TIMED:
            return None
        choice = self.memory.recall(str(kind))
        if choice is None or choice.kernel not in makers:
            choice = self.memory.keep(str(kind), self._fastest(makers, weight))
        return choice if choice is not None and choice.kernel in makers else None

    def _fastest(self, makers: Mapping[str, Callable[[], LinearKernel]], weight: Tensor) -> KernelChoice:
        linear_kernels = {name: make() for name, make in makers.items()}
        choices = {
            name: KernelChoice(name, find_invariant_sizes(kernel, weight, _sizes_to_try(kernel)))
            for name, kernel in linear_kernels.items()
        }
        timings = self._time(linear_kernels, choices, weight)
        default_kernel, *others = makers
        costs = {name: [weighed_seconds(timing, name) for timing in timings] for name in makers}
        best = min(others, key=lambda name: max(costs[name]), default=default_kernel)
        faster = all(
            best_cost < MARGIN * default_cost
            for best_cost, default_cost in zip(costs[best], costs[default_kernel], strict=True)
        )
        fastest = best if faster else default_kernel
        shortest = {size: min(timing[fastest][size] for timing in timings) for size in timings[0][fastest]}
        return replace(choices[fastest], sizes=_without_slower_sizes(choices[fastest].sizes, shortest))

    def _time(
        self, linear_kernels: Mapping[str, LinearKernel], choices: Mapping[str, KernelChoice], weight: Tensor
    ) -> list[dict[str, dict[int, float]]]:
        """Return the shortest time in seconds of each kernel for each of its sizes, in even rounds and in odd rounds.
        Every round times all kernels in turn."""
        rows = random_rows(MAX_ROWS, weight.shape[1], weight.dtype)
        timed_pairs = [(name, size) for size in TIMED_SIZES for name in choices if size in choices[name].sizes]
        timings: list[dict[str, dict[int, float]]] = [{name: {} for name in choices} for _ in range(2)]
        started_at = time.perf_counter()
        for repetition in range(REPETITIONS):
            seconds = timings[repetition % 2]
            for name, size in timed_pairs:
                if self.evicting is not None:
                    self.evicting.sum()
                start = self.clock()
                linear_kernels[name](rows[:size])
                elapsed = self.clock() - start
                seconds[name][size] = min(elapsed, seconds[name].get(size, float("inf")))
            if repetition + 1 >= MIN_REPETITIONS and time.perf_counter() - started_at > TIMING_SECONDS:
                break
        return timings


def _sizes_to_try(kernel: LinearKernel) -> tuple[int, ...]:
    """Return the numbers of rows that suit a kernel both with all threads and with a lane's number of threads."""
    if not isinstance(kernel, ConvolutionKernel):
        return (*SMALLER_SIZES, MAX_ROWS)
    suited = set(SMALLER_SIZES) | {MAX_ROWS}
    for threads in lane_threads():
        with computing_with(threads):
            suited &= set(kernel.suited_sizes())
    return tuple(sorted(suited))


def timing_clock() -> Callable[[], float]:
    """Return the clock that times kernels, in seconds.

    If torch uses one thread, it is the processor time of the calling thread, which other load on the machine does not
    lengthen. Otherwise it is the wall clock, which includes the time that threads wait for each other.
    """
    return time.thread_time if torch.get_num_threads() == 1 else time.perf_counter


def weighed_seconds(seconds: Mapping[str, Mapping[int, float]], name: str) -> float:
    """Return the sum of a kernel's times for `WEIGHED_ROWS`, each divided by the time of the fastest kernel. Times
    count as at least 1 nanosecond."""

    def padded(kernel: str, rows: int) -> float:
        return max(1e-9, min(value for size, value in seconds[kernel].items() if size >= rows))

    return sum(padded(name, rows) / min(padded(kernel, rows) for kernel in seconds) for rows in WEIGHED_ROWS)


def _without_slower_sizes(sizes: Sequence[int], seconds: Mapping[int, float]) -> tuple[int, ...]:
    """Return the numbers of rows without those that take longer than a larger number."""
    return tuple(
        size
        for size in sizes
        if size not in seconds or seconds[size] <= min(value for larger, value in seconds.items() if larger >= size)
    )


def candidate_sizes(device: torch.device, precision: Precision) -> tuple[int, ...]:
    """Return the numbers of rows to test for equal bits; the last is the one that others are compared with."""
    if device.type == "cpu":
        return (*(size for size in SMALLER_SIZES if size >= SMALLEST_SIZE[precision]), MAX_ROWS)
    # The device "meta" holds no data, so there are no bits to compare.
    return (MAX_ROWS_ELSEWHERE,) if device.type == "meta" else (*SMALLER_SIZES_ELSEWHERE, MAX_ROWS_ELSEWHERE)


def find_invariant_sizes(
    kernel: LinearKernel, weight: Float[Tensor, "Y X"], candidates: tuple[int, ...]
) -> tuple[int, ...]:
    """Return the numbers of rows with which a kernel gives each row the same bits as with the last (largest) candidate,
    both with all threads and with a lane's number of threads."""
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
    """Return all numbers of threads that a lane may have, beginning with all threads of the calling thread."""
    threads = torch.get_num_threads()
    return list(dict.fromkeys(threads // lanes for lanes in range(1, min(MOST_LANES, threads) + 1)))


@contextmanager
def computing_with(threads: int) -> Iterator[None]:
    """Let torch use `threads` threads in the calling thread within the context."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def random_rows(count: int, inputs: int, dtype: torch.dtype = torch.float32) -> Float[Tensor, "count X"]:
    """Return random rows to multiply a matrix by; they are the same in every call."""
    return torch.randn((count, inputs), generator=torch.Generator().manual_seed(0), dtype=dtype)
