"""Reading packs of reference numbers: tensors, their configuration, and the networks that they were made with."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors.torch import load_file
from torch import Tensor

from model.lm.config import LanguageModelConfig
from model.lm.fuser import Condition
from model.lm.language_model import LanguageModel
from stages.checkpoints.audiocraft.lm import parameter_name_to_audiocraft, parameters_in_audiocraft

FUSIONS = {"cross": "cross", "prepend": "prepend", "sum": "sum", "input_interpolate": "interpolate"}

VARIANTS = ["post_norm_bias", "rope", "rope_xpos", "sin_rope", "layer_scale_qk_norm", "past_context5", "kv_repeat"]
VARIANTS += ["plain_mha"]
POSITIONS = {"sin": "sinusoidal", "rope": "rotary", "sin_rope": "both"}


@dataclass(frozen=True)
class PatternName:
    """A pack's name for a pattern: `delay`, `delay[0,0,1,1]`, `parallel`, `unroll`, `coarse_first`,
    `musiclm(group_by=2)`."""

    kind: str
    numbers: tuple[int, ...]

    @classmethod
    def of(cls, name: str) -> "PatternName":
        kind, rest = re.fullmatch(r"(\w+)(.*)", name).groups()  # type: ignore[union-attr]
        return cls(kind, tuple(int(number) for number in re.findall(r"\d+", rest)))

    def fields(self, codebooks: int) -> dict[str, Any]:
        """The fields of a language model's configuration for the pattern."""
        named = {"unroll": {"pattern": "unroll"}, "coarse_first": {"pattern": "coarse_first"}}
        named |= {"parallel": {"delays": (0,) * codebooks}, "delay": {"delays": self.numbers} if self.numbers else {}}
        return named[self.kind] if self.kind in named else {"pattern": "grouped", "group": self.numbers[0]}


@dataclass(frozen=True)
class Pack:
    """One pack: the contents of its JSON, and its tensors."""

    facts: dict[str, Any]
    tensors: dict[str, Tensor]

    @property
    def cases(self) -> list[dict[str, Any]]:
        return self.facts["cases"]

    def case(self, name: str) -> dict[str, Any]:
        return next(case for case in self.cases if case["name"] == name)

    def conditions(self, case: dict[str, Any]) -> dict[str, Condition]:
        """The conditions of a case of `lm_forward`, in the order in which they are fused."""
        name = case["name"]
        return {
            condition: Condition(
                self.tensors[f"{name}.cond.{condition}"], self.tensors[f"{name}.cond_mask.{condition}"].bool()
            )
            for condition in case["condition_order"]
        }


def read_pack(folder: Path, name: str) -> Pack:
    facts = json.loads((folder / f"{name}.json").read_text())
    return Pack(facts, load_file(folder / f"{name}.safetensors"))


def variant(folder: Path, case: dict[str, Any]) -> LanguageModel:
    """The network of a case of `lm_variants`, with its own weights."""
    pack = read_pack(folder, "lm_variants")
    facts = pack.facts["config"] | case["overrides"]
    config = LanguageModelConfig(
        **_sizes(facts),
        activation=facts["activation"],
        norm="before" if facts["norm_first"] else "after",
        attention_bias=facts["bias_attn"],
        feedforward_bias=facts["bias_ff"],
        head_bias=facts["bias_proj"],
        layer_scale=facts["layer_scale"],
        query_key_norm=facts.get("qk_layer_norm", False),
        key_value_heads=facts["num_heads"] // facts.get("kv_repeat", 1),
        past_context=facts.get("past_context"),
        positions=POSITIONS[facts["positional_embedding"]],
        xpos=facts.get("xpos", False),
        position_scale=facts["positional_scale"],
        delays=facts["delays"],
        cross=(),
    )
    start = f"{case['name']}.weights."
    weights = {name.removeprefix(start): value for name, value in pack.tensors.items() if name.startswith(start)}
    model = LanguageModel(config)
    load_decoder(model, weights)
    return model.eval()


def language_model(folder: Path, case: dict[str, Any]) -> LanguageModel:
    """The network of a case of `lm_forward` or `lm_generate`, with the pack's weights."""
    weights = read_pack(folder, case["weights"])
    facts = weights.facts["config"]
    fusions = {"cross": ()} | {FUSIONS[how]: tuple(names) for how, names in case["fuse2cond"].items()}
    config = LanguageModelConfig(
        **_sizes(facts),
        cross_positions=case["cross_attention_pos_emb"],
        **fusions,
        **PatternName.of(case.get("pattern", "delay")).fields(facts["n_q"]),
    )
    model = LanguageModel(config)
    load_decoder(model, weights.tensors)
    return model.eval()


def load_decoder(model: LanguageModel, state: Mapping[str, Tensor]) -> None:
    """Set all weights of a network from AudioCraft's state."""
    tensors = parameters_in_audiocraft(state)
    model.load_state_dict({name: tensors.pop(parameter_name_to_audiocraft(name)) for name in model.state_dict()})
    assert not tensors, f"these have no place: {sorted(tensors)}"


def _sizes(facts: dict[str, Any]) -> dict[str, Any]:
    """The settings that every pack gives for its network under the same names."""
    return {
        "codebooks": facts["n_q"],
        "cardinality": facts["card"],
        "width": facts["dim"],
        "heads": facts["num_heads"],
        "layers": facts["num_layers"],
        "feedforward_multiplier": facts["hidden_scale"],
        "position_period": facts["max_period"],
        "padding": "attended",
    }
