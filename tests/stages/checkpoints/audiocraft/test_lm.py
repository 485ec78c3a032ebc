"""Names of parameters, theirs and ours."""

from pathlib import Path

import pytest
import torch

from model.lm.language_model import LanguageModel
from stages.checkpoints.audiocraft.lm import (
    decoder_state_from_audiocraft,
    decoder_state_to_audiocraft,
    parameter_name_from_audiocraft,
    parameter_name_to_audiocraft,
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
    for theirs, value in read_pack(oracles, name).tensors.items():
        assert torch.equal(model.state_dict()[parameter_name_from_audiocraft(theirs)], value), theirs


@pytest.mark.parametrize("name", VARIANTS)
def test_a_state_of_the_oracle_comes_back_under_its_names_with_all_its_tables(oracles: Path, name: str) -> None:
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
def test_every_parameter_of_every_form_has_a_name_there_and_comes_back(form: str) -> None:
    settings = config(head_bias=True, **FORMS[form]).language_model
    state = LanguageModel(settings).state_dict()
    there = decoder_state_to_audiocraft(state, settings)
    back = decoder_state_from_audiocraft(there)
    assert set(back) == set(state)
    assert all(back[name] is state[name] for name in state)
    assert ("transformer.rope.frequencies" in there) == (settings.positions != "sinusoidal")


def test_attention_of_pytorchs_own_has_the_same_names_here() -> None:
    for part in ("self_attn", "cross_attention"):
        plain, own = (f"transformer.layers.3.{part}.{mha}in_proj_weight" for mha in ("mha.", ""))
        weight = torch.zeros(1)
        assert decoder_state_from_audiocraft({plain: weight}) == decoder_state_from_audiocraft({own: weight})


def test_an_unknown_weight_is_refused() -> None:
    with pytest.raises(ValueError, match=r"language model, got 'transformer\.layers\.0\.nonsense'"):
        parameter_name_from_audiocraft("transformer.layers.0.nonsense")
    with pytest.raises(ValueError, match=r"got 'emb\.x\.weight'"):
        parameter_name_from_audiocraft("emb.x.weight")
    with pytest.raises(ValueError, match=r"got 'transformer\.layers\.0\.norm1\.weight'"):
        parameter_name_to_audiocraft("transformer.layers.0.norm1.weight")
    with pytest.raises(ValueError, match="got 'condition_provider"):
        decoder_state_from_audiocraft(
            {"condition_provider.conditioners.description.output_proj.weight": torch.zeros(1)}
        )
