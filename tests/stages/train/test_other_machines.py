"""A training on a remote store, killed on one machine and resumed on another (moto's S3 on the loopback)."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from schemas import Store
from tests.worlds.object_store import object_store
from tests.worlds.patience import PATIENCE_SECONDS
from tests.worlds.training_world import ROOT, fill, recipe, train_in

STEPS = 12

TRAIN = f"""
import sys
from pathlib import Path
import torch
from tests.worlds.training_world import KillAt, recipe, train_in
torch.set_num_threads(1)
folder, kill, save_every = Path(sys.argv[1]), int(sys.argv[3]), int(sys.argv[4])
config = recipe(folder, optimization={{"steps": {STEPS}}}, save_every=save_every)
train_in(folder, config, KillAt(kill, 0.0) if kill else None, store_url=sys.argv[2])
"""


@pytest.fixture
def bucket() -> Iterator[str]:
    with object_store() as filesystem:
        filesystem.mkdir("trainings")
        yield "s3://trainings/store"


def train_on(machine: Path, folder: Path, url: str, kill: int, save_every: int) -> int:
    """Train in a process with a cache of its own, killed after `kill` steps unless that is 0; return how it ended."""
    environment = os.environ | {"XDG_CACHE_HOME": str(machine), "OMP_NUM_THREADS": "1"}
    program = [sys.executable, "-c", TRAIN, str(folder), url, str(kill), str(save_every)]
    done = subprocess.run(
        program, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=PATIENCE_SECONDS, check=False
    )
    assert done.returncode in (0, -signal.SIGKILL), done.stderr
    return done.returncode


@pytest.mark.slow  # test_train_codec.py continues a codec's training on another machine with the same scratch folder
def test_a_training_killed_on_one_machine_is_resumed_on_another_bit_for_bit(tmp_path: Path, bucket: str) -> None:
    fill(tmp_path)
    fill(tmp_path, store_url=bucket)
    one, other = tmp_path / "one", tmp_path / "other"
    assert train_on(one, tmp_path, bucket, kill=6, save_every=4) == -signal.SIGKILL
    store = Store(bucket)
    assert store.folders("models") == []
    assert len(store.folders("scratch")) == 1
    # The other machine has nothing but the store, and it is killed before it saves anything.
    assert train_on(other, tmp_path, bucket, kill=5, save_every=100) == -signal.SIGKILL
    (state,) = other.rglob("state.safetensors")
    assert int(load_file(state)["updates"]) == 4
    assert train_on(other, tmp_path, bucket, kill=0, save_every=100) == 0
    torch.set_num_threads(1)
    undisturbed = train_in(tmp_path, recipe(tmp_path, optimization={"steps": STEPS}))
    expected = load_file(tmp_path / "store" / undisturbed["path"] / "model.safetensors")
    got = load_file(Store(bucket).local(undisturbed["path"]) / "model.safetensors")
    assert expected.keys() == got.keys()
    assert all(torch.equal(value, got[name]) for name, value in expected.items())
    assert store.folders("scratch") == []
