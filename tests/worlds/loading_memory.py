"""How much memory loading a checkpoint takes at most: a program, `python -m tests.worlds.loading_memory FOLDER T5`.

It prints bytes as JSON: `weights`, of the model that was loaded and its codec, and `peak`, beyond what the process had
before. A small checkpoint is loaded first, so that what is imported for any does not count.
"""

import json
import resource
import sys
from pathlib import Path

from schemas import WeightsRef
from schemas.weights import LocalWeights
from stages.checkpoints.loading import load_checkpoint


def resident() -> int:
    """Bytes of this process that are in memory now."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


def most_resident() -> int:
    """Bytes of this process that were in memory at most. (`ru_maxrss` counts what the process that started it had.)"""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith("VmHWM:"))


def main(small: str, folder: str, text_encoder: str) -> None:
    """Load both, and tell what the second took."""

    def find(reference: WeightsRef) -> LocalWeights:
        return LocalWeights(str(reference), Path(text_encoder), "digest")

    load_checkpoint(Path(small), find)
    before = resident()
    trained = load_checkpoint(Path(folder), find)
    peak = most_resident() - before
    networks = [trained.model, *([] if trained.codec is None else [trained.codec])]
    weights = sum(value.nbytes for network in networks for value in network.state_dict().values())
    print(json.dumps({"weights": weights, "peak": peak}))


if __name__ == "__main__":
    main(*sys.argv[1:])
