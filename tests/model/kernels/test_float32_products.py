"""Linear layers by oneDNN: the results and gradients of torch, chosen where they are faster, and remembered."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from model import kernels
from model.kernels import float32_products, operators
from model.kernels.choosing import KernelChoice, ProcessMemory
from model.kernels.float32_products import PRODUCTS, OneDnnLinear, choose_products, multiply
from model.lm.config import LanguageModelConfig
from model.lm.fuser import Condition
from model.lm.language_model import LanguageModel

KIND = "training in float32, 256 to 512"
ONEDNN = KernelChoice("onednn", ())


def _remembering(kind: str = KIND, choice: KernelChoice = ONEDNN) -> ProcessMemory:
    memory = ProcessMemory()
    memory.choices[kind] = choice
    return memory


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", [(7, 24), (2, 5, 24), (1, 1, 24)])
def test_products_and_their_gradients_equal_torchs(shape: tuple[int, ...], bias: bool) -> None:
    torch.manual_seed(0)
    linear, inputs = nn.Linear(24, 40, bias=bias), torch.randn(shape)
    weights = torch.randn(*shape[:-1], 40)
    results = []
    for product in PRODUCTS.values():
        given = [inputs.clone().requires_grad_(), *(value.detach().clone().requires_grad_() for value in _of(linear))]
        outputs = product(given[0], given[1], given[2] if bias else None)
        results.append([outputs, *torch.autograd.grad(outputs, given, weights)])
    for one, other in zip(*results, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5)


def _of(linear: nn.Linear) -> list[Tensor]:
    return [linear.weight] if linear.bias is None else [linear.weight, linear.bias]


def test_inputs_weights_and_gradients_may_have_any_memory_order() -> None:
    torch.manual_seed(0)
    inputs, weight = torch.randn(24, 6).t(), torch.randn(24, 40).t()
    results = []
    for product in PRODUCTS.values():
        given = [inputs.detach().requires_grad_(), weight.detach().requires_grad_()]
        outputs = product(given[0], given[1], None)
        # The gradients of a sum and of a transposed product are not stored in rows.
        results.append(torch.autograd.grad(outputs.sum() + (outputs.t() * torch.arange(40.0)[:, None]).sum(), given))
    for one, other in zip(*results, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-4)


def test_frozen_weights_get_no_gradient() -> None:
    linear = nn.Linear(8, 8).requires_grad_(False)
    inputs = torch.randn(3, 8, requires_grad=True)
    multiply(inputs, linear.weight, linear.bias).sum().backward()
    assert inputs.grad is not None
    assert linear.weight.grad is linear.bias.grad is None


def test_other_precisions_and_disabled_kernels_use_torchs_own_product() -> None:
    inputs, weight, bias = torch.randn(5, 24), torch.randn(40, 24), torch.randn(40)
    expected = F.linear(inputs, weight, bias)
    with kernels.disabled():
        assert torch.equal(multiply(inputs, weight, bias), expected)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(multiply(inputs, weight, bias), F.linear(inputs, weight, bias))
    double = (inputs.double(), weight.double(), bias.double())
    assert torch.equal(multiply(*double), F.linear(*double))


class Clock:
    """Products that take as long as the test says, on a clock of their own."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, **seconds: float) -> None:
        self.now, self.calls = 0.0, 0

        def timed(name: str, product: float32_products.Product) -> float32_products.Product:
            def act(rows: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
                self.now, self.calls = self.now + seconds[name], self.calls + 1
                return product(rows, weight, bias)

            return act

        products = {name: timed(name, product) for name, product in PRODUCTS.items()}
        monkeypatch.setattr(float32_products, "PRODUCTS", products)

    def __call__(self) -> float:
        return self.now


@pytest.mark.parametrize(
    ("seconds", "chosen"),
    [
        ({"torch": 2.0, "onednn": 1.0}, "onednn"),
        ({"torch": 1.0, "onednn": 2.0}, "torch"),
        ({"torch": 1.0, "onednn": 0.95}, "torch"),
    ],
)
def test_the_clearly_faster_product_is_chosen_and_remembered(
    seconds: dict[str, float], chosen: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock, memory = Clock(monkeypatch, **seconds), ProcessMemory()
    model = nn.Sequential(nn.Linear(256, 512), nn.GELU(), nn.Linear(512, 8))
    assert choose_products(model, memory, clock) == chosen
    assert memory.choices == {KIND: KernelChoice(chosen, ())}
    assert [type(model[0]), type(model[2])] == [OneDnnLinear if chosen == "onednn" else nn.Linear] * 2
    timed = clock.calls
    assert choose_products(nn.Sequential(nn.Linear(256, 512)), memory, clock) == chosen
    assert clock.calls == timed


@pytest.mark.parametrize(
    "model",
    [nn.Linear(16, 16), nn.Linear(256, 512, dtype=torch.float64), nn.Linear(256, 512, device="meta"), nn.GELU()],
    ids=["small", "double", "elsewhere", "without matrices"],
)
def test_models_that_cannot_gain_keep_torchs_own_product(model: nn.Module) -> None:
    kind = type(model)
    assert choose_products(model, _remembering()) == "torch"
    assert type(model) is kind


def test_a_remembered_product_that_is_gone_leaves_torchs_own_and_the_memory_as_it_is(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Processes that share a memory agree on what was kept first, even if a later timing prefers another product."""
    clock, memory = Clock(monkeypatch, torch=2.0, onednn=1.0), _remembering(choice=KernelChoice("gone", ()))
    linear = nn.Linear(256, 512)
    assert choose_products(linear, memory, clock) == "torch"
    assert type(linear) is nn.Linear
    assert memory.choices == {KIND: KernelChoice("gone", ())}


def test_without_a_memory_or_the_operators_torchs_own_product_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    assert choose_products(nn.Linear(256, 512), None) == "torch"
    monkeypatch.setattr(operators, "available", lambda library: False)
    assert choose_products(nn.Linear(256, 512), _remembering()) == "torch"


def _gradients(model: LanguageModel) -> dict[str, Tensor]:
    torch.manual_seed(1)
    codes = torch.randint(8, (2, 2, 20))
    condition = Condition(torch.randn(2, 3, 256), torch.ones(2, 3, dtype=torch.bool))
    model.zero_grad()
    model.loss(codes, {"description": condition}).mean.backward()
    return {name: value.grad.clone() for name, value in model.named_parameters() if value.grad is not None}


def test_a_language_model_has_the_same_gradients_with_onednn_and_the_same_bits_with_checkpointing() -> None:
    torch.manual_seed(0)
    sizes = {"width": 256, "heads": 4, "layers": 2, "codebooks": 2, "cardinality": 8}
    model = LanguageModel(LanguageModelConfig(**sizes))
    plain = _gradients(model)
    assert choose_products(model, _remembering("training in float32, 256 to 1024")) == "onednn"
    assert isinstance(model.transformer.layers[0].cross_attention.in_projection, OneDnnLinear)
    found = _gradients(model)
    assert plain.keys() == found.keys() == dict(model.named_parameters()).keys()
    for name, gradient in plain.items():
        assert float((found[name] - gradient).norm()) <= 1e-4 * float(gradient.norm()), name
    model.transformer.checkpointing = True
    again = _gradients(model)
    assert all(torch.equal(again[name], found[name]) for name in found)
    assert any(not torch.equal(found[name], plain[name]) for name in found)
