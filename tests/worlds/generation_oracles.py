"""Cases of the packs `lm_generate` and `stereo_and_extend`: greedy tokens, with the conditions that they were made
from."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from model.decoding.generation import GenerationRequest
from model.lm.fuser import Condition
from model.lm.language_model import LanguageModel
from model.music_model import Attributes
from tests.worlds.oracles import Pack, language_model, read_pack


@dataclass(frozen=True)
class Case:
    """The requests of a greedy run, row by row, and its tokens [B, K, T]."""

    facts: dict[str, Any]
    model: LanguageModel
    requests: list[GenerationRequest]
    passes: list[list[dict[str, Condition]]]
    tokens: Tensor


def greedy_case(folder: Path, key: str, vectors: int | None = None) -> Case:
    """A case of `lm_generate`; with `vectors`, only the first `vectors` vectors of every condition are given."""
    pack = read_pack(folder, "lm_generate")
    facts = next(case for case in pack.cases if case["key"] == key)
    tokens = pack.tensors[f"{key}.tokens"]
    guidance = 1.0 if facts["cfg_coef"] is None else facts["cfg_coef"]
    passes = _passes(pack, key, facts["two_step_cfg"], len(tokens), vectors)
    if guidance == 1:  # the conditions alone; AudioCraft also computes a null
        passes = [[_first_row(embedded) for embedded in of_item[:1]] for of_item in passes]
    requests = _requests(pack, key, len(tokens), facts["max_gen_len"], guidance)
    return Case(facts, language_model(folder, facts), requests, passes, tokens)


def long_case(folder: Path, key: str) -> Case:
    """A case of `stereo_and_extend`, whose conditions are those of `lm_generate` with the same fusing."""
    pack, plain = read_pack(folder, "stereo_and_extend"), read_pack(folder, "lm_generate")
    facts = next(case for case in pack.cases if case["key"] == key)
    tokens, source = pack.tensors[f"{key}.tokens"], next(iter(facts["fuse2cond"]))
    requests = _requests(pack, key, len(tokens), int(facts["duration_s"] * facts["frame_rate"]), facts["cfg_coef"])
    model = language_model(folder, facts | {"cross_attention_pos_emb": False})
    return Case(facts, model, requests, _passes(plain, source, False, len(tokens), None), tokens)


def _first_row(embedded: dict[str, Condition]) -> dict[str, Condition]:
    return {name: Condition(condition.embedding[:1], condition.mask[:1]) for name, condition in embedded.items()}


def _requests(pack: Pack, key: str, rows: int, frames: int, guidance: float) -> list[GenerationRequest]:
    prompts = pack.tensors.get(f"{key}.prompt", [None] * rows)
    return [
        GenerationRequest(Attributes(), frames, seed=0, guidance=guidance, temperature=0.0, prompt=prompt)
        for prompt in prompts
    ]


def _passes(pack: Pack, key: str, apart: bool, rows: int, vectors: int | None) -> list[list[dict[str, Condition]]]:
    def given(kind: str, chosen: list[int]) -> dict[str, Condition]:
        start = f"{key}.{kind}."
        names = {name.removeprefix(start) for name in pack.tensors if name.startswith(start)}
        return {
            name: Condition(
                pack.tensors[start + name][chosen, :vectors],
                pack.tensors[f"{key}.{kind}_mask.{name}"][chosen, :vectors].bool(),
            )
            # Text first, then waveforms, as the pack's README says.
            for name in sorted(names, key=lambda name: (name == "self_wav", name))
        }

    if apart:
        return [[given("cond", [row]), given("null", [row])] for row in range(rows)]
    return [[given("cfg", [row, rows + row])] for row in range(rows)]
