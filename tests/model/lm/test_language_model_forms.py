"""The language model in all its forms against AudioCraft's logits and tokens, and properties of every form."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

from model.lm.attention import KVCache
from model.lm.fuser import Condition
from model.lm.language_model import LanguageModel
from model.lm.positions import Positions, positions
from tests.worlds.oracles import VARIANTS, read_pack, variant
from tests.worlds.plain_transformer import FORMS, disturb
from tests.worlds.tiny_model import config, random_codes


def _model(form: str) -> LanguageModel:
    torch.manual_seed(0)
    settings = config(cross=("description",), prepend=("chroma",), sum=("clap",), head_bias=True, **FORMS[form])
    model = LanguageModel(settings.language_model).eval()
    disturb(model)
    return model


def _conditions(rows: int) -> dict[str, Condition]:
    generator = torch.Generator().manual_seed(1)

    def vectors(length: int) -> Condition:
        return Condition(torch.randn(rows, length, 32, generator=generator), torch.ones(rows, length).bool())

    return {"description": vectors(3), "chroma": vectors(2), "clap": vectors(1)}


def _greedy(model: LanguageModel, rows: int, frames: int, cache: KVCache) -> Tensor:
    """The most likely codes of `frames` frames, decoded step by step with a cache."""
    pattern = model.pattern(frames)
    sequence = pattern.build(torch.full((rows, model.config.codebooks, frames), -1), model.special)
    for step in range(sequence.shape[-1] - 1):
        hidden = model.transformer(model.embed(sequence[..., step : step + 1]), cache=cache)
        best = model.logits(hidden)[:, :, 0].argmax(-1)
        sequence[..., step + 1] = torch.where(sequence[..., step + 1] == -1, best, sequence[..., step + 1])
    return pattern.revert(sequence, -1)


@pytest.mark.parametrize("name", VARIANTS)
def test_logits_of_every_variant_equal_the_oracle(oracles: Path, name: str) -> None:
    pack = read_pack(oracles, "lm_variants")
    with torch.no_grad():
        found = variant(oracles, pack.case(name))(pack.tensors["codes"], {})
    assert torch.equal(found.mask, pack.tensors[f"{name}.mask"])
    expected = pack.tensors[f"{name}.logits"]
    torch.testing.assert_close(found.logits[found.mask], expected[found.mask], rtol=0, atol=2e-5)


@pytest.mark.parametrize("name", VARIANTS)
def test_greedy_tokens_of_every_variant_equal_the_oracle(oracles: Path, name: str) -> None:
    pack = read_pack(oracles, "lm_variants")
    model = variant(oracles, pack.case(name))
    expected = pack.tensors[f"{name}.tokens"]
    frames = expected.shape[-1]
    cache = model.transformer.allocate(len(expected), model.pattern(frames).steps(), 0)
    if model.config.positions != "sinusoidal":
        cache.positions = _stuck(cache.positions, model, frames)
    with torch.no_grad():
        assert torch.equal(_greedy(model, len(expected), frames, cache), expected)


def _stuck(true: Positions, model: LanguageModel, frames: int) -> Positions:
    """Positions as AudioCraft 1.3 uses them in decoding if they are rotary. After the first step it takes the number of
    heads for the number of cached steps, so that all later steps get the same rotation. Here they are rotated as in
    training; this function is only for the comparison."""
    config = model.config
    place = torch.full((model.pattern(frames).steps(),), config.heads)
    place[0] = 0
    rotation = positions(config.heads + 1, config, torch.device("cpu")).rotation
    assert rotation is not None
    return Positions(true.sinusoids, type(rotation)(rotation.queries[:, place], rotation.keys[:, place]))


@pytest.mark.parametrize("form", FORMS)
def test_logits_step_by_step_with_a_cache_equal_those_of_the_whole_sequence(form: str) -> None:
    model = _model(form)
    given, frames, rows = _conditions(2), 8, 2
    pattern = model.pattern(frames)
    fused = model.fuse(given, pattern)
    assert fused.prefix is not None
    assert fused.added is not None
    assert fused.cross is not None
    steps, prefix = pattern.steps(), fused.prefix.shape[1]
    sequence = pattern.build(random_codes(rows, frames), model.special)
    with torch.no_grad():
        inputs = torch.cat([fused.prefix, model.embed(sequence) + fused.added], dim=1)
        expected = model.logits(model.transformer(inputs, fused.cross, fused.cross_mask)[:, prefix:])
        cache = model.transformer.allocate(rows, prefix + steps, fused.cross.shape[1])
        model.transformer.cache_cross_kv(cache, fused.cross, fused.cross_mask)
        hidden = [model.transformer(inputs[:, : prefix + 1], cache=cache)[:, -1:]]
        hidden += [
            model.transformer(inputs[:, step : step + 1], cache=cache) for step in range(prefix + 1, len(inputs[0]))
        ]
        torch.testing.assert_close(model.logits(torch.cat(hidden, dim=1)), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("form", FORMS)
def test_every_parameter_of_every_form_gets_a_gradient(form: str) -> None:
    model, codes = _model(form).train(), random_codes(2, 8)
    model.loss(codes, _conditions(2)).mean.backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        if not name.endswith("attention.in_projection.bias") and not name.endswith("key_norm.bias"):
            # A bias of keys shifts all scores of a query equally, so attention does not depend on it.
            assert parameter.grad.abs().max() > 0, name


@pytest.mark.parametrize("form", FORMS)
def test_a_prediction_of_every_form_depends_only_on_codes_before_it(form: str) -> None:
    model, codes = _model(form), random_codes(1, 6)
    with torch.no_grad():
        before = model(codes, _conditions(1), mode="full").logits[0]
        for frame in range(6):
            changed = codes.clone()
            changed[0, 1, frame] = (changed[0, 1, frame] + 1) % 24
            moved = (model(changed, _conditions(1), mode="full").logits[0] != before).any(-1)
            # Codebook 1 of a frame comes one step after codebook 0, and codebook 2 one step after codebook 1.
            for codebook in range(3):
                assert not moved[codebook, : frame + 2 - codebook].any()
            assert moved[2, frame]
