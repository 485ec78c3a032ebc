"""Guidance: how each form combines the branches' logits, and the effect of every coefficient."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as some
from torch import Tensor

from model.conditioning.config import MusicModelConfig
from model.decoding.generation import GenerationRequest, generate, generate_conditioned
from model.guidance import GuidanceForm, apply_guidance, condition_passes
from model.music_model import Attributes, MusicModel
from tests.worlds.tiny_model import CLAP_WIDTH, config, melody, music_model

FORMS: list[GuidanceForm] = ["one_pass", "two_pass"]
EVERYTHING = Attributes("calm piano", melody(0, 4, 7), torch.ones(CLAP_WIDTH))
coefficients = some.floats(0, 10, width=32)


def _logits(branches: int) -> Tensor:
    return torch.randn(2, branches, 3, 24, generator=torch.Generator().manual_seed(branches))


@given(guidance=coefficients, guidance_text=coefficients)
def test_guided_logits_follow_the_equations_of_the_papers(guidance: float, guidance_text: float) -> None:
    scales = torch.tensor([guidance, 3.0]), torch.tensor([guidance_text, 2.0])
    full, style, null = _logits(3).double().unbind(1)
    outer, inner = (scale.double()[:, None, None] for scale in scales)
    torch.testing.assert_close(
        apply_guidance(_logits(3), *scales).double(),
        null + outer * (style + inner * (full - style) - null),
        rtol=1e-5,
        atol=1e-4,
    )
    full, null = _logits(2).double().unbind(1)
    found = apply_guidance(_logits(2), *scales).double()
    torch.testing.assert_close(found, null + outer * (full - null), rtol=1e-5, atol=1e-4)


def test_a_coefficient_of_one_is_exactly_no_guidance() -> None:
    ones, other = torch.ones(2), torch.tensor([3.0, 0.5])
    assert torch.equal(apply_guidance(_logits(1), other, other), _logits(1)[:, 0])
    assert torch.equal(apply_guidance(_logits(2), ones, other), _logits(2)[:, 0])
    assert torch.equal(apply_guidance(_logits(3), ones, ones), _logits(3)[:, 0])
    assert torch.equal(apply_guidance(_logits(3), other, ones), apply_guidance(_logits(3)[:, [0, 2]], other, other))


@pytest.mark.parametrize("form", FORMS)
def test_guidance_of_one_equals_the_model_without_guidance(form: GuidanceForm) -> None:
    model = music_model()
    request = GenerationRequest(EVERYTHING, 10, seed=4, guidance=1.0, temperature=0.0, guidance_form=form)
    (found,) = generate(model, [request])
    with torch.no_grad():
        prediction = model(found[None], [EVERYTHING])
    mask = prediction.mask[0]
    assert torch.equal(found[mask], prediction.logits[0].argmax(-1)[mask])
    (guided,) = generate(model, [replace(request, guidance=6.0)])
    assert not torch.equal(guided, found)


def _model(padding: str) -> MusicModel:
    """A model with text both as a prefix and in cross-attention, so that its length matters."""
    return music_model(config(padding=padding, prepend=("description", "chroma"), cross=("clap", "description")))


def _answer(model: MusicModel, codes: Tensor, attributes: list[Attributes]) -> Tensor:
    with torch.no_grad():
        return model(codes.expand(len(attributes), -1, -1), attributes).logits


@pytest.mark.parametrize("padding", ["masked", "attended"])
@pytest.mark.parametrize("guidance_text", [1.0, 2.5])
@pytest.mark.parametrize("form", FORMS)
def test_decoding_takes_the_guided_choice_of_whole_forward_passes(
    form: GuidanceForm, guidance_text: float, padding: str
) -> None:
    model = _model(padding)
    style = replace(EVERYTHING, description=None)
    for guidance in (3.0, 0.5):
        request = GenerationRequest(
            EVERYTHING, 12, 0, guidance, guidance_text=guidance_text, guidance_form=form, temperature=0.0
        )
        (found,) = generate(model, [request])
        # In one pass, the null and the style are padded to the full conditions; in passes of their own they are
        # shorter.
        if form == "one_pass":
            full, beside, null = _answer(model, found, [EVERYTHING, style, Attributes()])
        else:
            full, beside, null = (_answer(model, found, [one])[0] for one in (EVERYTHING, style, Attributes()))
        aim = beside + guidance_text * (full - beside)
        best = (null + guidance * (aim - null)).argmax(-1)
        mask = model(found[None], [EVERYTHING]).mask[0]
        assert torch.equal(found[mask], best[mask])


def test_different_forms_and_coefficients_give_different_codes() -> None:
    model = _model("masked")
    base = GenerationRequest(EVERYTHING, 24, seed=0, temperature=0.0)
    changes = [{}, {"guidance": 6.0}, {"guidance_form": "two_pass"}, {"guidance_form": "two_pass", "guidance": 6.0}]
    changes += [one | {"guidance_text": 4.0} for one in changes]
    found = [str(codes.tolist()) for codes in generate(model, [replace(base, **change) for change in changes])]
    assert len(set(found)) == len(found)


@pytest.mark.parametrize("form", FORMS)
def test_a_text_guidance_of_zero_ignores_the_text(form: GuidanceForm) -> None:
    model = music_model()
    # Texts of equal length, because in one pass the style is as long as the text.
    texts = ("calm piano", "loud drums")
    requests = [
        GenerationRequest(replace(EVERYTHING, description=text), 12, 3, guidance_text=0.0, guidance_form=form)
        for text in texts
    ]
    first, second = generate(model, requests)
    assert torch.equal(first, second)
    without = replace(requests[0], attributes=replace(EVERYTHING, description=None), guidance_text=1.0)
    louder = replace(requests[0], guidance_text=5.0)
    assert not torch.equal(generate(model, [louder])[0], first)
    if form == "two_pass":
        assert torch.equal(generate(model, [without])[0], first)


def test_double_guidance_without_a_text_equals_plain_guidance() -> None:
    model = music_model()
    request = GenerationRequest(Attributes(None, melody(0, 4, 7)), 16, seed=2, guidance_form="two_pass")
    plain, double = generate(model, [request, replace(request, guidance_text=4.0)])
    assert torch.equal(plain, double)


def test_both_forms_are_equal_if_padding_is_masked_and_all_conditions_are_read_by_cross_attention() -> None:
    model = music_model(config(cross=("description", "clap", "chroma"), prepend=()))
    requests = [GenerationRequest(EVERYTHING, 16, seed=1, guidance_form=form) for form in FORMS]
    first, second = generate(model, requests)
    assert torch.equal(first, second)


def test_guidance_of_zero_ignores_the_conditions() -> None:
    model = music_model()
    # The null of a text is as long as the text, so both texts have equal length.
    request = GenerationRequest(EVERYTHING, 10, seed=4, guidance=0.0)
    other = replace(request, attributes=Attributes("loud drums", melody(3), -torch.ones(CLAP_WIDTH)))
    first, second = generate(model, [request, other])
    assert torch.equal(first, second)


def _alone(name: str) -> MusicModel:
    """A model that reads only one condition."""
    whole = config()
    decoder = whole.language_model.model_copy(update={"cross": (name,), "prepend": ()})
    parts = {"description": None, "clap": None} | {name: getattr(whole, name)}
    return music_model(MusicModelConfig(language_model=decoder, **parts))


@pytest.mark.parametrize("form", FORMS)
def test_guidance_works_with_a_joint_embedding_alone(form: GuidanceForm) -> None:
    model = _alone("clap")
    found = [
        generate(model, [GenerationRequest(Attributes(clap=clap), 16, 1, guidance, guidance_form=form)])[0]
        for clap in (None, torch.ones(CLAP_WIDTH))
        for guidance in (1.0, 3.0)
    ]
    assert torch.equal(found[0], found[1]), "without a condition there is nothing to guide towards"
    assert not torch.equal(found[2], found[3])
    assert not torch.equal(found[0], found[2])
    (codes,) = generate(model, [GenerationRequest(Attributes(), 8, seed=0)])
    conditioned, null = _answer(model, codes, [Attributes(clap=torch.ones(CLAP_WIDTH)), Attributes()])
    mask = model(codes[None], [Attributes()]).mask[0]
    assert (conditioned - null)[mask].abs().max() > 0.1


def test_double_guidance_needs_a_description_and_another_condition() -> None:
    request = GenerationRequest(Attributes(), 8, seed=0, guidance_text=3.0)
    with pytest.raises(ValueError, match=r"reads a description and other conditions .* of 3, got one that reads clap"):
        generate(_alone("clap"), [request])
    with pytest.raises(ValueError, match="got one that reads description"):
        generate(_alone("description"), [request])


def test_conditions_with_too_few_rows_for_guidance_are_refused() -> None:
    model = music_model()
    request = GenerationRequest(Attributes(), 8, seed=0)
    with torch.no_grad():
        passes = condition_passes(model, EVERYTHING, "two_pass", 3.0, 1.0)
    assert [len(one["description"].embedding) for one in passes] == [1, 1]
    assert passes[1]["description"].embedding.shape[1] == 1
    with pytest.raises(ValueError, match=r"expected conditions in 3 rows .* got 2"):
        generate_conditioned(model.language_model, [replace(request, guidance_text=2.0)], [passes])
