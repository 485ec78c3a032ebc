"""The folder of a delivery: files under any fsspec URL, each whole or absent, and a note of what was written.

The note (`.segue-delivery.json`) is written before any other file, so a folder without one belongs to somebody else and
is left alone. It names the file of each clip with what it was made from, so that a second export writes nothing. It is
rewritten every few seconds while files are written. After a kill, the files since the last rewriting are written again.
"""

import json
import os
import posixpath
import tempfile
import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any, Literal

import fsspec
from fsspec.implementations.local import LocalFileSystem

from schemas.storage.local_disk import make_folder, move_file, replace_file, sync

NOTE = ".segue-delivery.json"
Kind = Literal["delivery", "dataset"]
"""What a folder is for; a folder of one kind is not used as the other."""

NOTE_SECONDS = 5.0
"""Seconds between two rewritings of the note."""


@dataclass(frozen=True)
class DeliveredFile:
    """The file of a clip as it was delivered, and what it was made from."""

    file: str
    """Its path in the folder."""
    request_id: str
    take: int
    source: str
    """SHA-256 of the clip's file in the store."""
    form: str
    """The form that was asked for, in words; empty for a copy of the store's file."""
    sha256: str
    bytes: int
    format: str
    sample_rate: int
    channels: int
    seconds: float
    loudness: float | None
    true_peak: float | None
    marks: str


class DeliveryFolder:
    """The folder of a delivery.

    Args:
        url: a local folder or any fsspec URL.
        store_id: the identity of the store that the delivery comes from.
        kind: whether the folder holds clips, or tables as a data set.

    Raises:
        ValueError: the folder cannot be opened, or holds something else.
    """

    def __init__(self, url: str, store_id: str, kind: Kind = "delivery") -> None:
        if not url.strip():  # file systems would take it for the current folder
            raise ValueError("expected a folder or a URL to deliver to, got none")
        try:
            self._filesystem, root = fsspec.core.url_to_fs(url)
        except (ValueError, ImportError) as error:
            raise ValueError(f"expected a folder or a URL to deliver to, got {url!r}: {error}") from error
        self._root, self.url = root.rstrip("/"), url
        self._note = {"format": f"segue-{kind}-1", "store_id": store_id}
        self._is_local = isinstance(self._filesystem, LocalFileSystem)
        self._sizes = self._list()
        self.delivered: dict[str, DeliveredFile] = self._read_note()
        self._noted_at = time.monotonic()

    def _list(self) -> dict[str, int]:
        """Return the size in bytes of every file in the folder, by its path. Leftovers of a killed export are
        removed."""
        self._filesystem.invalidate_cache()
        if not self._filesystem.exists(self._root):
            return {}
        if not self._filesystem.isdir(self._root):
            raise ValueError(f"expected a folder to deliver to, got the file {self.url}")
        entries = self._filesystem.find(self._root, detail=True)
        sizes = {name[len(self._root) :].lstrip("/"): int(entry["size"] or 0) for name, entry in entries.items()}
        sizes.pop("", None)  # an object store's marker for the folder itself
        for name in [name for name in sizes if name.endswith(".inprogress")] if NOTE in sizes else ():
            with suppress(FileNotFoundError):  # a thread of a stopped export has just finished with it
                self._filesystem.rm(self._path(name))
            del sizes[name]
        return sizes

    def _read_note(self) -> dict[str, DeliveredFile]:
        if NOTE not in self._sizes:
            if self._sizes:
                example = min(self._sizes)
                raise ValueError(
                    f"expected an empty folder or an earlier delivery of this store, got {self.url} with "
                    f"{example!r} in it: give another folder, or empty this one"
                )
            return {}
        try:
            note = json.loads(self._filesystem.cat_file(self._path(NOTE)))
            files = [DeliveredFile(**file) for file in note["files"]]
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(
                f"expected what an export noted in {self.url}/{NOTE}, got {str(error)[:80]}: give another folder"
            ) from error
        if {name: note.get(name) for name in self._note} != self._note:
            raise ValueError(
                f"expected a delivery of this store, got one of another in {self.url}: give another folder"
            )
        return {file.file: file for file in files}

    # -- reading ------------------------------------------------------------------------------------------------------

    def holds(self, file: DeliveredFile) -> bool:
        """Return whether a file exists with the size in the note; its content is not read."""
        return self._sizes.get(file.file) == file.bytes

    def holds_bytes(self, name: str, data: bytes) -> bool:
        """Return whether a file exists and has exactly these bytes."""
        return self._sizes.get(name) == len(data) and self._filesystem.cat_file(self._path(name)) == data

    def files(self, below: str) -> list[str]:
        """Return the files whose path begins with `below`."""
        return sorted(name for name in self._sizes if name.startswith(below))

    @contextmanager
    def opened(self, name: str) -> Iterator[IO[bytes] | None]:
        """Yield a file opened for reading; None if it does not exist."""
        if name not in self._sizes:
            yield None
            return
        with self._filesystem.open(self._path(name), "rb") as file:
            yield file

    # -- writing ------------------------------------------------------------------------------------------------------

    def begin(self) -> None:
        """Write the note if there is none, so that the folder is recognised as a delivery."""
        if NOTE not in self._sizes:
            self.write_note()

    def write(self, name: str, data: bytes) -> bool:
        """Write a file, whole or not at all. Return False, without writing, if it exists with the same bytes."""
        if self.holds_bytes(name, data):
            return False
        if self._is_local:
            replace_file(self._path(name), data)
        else:
            self._filesystem.pipe_file(self._path(name), data)
        self._sizes[name] = len(data)
        return True

    def remember(self, file: DeliveredFile) -> None:
        """Add a clip's file to the note. The note is rewritten now if its time has come, else later."""
        self.delivered[file.file] = file
        if time.monotonic() - self._noted_at > NOTE_SECONDS:
            self.write_note()

    def write_note(self) -> bool:
        """Rewrite the note and return whether it changed."""
        files = [asdict(self.delivered[name]) for name in sorted(self.delivered)]
        self._noted_at = time.monotonic()
        return self.write(NOTE, _json({**self._note, "files": files}))

    @contextmanager
    def staged(self, name: str) -> Iterator[Path]:
        """Yield a local path to write a large file to. When the block ends without an error, the file is moved whole to
        `name`."""
        if self._is_local:
            target = Path(self._path(name))
            make_folder(str(target.parent))
            path = target.with_name(f".{target.name}.{uuid.uuid4().hex}.inprogress")
            try:
                yield path
                sync(str(path))
                move_file(str(path), str(target))
            finally:
                path.unlink(missing_ok=True)
            self._sizes[name] = target.stat().st_size
            return
        with tempfile.TemporaryDirectory(prefix="segue-export-") as folder:
            path = Path(folder) / "file"
            yield path
            self._filesystem.put_file(str(path), self._path(name))
            self._sizes[name] = path.stat().st_size

    def remove(self, name: str) -> None:
        """Remove a file, and its entry in the note."""
        if name in self._sizes:
            self._filesystem.rm(self._path(name))
        self._sizes.pop(name, None)
        self.delivered.pop(name, None)

    def _path(self, name: str) -> str:
        return os.path.join(self._root, name) if self._is_local else posixpath.join(self._root, name)


def _json(value: Mapping[str, Any]) -> bytes:
    return json.dumps(value, indent=1, ensure_ascii=False).encode()
