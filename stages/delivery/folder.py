"""The folder of a delivery: files under any fsspec URL, each whole or not there, and a note of what was written.

The note (`.segue-delivery.json`) is there before any other file, so a folder without one is somebody else's and is left
alone; it names each clip's file with what it was made of, so that a second export writes nothing. It is renewed while
files are written: a kill costs the files since, which are written again.
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
"""What a folder is for: one that is one of them is not the other."""

NOTE_SECONDS = 5.0
"""Time between two renewals of the note."""


@dataclass(frozen=True)
class DeliveredFile:
    """A clip's file as it was delivered, and what it was made of."""

    file: str
    """Its path in the folder."""
    request_id: str
    take: int
    source: str
    """SHA-256 of the store's file."""
    form: str
    """What was asked for beside a copy, in words; empty for a copy."""
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
    """A folder to deliver to.

    Args:
        url: a local folder or any fsspec URL.
        store_id: the identity of the store that it is a delivery of.
        kind: whether it is to hold clips, or tables as a data set.

    Raises:
        ValueError: it cannot be opened, or holds something else.
    """

    def __init__(self, url: str, store_id: str, kind: Kind = "delivery") -> None:
        if not url.strip():  # which file systems take for the folder that one is in
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
        """Return the bytes of every file in the folder, by path in it; what a killed export left goes."""
        self._filesystem.invalidate_cache()
        if not self._filesystem.exists(self._root):
            return {}
        if not self._filesystem.isdir(self._root):
            raise ValueError(f"expected a folder to deliver to, got the file {self.url}")
        entries = self._filesystem.find(self._root, detail=True)
        sizes = {name[len(self._root) :].lstrip("/"): int(entry["size"] or 0) for name, entry in entries.items()}
        sizes.pop("", None)  # an object store's mark of the folder itself
        for name in [name for name in sizes if name.endswith(".inprogress")] if NOTE in sizes else ():
            with suppress(FileNotFoundError):  # a thread of an export that was stopped has just ended it
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
        """Return whether a file is there as it was noted; its bytes are counted, not read."""
        return self._sizes.get(file.file) == file.bytes

    def holds_bytes(self, name: str, data: bytes) -> bool:
        """Return whether a file is there and has these very bytes."""
        return self._sizes.get(name) == len(data) and self._filesystem.cat_file(self._path(name)) == data

    def files(self, below: str) -> list[str]:
        """Return the files whose path begins with `below`."""
        return sorted(name for name in self._sizes if name.startswith(below))

    @contextmanager
    def opened(self, name: str) -> Iterator[IO[bytes] | None]:
        """Yield a file, open to be read; None where there is none."""
        if name not in self._sizes:
            yield None
            return
        with self._filesystem.open(self._path(name), "rb") as file:
            yield file

    # -- writing ------------------------------------------------------------------------------------------------------

    def begin(self) -> None:
        """Write the note, so that the folder is known for what it is."""
        if NOTE not in self._sizes:
            self.write_note()

    def write(self, name: str, data: bytes) -> bool:
        """Write a file, whole or not at all; return False, having written nothing, where it is there already."""
        if self.holds_bytes(name, data):
            return False
        if self._is_local:
            replace_file(self._path(name), data)
        else:
            self._filesystem.pipe_file(self._path(name), data)
        self._sizes[name] = len(data)
        return True

    def remember(self, file: DeliveredFile) -> None:
        """Note a clip's file that is there, with the next renewal of the note at the latest."""
        self.delivered[file.file] = file
        if time.monotonic() - self._noted_at > NOTE_SECONDS:
            self.write_note()

    def write_note(self) -> bool:
        """Renew the note; return whether it changed."""
        files = [asdict(self.delivered[name]) for name in sorted(self.delivered)]
        self._noted_at = time.monotonic()
        return self.write(NOTE, _json({**self._note, "files": files}))

    @contextmanager
    def staged(self, name: str) -> Iterator[Path]:
        """Yield a local path to write a large file to; when the block ends without an error it stands, whole, at
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
        """Remove a file, and forget it."""
        if name in self._sizes:
            self._filesystem.rm(self._path(name))
        self._sizes.pop(name, None)
        self.delivered.pop(name, None)

    def _path(self, name: str) -> str:
        return os.path.join(self._root, name) if self._is_local else posixpath.join(self._root, name)


def _json(value: Mapping[str, Any]) -> bytes:
    return json.dumps(value, indent=1, ensure_ascii=False).encode()
