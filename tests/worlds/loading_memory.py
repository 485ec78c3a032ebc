"""Peak memory of loading a checkpoint: `python -m tests.worlds.loading_memory SMALL FOLDER T5` measures it in a process
that has loaded a small checkpoint before, so that imports needed for any checkpoint do not count."""

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
"""Makes glibc return every block of a megabyte or more when it is freed. By default it keeps a random number of them,
and a peak of 1.10 times the weights then becomes 1.25 times in one run of twenty."""


@dataclass(frozen=True)
class Loading:
    """Memory for loading a checkpoint, in bytes."""

    weights: int
    """Weights of the loaded model and its codec."""
    peak: int
    """Peak memory beyond what the process had before."""

    @property
    def ratio(self) -> float:
        return self.peak / self.weights


def measure_loading(small: Path, folder: Path, encoder: Path) -> Loading:
    """Load a folder in a process of its own, after a small one, and return the memory it took."""
    program = [sys.executable, "-m", "tests.worlds.loading_memory", str(small), str(folder), str(encoder)]
    done = subprocess.run(program, cwd=ROOT, env=os.environ | GIVEN_BACK, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return Loading(**json.loads(done.stdout.splitlines()[-1]))


def resident() -> int:
    """Current resident memory of this process, bytes."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


def most_resident() -> int:
    """Peak resident memory of this process, bytes. (`ru_maxrss` includes that of the process which started it.)"""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith("VmHWM:"))


def peak_of(work: Callable[[], object]) -> int:
    """Peak memory of some work in bytes, beyond what this process had before."""
    gc.collect()
    Path("/proc/self/clear_refs").write_text("5")  # resets the peak
    before = resident()
    work()
    return most_resident() - before


def peak_of_beginning(folder: Path, small: train.Config, config: train.Config) -> int:
    """Peak memory of beginning a training of the small world, in a process of its own that has begun a small one
    before, so that imports needed for any training do not count and no memory is left from other work."""
    with patch.dict(os.environ, GIVEN_BACK), ProcessPoolExecutor(1, get_context("spawn")) as process:
        return process.submit(_peak_after, folder, small, config).result()


def _peak_after(folder: Path, small: train.Config, config: train.Config) -> int:
    def begin(config: train.Config) -> None:
        initial_model(config, make_context(folder, config)[1])

    begin(small)
    return peak_of(lambda: begin(config))


def main(small: str, folder: str, text_encoder: str) -> None:
    """Load both, and print the memory of the second."""

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
