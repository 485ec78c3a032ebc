"""Memory that decoding may use: what is free on the machine, and in its container."""

from pathlib import Path

import pytest

from stages.pipeline import machine
from stages.pipeline.machine import free_memory

STATISTICS = {
    1: "active_file 5\ninactive_file 10\ntotal_inactive_file 200000\n",
    2: "active_file 5\ninactive_file 200000\n",
}


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine of 3 GB, of which 2,000,000 kB are free, without a container."""
    monkeypatch.setattr(machine, "MEMORY", tmp_path / "meminfo")
    monkeypatch.setattr(machine, "GROUPS", tmp_path)
    (tmp_path / "meminfo").write_text("MemTotal: 3000000 kB\nMemFree: 10 kB\nMemAvailable: 2000000 kB\n")
    return tmp_path


def test_free_memory_is_what_the_system_states_as_available(files: Path) -> None:
    assert free_memory("cpu") == 2_000_000 * 1024


@pytest.mark.parametrize("version", [1, 2])
def test_a_container_leaves_the_rest_of_its_limit_and_files_that_can_be_dropped(files: Path, version: int) -> None:
    folder = files if version == 2 else files / "memory"
    folder.mkdir(exist_ok=True)
    names = ("memory.max", "memory.current") if version == 2 else ("memory.limit_in_bytes", "memory.usage_in_bytes")
    for name, value in zip(names, (1_000_000, 700_000), strict=True):
        (folder / name).write_text(f"{value}\n")
    (folder / "memory.stat").write_text(STATISTICS[version])
    assert free_memory("cpu") == 500_000


def test_a_container_without_a_limit_leaves_what_the_machine_does(files: Path) -> None:
    for name in ("memory.max", "memory.current"):
        (files / name).write_text("max\n")
    assert free_memory("cpu") == 2_000_000 * 1024


def test_a_system_without_meminfo_gives_a_plausible_amount(files: Path) -> None:
    (files / "meminfo").unlink()
    assert 10**8 < free_memory("cpu") < 10**14
