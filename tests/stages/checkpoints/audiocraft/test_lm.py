"""Names of parameters in AudioCraft and here."""

import re
from pathlib import Path

import pytest
import torch

from model.lm.language_model import LanguageModel
from stages.checkpoints.audiocraft.lm import (
    decoder_state_to_audiocraft,
    parameter_name_to_audiocraft,
    parameters_in_audiocraft,
)
from tests.worlds.oracles import VARIANTS, language_model, read_pack, variant
from tests.worlds.plain_transformer import FORMS
from tests.worlds.tiny_model import config


@pytest.mark.parametrize("name", ["lm_weights_self", "lm_weights_cross", "lm_weights_stereo8"])
def test_every_weight_of_the_oracle_has_its_place(oracles: Path, name: str) -> None:
    pattern = "delay[0,0,1,1,2,2,3,3]" if name.endswith("stereo8") else "delay"
    fusions = {"cross": ["description"]} if name.endswith("cross") else {}
    model = language_model(
        oracles, {"weights": name, "fuse2cond": fusions, "cross_attention_pos_emb": False, "pattern": pattern}
    )
    theirs = read_pack(oracles, name).tensors
    for ours, value in model.state_dict().items():
        assert torch.equal(value, theirs.pop(parameter_name_to_audiocraft(ours))), ours
    assert not theirs


@pytest.mark.parametrize("name", VARIANTS)
def test_a_state_of_the_oracle_is_written_back_with_its_names_and_tables(oracles: Path, name: str) -> None:
    pack = read_pack(oracles, "lm_variants")
    start = f"{name}.weights."
    expected = {key.removeprefix(start): value for key, value in pack.tensors.items() if key.startswith(start)}
    model = variant(oracles, pack.case(name))
    found = decoder_state_to_audiocraft(model.state_dict(), model.config)
    if name == "plain_mha":
        expected = {key.replace(".mha.", "."): value for key, value in expected.items()}
    assert set(found) == set(expected)
    for key, value in expected.items():
        torch.testing.assert_close(found[key], value, rtol=1e-6, atol=0, msg=key)


@pytest.mark.parametrize("form", FORMS)
def test_every_parameter_of_every_form_is_renamed_to_audiocraft_and_back(form: str) -> None:
    settings = config(head_bias=True, **FORMS[form]).language_model
    state = LanguageModel(settings).state_dict()
    there = decoder_state_to_audiocraft(state, settings)
    parameters = parameters_in_audiocraft(there)
    assert all(parameters.pop(parameter_name_to_audiocraft(name)) is value for name, value in state.items())
    assert not parameters
    assert ("transformer.rope.frequencies" in there) == (settings.positions != "sinusoidal")


def test_pytorchs_own_attention_gets_the_same_names() -> None:
    for part in ("self_attn", "cross_attention"):
        plain, own = (f"transformer.layers.3.{part}.{mha}in_proj_weight" for mha in ("mha.", ""))
        weight = torch.zeros(1)
        assert parameters_in_audiocraft({plain: weight}) == parameters_in_audiocraft({own: weight}) == {own: weight}


def test_a_parameter_that_the_model_does_not_have_is_refused() -> None:
    for name in ("layers.0.nonsense", "heads.x.weight", "transformer.layers.0.norm1.weight"):
        with pytest.raises(ValueError, match=f"language model, got '{re.escape(name)}'"):
            parameter_name_to_audiocraft(name)
