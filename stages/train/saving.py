"""The saved state of a language model's training, from which any number of processes can resume, sharded or not.

The state is one file, or one file for each process of a sharded training (`torch.distributed.checkpoint`). Both forms
are safetensors. The parts of a sharded state lie in a folder of their own, and become valid once a small file names
that folder. That file is replaced atomically after the last part is on the disk and, for a remote store, in the store.
Resuming takes whichever form has more updates.
"""

import json
import shutil
import uuid
import warnings
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from safetensors import safe_open
from torch import Tensor
from torch.distributed import is_initialized
from torch.distributed.checkpoint import state_dict_loader, state_dict_saver
from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageReader, HuggingFaceStorageWriter

from model.optim.train_state import TrainState
from schemas.storage.local_disk import replace_file, sync
from stages.checkpoints.disk_errors import disk_errors
from stages.checkpoints.training_log import STATE, TrainingLog, fetch_state, load_state, publish_log, save_state
from stages.pipeline.contract import Context
from stages.train.distributed import Rank

PARTS = "parts.json"
"""The file that names the folder of the newest complete set of parts."""


@dataclass(frozen=True)
class _Parts:
    """A set of parts, as the file `PARTS` describes it."""

    folder: str
    updates: int
    files: dict[str, int]
    """Names of the files in the folder -> their bytes."""
    training_log: dict[str, object]

    @staticmethod
    def read(data: bytes | None) -> "_Parts | None":
        return None if data is None else _Parts(**json.loads(data))


BEST = "best."
"""Prefix of the best weights' names in a saved state."""


@dataclass(frozen=True, eq=False)
class Saved:
    """What was saved besides the state of the optimisation."""

    training_log: TrainingLog
    best: dict[str, Tensor]
    """The best weights so far, by the parameter's name; in a sharded training this process's part of them."""


def save(
    context: Context, rank: Rank, train_state: TrainState, best: Mapping[str, Tensor], training_log: TrainingLog
) -> None:
    """Save the state. In a sharded training each process saves its part, and all return once all parts are saved.

    Args:
        best: the best weights so far, by the parameter's name; empty where training does not stop early.
    """
    if rank.fully_sharded:
        _save_parts(context, rank, train_state.tensors() | _named_best(best), training_log)
    elif rank.is_main:
        best_tensors = {name: value.cpu() for name, value in _named_best(best).items()}
        save_state(context, train_state.state() | best_tensors, training_log)
        _remove_parts(context, except_folder="")


def load(context: Context, rank: Rank, train_state: TrainState) -> Saved | None:
    """Resume from the newest saved state; return what was saved beside it, or None where nothing is saved."""
    folder = context.scratch()
    parts = _local_parts(folder)
    if parts is not None and parts.updates > _updates_of_file(folder):
        best = _load_into(train_state, folder / parts.folder)
        return Saved(TrainingLog(**parts.training_log), best)  # type: ignore[arg-type]
    if rank.fully_sharded and (folder / STATE).exists():
        best = _load_into(train_state, folder)
        with safe_open(folder / STATE, framework="pt") as file:
            return Saved(TrainingLog(**json.loads(file.metadata()["training_log"])), best)
    whole = load_state(folder)
    if whole is None:
        return None
    train_state.load(whole.tensors)
    return Saved(whole.training_log, _best_of(whole.tensors))


