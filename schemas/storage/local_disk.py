"""Files on a local disk: written so that they are whole or not there, after a kill and after a power cut.

A name is on the disk only once its folder was synced, and a folder only once the one around it was; so what names a
file is to be written after these functions have returned.
"""

import errno
import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from fsspec.implementations.local import LocalFileSystem

NO_LINKS = frozenset({errno.EPERM, errno.ENOTSUP, errno.EMLINK, errno.ENOSYS, errno.EXDEV})
"""Errors of disks that give no file a second name."""


def replace_file(path: str, data: bytes) -> None:
    """Write a file on a local disk, or put it in the place of the one that is there, so that it is whole or not at all
    after a kill and after a power cut: it gets its name when it is on the disk, and that name is there on return."""
    folder, name = os.path.split(path)
    make_folder(folder)
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
    sync(folder)


def create_file(path: str, data: bytes) -> bool:
    """Write a file on a local disk where none is; return False, having written nothing, where one is. It gets its name
    when it is whole and on the disk, as `replace_file`'s does."""
    folder, name = os.path.split(path)
    temporary = os.path.join(folder, f".{name}.{uuid.uuid4().hex}.inprogress")
    replace_file(temporary, data)
    try:
        os.link(temporary, path)
    except FileExistsError:
        return False
    except OSError as error:
        if error.errno not in NO_LINKS:
            raise
        # A disk without hard links: of two that come at the same moment the later one is not told.
        if os.path.exists(path):
            return False
        os.rename(temporary, path)
    finally:
        with suppress(FileNotFoundError):
            os.remove(temporary)
    sync(folder)
    return True


def link_file(path: str, name: str) -> None:
    """Give a file on a local disk a second name; where it has it already, nothing happens."""
    folder = os.path.dirname(name)
    make_folder(folder)
    try:
        os.link(path, name)
    except FileExistsError:
        return
    except OSError as error:
        if error.errno not in NO_LINKS:
            raise
        replace_file(name, Path(path).read_bytes())
    sync(folder)


def move_file(path: str, target: str) -> None:
    """Put a file on a local disk in the place of another, on the disk on return."""
    folder = os.path.dirname(target)
    make_folder(folder)
    os.replace(path, target)
    sync(folder)
    sync(os.path.dirname(path))


@contextmanager
def new_folder(target: Path) -> Iterator[Path]:
    """Yield a folder to fill; when the block ends without an error it stands, whole, at `target`."""
    with staging_folder(target.with_name(f"{target.name}.{uuid.uuid4().hex}.inprogress")) as folder:
        yield folder
        replace_folder(folder, target)


@contextmanager
def staging_folder(folder: Path) -> Iterator[Path]:
    """Make a folder for the length of a block; what is then left of it goes."""
    make_folder(str(folder.parent))
    folder.mkdir()
    try:
        yield folder
    finally:
        if folder.exists():
            LocalFileSystem().rm(str(folder), recursive=True)


def replace_folder(new: Path, target: Path) -> None:
    """Put the folder `new` in the place of `target`, on the disk on return. A rename does not replace a folder that has
    files in it, so the old one moves away first; whoever is killed between the two finds no folder, and no row that
    names it."""
    for path in (*new.rglob("*"), new):  # what is in its files, and its names and those of the folders in it
        sync(str(path))
    if target.exists():
        old = target.with_name(f".{target.name}.{uuid.uuid4().hex}.inprogress")
        os.rename(target, old)
        os.rename(new, target)
        sync(str(target.parent))  # before the old one goes: after a power cut it may have its name again
        LocalFileSystem().rm(str(old), recursive=True)
    else:
        os.rename(new, target)
        sync(str(target.parent))


def make_folder(path: str) -> None:
    """Make a folder, and the parents that it lacks, unless it is there; their names are on the disk on return."""
    if os.path.isdir(path):
        return
    parent = os.path.dirname(path)
    make_folder(parent)
    with suppress(FileExistsError):  # another run has made it since
        os.mkdir(path)
    sync(parent)


def sync(path: str) -> None:
    """Wait until what was written to a file, or the names in a folder, are on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
