"""The whole miniature, at its smallest, on Dask, on Ray and in a bucket: the tables of threads on a local disk."""

import subprocess
from collections.abc import Mapping
from pathlib import Path

import pytest

from schemas import Store
from tests.worlds.object_store import object_store
from tests.worlds.smallest_run import ROOT, command, digests, environment


def run(store: str, given: Mapping[str, str], **settings: object) -> None:
    """Run all stages with one thread a process."""
    words = [part for name, value in settings.items() for part in ("--set", f"settings.{name}={value}")]
    done = subprocess.run(
        command(store, "run", *words), cwd=ROOT, env={**given}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-4000:]


@pytest.mark.slow
@pytest.mark.parametrize("task_runner", ["dask", "ray"])
def test_the_jobs_of_a_cluster_make_every_table_of_the_miniature(catalog, home, server, tmp_path, task_runner) -> None:
    store = tmp_path / "store"
    given = environment(home) | {"PREFECT_API_URL": server.url, "PREFECT_HOME": server.environment["PREFECT_HOME"]}
    run(str(store), given, task_runner=task_runner, concurrency=2)
    assert digests(Store(str(store))) == digests(Store(str(catalog)))


@pytest.mark.slow
def test_a_bucket_holds_every_table_of_the_miniature(catalog: Path, home: Path) -> None:
    with object_store() as filesystem:
        filesystem.mkdir("miniature")
        run("s3://miniature/store", environment(home))
        assert digests(Store("s3://miniature/store")) == digests(Store(str(catalog)))
