"""A second pack of reference numbers, with other sizes, derived from the committed one by leaving out, renumbering and
plain computation, so that a test with hard-coded sizes fails with it."""

import hashlib
import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from tests.worlds.oracles import Pack, read_pack


def write_other_pack(oracles: Path, folder: Path) -> Path:
    """Write the packs `discriminator`, `conditioning` (labels) and `sampling` with other sizes."""
    _write(_fewer_discriminators(read_pack(oracles, "discriminator")), folder, "discriminator")
    _write(_smaller_tables(read_pack(oracles, "conditioning")), folder, "conditioning")
    sampling = read_pack(oracles, "sampling")
    _write(Pack(sampling.facts, {name: value[:1, :3] for name, value in sampling.tensors.items()}), folder, "sampling")
    return folder


def _write(pack: Pack, folder: Path, name: str) -> None:
    (folder / f"{name}.json").write_text(json.dumps(pack.facts))
    save_file({key: value.contiguous() for key, value in pack.tensors.items()}, folder / f"{name}.safetensors")


def _fewer_discriminators(pack: Pack) -> Pack:
    """Leave the second discriminator out, and reverse the order of the others, which do not depend on each other."""
    sizes = pack.facts["config"]
    kept = [number for number in reversed(range(len(sizes["n_ffts"]))) if number != 1]
    changed = {name: [sizes[name][number] for number in kept] for name in ("n_ffts", "hop_lengths", "win_lengths")}
    tensors: dict[str, Tensor] = {name: value for name, value in pack.tensors.items() if name.startswith("stereo.")}
    tensors |= {name: pack.tensors[name] for name in ("fake", "real")}
    for new, old in enumerate(kept):
        for start in ("weights.discriminators.{}.", "fake.logits.{}", "real.logits.{}", "fake.fmap.{}."):
            before, after = start.format(old), start.format(new)
            tensors |= {
                after + name.removeprefix(before): value
                for name, value in pack.tensors.items()
                if name.startswith(before)
            }
    return Pack({**pack.facts, "config": sizes | changed}, tensors)


def _smaller_tables(pack: Pack) -> Pack:
    """Look labels up in a table of 37 rows, and hash texts into tables of 50 and 7 rows."""
    facts: dict[str, Any] = dict(pack.facts)
    texts = list(next(iter(facts["hash_bins"].values())))
    facts["hash_bins"] = {str(bins): {text: _row(text, bins) for text in texts} for bins in (50, 7)}
    facts["lut"] = facts["lut"] | {"n_bins": 37}
    weight, bias = (pack.tensors[f"lut.output_proj.{name}"] for name in ("weight", "bias"))
    table = pack.tensors["lut.embed.weight"][:37]
    named = {"lut.embed.weight": table, "lut.output_proj.weight": weight, "lut.output_proj.bias": bias}
    rows = {"lut": [[text] for text in facts["lut"]["texts_noop"]]}
    rows["lut_ws"] = [(text or "").split() or [None] for text in facts["lut"]["texts_whitespace"]]
    for key, given in list(rows.items()):
        for name, words in ((key, given), (f"{key}.allnull", [[None], [None]])):
            longest = max(len(row) for row in words)
            padded = [[*row, *[None] * (longest - len(row))] for row in words]
            tokens = torch.tensor([[0 if word is None else _row(word, 37) for word in row] for row in padded])
            mask = torch.tensor([[word is not None for word in row] for row in padded]).int()
            out = (table[tokens] @ weight.T + bias) * mask[..., None]
            shape = pack.tensors[f"{name}.tokens"].dim()
            named |= {f"{name}.tokens": tokens if shape == 2 else tokens[:, 0]}
            named |= {f"{name}.mask": mask, f"{name}.out": out}
    return Pack(facts, named)


def _row(text: str, rows: int) -> int:
    return int(hashlib.sha256(text.encode()).hexdigest(), 16) % rows
