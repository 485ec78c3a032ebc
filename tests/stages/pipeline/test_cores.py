"""The cores that a process may use, by its affinity and by the control groups of its container."""

import os
from pathlib import Path

import pytest

from stages.pipeline import cores
from stages.pipeline.cores import available_cores


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine on which this process may run on 8 processors and has no control group yet."""
    monkeypatch.setattr(cores, "GROUPS", tmp_path)
    monkeypatch.setattr(cores, "OWN_GROUPS", tmp_path / "own")
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(8, 16)), raising=False)
    return tmp_path


def limit(folder: Path, version: int, most: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    if version == 2:
        (folder / "cpu.max").write_text(f"{most} 100000\n")
    else:
        (folder / "cpu.cfs_quota_us").write_text(f"{most}\n")
        (folder / "cpu.cfs_period_us").write_text("100000\n")


def test_without_a_container_the_cores_are_those_of_the_affinity(machine: Path) -> None:
    assert available_cores() == 8


@pytest.mark.parametrize(
    ("most", "cores"), [("400000", 4), ("350000", 3), ("50000", 1), ("1600000", 8), ("unlimited", 8)]
)
@pytest.mark.parametrize("version", [1, 2])
def test_a_containers_quota_is_counted_in_whole_cores(machine: Path, version: int, most: str, cores: int) -> None:
    unlimited = {1: "-1", 2: "max"}[version]
    limit(machine if version == 2 else machine / "cpu", version, unlimited if most == "unlimited" else most)
    assert available_cores() == cores


@pytest.mark.parametrize("version", [1, 2])
def test_the_smallest_quota_on_the_path_to_a_process_group_counts(machine: Path, version: int) -> None:
    root, line = {1: (machine / "cpu", "4:cpu,cpuacct:/nightly/segue"), 2: (machine, "0::/nightly/segue")}[version]
    (machine / "own").write_text(f"5:memory:/elsewhere\n{line}\n")
    limit(root / "nightly", version, "200000")
    limit(root / "nightly" / "segue", version, "500000")
    limit(root / "elsewhere", version, "100000")
    assert available_cores() == 2


def test_a_group_named_as_outside_the_container_is_found_at_the_root(machine: Path) -> None:
    (machine / "own").write_text("0::/docker/0123\n")
    limit(machine, 2, "300000")
    assert available_cores() == 3
