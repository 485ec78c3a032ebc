"""Every state that a power cut can leave of the store's writes: old or new, complete, and no row without its file."""

import os
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from schemas import Store
from schemas.tables import CLIPS, REJECTS
from tests.faults.power import Disk, Synced, Tree

CLIP, SHARD, REFUSED = (
    "audio/version=v/one.flac",
    "clips/version=v/shard=0.parquet",
    "rejects/version=v/shard=0.parquet",
)
OLD, NEW = b"an old file", b"a new file, longer"
OLD_FOLDER = {"weights": OLD, "text/words": OLD, "left": OLD}
NEW_FOLDER = {"weights": NEW, "text/words": NEW, "more/names": NEW}


def write_folder(store: Store, files: dict[str, bytes]) -> None:
    with store.new_folder("models/one") as folder:
        for name, data in files.items():
            (folder / name).parent.mkdir(exist_ok=True)
            (folder / name).write_bytes(data)


def write_clip_and_row(store: Store) -> None:
    store.write_bytes(CLIP, NEW)
    store.write_shard(CLIPS, "v", "0", clip_rows(), input_key="k")


def write_model_and_row(store: Store) -> None:
    write_folder(store, NEW_FOLDER)
    store.write_shard(CLIPS, "v", "0", clip_rows(), input_key="k")


def remove_rejects_and_write_rows(store: Store) -> None:
    store.remove_shard(REJECTS, "v", "0")
    store.write_shard(CLIPS, "v", "0", clip_rows(), input_key="k")


def clip_rows() -> pa.Table:
    return pa.Table.from_pylist([{"request_id": "one", "take": 1, "path": CLIP}], schema=CLIPS.schema)


def folder_in(tree: Tree) -> dict[str, bytes] | None:
    """The files of the folder; None if the folder does not exist."""
    files = {name: data for name, data in tree.items() if data is not None and name.startswith("models/one/")}
    inside = {name.removeprefix("models/one/"): data for name, data in files.items()}
    return inside if "models/one" in tree else None


def is_whole(data: bytes | None) -> bool:
    try:
        return pq.read_table(pa.BufferReader(data)).num_rows == 1
    except pa.ArrowInvalid:
        return False


def new_file(tree: Tree, after: bool) -> bool:
    return tree.get(CLIP) == NEW or (not after and CLIP not in tree)


def replaced_file(tree: Tree, after: bool) -> bool:
    return tree.get(CLIP) == NEW or (not after and tree.get(CLIP) == OLD)


def new_folder(tree: Tree, after: bool) -> bool:
    return folder_in(tree) == NEW_FOLDER or (not after and folder_in(tree) is None)


def replaced_folder(tree: Tree, after: bool) -> bool:
    return folder_in(tree) == NEW_FOLDER or (not after and folder_in(tree) in (None, OLD_FOLDER))


def row_with_its_file(tree: Tree, after: bool) -> bool:
    return is_whole(tree[SHARD]) and tree.get(CLIP) == NEW if SHARD in tree else not after


def row_with_its_folder(tree: Tree, after: bool) -> bool:
    return is_whole(tree[SHARD]) and folder_in(tree) == NEW_FOLDER if SHARD in tree else not after


def row_without_a_refusal(tree: Tree, after: bool) -> bool:
    return is_whole(tree[SHARD]) and REFUSED not in tree if SHARD in tree else not after


def nothing(store: Store) -> None:
    pass


def a_table(store: Store) -> None:
    """Make the folders of the table. Otherwise creating them syncs the root once more, and the sync for the file's
    folders is not needed."""
    (Path(store.root) / SHARD).parent.mkdir(parents=True)


def an_old_file(store: Store) -> None:
    store.write_bytes(CLIP, OLD)


def a_refusal(store: Store) -> None:
    rows = pa.Table.from_pylist([{"stage": "decode", "key": "one/1"}], schema=REJECTS.schema)
    store.write_shard(REJECTS, "v", "0", rows, input_key="k")


Act, Judge = Callable[[Store], None], Callable[[Tree, bool], bool]
CASES: dict[str, tuple[Act, Act, Judge]] = {
    "a new file in new folders": (nothing, lambda store: store.write_bytes(CLIP, NEW), new_file),
    "a file in the place of another": (an_old_file, lambda store: store.write_bytes(CLIP, NEW), replaced_file),
    "a new folder": (nothing, lambda store: write_folder(store, NEW_FOLDER), new_folder),
    "a folder in the place of another": (
        lambda store: write_folder(store, OLD_FOLDER),
        lambda store: write_folder(store, NEW_FOLDER),
        replaced_folder,
    ),
    "a file and a row that names it": (a_table, write_clip_and_row, row_with_its_file),
    "a folder and a row that names it": (a_table, write_model_and_row, row_with_its_folder),
    "a refusal that goes before a row": (a_refusal, remove_rejects_and_write_rows, row_without_a_refusal),
}


def recorded(folder: Path, before: Act, act: Act) -> Disk:
    """Act on a real disk, and return the record."""
    folder.mkdir()
    store = Store(str(folder))
    store.require()
    before(store)
    disk = Disk(folder)
    with disk.recording():
        act(store)
    return disk


def bad_states(disk: Disk, judge: Judge) -> list[Tree]:
    """Return the states after a power cut that are neither old nor new."""
    end = disk.instants()[-1]
    return [tree for instant in disk.instants() for tree in disk.states(instant) if not judge(tree, instant == end)]


@pytest.mark.parametrize("case", CASES)
def test_a_power_cut_at_any_moment_leaves_the_old_or_the_new_state_and_needs_every_fsync(
    case: str, tmp_path: Path
) -> None:
    """Each fsync is also left out once, a bug that must be found."""
    before, act, judge = CASES[case]
    disk = recorded(tmp_path / "store", before, act)
    assert bad_states(disk, judge) == []
    syncs = [place for place, one in enumerate(disk.operations) if isinstance(one, Synced)]
    assert len(syncs) >= 2
    assert [place for place in syncs if not bad_states(disk.without(place), judge)] == []


def row_before_its_file(store: Store) -> None:
    store.write_shard(CLIPS, "v", "0", clip_rows(), input_key="k")
    store.write_bytes(CLIP, NEW)


def write_in_place(store: Store) -> None:
    with open(store.path(CLIP), "wb") as file:
        file.write(NEW)
        file.flush()
        os.fsync(file.fileno())


def row_before_its_refusal_goes(store: Store) -> None:
    store.write_shard(CLIPS, "v", "0", clip_rows(), input_key="k")
    store.remove_shard(REJECTS, "v", "0")


@pytest.mark.parametrize(
    ("before", "bug", "judge"),
    [
        (nothing, row_before_its_file, row_with_its_file),
        (an_old_file, write_in_place, replaced_file),
        (a_refusal, row_before_its_refusal_goes, row_without_a_refusal),
    ],
    ids=["row before its file", "write in place", "row before its refusal goes"],
)
def test_a_planted_bug_is_found(before: Act, bug: Act, judge: Judge, tmp_path: Path) -> None:
    assert bad_states(recorded(tmp_path / "store", before, bug), judge)
