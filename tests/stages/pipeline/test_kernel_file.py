"""What a machine remembers of its kernels: only its own choices, the first of several, and nothing from broken
files."""

import json
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import pytest

from model.kernels.choosing import KernelChoice
from model.kernels.linear import MAX_ROWS
from stages.pipeline.kernel_file import KernelFile, Machine, this_machine

KIND = "float32, 1024 to 4096, gelu"
CHOICE, OTHER = KernelChoice("torch", (4, MAX_ROWS)), KernelChoice("onednn", (MAX_ROWS,))
HERE: Machine = {"processor": "here", "threads": 2}


def test_a_choice_is_recalled_by_the_next_process(tmp_path: Path) -> None:
    assert KernelFile(tmp_path, HERE).recall(KIND) is None
    assert KernelFile(tmp_path, HERE).keep(KIND, CHOICE) == CHOICE
    assert KernelFile(tmp_path, HERE).recall(KIND) == CHOICE


def test_a_kernel_for_any_number_of_rows_is_recalled_by_the_next_process(tmp_path: Path) -> None:
    KernelFile(tmp_path, HERE).keep("training", KernelChoice("onednn", ()))
    assert KernelFile(tmp_path, HERE).recall("training") == KernelChoice("onednn", ())


def test_the_first_choice_is_kept(tmp_path: Path) -> None:
    KernelFile(tmp_path, HERE).keep(KIND, CHOICE)
    assert KernelFile(tmp_path, HERE).keep(KIND, OTHER) == CHOICE
    assert KernelFile(tmp_path, HERE).recall(KIND) == CHOICE


@pytest.mark.parametrize("changed", [{"processor": "there"}, {"threads": 1}])
def test_the_choice_of_another_machine_is_not_used(tmp_path: Path, changed: Machine) -> None:
    here, there = KernelFile(tmp_path, HERE), KernelFile(tmp_path, HERE | changed)
    there.keep(KIND, CHOICE)
    assert here.recall(KIND) is None
    here.path.write_bytes(there.path.read_bytes())  # a folder copied from the other machine
    assert here.recall(KIND) is None
    assert here.keep(KIND, OTHER) == OTHER


def test_a_machine_is_identified_by_its_processor_threads_torch_and_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    machine = this_machine()
    assert {"processor", "flags", "threads", "torch", "kernels"} <= set(machine)
    for name, value in (("torch.__version__", "0"), ("torch.get_num_threads", lambda: 99)):
        with monkeypatch.context() as patch:
            patch.setattr(name, value)
            assert this_machine() != machine
    with monkeypatch.context() as patch:
        patch.setattr("stages.pipeline.kernel_file.PROCESSORS", Path("/nowhere"))
        assert this_machine()["processor"] != ""


@pytest.mark.parametrize(
    "content",
    [
        "",
        "[]",
        "{}",
        {"choices": []},
        {"choices": {KIND: None}},
        {"choices": {KIND: {"kernel": "torch", "rows": [4]}}},
        {"choices": {KIND: {"kernel": "torch", "rows": [8, 4, MAX_ROWS]}}},
        {"choices": {KIND: {"kernel": 7, "rows": [MAX_ROWS]}}},
    ],
    ids=str,
)
def test_a_broken_file_is_ignored_and_replaced(tmp_path: Path, content: str | dict[str, object]) -> None:
    file = KernelFile(tmp_path, HERE)
    file.path.write_text(content if isinstance(content, str) else json.dumps({"machine": HERE} | content))
    assert file.recall(KIND) is None
    assert file.keep(KIND, CHOICE) == CHOICE
    assert file.recall(KIND) == CHOICE
    assert json.loads(file.path.read_text())["machine"] == HERE


def test_an_unwritable_folder_keeps_nothing_and_fails_nothing(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    assert KernelFile(tmp_path / "file", HERE).keep(KIND, CHOICE) is None
    assert KernelFile(tmp_path / "file", HERE).recall(KIND) is None


def _keep(folder: Path, number: int) -> list[str]:
    file = KernelFile(folder, HERE)
    kept = [file.keep(f"{KIND} {kind}", KernelChoice(f"{number}", (MAX_ROWS,))) for kind in range(10)]
    return [choice.kernel for choice in kept if choice is not None]


def test_processes_that_choose_at_the_same_time_get_the_same_choice(tmp_path: Path) -> None:
    with ProcessPoolExecutor(3, mp_context=get_context("fork")) as pool:
        kept = list(pool.map(_keep, [tmp_path] * 3, range(3)))
    assert len(kept[0]) == 10
    assert kept[0] == kept[1] == kept[2]
    assert [path.suffix for path in sorted(tmp_path.iterdir())] == [".json", ".lock"]
