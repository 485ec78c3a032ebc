"""Weights of the reference packs in AudioCraft's files: models read from them give the reference's numbers."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from model.decoding.generation import generate_conditioned
from model.lm.fuser import Condition
from model.music_model import MusicModel
from stages.checkpoints.audiocraft.checkpoint import model_from_audiocraft
from stages.checkpoints.audiocraft.package import LANGUAGE_MODEL_FILE, read_package, write_package
from tests.worlds.audiocraft_files import (
    CONDITIONERS,
    conditioner_state,
    settings_of,
    text_encoders,
)
from tests.worlds.generation_oracles import greedy_case
from tests.worlds.oracles import VARIANTS, PatternName, read_pack

HERE = {"description": "description", "genre": "genre", "self_wav": "chroma"}
FORWARD = ["none", "cross", "cross_pos_emb", "prepend", "sum", "input_interpolate", "sum_prepend_cross"]
GREEDY = ["cross", "cross_two_step", "prepend_prompt", "sum_prepend_cross", "parallel", "unroll", "coarse_first"]
GREEDY += ["musiclm", "stereo8"]


def decoder_of(facts: dict[str, Any]) -> dict[str, Any]:
    """What a pack states of its network, as settings of `transformer_lm`."""
    beside = {"special_token_id", "delays", "dtype", "norm_eps"}
    return {name: value for name, value in facts.items() if name not in beside}


def pattern_of(name: str, codebooks: int) -> dict[str, Any]:
    """A pattern named by a pack, as settings of `codebooks_pattern`."""
    pattern, zeros = PatternName.of(name), [0] * codebooks
    settings: dict[str, dict[str, Any]] = {
        "delay": {"delays": list(pattern.numbers)} if pattern.numbers else {},
        "parallel": {},
        "unroll": {"flattening": list(range(codebooks)), "delays": zeros},
        "coarse_first": {"delays": zeros[1:]},
        "musiclm": {"group_by": next(iter(pattern.numbers), None)},
    }
    return {"modeling": pattern.kind, pattern.kind: settings[pattern.kind]}


def files(oracles: Path, case: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Configuration and state of a case of `lm_forward` or `lm_generate`."""
    pack = read_pack(oracles, case["weights"])
    named = [name for name in CONDITIONERS if any(name in names for names in case["fuse2cond"].values())]
    conditioners = {name: CONDITIONERS[name] for name in named}
    decoder = decoder_of(pack.facts["config"])
    settings = settings_of(decoder, case["fuse2cond"], conditioners)
    settings["fuser"]["cross_attention_pos_emb"] = case["cross_attention_pos_emb"]
    settings["codebooks_pattern"] = pattern_of(case.get("pattern", "delay"), decoder["n_q"])
    return settings, pack.tensors | conditioner_state(conditioners, decoder["dim"])


def written_and_read(folder: Path, settings: dict[str, Any], state: dict[str, Tensor]) -> MusicModel:
    """A language model through its file alone: transformers has no codec of 40 codes, as some packs have."""
    write_package(folder / LANGUAGE_MODEL_FILE, state, settings)
    return model_from_audiocraft(read_package(folder / LANGUAGE_MODEL_FILE), text_encoders(folder)).model


def renamed(conditions: dict[str, Condition]) -> dict[str, Condition]:
    return {HERE[name]: condition for name, condition in conditions.items()}


@pytest.mark.parametrize("name", FORWARD)
def test_logits_of_an_imported_model_equal_the_oracle(oracles: Path, tmp_path: Path, name: str) -> None:
    pack = read_pack(oracles, "lm_forward")
    case = pack.case(name)
    settings, state = files(oracles, case)
    model = written_and_read(tmp_path, settings, state)
    with torch.no_grad():
        found = model.language_model(pack.tensors["codes"], renamed(pack.conditions(case)))
    assert torch.equal(found.mask, pack.tensors[f"{name}.mask"])
    expected = pack.tensors[f"{name}.logits"]
    torch.testing.assert_close(found.logits[found.mask], expected[found.mask], rtol=0, atol=2e-5)


@pytest.mark.parametrize("key", GREEDY)
def test_greedy_tokens_of_an_imported_model_equal_the_oracle(oracles: Path, tmp_path: Path, key: str) -> None:
    case = greedy_case(oracles, key)
    model = written_and_read(tmp_path, *files(oracles, case.facts))
    passes = [[renamed(given) for given in row] for row in case.passes]
    found = generate_conditioned(model.language_model, case.requests, passes)
    assert torch.equal(torch.stack(found), case.tokens)


@pytest.mark.parametrize("name", VARIANTS)
def test_logits_of_every_imported_variant_equal_the_oracle(oracles: Path, tmp_path: Path, name: str) -> None:
    pack = read_pack(oracles, "lm_variants")
    start = f"{name}.weights."
    state = {key.removeprefix(start): value for key, value in pack.tensors.items() if key.startswith(start)}
    decoder = decoder_of(pack.facts["config"] | pack.case(name)["overrides"])
    model = written_and_read(tmp_path, settings_of(decoder, {}, None), state)
    with torch.no_grad():
        found = model.language_model(pack.tensors["codes"], {})
    assert torch.equal(found.mask, pack.tensors[f"{name}.mask"])
    expected = pack.tensors[f"{name}.logits"]
    torch.testing.assert_close(found.logits[found.mask], expected[found.mask], rtol=0, atol=2e-5)
