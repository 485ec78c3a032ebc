"""The benchmark of the training set: it reports rows that differ from the plain loops'."""

from pathlib import Path

import pytest

from tests.benchmarks import training_set
from tests.benchmarks.training_set import World


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("training_set")


@pytest.fixture(scope="module")
def world(root: Path) -> World:
    """Two recordings and small models, from which the stages have made a training set."""
    world = training_set.make_world(root, 2, 1.5, "cpu", small=True)
    training_set.run_ours(world, str(root / "store"), "cpu")
    return world


def test_rows_of_every_stage_equal_the_loops_and_others_are_reported(root: Path, world: World) -> None:
    plain = training_set.run_theirs(world)
    assert set(plain) == set(training_set.TABLES)
    assert training_set.check(world, str(root / "store"), plain).startswith("every row")
    for name in plain:
        wrong = plain | {name: [*plain[name][:-1], plain[name][-1] + 1]}
        with pytest.raises(SystemExit, match=f"expected rows of {name} at most .* from the loop's, got "):
            training_set.check(world, str(root / "store"), wrong)


def test_a_recording_without_a_row_is_reported(root: Path, world: World) -> None:
    more = World(world.source, [*world.paths, "another.flac"], world.seconds, world.loops)
    with pytest.raises(SystemExit, match="expected 3 rows of chroma, got 2"):
        training_set.check(more, str(root / "store"), {name: [] for name in training_set.TABLES})
