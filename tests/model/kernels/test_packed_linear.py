"""Packed matrices: the same products as the layers', and the same bits of a row whatever the other rows are."""

from typing import Any, get_args

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from model.decoding import DecodingOptions
from model.decoding.generation import GenerationRequest, generate
from model.kernels import choosing, linear, operators, packed_linear
from model.kernels.choosing import (
    SMALLER_SIZES,
    SMALLEST_TIMED,
    KernelChoice,
    KernelChooser,
    ProcessMemory,
    find_invariant_sizes,
)
from model.kernels.linear import (
    ACTIVATIONS,
    CONVOLVED_INPUTS,
    CONVOLVED_ROWS,
    MAX_ROWS,
    ConvolutionKernel,
    few_rows_kernel,
    linear_kernels,
)
from model.kernels.operators import Activation
from model.kernels.packed_linear import PackedLinear, packed_bytes, prepare_for_inference
from model.lm.attention import SplitLinear
from model.lm.config import Precision
from model.music_model import Attributes
from tests.worlds.generation_requests import mixed_requests
from tests.worlds.tiny_model import music_model

PRECISIONS: tuple[Precision, ...] = get_args(Precision)
KERNELS = [(name, kernel) for name in PRECISIONS for kernel in linear_kernels(torch.full((8, 8), 0.1), None, name)]
"""Every precision with each of its kernels; for float32 those of weights that need its full precision."""
ERRORS = {"float32": 1e-6, "float16": 1e-3, "bfloat16": 1e-2, "int8": 2e-2}
"""Maximum deviation of products from the layer's, in standard deviations of the layer's."""


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize(("precision", "kernel"), KERNELS)
def test_a_packed_matrix_equals_its_layer_within_its_precision(precision: Precision, kernel: str, bias: bool) -> None:
    torch.manual_seed(0)
    linear, inputs = nn.Linear(256, 320, bias=bias), torch.randn(3, 2, 256)
    chooser = KernelChooser(Always(KernelChoice(kernel, (MAX_ROWS,))))
    with torch.no_grad():
        expected, found = linear(inputs), PackedLinear(linear, precision, chooser)(inputs)
    error = ((found - expected).std() / expected.std()).item()
    assert found.shape == expected.shape
    assert error < ERRORS[precision]
    assert precision == "float32" or error > 1e-5


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("activation", ["gelu", "relu"])
@pytest.mark.parametrize("precision", PRECISIONS)
def test_an_activation_equals_the_activation_of_the_plain_product(
    precision: Precision, activation: Activation, bias: bool
) -> None:
    torch.manual_seed(0)
    linear, inputs = nn.Linear(96, 80, bias=bias), torch.randn(3, 2, 96)
    with torch.no_grad():
        plain, found = (PackedLinear(linear, precision, KernelChooser(), name)(inputs) for name in ("none", activation))
        expected = ACTIVATIONS[activation](plain)
        # The kernel rounds the activation to bfloat16, not its input.
        torch.testing.assert_close(
            found,
            expected,
            rtol=0.01 if precision == "bfloat16" else 1e-5,
            atol=1e-2 if precision == "bfloat16" else 1e-6,
        )
        inner = nn.Sequential(linear)  # a module that is not a plain layer keeps its own product
        torch.testing.assert_close(
            PackedLinear(inner, precision, KernelChooser(), activation)(inputs), ACTIVATIONS[activation](linear(inputs))
        )


class Always:
    """A memory with one choice for every matrix."""

    def __init__(self, choice: KernelChoice) -> None:
        self.choice = choice

    def recall(self, kind: str) -> KernelChoice:
        return self.choice

    def keep(self, kind: str, choice: KernelChoice) -> KernelChoice:
        raise AssertionError(f"what is remembered is not chosen again: {kind}")


