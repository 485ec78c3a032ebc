"""A pack of reference numbers: the committed tensors, and those computed again."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

Tensors = dict[str, Tensor]
Facts = dict[str, Any]
TABLES = ("rope.frequencies", "xpos.decay_rates", "spec_transform.window")
"""Buffers that AudioCraft stores with the weights but does not train."""


class Pack:
    """One pack: its JSON, the committed tensors, and the tensors that are computed here."""

    def __init__(self, folder: Path, name: str, seed: int | None) -> None:
        self.name = name
        self.facts: Facts = json.loads((folder / f"{name}.json").read_text())
        self.committed = load_file(folder / f"{name}.safetensors")
        self.computed: Tensors = {}
        self.generator = None if seed is None else torch.Generator().manual_seed(seed)

    def given(self, name: str, redraw: bool = True) -> Tensor:
        """Return an input and copy it to the new pack: the committed one, or a random one of its shape and spread."""
        if name not in self.computed:
            value = self.committed[name]
            if self.generator is not None and redraw:
                if value.is_floating_point():
                    spread = value.std() if value.numel() > 1 else value.abs().mean()
                    value = value.mean() + spread * torch.randn(value.shape, generator=self.generator)
                elif int(value.max()) > 1:
                    value = torch.randint(0, int(value.max()) + 1, value.shape, generator=self.generator).to(value)
            self.computed[name] = value
        return self.computed[name]

    def given_under(self, prefix: str) -> Tensors:
        """Return the inputs whose names begin with a prefix, without it; tables that are not weights are not
        redrawn."""
        names = [name for name in self.committed if name.startswith(prefix)]
        return {name.removeprefix(prefix): self.given(name, redraw=not name.endswith(TABLES)) for name in names}

    def put(self, **tensors: Tensor) -> None:
        """Store results; `__` in a keyword stands for a dot."""
        for name, value in tensors.items():
            self.computed[name.replace("__", ".")] = value.detach().clone().contiguous()

    def write(self, folder: Path) -> None:
        """Write the pack, in the committed order of names."""
        assert self.computed.keys() == self.committed.keys(), self.computed.keys() ^ self.committed.keys()
        save_file({name: self.computed[name] for name in self.committed}, folder / f"{self.name}.safetensors")
        (folder / f"{self.name}.json").write_text(json.dumps(self.facts, ensure_ascii=False, indent=1) + "\n")


def put(pack: Pack, key: str, **tensors: Tensor) -> None:
    """Store results under a key."""
    pack.put(**{f"{key}.{name}": value for name, value in tensors.items()})


Packs = Callable[[str], Pack]
"""Returns the pack of a name, such as the weights that a case names."""
