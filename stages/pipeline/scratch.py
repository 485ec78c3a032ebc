"""Scratch folders: the resumable state of one piece of work, on this machine and, for a remote store, also there.

The folder of a local store lies in it at `scratch/<stage>-<identity>`. For a remote store it is under the user's cache,
because files that are written every few minutes and mapped into memory need a disk. A file from which another machine
should be able to continue is also copied to that place in the store: first the whole file, under a name of its own,
and only then a small pointer file that names it. So whoever follows the pointer finds a whole file, even if a copy was
interrupted.
"""

import json
import logging
import os
import shutil
import time
import uuid
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from schemas import Store

POINTER = "newest.json"
"""The pointer file. It names the newest file that was copied into the store, its progress and its size in bytes."""

ABANDONED_SECONDS = 30 * 24 * 3600.0
"""Age in seconds after which a folder of the same stage counts as abandoned: it belongs to a recipe or data that nobody
went back to. The training of a large model may be put aside for weeks, and its state is five times the model's size, so
neither a day nor a year would do."""

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Scratch:
    """The scratch folder of a stage's work."""

    store: Store
    stage: str
    identity: str
    """Identifies the work; each identity has its own folder."""

    @property
    def relative(self) -> str:
        """The folder's path in the store."""
        return f"scratch/{self.stage}-{self.identity}"

    @property
    def folder(self) -> Path:
        """The folder's path on this machine; it may not exist."""
        return self._root() / self.relative

    def _root(self) -> Path:
        from schemas.storage.file_store import cache_folder

        if self.store.is_local:
            return Path(str(self.store.root))
        return cache_folder() / str(self.store.root).strip("/")

    def keep(self, name: str, progress: int) -> None:
        """Copy a file of the folder into a remote store, so that work can continue from it on another machine. Does
        nothing for a local store.

        Args:
            name: the name of the file in the folder.
            progress: how far along the work is in this file; a higher number is newer.
        """
        if self.store.is_local:
            return
        self.store.require()
        path, copy = self.folder / name, f"{uuid.uuid4().hex}.{name}"
        self.store.filesystem.put_file(str(path), self.store.path(f"{self.relative}/{copy}"))
        pointer = {"file": copy, "progress": progress, "bytes": path.stat().st_size}
        self.store.write_bytes(f"{self.relative}/{POINTER}", json.dumps(pointer).encode())
        for other in self.store.files(self.relative):
            if other.endswith(f".{name}") and other != copy:
                self.store.remove(f"{self.relative}/{other}")

    def fetch(self, name: str, progress: int) -> None:
        """Copy the newest file of a name from a remote store into the folder, if it is further along than the file
        there.

        Args:
            progress: how far along the file in the folder is; below 0 if there is none.

        Raises:
            OSError: the copy has another size than the pointer says.
        """
        if self.store.is_local or not self.store.exists(f"{self.relative}/{POINTER}"):
            return
        pointer = json.loads(self.store.read_bytes(f"{self.relative}/{POINTER}"))
        if pointer["progress"] <= progress:
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        temporary = self.folder / f"{name}.{os.getpid()}.inprogress"
        try:
            self.store.filesystem.get_file(self.store.path(f"{self.relative}/{pointer['file']}"), str(temporary))
        except FileNotFoundError:
            log.warning("%s: the state that %s names is missing; work begins without it", self.stage, POINTER)
            temporary.unlink(missing_ok=True)
            return
        if temporary.stat().st_size != pointer["bytes"]:
            got = temporary.stat().st_size
            temporary.unlink()
            raise OSError(f"expected {pointer['bytes']} bytes in {self.relative}/{pointer['file']}, got {got}")
        os.replace(temporary, self.folder / name)

    def clear(self) -> None:
        """Remove the folder, here and in the store, and abandoned folders of the same stage."""
        shutil.rmtree(self.folder, ignore_errors=True)
        for folder in self.folder.parent.glob(f"{self.stage}-*"):
            times = [path.stat().st_mtime for path in (folder, *folder.rglob("*")) if path.exists()]
            if _is_abandoned(max(times, default=time.time())):
                shutil.rmtree(folder, ignore_errors=True)
        if self.store.is_local:
            return
        for name in self.store.folders("scratch"):
            relative = f"scratch/{name}"
            if relative == self.relative or (name.startswith(f"{self.stage}-") and self._is_abandoned(relative)):
                self.store.remove(relative)

    def _is_abandoned(self, relative: str) -> bool:
        """Return whether all files of a folder in the store are older than the limit; False if their times are
        unknown."""
        with suppress(NotImplementedError, FileNotFoundError):
            paths = [self.store.path(f"{relative}/{name}") for name in self.store.files(relative)]
            times = [self.store.filesystem.modified(path).timestamp() for path in paths]
            return bool(times) and _is_abandoned(max(times))
        return False


def _is_abandoned(written: float) -> bool:
    return time.time() - written > ABANDONED_SECONDS
