"""The whole pipeline killed at random moments of its stages, and then run to the end."""

import json
import os
import random
import signal
import subprocess
import time
from contextlib import suppress
from pathlib import Path

import pytest

from schemas import Store
from tests.worlds.smallest_run import command, digests, environment, segue

WORK = {
    "demo": "playing the demo corpus",
    "ingest": "reading recordings",
    "train_codec": "training the codec",
    "demo_models (separator)": "training the separator",
    "demo_models (CLAP)": "training CLAP",
    "chroma": "chroma",
    "clap": "clap",
    "tokenize": "tokenize",
    "train": "training",
    "generate": "generate",
    "gate": "gate",
    "decode": "decode",
    "evaluate": "evaluate",
    "controls": "controls",
    "report": "report",
}
"""The line with which a run reports work on a stage. `requests`, `nearest` and `measure` are over before they could
report it."""


def kill_in(line: str, store: Path, home: Path, delay: float) -> bool:
    """Start a run, kill it and all its processes `delay` seconds after it printed `line`, and return whether it was
    still running."""
    process = subprocess.Popen(
        command(store, "run"),
        env=environment(home),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert process.stderr is not None
    said = any(told.startswith(f"{line}:") for told in process.stderr)
    time.sleep(delay)
    running = said and process.poll() is None
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    process.stderr.close()
    return running


# Small stages killed in all ways are among the quick tests, in `tests/faults`.
@pytest.mark.slow
@pytest.mark.parametrize("stages", [("train",), tuple(WORK)], ids=["one of them", "all"])
def test_a_run_killed_in_its_stages_and_then_completed_equals_an_undisturbed_one(catalog, home, tmp_path, stages):
    draw, store = random.Random(0), tmp_path / "store"
    killed = {stage: kill_in(WORK[stage], store, home, draw.random() * 0.6) for stage in stages}
    assert sum(killed.values()) >= 2 * len(stages) / 3, json.dumps(killed)
    done = segue(store, home)
    assert done.returncode == 0, done.stderr[-4000:]
    assert digests(Store(str(store))) == digests(Store(str(catalog)))