@pytest.mark.parametrize("activation", ["none", "gelu"])
@pytest.mark.parametrize(("precision", "kernel"), KERNELS)
@pytest.mark.parametrize(("inside", "outside"), [(1024, 1024), (256, 1024), (1024, 256), (20, 36)])
def test_every_kernel_gives_a_row_the_same_bits_among_any_number_of_rows(
    precision: Precision, kernel: str, inside: int, outside: int, activation: Activation
) -> None:
    torch.manual_seed(0)
    linear, rows = nn.Linear(inside, outside, bias=False), torch.randn(MAX_ROWS, inside)
    with torch.no_grad():
        make = linear_kernels(linear.weight, None, precision, activation)[kernel]
        sizes = find_invariant_sizes(make(), linear.weight, (*SMALLER_SIZES, MAX_ROWS))
        matrix = PackedLinear(linear, precision, KernelChooser(Always(KernelChoice(kernel, sizes))), activation)
        assert (4 * inside * outside < SMALLEST_TIMED) or matrix.sizes == sizes
        expected = matrix(rows)
        for number in range(1, MAX_ROWS + 1):
            assert torch.equal(matrix(rows[:number]), expected[:number])
            assert torch.equal(matrix(rows[-number:]), expected[-number:])


def test_sections_are_parts_of_the_whole_and_other_ranges_are_refused() -> None:
    linear, inputs = nn.Linear(16, 48), torch.randn(2, 3, 16)
    sections = SplitLinear(linear, [16, 32], lambda section: PackedLinear(section, "float32", KernelChooser()))
    with torch.no_grad():
        whole = linear(inputs)
        for start, stop in ((0, 16), (16, 48)):
            torch.testing.assert_close(sections.section(inputs, start, stop), whole[..., start:stop])
    with pytest.raises(ValueError, match=r"expected one of the sections \[\(0, 16\), \(16, 48\)\], got \(0, 48\)"):
        sections.section(inputs, 0, 48)


def test_preparing_for_inference_leaves_the_model_unchanged_and_shares_its_embeddings() -> None:
    model = music_model().language_model
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    inference = prepare_for_inference(model, "int8")
    assert inference.embeddings[0].weight is model.embeddings[0].weight
    assert isinstance(model.transformer.layers[0].expand, nn.Linear)
    assert all(torch.equal(weight, before[name]) for name, weight in model.state_dict().items())


@pytest.mark.parametrize("precision", PRECISIONS[1:])
def test_decoding_is_batch_invariant_in_any_precision(precision: Precision) -> None:
    model, requests = music_model(), mixed_requests()[:9]
    together = generate(model, requests, DecodingOptions(precision))
    for number in (0, 4, 8):
        (alone,) = generate(model, [requests[number]], DecodingOptions(precision))
        assert torch.equal(together[number], alone)


def test_float16_gives_mostly_the_same_tokens_as_float32_and_int8_gives_others() -> None:
    model = music_model()
    requests = [GenerationRequest(Attributes("bass"), 40, seed=seed) for seed in range(4)]
    exact, half, whole = (
        torch.stack(generate(model, requests, DecodingOptions(precision)))
        for precision in ("float32", "float16", "int8")
    )
    assert (half == exact).float().mean() > 0.9
    assert not torch.equal(whole, exact)


def test_weights_in_double_precision_stay_in_double_precision() -> None:
    weight, rows = torch.randn(4, 6, dtype=torch.float64), torch.randn(2, 6, dtype=torch.float64)
    (make,) = linear_kernels(weight, None, "float32").values()
    assert torch.equal(make()(rows), rows @ weight.t())


@pytest.mark.parametrize("activation", ["none", "gelu", "relu"])
@pytest.mark.parametrize("rows", [1, 7, MAX_ROWS, MAX_ROWS + 1, 2 * MAX_ROWS])
@pytest.mark.parametrize("inputs", [40, CONVOLVED_INPUTS, CONVOLVED_INPUTS + 24])
def test_a_product_as_a_convolution_equals_the_product_for_any_number_of_rows_and_inputs(
    inputs: int, rows: int, activation: Activation
) -> None:
    torch.manual_seed(0)
    weight, bias, inward = torch.randn(56, inputs) / inputs**0.5, torch.randn(56), torch.randn(rows, inputs)
    expected = ACTIVATIONS[activation](nn.functional.linear(inward.double(), weight.double(), bias.double())).float()
    torch.testing.assert_close(ConvolutionKernel(weight, bias, activation)(inward), expected, rtol=1e-5, atol=1e-5)