def _named_best(best: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {f"{BEST}{name}": value for name, value in best.items()}


def _best_of(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(BEST): value.clone() for name, value in tensors.items() if name.startswith(BEST)}


def fetch(context: Context) -> None:
    """Fetch the state that other machines saved in a remote store, where it has more updates than the local one."""
    fetch_state(context)
    store, relative, folder = context.store, context.scratch_area.relative, context.scratch()
    if store.is_local or not store.exists(f"{relative}/{PARTS}"):
        return
    pointer = store.read_bytes(f"{relative}/{PARTS}")
    parts, local = _Parts.read(pointer), _local_parts(folder)
    if parts is None or (local is not None and local.updates >= parts.updates):
        return
    target = folder / parts.folder
    target.mkdir(exist_ok=True)
    for name, size in parts.files.items():
        store.filesystem.get_file(store.path(f"{relative}/{parts.folder}/{name}"), str(target / name))
        if (got := (target / name).stat().st_size) != size:
            raise OSError(f"expected {size} bytes in {relative}/{parts.folder}/{name}, got {got}")
    replace_file(str(folder / PARTS), pointer)


@disk_errors()
def _save_parts(context: Context, rank: Rank, tensors: dict[str, Tensor], training_log: TrainingLog) -> None:
    """Save this process's part of a sharded state. The set of parts becomes valid once all processes have saved
    theirs."""
    store, relative, scratch = context.store, context.scratch_area.relative, context.scratch()
    updates = int(tensors["updates"])
    name = rank.agreed(f"parts-{updates}-{uuid.uuid4().hex}")
    folder = scratch / name
    state_dict_saver.save(tensors, storage_writer=HuggingFaceStorageWriter(str(folder), save_distributed=True))
    own_files = {path.name: path.stat().st_size for path in folder.glob(f"shard-{rank.number + 1:05d}-*")}
    for file in own_files:
        sync(str(folder / file))
        if not store.is_local:
            store.filesystem.put_file(str(folder / file), store.path(f"{relative}/{name}/{file}"))
    sync(str(folder))
    files = {file: size for process_files in rank.gathered(own_files) for file, size in process_files.items()}
    if rank.is_main:
        pointer = json.dumps(asdict(_Parts(name, updates, files, asdict(training_log)))).encode()
        replace_file(str(scratch / PARTS), pointer)
        if not store.is_local:
            store.write_bytes(f"{relative}/{PARTS}", pointer)
        publish_log(context, training_log)
    rank.wait_for_others()
    if rank.local_number == 0:
        _remove_parts(context, except_folder=name)


def _load_into(train_state: TrainState, folder: Path) -> dict[str, Tensor]:
    """Fill a training's tensors from the files of a folder, whole or this process's part of them; return the best
    weights that are saved there."""
    reader = HuggingFaceStorageReader(str(folder))
    saved_names = reader.read_metadata().state_dict_metadata
    train_state.begin_moments()
    placeholders = {name: torch.zeros_like(value) for name, value in train_state.parameters.items()}
    tensors = train_state.tensors() | {
        name: value for name, value in _named_best(placeholders).items() if name in saved_names
    }
    loadable = {name: value for name, value in tensors.items() if name in saved_names or not _is_moment(name)}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # warns that there is only one process
        state_dict_loader.load(loadable, storage_reader=reader, no_dist=not is_initialized())
    train_state.load(loadable)
    return _best_of(loadable)


def _is_moment(name: str) -> bool:
    return name.startswith(("step.", "exp_avg.", "exp_avg_sq."))


def _local_parts(folder: Path) -> _Parts | None:
    """Return the newest set of parts on this machine; None where it is not complete here."""
    path = folder / PARTS
    parts = _Parts.read(path.read_bytes() if path.exists() else None)
    if parts is None or not all((folder / parts.folder / name).exists() for name in parts.files):
        return None
    return parts


def _updates_of_file(folder: Path) -> int:
    if not (folder / STATE).exists():
        return -1
    with safe_open(folder / STATE, framework="pt") as file:
        return int(file.get_tensor("updates"))


def _remove_parts(context: Context, except_folder: str) -> None:
    """Remove the folders of older sets of parts, on this machine and in the store."""
    for path in context.scratch().glob("parts-*"):
        if path.name != except_folder:
            shutil.rmtree(path, ignore_errors=True)
    if not context.store.is_local:
        relative = context.scratch_area.relative
        for name in context.store.folders(relative):
            if name.startswith("parts-") and name != except_folder:
                context.store.remove(f"{relative}/{name}")
