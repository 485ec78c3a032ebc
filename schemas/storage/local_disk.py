"""Files on a local disk: written so that each is whole or absent, after a kill and after a power cut.

A name is on the disk only once its folder was synced, and a folder only once its parent was. So write a row that names
a file only after these functions have returned.
"""

import errno
import fcntl
import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from fsspec.implementations.local import LocalFileSystem

NO_LINKS = frozenset({errno.EPERM, errno.ENOTSUP, errno.EMLINK, errno.ENOSYS, errno.EXDEV})
"""Errors of disks that cannot give a file a second name (a hard link)."""


def replace_file(path: str, data: bytes) -> None:
    """Write a file on a local disk, or replace it, so that it is whole or absent after a kill and after a power cut.
    The data is on the disk before the file gets its name, and the name is on the disk on return."""
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
    """Write a file on a local disk if there is none. Return False, without writing, if there is one. As in
    `replace_file`, the file gets its name only when it is whole and on the disk.

    Of several processes that create the file at the same moment, one gets True. On a disk without hard links this holds
    for the processes of one machine only. `O_EXCL` would exclude those of other machines too, but others would then see
    the file before it is whole, and a process that is killed would leave it so for ever.
    """
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
        with _locked(folder):
            if os.path.exists(path):
                return False
            os.rename(temporary, path)
    finally:
        with suppress(FileNotFoundError):
            os.remove(temporary)
    sync(folder)
    return True


@contextmanager
def _locked(folder: str) -> Iterator[None]:
    """Keep other processes of this machine, and other threads, from running such a block for the same folder. The lock
    ends with the process that holds it."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        try:
            yield
        finally:
            fcntl.flock(descriptor, fcntl.LOCK_UN)  # closing is not enough if a forked process has a copy
    finally:
        os.close(descriptor)


def link_file(path: str, name: str) -> None:
    """Give a file on a local disk a second name, unless that name exists already."""
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
    """Move a file on a local disk to `target`, replacing what is there. The change is on the disk on return."""
    folder = os.path.dirname(target)
    make_folder(folder)
    os.replace(path, target)
    sync(folder)
    sync(os.path.dirname(path))


@contextmanager
def new_folder(target: Path) -> Iterator[Path]:
    """Yield a folder to fill. If the block ends without an error, the folder is moved to `target` as a whole."""
    with staging_folder(target.with_name(f"{target.name}.{uuid.uuid4().hex}.inprogress")) as folder:
        yield folder
        replace_folder(folder, target)


@contextmanager
def staging_folder(folder: Path) -> Iterator[Path]:
    """Make a folder for the duration of a block, and remove it afterwards if it is still there."""
    make_folder(str(folder.parent))
    folder.mkdir()
    try:
        yield folder
    finally:
        if folder.exists():
            LocalFileSystem().rm(str(folder), recursive=True)


def replace_folder(new: Path, target: Path) -> None:
    """Replace the folder `target` by `new`; the change is on the disk on return.

    A rename cannot replace a folder that has files in it, so the old one is moved away first. A process
    that is killed between the two renames leaves no folder at `target`, and no row that names it.
    """
    for path in (*new.rglob("*"), new):  # the contents of files, and the names in every folder
        sync(str(path))
    if target.exists():
        old = target.with_name(f".{target.name}.{uuid.uuid4().hex}.inprogress")
        os.rename(target, old)
        os.rename(new, target)
        sync(str(target.parent))  # before the old one is removed: until then a power cut may undo the renames
        LocalFileSystem().rm(str(old), recursive=True)
    else:
        os.rename(new, target)
        sync(str(target.parent))


def make_folder(path: str) -> None:
    """Make a folder and its missing parents, unless it exists; their names are on the disk on return."""
    if os.path.isdir(path):
        return
    parent = os.path.dirname(path)
    make_folder(parent)
    with suppress(FileExistsError):  # another run has made it since
        os.mkdir(path)
    sync(parent)


def sync(path: str) -> None:
    """Wait until the contents of a file, or the names in a folder, are on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
