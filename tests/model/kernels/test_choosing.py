"""Choosing kernels: with a clock under the test's control, for all numbers of rows together, and only if remembered."""

import time
from collections.abc import Callable, Mapping

import pytest
import torch
from torch import Tensor

from model.kernels.choosing import (
    SMALLER_SIZES,
    TIMED_SIZES,
    KernelChoice,
    KernelChooser,
    KernelMemory,
    MatrixKind,
    ProcessMemory,
    find_invariant_sizes,
    timing_clock,
)
from model.kernels.linear import MAX_ROWS, LinearKernel
from model.kernels.packed_linear import PackedLinear, prepare_for_inference
from model.lm.config import LanguageModelConfig
from model.lm.language_model import LanguageModel

KIND = MatrixKind("float32", 512, 256, "none", bias=False)
WEIGHT = torch.randint(-4, 5, (512, 256)).float()
EVERY_SIZE = (*SMALLER_SIZES, MAX_ROWS)


class Full(ProcessMemory):
    """A memory that refuses new entries."""

    def keep(self, kind: str, choice: KernelChoice) -> None:
        return None


class Bench:
    """Kernels that take as long as the test says, by rows, on a clock of their own; the first is the default."""

    def __init__(self, **seconds: Callable[[int], float]) -> None:
        self.now, self.seconds, self.made, self.calls = 0.0, seconds, list[str](), 0

    def makers(self) -> Mapping[str, Callable[[], LinearKernel]]:
        def maker(name: str) -> Callable[[], LinearKernel]:
            def make() -> LinearKernel:
                self.made.append(name)
                return lambda rows: self._multiply(name, rows)

            return make

        return {name: maker(name) for name in self.seconds}

    def _multiply(self, name: str, rows: Tensor) -> Tensor:
        self.calls += name == "other"
        self.now += self.seconds[name](len(rows))
        return rows.round() @ WEIGHT.t()

    def rounds(self) -> int:
        """Number of timed rounds of the kernel `other`, without the calls that compare its bits."""
        return (self.calls - 1 - 2 * len(SMALLER_SIZES) - 1) // len(TIMED_SIZES)

    def choose(self, memory: KernelMemory | None) -> KernelChoice:
        return KernelChooser(memory, clock=lambda: self.now).choose(KIND, self.makers(), WEIGHT)


def test_the_faster_kernel_is_chosen() -> None:
    assert Bench(usual=lambda _: 2.0, other=lambda _: 1.0).choose(ProcessMemory()).kernel == "other"
    assert Bench(usual=lambda _: 1.0, other=lambda _: 2.0).choose(ProcessMemory()).kernel == "usual"


def test_the_default_kernel_stays_if_another_is_hardly_faster() -> None:
    assert Bench(usual=lambda _: 1.0, other=lambda _: 0.97).choose(ProcessMemory()).kernel == "usual"


def test_a_kernel_that_is_faster_only_in_some_rounds_is_not_chosen() -> None:
    """Other processes on the machine may slow the default kernel in some rounds."""
    bench = Bench(usual=lambda _: 1.0, other=lambda _: 0.5 if bench.rounds() % 2 else 2.0)
    assert bench.choose(ProcessMemory()).kernel == "usual"


def test_with_one_thread_time_taken_by_other_processes_does_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)

    def maker(working: float, kept_away: float) -> Callable[[], LinearKernel]:
        def multiply(rows: Tensor) -> Tensor:
            end = time.thread_time() + working
            while time.thread_time() < end:
                pass
            time.sleep(kept_away)
            return rows.round() @ WEIGHT.t()

        return lambda: multiply

    makers = {"usual": maker(1e-3, 0.0), "other": maker(1e-4, 3e-3)}
    assert KernelChooser(ProcessMemory()).choose(KIND, makers, WEIGHT).kernel == "other"


def test_several_threads_are_timed_by_the_wall_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    assert timing_clock() is time.perf_counter


