"""How much memory loading a checkpoint takes at most: `python -m tests.worlds.loading_memory SMALL FOLDER T5` tells it
of a process that has loaded a small checkpoint before, so that what is imported for any does not count.
"""

import gc
import json
import os
import resource
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from unittest.mock import patch

from schemas import WeightsRef
from schemas.weights import LocalWeights
from stages import train
from stages.checkpoints.loading import load_checkpoint
from stages.train.initial_model import initial_model
from tests.worlds.command_line import ROOT
from tests.worlds.training_world import make_context

GIVEN_BACK = {"MALLOC_MMAP_THRESHOLD_": str(2**20)}
"""What has glibc give back every block of a megabyte or more when it is freed. By itself it keeps some for later, how
many by chance, and a peak of 1.10 times the weights is then 1.25 times them in one run of twenty."""


@dataclass(frozen=True)
class Loading:
    """What loading a checkpoint took, in bytes."""

    weights: int
    """Of the model that was loaded and its codec."""
    peak: int
    """At most in memory beyond what the process had before."""

    @property
    def ratio(self) -> float:
        return self.peak / self.weights


def measure_loading(small: Path, folder: Path, encoder: Path) -> Loading:
    """Load a folder in a process of its own, after a small one, and return what that took."""
    program = [sys.executable, "-m", "tests.worlds.loading_memory", str(small), str(folder), str(encoder)]
    done = subprocess.run(program, cwd=ROOT, env=os.environ | GIVEN_BACK, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return Loading(**json.loads(done.stdout.splitlines()[-1]))


def resident() -> int:
    """Bytes of this process that are in memory now."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


def most_resident() -> int:
    """Bytes of this process that were in memory at most. (`ru_maxrss` counts what the process that started it had.)"""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith("VmHWM:"))


def peak_of(work: Callable[[], object]) -> int:
    """Bytes that some work has in memory at most, beyond what this process had before."""
    gc.collect()
    Path("/proc/self/clear_refs").write_text("5")  # which forgets the most that there ever was
    before = resident()
    work()
    return most_resident() - before


def peak_of_beginning(folder: Path, small: train.Config, config: train.Config) -> int:
    """The same of beginning a training of the small world, in a process of its own that has begun a small one before:
    so what is imported for any does not count, and no memory is there that another work has left."""
    with patch.dict(os.environ, GIVEN_BACK), ProcessPoolExecutor(1, get_context("spawn")) as process:
        return process.submit(_peak_after, folder, small, config).result()


def _peak_after(folder: Path, small: train.Config, config: train.Config) -> int:
    def begin(config: train.Config) -> None:
        initial_model(config, make_context(folder, config)[1])

    begin(small)
    return peak_of(lambda: begin(config))


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
