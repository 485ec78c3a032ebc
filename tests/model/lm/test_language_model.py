"""The language model against AudioCraft's logits, losses and gradients, and its own properties."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from pydantic import ValidationError
from torch.nn import functional as F

from model.lm import patterns
from model.lm.config import LanguageModelConfig
from model.lm.fuser import Condition
from model.lm.language_model import LanguageModel, Loss, Prediction
from stages.checkpoints.audiocraft.lm import parameter_name_to_audiocraft
from tests.worlds.oracles import language_model, read_pack
from tests.worlds.tiny_model import random_codes

CASES = ["none", "cross", "cross_pos_emb", "prepend", "sum", "input_interpolate", "sum_prepend_cross"]


@pytest.mark.parametrize("mode", ["valid", "full"])
@pytest.mark.parametrize("name", CASES)
def test_logits_and_masks_equal_the_oracle(oracles: Path, name: str, mode: str) -> None:
    pack = read_pack(oracles, "lm_forward")
    case = pack.case(name)
    key = name if mode == "valid" else f"{name}.full"
    with torch.no_grad():
        found = language_model(oracles, case)(pack.tensors["codes"], pack.conditions(case), mode=mode)
    assert torch.equal(found.mask, pack.tensors[f"{key}.mask"])
    if f"{key}.logits" in pack.tensors:
        expected = pack.tensors[f"{key}.logits"]
        torch.testing.assert_close(found.logits[found.mask], expected[found.mask], rtol=0, atol=2e-5)
        assert expected[~found.mask].isnan().all()
    else:
        assert mode == "full"


def _cross_entropy(prediction: Prediction, codes: torch.Tensor) -> Loss:
    """The loss written out, over logits in the order of the codes."""
    targets = torch.where(prediction.mask, codes, -100)
    flat = F.cross_entropy(prediction.logits.flatten(0, 2), targets.flatten(), ignore_index=-100, reduction="none")
    codebooks = flat.view(codes.shape).sum((0, 2)) / prediction.mask.sum((0, 2))
    return Loss(codebooks.mean(), codebooks)


def _loss_of_predictions(
    model: LanguageModel, codes: torch.Tensor, conditions: dict[str, Condition], lengths: torch.Tensor | None = None
) -> Loss:
    return _cross_entropy(model(codes, conditions, lengths), codes)


LOSSES = [_loss_of_predictions, LanguageModel.loss]


@pytest.mark.parametrize("loss_of", LOSSES)
@pytest.mark.parametrize("name", CASES)
def test_losses_and_gradients_equal_the_oracle(oracles: Path, name: str, loss_of: Callable[..., Loss]) -> None:
    pack = read_pack(oracles, "lm_forward")
    case = pack.case(name)
    model = language_model(oracles, case)
    codes = pack.tensors["codes"]
    loss = loss_of(model, codes, pack.conditions(case))
    torch.testing.assert_close(loss.mean, pack.tensors[f"{name}.ce"], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(loss.codebooks, pack.tensors[f"{name}.ce_per_codebook"], rtol=1e-5, atol=1e-5)
    loss.mean.backward()
    gradients = {n: weight.grad for n, weight in model.named_parameters() if weight.grad is not None}
    norm = torch.stack([gradient.norm() for gradient in gradients.values()]).norm()
    torch.testing.assert_close(norm, pack.tensors[f"{name}.grad_norm"], rtol=1e-5, atol=1e-5)
    theirs = {parameter_name_to_audiocraft(ours): gradient for ours, gradient in gradients.items()}
    start = f"{name}.grad."
    for key, expected in pack.tensors.items():
        if key.startswith(start):
            found = theirs[key.removeprefix(start)]
            torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5, msg=key)


@pytest.mark.parametrize("name", CASES)
def test_losses_of_padded_codes_equal_the_oracle(oracles: Path, name: str) -> None:
    pack = read_pack(oracles, "lm_forward")
    case = pack.case(name)
    codes = pack.tensors["padded_codes"]
    with torch.no_grad():
        model = language_model(oracles, case)
        found = model(codes, pack.conditions(case), pack.tensors["valid_lengths"])
        fast = model.loss(codes, pack.conditions(case), pack.tensors["valid_lengths"])
    assert torch.equal(found.mask, pack.tensors[f"{name}.padded.mask"])
    for loss in (_cross_entropy(found, codes), fast):
        expected = pack.tensors[f"{name}.padded.ce_per_codebook"]
        torch.testing.assert_close(loss.mean, pack.tensors[f"{name}.padded.ce"], rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(loss.codebooks, expected, rtol=1e-5, atol=1e-5)


def _small(**changes: object) -> LanguageModel:
    torch.manual_seed(0)
    sizes = {"codebooks": 3, "cardinality": 24, "width": 16, "heads": 2, "layers": 2, "cross": ()}
    return LanguageModel(LanguageModelConfig.model_validate(sizes | changes)).eval()


def test_the_pattern_of_a_config_follows_its_settings() -> None:
    assert (
        _small(pattern="unroll", flattening=(0, 1, 1)).pattern(5).layout
        == patterns.unrolled(5, (0, 1, 1), (0, 0, 0)).layout
    )
    assert _small(flatten_first=2, empty_initial=1).pattern(5).layout == patterns.delayed(5, (0, 1, 2), 2, 1).layout
    assert _small(pattern="coarse_first", delays=(0, 1, 2)).pattern(5).layout == patterns.coarse_first(5, (1, 2)).layout
    assert _small(pattern="grouped", group=3).pattern(5).layout == patterns.grouped(5, 3, 3).layout


def test_the_feedforward_width_is_a_multiple_of_the_width_or_a_given_number() -> None:
    assert _small().transformer.layers[0].expand.weight.shape == (64, 16)
    assert _small(feedforward_width=40).transformer.layers[0].contract.weight.shape == (16, 40)


@pytest.mark.parametrize("pattern", ["delay", "unroll", "coarse_first", "grouped"])
def test_a_prediction_depends_only_on_codes_before_it_in_the_pattern(pattern: str) -> None:
    model = _small(pattern=pattern, group=3)
    codes = random_codes(1, 6)
    layout = model.pattern(6).layout
    order = {coordinate: step for step, together in enumerate(layout) for coordinate in together}
    with torch.no_grad():
        before = model(codes, {}, mode="full").logits
        for codebook in range(3):
            for frame in range(6):
                changed = codes.clone()
                changed[0, codebook, frame] = (changed[0, codebook, frame] + 1) % 24
                moved = (model(changed, {}, mode="full").logits != before).any(-1)[0]
                for other in range(3):
                    for place in range(6):
                        later = order[(place, other)] > order[(frame, codebook)]
                        assert bool(moved[other, place]) == later


def test_codes_past_a_length_change_nothing_and_have_no_loss() -> None:
    model, codes, lengths = _small(), random_codes(2, 9), torch.tensor([5, 9])
    other = codes.clone()
    other[0, :, 5:] = 0
    with torch.no_grad():
        first, second = model(codes, {}, lengths), model(other, {}, lengths)
    assert torch.equal(first.logits, second.logits)
    assert not first.mask[0, :, 5:].any()
    assert model.loss(codes, {}, lengths).mean == model.loss(other, {}, lengths).mean


@pytest.mark.parametrize("pattern", ["delay", "unroll", "coarse_first", "grouped"])
def test_the_loss_equals_that_of_the_predictions_for_any_pattern_and_padding(pattern: str) -> None:
    model, codes, lengths = (
        _small(pattern=pattern, group=3, empty_initial=1),
        random_codes(3, 9),
        torch.tensor([4, 9, 7]),
    )
    for given in (None, lengths):
        expected, found = _loss_of_predictions(model, codes, {}, given), model.loss(codes, {}, given)
        torch.testing.assert_close(found.codebooks, expected.codebooks)
        torch.testing.assert_close(found.mean, expected.mean)


@pytest.mark.parametrize("loss_of", LOSSES)
def test_gradients_are_finite_if_some_codes_are_not_predicted(loss_of: Callable[..., Loss]) -> None:
    model, codes = _small(), random_codes(2, 5)
    loss_of(model, codes, {}, torch.tensor([3, 5])).mean.backward()
    assert all(weight.grad is None or weight.grad.isfinite().all() for weight in model.parameters())


def test_the_loss_of_a_uniform_prediction_is_the_logarithm_of_the_cardinality() -> None:
    model = _small()
    for head in model.heads:
        torch.nn.init.zeros_(head.weight)
    torch.testing.assert_close(model.loss(random_codes(2, 6), {}).codebooks, torch.full((3,), 24.0).log())


def test_a_codebook_without_predictions_has_a_nan_loss() -> None:
    loss = _small().loss(random_codes(2, 2), {})
    assert loss.codebooks[:2].isfinite().all()
    assert loss.codebooks[2].isnan()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"width": 20, "heads": 3}, "expected an even width that 3 heads divide, got 20"),
        ({"width": 17, "heads": 1}, "expected an even width that 1 heads divide, got 17"),
        ({"width": 12, "heads": 4, "positions": "rotary"}, "heads of even width for rotary positions, got 3"),
        ({"xpos": True}, "xpos with rotary positions, got sinusoidal ones"),
        ({"heads": 4, "key_value_heads": 3}, "key_value_heads that divide 4 heads, got 3"),
        ({"heads": 4, "key_value_heads": 2, "query_key_norm": True}, "4 key_value_heads with query_key_norm, got 2"),
        ({"flattening": (0, 1)}, r"expected 3 numbers of flattening, got \(0, 1\)"),
        ({"delays": (0, 1)}, r"expected 3 delays, each 0 or more, got \(0, 1\)"),
        ({"delays": (0, 1, -2)}, r"expected 3 delays, each 0 or more, got \(0, 1, -2\)"),
        ({"pattern": "grouped", "group": 2}, "divides 3 codebooks, got 2"),
        ({"codebooks": 0}, "greater than or equal to 1"),
    ],
)
def test_an_invalid_config_is_refused_with_the_reason(changes: dict, words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        _small(**changes)


def test_invalid_codes_and_lengths_are_refused() -> None:
    model = _small()
    with pytest.raises(ValueError, match=r"expected codes \[B, 3, T\], got \[1, 4, 5\]"):
        model(random_codes(1, 5, codebooks=4), {})
    with pytest.raises(ValueError, match=r"expected codes \[B, 3, T\], got \[1, 3, 0\]"):
        model(random_codes(1, 0), {})
    with pytest.raises(ValueError, match="expected codes from 0 to 23, got 24 to 24"):
        model(torch.full((1, 3, 5), 24), {})
    with pytest.raises(ValueError, match="expected codes from 0 to 23, got -1 to -1"):
        model(torch.full((1, 3, 5), -1), {})
    with pytest.raises(ValueError, match=r"expected 2 lengths from 1 to 5, got \[0, 5\]"):
        model(random_codes(2, 5), {}, torch.tensor([0, 5]))
    with pytest.raises(ValueError, match=r"expected 2 lengths from 1 to 5, got \[3, 6\]"):
        model(random_codes(2, 5), {}, torch.tensor([3, 6]))
