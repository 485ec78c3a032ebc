"""The benchmarks of the model with only torch, transformers, safetensors and numpy installed."""

import os
import subprocess
import sys
from importlib.metadata import distribution
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.conftest import ROOT

INSTALLED = ("torch", "transformers", "safetensors", "numpy")
LEFT_OUT = {"pydantic", "pydantic-core"}
"""Packages that newer releases install by way of huggingface-hub, and older ones do not."""


def closure(names: tuple[str, ...]) -> set[str]:
    """Names of the packages that an installer would install for `names` on this machine."""
    found: set[tuple[str, frozenset[str]]] = set()
    waiting = [Requirement(name) for name in names]
    while waiting:
        wanted = waiting.pop()
        asked = (canonicalize_name(wanted.name), frozenset(wanted.extras))
        if asked in found:
            continue
        found.add(asked)
        for line in distribution(wanted.name).requires or []:
            needed = Requirement(line)
            # The extra "" means no extra.
            if needed.marker is None or any(needed.marker.evaluate({"extra": extra}) for extra in {"", *wanted.extras}):
                waiting.append(needed)
    return {name for name, _ in found}


@pytest.fixture(scope="module")
def bare(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with these packages and their dependencies, and nothing else."""
    folder = tmp_path_factory.mktemp("bare")
    for package in map(distribution, closure(INSTALLED) - LEFT_OUT):
        for top in {file.parts[0] for file in package.files or [] if file.parts[0] != ".."}:
            place = Path(str(package.locate_file(top)))
            if place.exists() and not (folder / top).exists():
                (folder / top).symlink_to(place)
    return folder


def run(bare: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run Python with only those packages and the checkout on its path."""
    surroundings = {
        "PATH": os.environ["PATH"],
        "PYTHONPATH": os.pathsep.join((str(bare), str(ROOT))),
        "OMP_NUM_THREADS": "1",
        "HF_HUB_OFFLINE": "1",
    }
    command = [sys.executable, "-S", "-P", "-W", "ignore", *arguments]
    return subprocess.run(command, cwd=bare, env=surroundings, capture_output=True, text=True, timeout=300)


@pytest.mark.parametrize("name", ["pydantic", "jaxtyping", "pyarrow", "prefect", "scipy", "torchaudio"])
def test_packages_that_are_not_listed_are_absent(bare, name):
    assert f"No module named '{name}'" in run(bare, "-c", f"import {name}").stderr


@pytest.mark.slow
def test_the_benchmarks_of_the_model_run_and_the_others_are_left_out(bare):
    done = run(bare, "-m", "tests.benchmarks", "--small", "--threads", "1")
    assert done.returncode == 0, done.stderr
    found = [line for line in done.stdout.splitlines() if line.startswith("### ")]
    assert [heading.split()[1].strip(",") for heading in found] == ["Generation", "Training", "Tokenizing"]
    assert "planning is left out, which needs pyarrow, prefect and soundfile" in done.stderr


def test_the_gpu_benchmark_runs_all_its_parts_on_a_cpu(bare):
    done = run(bare, "-m", "tests.benchmarks.gpu", "--device", "cpu", "--small", "--threads", "1")
    assert done.returncode == 0, done.stderr
    parts = [line.partition("] ")[2] for line in done.stderr.splitlines() if line.startswith("[")]
    assert [part.removesuffix(" …").partition(",")[0] for part in parts] == [
        *("limits of the machine", "attention to a cache where it lies", "tokens of graphs"),
        *("sound of the codec's graph", "tokens alone and beside others"),
        *(["generation"] * 5),
        *("training", "tokenizing and chroma"),
    ]
    assert "left out" not in done.stdout
