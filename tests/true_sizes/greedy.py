"""Greedy codes of a published model, by transformers and by this project: `python -m tests.true_sizes.greedy
(transformers | segue | loaded) FOLDER [T5]` prints them, and the most memory of its process, as JSON. `loaded` has the
weights in memory once, as they were loaded, where `segue` lays out its matrices once more as its kernels want them.
"""

import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal
from unittest.mock import patch

import numpy as np
import torch
from transformers import AutoModelForTextToWaveform, AutoTokenizer

from model.decoding import engine, memory
from segue import load_model
from tests.worlds.command_line import ROOT
from tests.worlds.loading_memory import most_resident

DESCRIPTION, FRAMES, FRAME_RATE = "a calm ambient piece", 20, 50


def codes_of_transformers(folder: Path) -> torch.Tensor:
    """Return the codes [K, T] of transformers' greedy `generate` with guidance 3, as they come to its codec."""
    theirs: Any = AutoModelForTextToWaveform.from_pretrained(folder, dtype=torch.float32).eval()
    tokens = AutoTokenizer.from_pretrained(folder)([DESCRIPTION], return_tensors="pt")
    given = {name: tokens[name] for name in ("input_ids", "attention_mask")}
    steps = FRAMES + theirs.decoder.config.num_codebooks // theirs.decoder.config.audio_channels - 1
    seen, decode = list[torch.Tensor](), theirs.audio_encoder.decode

    def record(codes: torch.Tensor, *others: object, **named: object) -> object:
        seen.append(codes[0, 0])
        return decode(codes, *others, **named)

    with patch.object(theirs.audio_encoder, "decode", record):
        theirs.generate(**given, do_sample=False, guidance_scale=3.0, max_new_tokens=steps)
    return torch.stack(seen, dim=1).flatten(0, 1)  # of stereo the sides by turns


def codes_of_segue(folder: Path, text_encoder: Path | None = None) -> torch.Tensor:
    """Return the codes [K, T] that this project makes of the same request."""
    asked = {"description": DESCRIPTION, "temperature": 0, "guidance": 3, "seconds": FRAMES / FRAME_RATE}
    knobs = ["generate.separator=null"]  # a request that names no melody has nothing to separate
    model = load_model(folder, text_encoder=str(text_encoder) if text_encoder else None, knobs=knobs, offline=True)
    return torch.as_tensor(np.array(model.generate(asked).codes, dtype=np.int64))


def codes_of_loaded(folder: Path, text_encoder: Path | None = None) -> torch.Tensor:
    """Return those codes, of weights that are in memory once."""
    unpacked = patch.object(engine, "prepare_for_inference", lambda model, *others: model)
    with unpacked, patch.object(memory, "packed_bytes", lambda *others: 0):
        return codes_of_segue(folder, text_encoder)


MAKERS = {"transformers": codes_of_transformers, "segue": codes_of_segue, "loaded": codes_of_loaded}


@dataclass(frozen=True)
class GreedyCodes:
    """What a process made, and took."""

    codes: list[list[int]]
    peak: int
    """Bytes in memory at most."""


def measure_codes(by: Literal["transformers", "segue", "loaded"], *places: Path) -> GreedyCodes:
    """Make greedy codes in a process of its own, so that one model is in memory at a time."""
    program = [sys.executable, "-m", "tests.true_sizes.greedy", by, *map(str, places)]
    done = subprocess.run(program, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return GreedyCodes(**json.loads(done.stdout.splitlines()[-1]))


def main(by: str, *places: str) -> None:
    """Print greedy codes."""
    codes = MAKERS[by](*map(Path, places))
    print(json.dumps({"codes": codes.tolist(), "peak": most_resident()}))


if __name__ == "__main__":
    main(*sys.argv[1:])
