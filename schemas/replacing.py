"""Files and folders on a local disk that are there whole or not at all, after a kill and after a power cut.

Each is written under a name that no `*.parquet` glob matches, and is on the disk before it gets its own name; that name
is on the disk before anything goes on.
"""

import os
import uuid
from pathlib import Path

from fsspec.implementations.local import LocalFileSystem


def replace_file(path: str, data: bytes) -> None:
    """Write a file, or put it in the place of the one that is there."""
    folder, name = os.path.split(path)
    os.makedirs(folder, exist_ok=True)
    temporary = os.path.join(folder, f".{name}.{uuid.uuid4().hex}.inprogress")
    try:
        with open(temporary, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        if os.path.exists(temporary):
            os.remove(temporary)
        raise
    _sync(folder)


def replace_folder(new: Path, target: Path) -> None:
    """Put `new` in the place of `target`. A rename does not replace a folder that has files in it, so the old one moves
    away first; whoever is killed between the two finds no folder, and no row that names it."""
    for file in new.rglob("*"):
        if file.is_file():
            _sync(str(file))
    if target.exists():
        old = target.with_name(f".{target.name}.{uuid.uuid4().hex}.inprogress")
        os.rename(target, old)
        os.rename(new, target)
        LocalFileSystem().rm(str(old), recursive=True)
    else:
        os.rename(new, target)
    _sync(str(target.parent))


def _sync(path: str) -> None:
    """Have what was written to a file, or the names in a folder, on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
