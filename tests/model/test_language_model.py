"""The language model against AudioCraft's logits, losses and gradients, and its own promises."""

from pathlib import Path

import pytest
import torch
from pydantic import ValidationError

from model.audiocraft_names import name_from_audiocraft
from model.language_model import (
    Condition,
    LanguageModel,
    LanguageModelConfig,
    Prediction,
    cross_entropy,
)
from tests.model.oracles import Pack, language_model, read_pack
from tests.model.tiny_model import random_codes

CASES = ["none", "cross", "cross_pos_emb", "prepend", "sum", "input_interpolate", "sum_prepend_cross"]


def _case(pack: Pack, name: str) -> dict:
    return next(case for case in pack.cases if case["name"] == name)


def _conditions(pack: Pack, case: dict) -> dict[str, Condition]:
    name = case["name"]
    return {
        condition: Condition(
            pack.tensors[f"{name}.cond.{condition}"], pack.tensors[f"{name}.cond_mask.{condition}"].bool()
        )
        for condition in case["condition_order"]
    }


@pytest.mark.parametrize("name", CASES)
def test_inputs_with_fused_conditions_equal_the_oracle(oracles: Path, name: str) -> None:
    pack = read_pack(oracles, "lm_forward")
    case = _case(pack, name)
    model = language_model(oracles, case)
    codes = pack.tensors["codes"]
    pattern = model.pattern(codes.shape[-1])
    embedded = model.embed(pattern.build(codes, model.special, "valid"))
    torch.testing.assert_close(embedded, pack.tensors[f"{name}.emb_sum"], rtol=1e-5, atol=1e-5)
    fused = model.fuse(_conditions(pack, case), pattern, "valid")
    inputs = embedded if fused.added is None else embedded + fused.added
    inputs = inputs if fused.prefix is None else torch.cat([fused.prefix, inputs], dim=1)
    torch.testing.assert_close(inputs, pack.tensors[f"{name}.fused"], rtol=1e-5, atol=1e-5)
    assert (fused.source is None) == (f"{name}.cross_src" not in pack.tensors)
    if fused.source is not None:
        torch.testing.assert_close(fused.source, pack.tensors[f"{name}.cross_src"], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("mode", ["valid", "full"])
@pytest.mark.parametrize("name", CASES)
def test_logits_and_masks_equal_the_oracle(oracles: Path, name: str, mode: str) -> None:
    pack = read_pack(oracles, "lm_forward")
    case = _case(pack, name)
    key = name if mode == "valid" else f"{name}.full"
    with torch.no_grad():
        found = language_model(oracles, case)(pack.tensors["codes"], _conditions(pack, case), mode=mode)
    assert torch.equal(found.mask, pack.tensors[f"{key}.mask"])
    if f"{key}.logits" in pack.tensors:
        expected = pack.tensors[f"{key}.logits"]
        torch.testing.assert_close(found.logits[found.mask], expected[found.mask], rtol=0, atol=2e-5)
        assert expected[~found.mask].isnan().all()
    else:
        assert mode == "full"


@pytest.mark.parametrize("name", CASES)
def test_losses_and_gradients_equal_the_oracle(oracles: Path, name: str) -> None:
    pack = read_pack(oracles, "lm_forward")
    case = _case(pack, name)
    model = language_model(oracles, case)
    codes = pack.tensors["codes"]
    loss = cross_entropy(model(codes, _conditions(pack, case)), codes)
    torch.testing.assert_close(loss.mean, pack.tensors[f"{name}.ce"], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(loss.codebooks, pack.tensors[f"{name}.ce_per_codebook"], rtol=1e-5, atol=1e-5)
    loss.mean.backward()
    gradients = {n: weight.grad for n, weight in model.named_parameters() if weight.grad is not None}
    norm = torch.stack([gradient.norm() for gradient in gradients.values()]).norm()
    torch.testing.assert_close(norm, pack.tensors[f"{name}.grad_norm"], rtol=1e-5, atol=1e-5)
    start = f"{name}.grad."
    for key, expected in pack.tensors.items():
        if key.startswith(start):
            found = gradients[name_from_audiocraft(key.removeprefix(start))]
            torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5, msg=key)


@pytest.mark.parametrize("name", CASES)
def test_losses_of_padded_codes_equal_the_oracle(oracles: Path, name: str) -> None:
    pack = read_pack(oracles, "lm_forward")
    case = _case(pack, name)
    codes = pack.tensors["padded_codes"]
    with torch.no_grad():
        found = language_model(oracles, case)(codes, _conditions(pack, case), pack.tensors["valid_lengths"])
    loss = cross_entropy(found, codes)
    assert torch.equal(found.mask, pack.tensors[f"{name}.padded.mask"])
    torch.testing.assert_close(loss.mean, pack.tensors[f"{name}.padded.ce"], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(loss.codebooks, pack.tensors[f"{name}.padded.ce_per_codebook"], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", ["lm_weights_self", "lm_weights_cross", "lm_weights_stereo8"])
def test_every_weight_of_the_oracle_has_its_place(oracles: Path, name: str) -> None:
    pattern = "delay[0,0,1,1,2,2,3,3]" if name.endswith("stereo8") else "delay"
    fusions = {"cross": ["description"]} if name.endswith("cross") else {}
    model = language_model(
        oracles, {"weights": name, "fuse2cond": fusions, "cross_attention_pos_emb": False, "pattern": pattern}
    )
    for theirs, value in read_pack(oracles, name).tensors.items():
        assert torch.equal(model.state_dict()[name_from_audiocraft(theirs)], value), theirs


def test_an_unknown_weight_is_refused() -> None:
    with pytest.raises(ValueError, match=r"got 'transformer\.layers\.0\.nonsense'"):
        name_from_audiocraft("transformer.layers.0.nonsense")


def _small(**changes: object) -> LanguageModel:
    torch.manual_seed(0)
    sizes = {"codebooks": 3, "cardinality": 24, "width": 16, "heads": 2, "layers": 2, "cross": ()}
    return LanguageModel(LanguageModelConfig.model_validate(sizes | changes)).eval()


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


def test_what_lies_past_a_length_changes_nothing_and_counts_for_nothing() -> None:
    model, codes, lengths = _small(), random_codes(2, 9), torch.tensor([5, 9])
    other = codes.clone()
    other[0, :, 5:] = 0
    with torch.no_grad():
        first, second = model(codes, {}, lengths), model(other, {}, lengths)
    assert torch.equal(first.logits, second.logits)
    assert not first.mask[0, :, 5:].any()
    assert cross_entropy(first, codes).mean == cross_entropy(second, other).mean


def test_a_gradient_of_the_loss_is_finite_where_nothing_is_predicted() -> None:
    model, codes = _small(), random_codes(2, 5)
    cross_entropy(model(codes, {}, torch.tensor([3, 5])), codes).mean.backward()
    assert all(weight.grad is None or weight.grad.isfinite().all() for weight in model.parameters())


def test_the_loss_of_an_even_guess_is_the_logarithm_of_the_cardinality() -> None:
    codes = random_codes(2, 6)
    prediction = Prediction(torch.zeros(2, 3, 6, 24), torch.ones(2, 3, 6, dtype=torch.bool))
    loss = cross_entropy(prediction, codes)
    torch.testing.assert_close(loss.codebooks, torch.full((3,), 24.0).log())


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"width": 20, "heads": 3}, "expected an even width that 3 heads divide, got 20"),
        ({"delays": (0, 1)}, r"expected 3 delays, each 0 or more, got \(0, 1\)"),
        ({"delays": (0, 1, -2)}, r"expected 3 delays, each 0 or more, got \(0, 1, -2\)"),
        ({"pattern": "grouped", "group": 2}, "divides 3 codebooks, got 2"),
        ({"codebooks": 0}, "greater than or equal to 1"),
    ],
)
def test_a_config_that_cannot_be_says_why(changes: dict, words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        _small(**changes)


def test_bad_codes_and_lengths_say_what_was_expected() -> None:
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


def test_bad_conditions_say_what_was_expected() -> None:
    model = _small(sum=("genre",))

    def genre(length: int, width: int) -> Condition:
        return Condition(torch.zeros(1, length, width), torch.ones(1, length, dtype=torch.bool))

    with pytest.raises(ValueError, match=r"expected conditions \['genre'\], got \[\]"):
        model(random_codes(1, 5), {})
    with pytest.raises(ValueError, match=r"expected conditions \['genre'\], got \['genre', 'mood'\]"):
        model(random_codes(1, 5), {"genre": genre(1, 16), "mood": genre(1, 16)})
    with pytest.raises(ValueError, match="expected genre of \[1, 1 or more, 16\], got \[1, 1, 8\]"):
        model(random_codes(1, 5), {"genre": genre(1, 8)})
    with pytest.raises(ValueError, match="expected genre of length 1 or at least 5, one a frame, to be summed, got 2"):
        model(random_codes(1, 5), {"genre": genre(2, 16)})


def test_a_stretched_condition_keeps_its_pace_in_sequences_of_any_length_where_its_steps_are_given() -> None:
    torch.manual_seed(0)
    sizes = {"codebooks": 2, "cardinality": 8, "width": 16, "heads": 2, "layers": 1, "cross": ()}
    model = LanguageModel(LanguageModelConfig(**sizes, interpolate=("chroma",), interpolate_steps=40))
    condition = Condition(torch.randn(1, 10, 16), torch.ones(1, 10, dtype=torch.bool))
    # One step more than frames: delays of 0 and 1 in valid mode.
    whole, short, long = (model.fuse({"chroma": condition}, model.pattern(n), "valid").added for n in (39, 24, 49))
    assert torch.equal(whole, condition.embedding.repeat_interleave(4, dim=1))
    assert torch.equal(short, whole[:, :25])
    assert torch.equal(long[:, :40], whole)
    assert torch.equal(long[:, 40:], whole[:, -1:].expand(-1, 10, -1))