def test_numbers_of_rows_that_need_another_weight_layout_are_found_by_their_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = 0.0
    kernel = ConvolutionKernel(torch.randn(8, 8), None, "none")
    monkeypatch.setattr(linear.time, "perf_counter", lambda: now)

    def suited(slow: set[int]) -> tuple[int, ...]:
        def multiply(rows: torch.Tensor, *others: object) -> torch.Tensor:
            nonlocal now
            now += 1.0 if len(rows) in slow else 0.01
            return rows

        monkeypatch.setattr(linear, "_convolve", multiply)
        return kernel.suited_sizes()

    assert suited(set()) == CONVOLVED_ROWS
    assert suited({8, 24}) == (4, 16, 32, 48, 64, MAX_ROWS)
    assert suited({8, 24, 32}) == (MAX_ROWS,), "a layout that does for few numbers is no use"
    monkeypatch.setattr(linear, "has_avx2_alone", lambda: True)
    for slow, expected in ((set(), True), ({8}, False)):
        suited(slow)  # makes products take that long
        assert isinstance(few_rows_kernel(torch.randn(8, 8)), ConvolutionKernel) is expected
    monkeypatch.setattr(linear, "has_avx2_alone", lambda: False)
    assert not isinstance(few_rows_kernel(torch.randn(8, 8)), ConvolutionKernel)


def numbers_of_float16(outputs: int, inputs: int) -> torch.Tensor:
    """Random float32 weights that float16 represents exactly, among them its smallest and largest numbers."""
    weight = (torch.randn(outputs, inputs) / inputs**0.5).half().float()
    weight[0, :3] = torch.tensor([2.0**-24, -(2.0**-15), 65504.0])
    return weight


