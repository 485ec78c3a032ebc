"""The whole miniature, at its smallest, on Dask, on Ray and in a bucket: the tables equal those of threads on a local
disk.

A cluster or a bucket does not change what is computed, so they compute little: a few steps of every network and four
short clips, in two shards, as are the recordings.
"""

import subprocess
from collections.abc import Mapping
from pathlib import Path

import pytest

from schemas import Store
from tests.worlds.object_store import object_store
from tests.worlds.smallest_run import ROOT, command, digests, environment

LITTLE = {
    "demo_models.separator.training.optimization.steps": "2",
    "demo_models.clap.training.optimization.steps": "2",
    "train_codec.training.optimization.steps": "3",
    "train.optimization.steps": "4",
    "requests.shard_size": "2",
    "controls.untrained": "2",
}
"""Differences from the smallest run."""

ORDER = """name,description,melody,clap,prompt,prompt_seconds,seconds
words,Slow folk with violin and strings,,,,,2
melody,Warm reggae with guitar,title:Saffron Ellis/Quiet Signal,,,,2
sound,,,title:Saffron Ellis/Quiet Signal,,,2
continued,A driving folk piece,,,title:Saffron Ellis/Quiet Signal,2,4
"""

SECONDS = 1800
"""A run that takes longer, even on a busy machine, hangs."""


def run(store: str, order: Path, given: Mapping[str, str], **settings: object) -> None:
    """Run all stages with one thread a process."""
    changes = LITTLE | {f"settings.{name}": str(value) for name, value in settings.items()}
    changes |= {"settings.requests": str(order)}
    words = [*command(store, "run"), *(part for change in changes.items() for part in ("--set", "=".join(change)))]
    done = subprocess.run(words, cwd=ROOT, env={**given}, capture_output=True, text=True, timeout=SECONDS, check=False)
    assert done.returncode == 0, done.stderr[-4000:]


@pytest.fixture(scope="module")
def order(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An order of one clip for each kind of condition, with a piece of the smallest corpus."""
    file = tmp_path_factory.mktemp("order") / "order.csv"
    file.write_text(ORDER)
    return file


@pytest.fixture(scope="module")
def expected(order: Path, home: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, str, str], object]:
    """The digests of the tables that threads make on a local disk."""
    store = str(tmp_path_factory.mktemp("threads") / "store")
    run(store, order, environment(home))
    return dict(digests(Store(store)))


@pytest.mark.slow
@pytest.mark.parametrize("task_runner", ["dask", "ray"])
def test_a_cluster_makes_the_same_tables_of_the_miniature_as_threads(
    expected, order, home, server, tmp_path, task_runner
) -> None:
    store = str(tmp_path / "store")
    given = environment(home) | {"PREFECT_API_URL": server.url, "PREFECT_HOME": server.environment["PREFECT_HOME"]}
    run(store, order, given, task_runner=task_runner, concurrency=2)
    assert digests(Store(store)) == expected


@pytest.mark.slow
def test_a_bucket_gets_the_same_tables_of_the_miniature_as_a_local_disk(expected, order, home) -> None:
    with object_store() as filesystem:
        filesystem.mkdir("miniature")
        run("s3://miniature/store", order, environment(home))
        assert digests(Store("s3://miniature/store")) == expected