def test_one_kernel_is_chosen_for_all_numbers_of_rows_by_its_total_time() -> None:
    """Figures of a Xeon: MKL is faster at two rows and slower at eight and sixteen."""
    few = {2: 0.062, 4: 0.062}
    bench = Bench(onednn=lambda _: 0.079, mkl=lambda rows: few.get(rows, 0.13))
    assert bench.choose(ProcessMemory()).kernel == "onednn"


def test_numbers_of_rows_that_take_longer_than_more_rows_are_left_out() -> None:
    bench = Bench(usual=lambda rows: {2: 3.0, 4: 2.0, 8: 2.5, 16: 5.0}.get(rows, 6.0))
    assert bench.choose(ProcessMemory()).sizes == tuple(size for size in EVERY_SIZE if size != 2)


def test_a_remembered_choice_is_neither_timed_nor_made_again() -> None:
    memory = ProcessMemory()
    memory.choices[str(KIND)] = remembered = KernelChoice("usual", (4, MAX_ROWS))
    bench = Bench(usual=lambda _: 2.0, other=lambda _: 1.0)
    assert bench.choose(memory) == remembered
    assert bench.made == []


def test_of_two_concurrent_choices_the_first_to_be_written_counts() -> None:
    class Late(ProcessMemory):
        def recall(self, kind: str) -> KernelChoice | None:
            return None  # as if the other had not written yet

    memory = Late()
    assert Bench(usual=lambda _: 2.0, other=lambda _: 1.0).choose(memory).kernel == "other"
    assert Bench(usual=lambda _: 1.0, other=lambda _: 2.0).choose(memory).kernel == "other"


def test_without_a_memory_that_keeps_it_the_choice_is_the_default() -> None:
    for memory in (None, Full()):
        assert Bench(usual=lambda _: 2.0, other=lambda _: 1.0).choose(memory).kernel == "usual"


def test_a_remembered_kernel_that_no_longer_exists_is_not_used() -> None:
    memory = ProcessMemory()
    memory.choices[str(KIND)] = KernelChoice("gone", (MAX_ROWS,))
    assert Bench(usual=lambda _: 2.0, other=lambda _: 1.0).choose(memory).kernel == "usual"


def test_a_kernel_whose_bits_depend_on_the_number_of_rows_always_gets_the_largest_number() -> None:
    weight = torch.randn(8, 16)
    assert find_invariant_sizes(lambda rows: rows @ weight.t() + 1e-6 * len(rows), weight, (2, 8, MAX_ROWS)) == (
        MAX_ROWS,
    )
    assert find_invariant_sizes(lambda rows: rows.round() @ weight.round().t(), weight, (6, 20, MAX_ROWS)) == (
        6,
        20,
        MAX_ROWS,
    )


def test_kernels_are_chosen_once_for_each_shape_of_matrix_and_then_read_from_memory() -> None:
    model = LanguageModel(LanguageModelConfig(width=256, heads=4, layers=2, codebooks=2, cardinality=256))
    memory = ProcessMemory()
    prepare_for_inference(model, "float32", memory)
    assert set(memory.choices) == {
        f"float32, {shape}"
        for shape in (
            "256 to 768, none",
            "256 to 256, none",
            "256 to 512, none",
            "256 to 1024, gelu",
            "1024 to 256, none",
        )
    }
    assert all(set(choice.sizes) <= set(EVERY_SIZE) for choice in memory.choices.values())
    slow = {kind: KernelChoice("torch", (MAX_ROWS,)) for kind in memory.choices}
    memory.choices = slow
    again = prepare_for_inference(model, "float32", memory)
    assert memory.choices == slow
    matrices = [module for module in again.modules() if isinstance(module, PackedLinear)]
    assert {matrix.sizes for matrix in matrices} == {(MAX_ROWS,)}
    assert set(TIMED_SIZES) <= set(EVERY_SIZE)