def test_weights_that_float16_represents_exactly_lose_nothing_in_float16() -> None:
    torch.manual_seed(0)
    weight, bias, rows = numbers_of_float16(96, 64), torch.randn(96), torch.randn(5, 64)
    makers = linear_kernels(weight, bias, "float32")
    assert set(makers) == {"onednn", "torch", "onednn, convolution", "fbgemm, float16"}
    exact = rows.double() @ weight.double().t() + bias.double()
    for make in makers.values():
        torch.testing.assert_close(make()(rows).double(), exact, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("weight", [1.0 + 2.0**-11, 65520.0, 2.0**-25, float("nan")])
def test_one_weight_that_float16_cannot_represent_keeps_the_matrix_in_float32(weight: float) -> None:
    matrix = torch.ones(8, 8)
    assert "fbgemm, float16" in linear_kernels(matrix, None, "float32")
    matrix[3, 5] = weight
    assert "fbgemm, float16" not in linear_kernels(matrix, None, "float32")


def test_kernels_of_weights_from_float16_are_remembered_separately() -> None:
    memory = ProcessMemory()
    weights = {"float32": torch.full((256, 512), 0.1), "float32, of float16": numbers_of_float16(256, 512)}
    for weight in weights.values():
        linear = nn.Linear(512, 256, bias=False)
        linear.weight.data = weight
        PackedLinear(linear, "float32", KernelChooser(memory))
    assert set(memory.choices) == {"float32, 512 to 256, none", "float32, 512 to 256, none, numbers of float16"}
    memory.choices = {kind: KernelChoice("fbgemm, float16", (MAX_ROWS,)) for kind in memory.choices}
    rows = torch.randn(3, 512)
    for name, weight in weights.items():
        linear.weight.data = weight
        matrix = PackedLinear(linear, "float32", KernelChooser(memory))
        rounded = torch.equal(matrix(rows), linear_kernels(weight, None, "float16")["fbgemm"]()(rows))
        assert rounded is (name == "float32, of float16"), "what is remembered of other weights rounds none"


def test_clips_of_weights_from_float16_have_the_codes_of_float32_with_either_kernel(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(choosing, "SMALLEST_TIMED", 0)  # or matrices as small as these would keep the default kernel
    model, requests = music_model(), mixed_requests()[:6]
    for weight in model.language_model.parameters():
        weight.data = weight.data.half().float()
    memory = Always(KernelChoice("fbgemm, float16", (MAX_ROWS,)))
    prepared = prepare_for_inference(model.language_model, "float32", memory)
    kinds = {str(matrix.kind) for matrix in prepared.modules() if isinstance(matrix, PackedLinear)}
    assert kinds
    assert all(kind.endswith("numbers of float16") for kind in kinds)
    usual = generate(model, requests, DecodingOptions("float32"))
    half = generate(model, requests, DecodingOptions("float32", kernel_memory=memory))
    assert all(map(torch.equal, usual, half))


def test_without_bfloat16_instructions_its_products_use_another_precision(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """torch emulates such products, many times slower, and oneDNN may refuse the layout."""
    monkeypatch.setattr(linear, "multiplies_bfloat16", lambda: False)
    torch.manual_seed(0)
    weight, bias, rows = torch.randn(96, 64), torch.randn(96), torch.randn(5, 64)
    expected = nn.functional.linear(*(part.bfloat16().float() for part in (rows, weight, bias)))
    makers = linear_kernels(weight, bias, "bfloat16")
    assert set(makers) == {"onednn, float32", "torch, float32", "fbgemm, float16"}
    for make in makers.values():
        with _Multiplied() as multiplied:
            torch.testing.assert_close(make()(rows), expected, rtol=1e-5, atol=1e-5)
        assert multiplied.operators
        assert not multiplied.in_bfloat16
    assert "fbgemm, float16" not in linear_kernels(weight * 1e5, bias, "bfloat16"), "float16 has no such numbers"


class _Multiplied(TorchDispatchMode):
    """Records which operators multiply matrices, and which of them are given bfloat16."""

    def __init__(self) -> None:
        super().__init__()
        self.operators, self.in_bfloat16 = list[str](), list[str]()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = str(func)
        if "mm" in name or "linear" in name:
            self.operators.append(name)
            if any(isinstance(arg, torch.Tensor) and arg.dtype == torch.bfloat16 for arg in args):
                self.in_bfloat16.append(name)
        return func(*args, **(kwargs or {}))


def test_bfloat16_weights_are_counted_in_the_precision_that_holds_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = music_model().language_model
    monkeypatch.setattr(packed_linear, "multiplies_bfloat16", lambda: False)
    assert packed_bytes(model, "bfloat16") == packed_bytes(model, "float32")
    monkeypatch.setattr(packed_linear, "multiplies_bfloat16", lambda: True)
    assert 2 * packed_bytes(model, "bfloat16") == packed_bytes(model, "float32")


def test_sums_of_int8_are_exact_on_a_processor_that_would_overflow(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without VNNI, two products are added in 16 bits, which the largest 8-bit numbers overflow."""
    monkeypatch.setattr(linear, "adds_up_int8", lambda: False)
    weight, rows = torch.ones(32, 64), torch.ones(3, 64)
    weight[1::2], rows[1] = -1.0, -1.0
    (make,) = linear_kernels(weight, None, "int8").values()
    torch.testing.assert_close(make()(rows), rows @ weight.t(), rtol=1e-6, atol=0)


def test_int8_needs_a_cpu_with_fbgemm(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match="expected the CPU for int8 weights, got meta"):
        linear_kernels(torch.empty(4, 6, device="meta"), None, "int8")
    monkeypatch.setattr(operators, "available", lambda library: False)
    with pytest.raises(ValueError, match=r"expected a CPU that has FBGEMM's kernels for int8 weights, .* use float32"):
        linear_kernels(torch.randn(4, 6), None, "int8")
