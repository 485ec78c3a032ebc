"""Choosing kernels: by a clock that the test turns, for all numbers of rows together, and only what is remembered."""

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
    """A memory that nothing can be added to."""

    def keep(self, kind: str, choice: KernelChoice) -> None:
        return None


class Bench:
    """Kernels that take as long as the test says, by rows, on a clock of their own; the first is the usual one."""

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
        """Count the rounds that the kernel `other` has taken part in, after those that look at its bits."""
        return (self.calls - 1 - 2 * len(SMALLER_SIZES) - 1) // len(TIMED_SIZES)

    def choose(self, memory: KernelMemory | None) -> KernelChoice:
        return KernelChooser(memory, clock=lambda: self.now).choose(KIND, self.makers(), WEIGHT)


def test_another_kernel_is_taken_where_the_usual_one_is_slow() -> None:
    assert Bench(usual=lambda _: 2.0, other=lambda _: 1.0).choose(ProcessMemory()).kernel == "other"
    assert Bench(usual=lambda _: 1.0, other=lambda _: 2.0).choose(ProcessMemory()).kernel == "usual"


def test_the_usual_kernel_stays_where_another_is_hardly_faster() -> None:
    assert Bench(usual=lambda _: 1.0, other=lambda _: 0.97).choose(ProcessMemory()).kernel == "usual"


def test_a_kernel_that_is_faster_only_now_and_then_is_not_taken() -> None:
    """As what others do on the machine may slow the usual one in some rounds."""
    bench = Bench(usual=lambda _: 1.0, other=lambda _: 0.5 if bench.rounds() % 2 else 2.0)
    assert bench.choose(ProcessMemory()).kernel == "usual"


def test_of_one_thread_what_others_take_of_the_processor_makes_no_kernel_slow(monkeypatch: pytest.MonkeyPatch) -> None:
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


def test_several_threads_are_timed_by_the_wall_for_they_wait_for_one_another(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    assert timing_clock() is time.perf_counter


def test_one_kernel_is_taken_for_all_numbers_of_rows_by_what_it_takes_in_all() -> None:
    """Figures of a Xeon: MKL is faster at two rows and slower at eight and sixteen."""
    few = {2: 0.062, 4: 0.062}
    bench = Bench(onednn=lambda _: 0.079, mkl=lambda rows: few.get(rows, 0.13))
    assert bench.choose(ProcessMemory()).kernel == "onednn"


def test_numbers_of_rows_that_take_longer_than_more_rows_are_left_out() -> None:
    bench = Bench(usual=lambda rows: {2: 3.0, 4: 2.0, 8: 2.5, 16: 5.0}.get(rows, 6.0))
    assert bench.choose(ProcessMemory()).sizes == tuple(size for size in EVERY_SIZE if size != 2)


def test_what_is_remembered_is_neither_timed_nor_chosen_again() -> None:
    memory = ProcessMemory()
    memory.choices[str(KIND)] = remembered = KernelChoice("usual", (4, MAX_ROWS))
    bench = Bench(usual=lambda _: 2.0, other=lambda _: 1.0)
    assert bench.choose(memory) == remembered
    assert bench.made == []


def test_of_two_that_choose_at_once_the_first_one_to_write_decides() -> None:
    class Late(ProcessMemory):
        def recall(self, kind: str) -> KernelChoice | None:
            return None  # as the other had not written yet

    memory = Late()
    assert Bench(usual=lambda _: 2.0, other=lambda _: 1.0).choose(memory).kernel == "other"
    assert Bench(usual=lambda _: 1.0, other=lambda _: 2.0).choose(memory).kernel == "other"


def test_what_cannot_be_remembered_is_not_chosen() -> None:
    for memory in (None, Full()):
        assert Bench(usual=lambda _: 2.0, other=lambda _: 1.0).choose(memory).kernel == "usual"


def test_a_remembered_kernel_that_there_is_no_longer_is_not_asked_for() -> None:
    memory = ProcessMemory()
    memory.choices[str(KIND)] = KernelChoice("gone", (MAX_ROWS,))
    assert Bench(usual=lambda _: 2.0, other=lambda _: 1.0).choose(memory).kernel == "usual"


def test_a_kernel_whose_bits_follow_the_number_of_rows_is_always_given_the_same_number() -> None:
    weight = torch.randn(8, 16)
    assert find_invariant_sizes(lambda rows: rows @ weight.t() + 1e-6 * len(rows), weight, (2, 8, MAX_ROWS)) == (
        MAX_ROWS,
    )
    assert find_invariant_sizes(lambda rows: rows.round() @ weight.round().t(), weight, (6, 20, MAX_ROWS)) == (
        6,
        20,
        MAX_ROWS,
    )


def test_a_model_has_its_kernels_chosen_once_for_each_shape_and_reads_them_ever_after() -> None:
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
