"""A sharded training: it gives the result of one process, with changing numbers of processes; and when training is
sharded."""

import signal
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
import torch

from schemas import Store
from stages.pipeline.contract import Progress, Stopped
from stages.pipeline.runner import run_stage
from stages.train.distributed import Rank
from stages.train.following import run_together
from stages.train.initial_model import initial_model
from stages.train.sharding import SHARE_OF_STATE, is_to_be_sharded, state_bytes
from tests.worlds.object_store import object_store
from tests.worlds.shares import SHAPES, AllWork, all_work, share_work
from tests.worlds.together import context_in
from tests.worlds.training_world import (
    StopAt,
    deaths_that_change_nothing,
    fill,
    kept_rows,
    kept_weights,
    make_context,
    recipe,
    train_in,
    trained_alone,
)

CHANGES = {
    **{"optimization": {"steps": 9}, "batch_size": 6, "micro_batch_size": 2, "save_every": 3, "log_every": 2},
    **{"early_stop": {"every": 3, "patience": 3}},
}
"""Three micro-batches per step, so that one of two processes works on two and the other on one, with a second one of
weight 0."""

MUON = CHANGES | {"optimization": {"steps": 9, "optimizer": "muon"}}


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The result of one process."""
    return trained_alone(tmp_path_factory.mktemp("alone"), CHANGES)


@pytest.fixture(scope="module")
def alone_by_muon(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return trained_alone(tmp_path_factory.mktemp("alone"), MUON)


class First(Progress):
    """The first progress that a run reports of its steps."""

    told: tuple[int, str] | None = None

    def advance(self, count: int = 1, note: str = "") -> None:
        self.told = self.told or (count, note)


def same_training(folder: Path, other: Path, changes: Mapping[str, object] = CHANGES) -> None:
    expected, got = (kept_weights(place, recipe(place, **changes)) for place in (folder, other))
    assert expected.keys() == got.keys()
    for name, value in expected.items():
        torch.testing.assert_close(got[name], value, rtol=1e-3, atol=1e-5)
    rows, theirs = (kept_rows(place, recipe(place, **changes)) for place in (folder, other))
    assert [(row["step"], row["split"]) for row in theirs["training"]] == [
        (row["step"], row["split"]) for row in rows["training"]
    ]
    for row, its in zip(rows["training"], theirs["training"], strict=True):
        assert its["codebook_loss"] == pytest.approx(row["codebook_loss"], abs=1e-4)
        assert its["gradient_norm"] == (row["gradient_norm"] and pytest.approx(row["gradient_norm"], rel=1e-3))
    metrics, of_other = (dict(found["checkpoints"][0]["metrics"]) for found in (rows, theirs))
    assert of_other == pytest.approx(metrics, abs=1e-3)


def stop_after(folder: Path, step: int, processes: int, parallel: str, store_url: str | None = None) -> None:
    stage, context = make_context(folder, recipe(folder, **CHANGES), None, processes, store_url, parallel)
    context.progress = StopAt(context, step)
    with pytest.raises(Stopped, match="train was asked to stop"):
        run_stage(stage, context)


def test_two_processes_with_half_of_the_model_each_train_the_model_of_one(alone: Path, tmp_path: Path) -> None:
    fill(tmp_path)
    train_in(tmp_path, recipe(tmp_path, **CHANGES), processes=2, parallel="fully_sharded")
    same_training(alone, tmp_path)


@pytest.mark.slow  # four trainings; another file continues one of whole models
def test_any_number_of_processes_continues_from_whole_or_sharded_state(alone: Path, tmp_path: Path) -> None:
    handed_on = tmp_path
    fill(handed_on)
    stop_after(handed_on, 2, processes=1, parallel="data")
    stop_after(handed_on, 4, processes=2, parallel="fully_sharded")
    stop_after(handed_on, 6, processes=3, parallel="fully_sharded")
    scratch = make_context(handed_on, recipe(handed_on, **CHANGES))[1].scratch()
    (parts,) = scratch.glob("parts-*")
    assert len(list(parts.glob("*.safetensors"))) == 3
    first = First()
    train_in(handed_on, recipe(handed_on, **CHANGES), first)
    assert first.told is not None
    assert first.told[0] >= 6
    assert first.told[1] == "resumed"
    same_training(alone, handed_on)


@pytest.mark.slow
def test_a_killed_sharded_training_ends_with_the_same_weights_bit_for_bit(tmp_path: Path) -> None:
    kills = [(5, 0.0)]
    assert deaths_that_change_nothing(tmp_path, kills, CHANGES, 2, "fully_sharded") == [signal.SIGKILL, 0]


@pytest.fixture
def bucket() -> Iterator[str]:
    with object_store() as filesystem:
        filesystem.mkdir("trainings")
        yield "s3://trainings/store"


@pytest.mark.slow
def test_another_machine_continues_from_the_sharded_state_in_a_remote_store(
    tmp_path: Path, bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(tmp_path, store_url=bucket)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "one machine"))
    stop_after(tmp_path, 4, 2, "fully_sharded", bucket)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "another"))
    first = First()
    train_in(tmp_path, recipe(tmp_path, **CHANGES), first, store_url=bucket)
    assert first.told is not None
    assert first.told[0] >= 4
    assert first.told[1] == "resumed"
    assert Store(bucket).folders("scratch") == []


# -- who shards ----------------------------------------------------------------------------------------------------


def sharded(folder: Path, free: float, parallel: str = "auto", processes: int = 2, **changes: object) -> bool:
    """Whether a process shards a model if it has `free` times the memory for its state."""
    config = recipe(folder, **changes)
    context = make_context(folder, config, parallel=parallel)[1]
    model = initial_model(config, context).model
    needed = state_bytes(config, model) / SHARE_OF_STATE

    class Process(Rank):
        def any_flag(self, flag: bool) -> bool:
            return flag

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("stages.train.sharding.free_memory", lambda device: int(free * needed * 4))
        return is_to_be_sharded(config, context, Process(0, processes, 0, 4), model)


def test_a_model_is_sharded_if_its_state_does_not_fit_into_the_share_of_each_process(tmp_path: Path) -> None:
    fill(tmp_path)
    assert sharded(tmp_path, free=0.99)
    assert not sharded(tmp_path, free=1.01)
    assert not sharded(tmp_path, free=0.5, parallel="data")
    assert sharded(tmp_path, free=2.0, parallel="fully_sharded")
    assert not sharded(tmp_path, free=0.5, processes=1)


def test_an_optimiser_of_whole_matrices_is_sharded_like_any_other(tmp_path: Path) -> None:
    fill(tmp_path)
    assert sharded(tmp_path, free=0.5, optimization={"optimizer": "muon"})


# -- what needs a whole of it -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def of_two(tmp_path_factory: pytest.TempPathFactory) -> AllWork:
    """The results of two processes for all tests below."""
    return run_together(all_work, context_in(tmp_path_factory.mktemp("two")), 2)


def test_muon_moves_parts_of_matrices_like_whole_ones_bit_for_bit(of_two: AllWork) -> None:
    whole, parts, gathered_apart = of_two.moved
    assert all(torch.equal(mine, other) for mine, other in zip(whole, parts, strict=True))
    for mine, other in zip(whole, gathered_apart, strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-2, atol=1e-3)


@pytest.mark.parametrize("processes", [2, pytest.param(3, marks=pytest.mark.slow)])
def test_processes_with_the_same_matrices_share_muons_work_and_agree(
    of_two: AllWork, tmp_path: Path, processes: int
) -> None:
    work = of_two.shared if processes == 2 else run_together(share_work, context_in(tmp_path), processes)
    alone, together, matrices = work
    for mine, other in zip(alone, together, strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-2, atol=1e-3)
    # Each process gets an equal number of each shape; the last get none of a shape that occurs once.
    steps, shapes = 3, [SHAPES.count(shape) for shape in dict.fromkeys(SHAPES)]
    assert matrices == [steps * sum(number < count for count in shapes) for number in range(processes)]


@pytest.mark.slow
def test_two_processes_with_sharded_matrices_of_muon_train_the_model_of_one(
    alone_by_muon: Path, tmp_path: Path
) -> None:
    fill(tmp_path)
    train_in(tmp_path, recipe(tmp_path, **MUON), processes=2, parallel="fully_sharded")
    same_training(alone_by_muon, tmp_path, MUON)


@pytest.mark.slow
def test_two_processes_that_share_muons_work_train_the_model_of_one(alone_by_muon: Path, tmp_path: Path) -> None:
    fill(tmp_path)
    train_in(tmp_path, recipe(tmp_path, **MUON), processes=2, parallel="data")
    same_training(alone_by_muon, tmp_path, MUON)


def test_samples_of_a_sharded_model_are_made_with_its_weights(of_two: AllWork) -> None:
    heard = of_two.heard
    assert heard["weights"]
    assert heard["codes"]
    assert heard["later"]
