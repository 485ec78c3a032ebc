"""Scratch folders: what is kept of a state, where it is fetched from, and what is removed."""

import os
import time
from pathlib import Path

import pytest

from schemas import Store
from stages.pipeline.scratch import ABANDONED_SECONDS, Scratch


@pytest.fixture
def remote(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Store:
    """A store that is not on a disk, and the cache of the first machine."""
    on_machine(monkeypatch, tmp_path, "a")
    return Store(f"memory:/{tmp_path}")


def on_machine(monkeypatch: pytest.MonkeyPatch, place: Path, name: str) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(place / name))


def write(scratch: Scratch, text: str) -> None:
    scratch.folder.mkdir(parents=True, exist_ok=True)
    (scratch.folder / "state").write_text(text)


def test_another_machine_continues_from_the_newest_complete_file(
    remote: Store, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    scratch = Scratch(remote, "train", "one")
    for progress in (3, 6):
        write(scratch, f"{progress} steps")
        scratch.keep("state", progress)
    assert len(remote.files(scratch.relative)) == 2  # the file and the pointer to it
    on_machine(monkeypatch, tmp_path, "b")
    assert not scratch.folder.exists()
    scratch.fetch("state", -1)
    assert (scratch.folder / "state").read_text() == "6 steps"
    write(scratch, "9 steps")
    scratch.fetch("state", 9)
    assert (scratch.folder / "state").read_text() == "9 steps"  # the local file is further along


def test_an_interrupted_copy_leaves_the_copy_before_it(
    remote: Store, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    scratch = Scratch(remote, "train", "one")
    write(scratch, "3 steps")
    scratch.keep("state", 3)
    write(scratch, "6 steps")
    with monkeypatch.context() as patch:
        patch.setattr(Store, "write_bytes", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            scratch.keep("state", 6)
    on_machine(monkeypatch, tmp_path, "b")
    scratch.fetch("state", -1)
    assert (scratch.folder / "state").read_text() == "3 steps"
    scratch.keep("state", 4)
    assert len(remote.files(scratch.relative)) == 2  # nothing of the interrupted copy stays


def test_a_truncated_file_is_an_error_and_a_missing_one_leaves_an_empty_folder(remote: Store) -> None:
    scratch = Scratch(remote, "train", "one")
    write(scratch, "3 steps")
    scratch.keep("state", 3)
    (copy,) = (name for name in remote.files(scratch.relative) if name.endswith(".state"))
    remote.write_bytes(f"{scratch.relative}/{copy}", b"3")
    with pytest.raises(OSError, match="expected 7 bytes in scratch/train-one/"):
        scratch.fetch("state", -1)
    (scratch.folder / "state").unlink()
    remote.remove(f"{scratch.relative}/{copy}")
    scratch.fetch("state", -1)
    assert list(scratch.folder.iterdir()) == []


def test_nothing_is_copied_within_a_store_on_a_disk(tmp_path: Path) -> None:
    scratch = Scratch(Store(str(tmp_path)), "train", "one")
    write(scratch, "3 steps")
    scratch.keep("state", 3)
    scratch.fetch("state", -1)
    assert [path.name for path in scratch.folder.iterdir()] == ["state"]
    assert scratch.folder == tmp_path / "scratch" / "train-one"


@pytest.mark.parametrize("is_local", [True, False])
def test_clearing_removes_the_folder_and_abandoned_folders_of_the_stage(
    remote: Store, is_local: bool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    store = Store(str(tmp_path / "store")) if is_local else remote
    areas = {name: Scratch(store, *name.split("-")) for name in ("train-one", "train-old", "train-new", "codec-old")}
    long_ago = time.time() - ABANDONED_SECONDS - 60
    for name, scratch in areas.items():
        write(scratch, name)
        scratch.keep("state", 1)
        if name.endswith("old"):
            for path in (scratch.folder / "state", scratch.folder):
                os.utime(path, (long_ago, long_ago))
    if not is_local:
        then = store.filesystem.modified

        def modified(path: str):
            moved = (ABANDONED_SECONDS + 60) * ("-old/" in path)
            return then(path).fromtimestamp(then(path).timestamp() - moved)

        monkeypatch.setattr(store.filesystem, "modified", modified)
    areas["train-one"].clear()
    assert sorted(path.name for path in areas["train-one"].folder.parent.iterdir()) == ["codec-old", "train-new"]
    assert store.folders("scratch") == ["codec-old", "train-new"]
