"""Files under one fsspec URL: each is there whole or not at all, whatever ends the run that writes it.

On a local disk, a file is written under a temporary name that no `*.parquet` glob matches, synced and renamed. On an
object store, it is one PUT. A file that is not found counts as absent only if its folder does not list it either.

A store has an identity, kept in a small file at its root. It is checked before every write, so that a disk that went
away is an error and not a second store under its mount point.
"""

import errno
import hashlib
import json
import math
import os
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Any

import fsspec
from fsspec.implementations.local import LocalFileSystem

from schemas.storage.content_types import content_type_arguments
from schemas.storage.local_disk import create_file, link_file, move_file, new_folder, replace_file, staging_folder, sync

IDENTITY = "segue-store.json"
"""The file at a store's root that says which store it is."""

BUCKET_SECONDS = 60.0
"""Seconds between two checks of a store's identity in a bucket. A bucket cannot be unmounted, and each check is a
request, so it is not checked before every write."""

STALE_SECONDS = 3600.0
"""Age in seconds after which a temporary file counts as left by a killed run, rather than as another run's work."""


class StoreGone(OSError):
    """The store that a run began with is no longer where it was."""


class WriteRefused(OSError):
    """A remote store did not accept a write. The error's cause says why, the message what happened to the work."""


class FileStore:
    """Files under `url`: a local folder or any fsspec URL (`s3://…`, `gs://…`, `memory://…`).

    Raises:
        ValueError: nothing that is installed can open such a URL.
    """

    def __init__(self, url: str) -> None:
        try:
            self.filesystem, root = fsspec.core.url_to_fs(url)
        except (ValueError, ImportError) as error:
            raise ValueError(
                f"expected a folder or a URL that can be opened as the store, got {url!r}: {error}"
            ) from error
        self.is_local = isinstance(self.filesystem, LocalFileSystem)
        if self.is_local and ".." in PurePosixPath(root).parts:  # the views of a store keep its path
            root = os.path.realpath(root)
        self.root = root.rstrip("/")
        self.url = self.filesystem.unstrip_protocol(self.root)
        self._identity: str | None = None
        self._seen_at = -math.inf

    def check_writable(self) -> None:
        """Write a file and remove it again, so that a store that cannot be written fails before hours of work, not
        after.

        Raises:
            ValueError: the store cannot be written; the message says why.
        """
        try:
            self._write_probe()
        except OSError as error:
            reason = error.strerror or error  # without the name of the probe file, which means nothing to a user
            raise ValueError(f"expected a store that can be written, got {self.url}: {reason}") from error

    def check_accepts_files(self) -> None:
        """Check that a remote store accepts files before computing what it is to keep. Otherwise each retry would
        compute the same again. A local store is not checked, since its disk reports errors at once.

        Raises:
            WriteRefused: the store accepts no files.
        """
        if self.is_local:
            return
        try:
            self._write_probe()
        except StoreGone:
            raise
        except Exception as error:
            reason = " ".join(str(error).split()) or type(error).__name__
            raise WriteRefused(
                f"expected {self.url} to accept files, got: {reason}; nothing was computed in this try, and what was "
                "done before is kept"
            ) from error

    def _write_probe(self) -> None:
        probe = f".{uuid.uuid4().hex}.inprogress"
        self.write_bytes(probe, b"")
        self.remove(probe)

    def check_bucket(self) -> None:
        """Check that the bucket of a store on an object store exists. A missing bucket would look like an empty store.

        Raises:
            ValueError: there is no such bucket.
        """
        protocols = self.filesystem.protocol
        names = {protocols} if isinstance(protocols, str) else set(protocols)
        bucket = self.root.split("/", 1)[0]
        if names & {"s3", "gs", "gcs"} and not self.filesystem.exists(bucket):
            raise ValueError(f"expected the bucket {bucket!r} for {self.url}, got NoSuchBucket")

    # -- identity -------------------------------------------------------------------------------------------------

    def require(self) -> None:
        """Check that the store is the one that this object began with. A store without an identity gets one.

        Raises:
            StoreGone: the store is no longer there, or another one is in its place.
        """
        if not self.is_local and time.monotonic() - self._seen_at < BUCKET_SECONDS:
            return
        identity = self._read_identity()
        if identity is None and self._identity is None:
            new = uuid.uuid4().hex
            is_new = self.write_new(IDENTITY, json.dumps({"store_id": new}).encode())
            identity = new if is_new else self._read_identity()  # if not new, another run wrote one first
        if identity is None or self._identity not in (None, identity):
            state = "another store" if identity else "nothing"
            raise StoreGone(
                f"expected the store that this run began with in {self.url}, got {state}: is its disk still mounted? "
                "Nothing more was written; run the same command again when it is back"
            )
        self._identity, self._seen_at = identity, time.monotonic()

    @property
    def identity(self) -> str:
        """The store's id, which stays the same wherever the store lies; empty where it has none yet."""
        return self._read_identity() or ""

    def _read_identity(self) -> str | None:
        path = self.path(IDENTITY)
        try:
            return str(json.loads(self.filesystem.cat_file(path))["store_id"])
        except FileNotFoundError:
            return None
        except (ValueError, KeyError, TypeError) as error:
            raise StoreGone(f"expected the identity of a store in {path}, got another file: {error}") from error

    # -- files ----------------------------------------------------------------------------------------------------

    def location(self, relative: str = "") -> str:
        """Return a place inside the store, or the store itself, as shown to people: a path if it is local, else a
        URL."""
        if self.is_local:
            return self.path(relative) if relative else self.root
        return f"{self.url}/{relative}" if relative else self.url

    def path(self, relative: str) -> str:
        """Return the filesystem's path of a place inside the store.

        Raises:
            ValueError: the place would lie outside the store.
        """
        parts = PurePosixPath(relative).parts
        if not parts or parts[0] == "/" or ".." in parts or "\\" in relative or "\0" in relative:
            raise ValueError(f"expected a relative path inside the store, got {relative!r}")
        return f"{self.root}/{'/'.join(parts)}"

    def exists(self, relative: str) -> bool:
        """Return whether a file or folder is there.

        Raises:
            OSError: the disk or the network failed, so this is not known.
        """
        return self.size(relative) is not None

    def size(self, relative: str) -> int | None:
        """Return the bytes of a file (0 for a folder); None if it is not there."""
        path = self.path(relative)
        self.filesystem.invalidate_cache(path)
        try:
            return int(self.filesystem.info(path)["size"] or 0)
        except (FileNotFoundError, NotADirectoryError):
            self._confirm_absent(relative)
            return None

    def files(self, folder: str) -> list[str]:
        """Return the names of the files directly in `folder`, sorted; empty if it is not there. Never from a cache."""
        return sorted(name for name, (kind, _) in self._entries(folder).items() if kind == "file")

    def folders(self, folder: str) -> list[str]:
        """Return the names of the folders directly in `folder`, sorted; empty if it is not there."""
        return sorted(name for name, (kind, _) in self._entries(folder).items() if kind == "directory")

    def sizes(self, folder: str) -> dict[str, int]:
        """Return the sizes in bytes of the files directly in `folder`, by name; empty if it is not there."""
        return {name: size for name, (kind, size) in self._entries(folder).items() if kind == "file"}

    def _entries(self, folder: str) -> dict[str, tuple[str, int]]:
        """Return the kind and size of each entry directly in a folder, by name; empty if the folder is not there.

        Raises:
            StoreGone: nothing is there because the store is gone.
            OSError: the parent folder lists it, but it is not found.
        """
        named = self._listing(folder, detail=True)
        return {name: (entry["type"], int(entry["size"] or 0)) for name, entry in named.items()}

    def _listing(self, folder: str, detail: bool) -> dict[str, Any]:
        """Return the filesystem's entries directly in a folder, by name; empty if the folder is not there.

        Args:
            detail: whether to ask for more than names, which on a local disk takes a look at each file.

        Raises:
            StoreGone: nothing is there because the store is gone.
            OSError: the parent folder lists it, but it is not found.
        """
        path = self.path(folder) if folder else self.root
        for _ in range(2):  # the folder may be created between the two looks
            self.filesystem.invalidate_cache(path)
            try:
                entries = self.filesystem.ls(path, detail=detail)
            except (FileNotFoundError, NotADirectoryError):
                if not folder and self._identity is not None:
                    self.require()
                if not folder or not self._is_listed(folder):
                    return {}
                continue
            places = {entry["name"] if detail else entry: entry for entry in entries}
            return {place.rstrip("/").rsplit("/", 1)[-1]: entry for place, entry in places.items() if place != path}
        raise _not_found_but_listed(path)

    def _is_listed(self, relative: str) -> bool:
        """Return whether the parent folder of a place lists it."""
        folder, _, name = relative.rpartition("/")
        return name in self._listing(folder, detail=False)

    def _confirm_absent(self, relative: str) -> None:
        """Check with its folder's listing that what was not found is absent. A failing filesystem also answers "not
        found", and taking that for "no rows" would duplicate or drop them.

        Raises:
            OSError: it is listed, or the store itself is gone.
        """
        if self._is_listed(relative):
            raise _not_found_but_listed(self.path(relative))

    def read_bytes(self, relative: str) -> bytes:
        """Return the contents of a file; raise FileNotFoundError if there is none."""
        return bytes(self.filesystem.cat_file(self.path(relative)))

    def write_bytes(self, relative: str, data: bytes) -> None:
        """Write a file so that it is there whole or not at all.

        Raises:
            StoreGone: the store is no longer where this object found it.
        """
        path = self.path(relative)
        self.require()
        if self.is_local:
            replace_file(path, data)
        else:
            self.filesystem.pipe_file(path, data, **content_type_arguments(self.filesystem.protocol, path))

    def write_new(self, relative: str, data: bytes) -> bool:
        """Write a file, whole or not at all, if there is none. Return False, without writing, if there is one."""
        path = self.path(relative)
        if self.is_local:
            return create_file(path, data)
        try:
            self.filesystem.pipe_file(path, data, mode="create")
        except FileExistsError:
            return False
        return True

    def remove(self, relative: str) -> None:
        """Remove a file or a folder, if it is there. On a local disk it does not reappear after a power cut."""
        self.require()
        path = self.path(relative)
        try:
            self.filesystem.rm(path, recursive=True)
        except FileNotFoundError:
            self._confirm_absent(relative)
        else:
            if self.is_local:
                sync(os.path.dirname(path))

    def move(self, source: str, target: str, keep: str | None = None) -> None:
        """Move a file over another; for readers of `target` this is one step.

        Args:
            keep: where to keep the file that is replaced; None discards it.
        """
        self.require()
        old, new = self.path(target), self.path(source)
        if self.is_local:
            if keep is not None and os.path.exists(old):
                link_file(old, self.path(keep))
            move_file(new, old)
            return
        if keep is not None and self.exists(target):
            self.filesystem.copy(old, self.path(keep))
        self.filesystem.copy(new, old)
        self.filesystem.rm(new)

    @contextmanager
    def new_folder(self, relative: str) -> Iterator[Path]:
        """Yield a local folder to fill. If the block ends without an error, the folder appears, whole, at `relative`.

        On an object store its files are uploaded one by one, so write a row that names the folder only after this.
        """
        target = self.path(relative)
        self.require()
        if self.is_local:
            with new_folder(Path(target)) as folder:
                yield folder
                self.require()
            return
        with staging_folder(cache_folder() / "staging" / uuid.uuid4().hex) as folder:
            yield folder
            self.require()
            for file in sorted(folder.rglob("*")):
                if file.is_file():
                    uploaded = f"{target}/{file.relative_to(folder).as_posix()}"
                    content_type = content_type_arguments(self.filesystem.protocol, uploaded)
                    self.filesystem.pipe_file(uploaded, file.read_bytes(), **content_type)

    def local(self, relative: str) -> Path:
        """Return a local path to a file or folder of the store: the file itself on a local disk, else a cached copy."""
        path = self.path(relative)
        if self.is_local:
            return Path(path)
        target = cache_folder() / "stores" / hashlib.sha256(f"{self.url}/{relative}".encode()).hexdigest()[:16]
        if not target.exists():
            temporary = target.with_name(f"{target.name}.{uuid.uuid4().hex}.inprogress")
            temporary.parent.mkdir(parents=True, exist_ok=True)
            try:
                self.filesystem.get(path, str(temporary), recursive=bool(self.filesystem.isdir(path)))
                os.rename(temporary, target)
            except OSError:
                if not target.exists():  # else another run was faster
                    raise
            finally:
                if temporary.exists():
                    LocalFileSystem().rm(str(temporary), recursive=True)
        return target

    def sweep(self, folder: str) -> None:
        """Remove temporary files directly in `folder` that killed runs left, once they are an hour old."""
        path = self.path(folder) if folder else self.root
        if not self.is_local or not os.path.isdir(path):
            return
        for entry in os.scandir(path):
            if entry.name.endswith(".inprogress") and time.time() - entry.stat().st_mtime > STALE_SECONDS:
                self.filesystem.rm(entry.path, recursive=True)


def _not_found_but_listed(path: str) -> OSError:
    """Return the error for a place that is listed but not found."""
    return OSError(errno.ESTALE, "expected what its folder lists, got the answer that it is absent; try again", path)


def cache_folder() -> Path:
    """Return where copies of remote files are kept on this machine (`$XDG_CACHE_HOME/segue`, by default
    `~/.cache/segue`)."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "segue"
