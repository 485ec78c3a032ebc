"""Recomputes packs of reference numbers by running AudioCraft 1.3.0, and compares them with the committed ones.

It runs in an environment of its own, which has AudioCraft and not this project:

    uv venv --python 3.11 /tmp/audiocraft
    uv pip install --python /tmp/audiocraft -r tests/oracles/requirements.txt
    uv pip install --python /tmp/audiocraft --no-deps audiocraft==1.3.0
    /tmp/audiocraft/bin/python tests/oracles/make_pack.py /tmp/packs              # computes and compares
    /tmp/audiocraft/bin/python tests/oracles/make_pack.py /tmp/packs --seed 7     # other weights and inputs

Weights, codes and conditions come from the committed packs; with `--seed` they are drawn again in the same shapes, and
`SEGUE_ORACLES=/tmp/packs` then tests the project with numbers that it has never seen.
"""

import argparse
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from codecs_and_losses import (
    make_balancer,
    make_codec,
    make_discriminator,
    make_rvq_train,
    make_spectral_losses,
)
from conditioners import make_chroma, make_conditioning
from language_model import (
    make_lm_forward,
    make_lm_generate,
    make_lm_variants,
    make_patterns,
    make_sampling,
    make_stereo_and_extend,
    make_weights,
)
from pack import Pack, Packs

HERE = Path(__file__).resolve().parent
TOLERANCE, RELATIVE = 2e-5, 1e-4
"""Largest difference of a float from the committed one, which comes from another processor: absolute, or as a share of
the largest value of its tensor."""


FAMILIES: dict[str, Callable[[Pack, Packs], None]] = {
    "lm_weights_self": make_weights,
    "lm_weights_cross": make_weights,
    "lm_weights_stereo8": make_weights,
    "patterns": make_patterns,
    "lm_forward": make_lm_forward,
    "lm_generate": make_lm_generate,
    "lm_variants": make_lm_variants,
    "sampling": make_sampling,
    "chroma": make_chroma,
    "conditioning": make_conditioning,
    "stereo_and_extend": make_stereo_and_extend,
    "codec": make_codec,
    "rvq_train": make_rvq_train,
    "discriminator": make_discriminator,
    "spectral_losses": make_spectral_losses,
    "balancer": make_balancer,
}


def stand_in_for_what_no_number_depends_on() -> None:
    """Let AudioCraft be imported without PyAV, xformers (its torch backend computes) and spaCy (words by spaces)."""
    for name in ("av", "spacy", "xformers", "xformers.ops"):
        sys.modules[name] = types.ModuleType(name)
    ops: Any = sys.modules["xformers.ops"]
    ops.unbind, ops.memory_efficient_attention = torch.unbind, None
    ops.LowerTriangularMask = type("LowerTriangularMask", (), {})
    setattr(sys.modules["xformers"], "ops", ops)  # noqa: B010

    def words(text: str) -> list[Any]:
        return [types.SimpleNamespace(text=w, lemma_=w, is_stop=False) for w in text.lower().split()]

    setattr(sys.modules["spacy"], "load", lambda language: words)  # noqa: B010


def compare(pack: Pack) -> bool:
    """Print how far a pack differs from the committed one, and return whether it is equal within the tolerance."""
    worst, exact, unequal = 0.0, 0, []
    for name, value in pack.computed.items():
        committed = pack.committed[name]
        if value.dtype == committed.dtype and torch.equal(value.nan_to_num(), committed.nan_to_num()):
            exact += 1
        elif value.shape != committed.shape or not committed.is_floating_point():
            unequal.append(name)
        else:
            distance = float((value - committed).nan_to_num().abs().max())
            largest = float(committed.nan_to_num().abs().max())
            worst = max(worst, distance / max(1.0, largest))
            same = torch.equal(value.isnan(), committed.isnan()) and distance <= max(TOLERANCE, RELATIVE * largest)
            unequal += [] if same else [name]
    print(f"{pack.name}: {exact} of {len(pack.computed)} tensors to the bit, others within {worst:.1e}", end="")
    print(f"; NOT EQUAL: {', '.join(unequal)}" if unequal else "")
    return not unequal


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, help="the folder to write; made if it is not there")
    parser.add_argument("--seed", type=int, help="draw other weights and inputs")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    stand_in_for_what_no_number_depends_on()
    arguments.out.mkdir(parents=True, exist_ok=True)
    packs: dict[str, Pack] = {}

    def pack_of(name: str) -> Pack:
        return packs.setdefault(name, Pack(HERE, name, arguments.seed))

    equal = True
    for name, make in FAMILIES.items():
        pack = pack_of(name)
        make(pack, pack_of)
        pack.write(arguments.out)
        equal = (arguments.seed is not None or compare(pack)) and equal
    return 0 if equal else 1


if __name__ == "__main__":
    sys.exit(main())
