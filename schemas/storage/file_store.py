"""Files under one fsspec URL: each is there whole or not at all, whatever ends the run that writes it.

On a local disk a file is written under a temporary name that no `*.parquet` glob matches, synced and renamed; on an
object store it is one PUT. What is not found is believed to be absent only where its folder does not list it.

A store of files has an identity of its own, in a small file at its root. Before anything is written it is seen to be
there, so that a disk that went away is an error rather than a second store under its mount point.
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
"""A bucket is not unmounted, so it is looked at so often and not before every write, each look being a request."""

STALE_SECONDS = 3600.0
"""Age after which a temporary file is the remains of a killed run, rather than another run's work."""


class StoreGone(OSError):
    """The store that a run began with is no longer where it was."""


class NotTaken(OSError):
    """A remote store did not take something, for the reason that is the cause; the message says what became of it."""


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
        self.root = root.rstrip("/")
        self.url = self.filesystem.unstrip_protocol(self.root)
        self.is_local = isinstance(self.filesystem, LocalFileSystem)
        self._identity: str | None = None
        self._seen_at = -math.inf

    def check_writable(self) -> None:
        """Write a file and remove it again: hours of work are not to end with the first shard that cannot be kept.

        Raises:
            ValueError: the store cannot be written; the message says why.
        """
        try:
            self._write_probe()
        except OSError as error:
            reason = error.strerror or error  # without the name of the file that was tried, which nobody knows
            raise ValueError(f"expected a store that can be written, got {self.url}: {reason}") from error

    def check_taking(self) -> None:
        """See, before work whose result it is to keep, that a remote store takes files: what it does not take would be
        computed again at each try. A local store is not asked, for its disk says so at once.

        Raises:
            NotTaken: it takes none.
        """
        if self.is_local:
            return
        try:
            self._write_probe()
        except StoreGone:
            raise
        except Exception as error:
            reason = " ".join(str(error).split()) or type(error).__name__
            raise NotTaken(
                f"expected {self.url} to take files, got: {reason}; so nothing was computed in this try, and what was "
                "done before is kept"
            ) from error

    def _write_probe(self) -> None:
        probe = f".{uuid.uuid4().hex}.inprogress"
        self.write_bytes(probe, b"")
        self.remove(probe)

    def check_bucket(self) -> None:
        """See that a store on an object store has its bucket: what nobody made would look like an empty store.

        Raises:
            ValueError: it has none.
        """
        protocols = self.filesystem.protocol
        names = {protocols} if isinstance(protocols, str) else set(protocols)
        bucket = self.root.split("/", 1)[0]
        if names & {"s3", "gs", "gcs"} and not self.filesystem.exists(bucket):
            raise ValueError(f"expected the bucket {bucket!r} for {self.url}, got NoSuchBucket")

    # -- identity -------------------------------------------------------------------------------------------------

    def require(self) -> None:
        """See that the store is the one that this object began with; one that has no identity yet gets one.

        Raises:
            StoreGone: it is not there any more, or another one is.
        """
        if not self.is_local and time.monotonic() - self._seen_at < BUCKET_SECONDS:
            return
        identity = self._read_identity()
        if identity is None and self._identity is None:
            new = uuid.uuid4().hex
            is_new = self.write_new(IDENTITY, json.dumps({"store_id": new}).encode())
            identity = new if is_new else self._read_identity()  # where not, a run beside this one was faster
        if identity is None or self._identity not in (None, identity):
            state = "another store" if identity else "nothing"
            raise StoreGone(
                f"expected the store that this run began with in {self.url}, got {state}: is its disk still mounted? "
                "Nothing more was written; run the same command again when it is back"
            )
        self._identity, self._seen_at = identity, time.monotonic()

    @property
    def identity(self) -> str:
        """The store's own name, by which it is known wherever it lies; empty where it has none yet."""
        return self._read_identity() or ""

    def _read_identity(self) -> str | None:
        path = self.path(IDENTITY)
        try:
            return str(json.loads(self.filesystem.cat_file(path))["store_id"])
        except FileNotFoundError:
            return None
        except (ValueError, KeyError, TypeError) as error:
            raise StoreGone(f"expected the identity of a store in {path}, got a file that is none: {error}") from error

    # -- files ----------------------------------------------------------------------------------------------------

    def location(self, relative: str = "") -> str:
        """Return what a person calls a place inside the store, or the store: a path where it is local, else a URL."""
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
            OSError: the disk or the network failed, which is no answer.
        """
        return self.size(relative) is not None

    def size(self, relative: str) -> int | None:
        """Return the bytes of a file (of a folder, 0); None if it is not there."""
        path = self.path(relative)
        self.filesystem.invalidate_cache(path)
        try:
            return int(self.filesystem.info(path)["size"] or 0)
        except (FileNotFoundError, NotADirectoryError):
            self._confirm_absent(relative)
            return None

    def files(self, folder: str) -> list[str]:
        """Return the names of the files right under `folder`, sorted; none if it is not there. Never from a cache."""
        return sorted(name for name, (kind, _) in self._entries(folder).items() if kind == "file")

    def folders(self, folder: str) -> list[str]:
        """Return the names of the folders right under `folder`, sorted; none if it is not there."""
        return sorted(name for name, (kind, _) in self._entries(folder).items() if kind == "directory")

    def sizes(self, folder: str) -> dict[str, int]:
        """Return the names of the files right under `folder` with their bytes; none if it is not there."""
        return {name: size for name, (kind, size) in self._entries(folder).items() if kind == "file"}

    def _entries(self, folder: str) -> dict[str, tuple[str, int]]:
        """Return the kind and size of what lies right under a folder, by name; nothing if the folder is not there.

        Raises:
            StoreGone: nothing is there because the store is gone.
            OSError: the folder around lists it, and it is not found.
        """
        named = self._listing(folder, detail=True)
        return {name: (entry["type"], int(entry["size"] or 0)) for name, entry in named.items()}

    def _listing(self, folder: str, detail: bool) -> dict[str, Any]:
        """Return what the filesystem says of what lies right under a folder, by name.

        Args:
            detail: else it is not asked for more than names, which on a local disk takes a look at each file.

        Raises:
            StoreGone: nothing is there because the store is gone.
            OSError: the folder around lists it, and it is not found.
        """
        path = self.path(folder) if folder else self.root
        for _ in range(2):  # it may come to be between the two looks
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
        """Return whether the folder around a place lists it."""
        folder, _, name = relative.rpartition("/")
        return name in self._listing(folder, detail=False)

    def _confirm_absent(self, relative: str) -> None:
        """See that what was not found is not there, by its folder: a filesystem in trouble says "not found" as well,
        and to take that for "no rows" would double or drop them.

        Raises:
            OSError: it is listed; or the store itself is gone.
        """
        if self._is_listed(relative):
            raise _not_found_but_listed(self.path(relative))

    def read_bytes(self, relative: str) -> bytes:
        """Return what a file holds; raise FileNotFoundError where there is none."""
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
        """Write a file where none is, whole or not at all; return False, having written nothing, where one is."""
        path = self.path(relative)
        if self.is_local:
            return create_file(path, data)
        try:
            self.filesystem.pipe_file(path, data, mode="create")
        except FileExistsError:
            return False
        return True

    def remove(self, relative: str) -> None:
        """Remove a file or a folder, if it is there; on a local disk it does not come back after a power cut."""
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
        """Put a file in the place of another, in one step for whoever reads `target`.

        Args:
            keep: where the file that is replaced stays; None lets it go.
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
        """Yield a local folder to fill; when the block ends without an error it stands, whole, at `relative`.

        On an object store its files are uploaded one by one, so a row that names the folder must be written after it.
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
        """Return a local path to a file or folder of the store: on a local disk itself, else a copy in a cache."""
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
                if not target.exists():  # else a run beside this one was faster
                    raise
            finally:
                if temporary.exists():
                    LocalFileSystem().rm(str(temporary), recursive=True)
        return target

    def sweep(self, folder: str) -> None:
        """Remove the temporary files that killed runs left right under `folder`, once they are an hour old."""
        path = self.path(folder) if folder else self.root
        if not self.is_local or not os.path.isdir(path):
            return
        for entry in os.scandir(path):
            if entry.name.endswith(".inprogress") and time.time() - entry.stat().st_mtime > STALE_SECONDS:
                self.filesystem.rm(entry.path, recursive=True)


def _not_found_but_listed(path: str) -> OSError:
    """Return the error of a filesystem that lists what it then does not find."""
    return OSError(errno.ESTALE, "expected what its folder lists, got an answer that it is not there; try again", path)


def cache_folder() -> Path:
    """Return where copies of remote files lie here (`$XDG_CACHE_HOME/segue`, by default `~/.cache/segue`)."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "segue"
