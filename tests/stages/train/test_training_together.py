"""The stage train in two processes: it gives the result of one process, and the same again after a kill or a stop."""

import signal
from pathlib import Path

import pytest
import torch

from stages.pipeline.contract import Progress, Stopped
from stages.pipeline.runner import run_stage
from tests.worlds.training_world import (
    StopAt,
    deaths_that_change_nothing,
    fill,
    kept_rows,
    kept_weights,
    make_context,
    recipe,
    train_in,
)

CHANGES = {"optimization": {"steps": 9}, "batch_size": 6, "micro_batch_size": 2, "save_every": 3, "log_every": 2}
"""Three micro-batches per step, so that one process works on two and the other on one."""


@pytest.mark.slow  # test_following.py compares updates, and test_sharding.py whole trainings of sharded models
def test_two_processes_train_the_model_that_one_trains(tmp_path: Path) -> None:
    folders = tmp_path / "alone", tmp_path / "together"
    for processes, folder in enumerate(folders, start=1):
        fill(folder)
        train_in(folder, recipe(folder, **CHANGES), processes=processes)
    expected, got = (kept_weights(folder, recipe(folder, **CHANGES)) for folder in folders)
    assert expected.keys() == got.keys()
    for name, value in expected.items():
        torch.testing.assert_close(got[name], value, rtol=1e-3, atol=1e-5)
    rows, theirs = (kept_rows(folder, recipe(folder, **CHANGES)) for folder in folders)
    assert [row["step"] for row in theirs["training"]] == [row["step"] for row in rows["training"]]
    for row, other in zip(rows["training"], theirs["training"], strict=True):
        assert other["codebook_loss"] == pytest.approx(row["codebook_loss"], abs=1e-4)
        assert other["gradient_norm"] == (row["gradient_norm"] and pytest.approx(row["gradient_norm"], rel=1e-3))
    names = [name for name, _ in rows["checkpoints"][0]["metrics"]]
    assert [name for name, _ in theirs["checkpoints"][0]["metrics"]] == names
    assert rows["checkpoints"][0]["checkpoint_id"] == theirs["checkpoints"][0]["checkpoint_id"]


@pytest.mark.slow  # the next test stops one, and test_train.py kills the stage
def test_a_killed_training_of_two_processes_ends_with_the_same_weights_bit_for_bit(tmp_path: Path) -> None:
    assert deaths_that_change_nothing(tmp_path, [(5, 0.0)], CHANGES, processes=2) == [signal.SIGKILL, 0]


def test_two_stopped_processes_keep_their_state_and_one_continues_from_it(tmp_path: Path) -> None:
    fill(tmp_path)
    config = recipe(tmp_path, **CHANGES)
    stage, context = make_context(tmp_path, config, processes=2)
    context.progress = StopAt(context, 4)
    with pytest.raises(Stopped, match="train was asked to stop"):
        run_stage(stage, context)
    assert (context.scratch() / "state.safetensors").exists()

    class First(Progress):
        def advance(self, count: int = 1, note: str = "") -> None:
            self.told = getattr(self, "told", (count, note))

    first = First()
    assert train_in(tmp_path, config, first)["steps"] == 9
    count, note = first.told
    assert count >= 4
    assert note == "resumed"
