"""Reading packs of reference numbers: tensors, their configuration, and the networks they were made with."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors.torch import load_file
from torch import Tensor

from model.language_model import LanguageModel, LanguageModelConfig, name_from_audiocraft

FUSIONS = {"cross": "cross", "prepend": "prepend", "sum": "sum", "input_interpolate": "interpolate"}
PATTERNS: dict[str, dict[str, Any]] = {
    "delay": {},
    "delay[0,0,1,1,2,2,3,3]": {"delays": (0, 0, 1, 1, 2, 2, 3, 3)},
    "parallel": {"delays": (0, 0, 0, 0)},
    "unroll": {"pattern": "unroll"},
    "coarse_first": {"pattern": "coarse_first"},
    "musiclm(group_by=2)": {"pattern": "grouped", "group": 2},
}


@dataclass(frozen=True)
class Pack:
    """One pack: what its JSON says, and its tensors."""

    facts: dict[str, Any]
    tensors: dict[str, Tensor]

    @property
    def cases(self) -> list[dict[str, Any]]:
        return self.facts["cases"]


def read_pack(folder: Path, name: str) -> Pack:
    facts = json.loads((folder / f"{name}.json").read_text())
    return Pack(facts, load_file(folder / f"{name}.safetensors"))


def language_model(folder: Path, case: dict[str, Any]) -> LanguageModel:
    """The network of a case of `lm_forward` or `lm_generate`, with the pack's weights."""
    weights = read_pack(folder, case["weights"])
    facts = weights.facts["config"]
    fusions = {"cross": ()} | {FUSIONS[how]: tuple(names) for how, names in case["fuse2cond"].items()}
    config = LanguageModelConfig(
        codebooks=facts["n_q"],
        cardinality=facts["card"],
        width=facts["dim"],
        heads=facts["num_heads"],
        layers=facts["num_layers"],
        feedforward_multiplier=facts["hidden_scale"],
        position_period=facts["max_period"],
        cross_positions=case["cross_attention_pos_emb"],
        padding="attended",
        **fusions,
        **PATTERNS[case.get("pattern", "delay")],
    )
    model = LanguageModel(config)
    model.load_state_dict({name_from_audiocraft(name): value for name, value in weights.tensors.items()})
    return model.eval()
