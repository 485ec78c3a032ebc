"""Listing: what is at a source, in all folders: recordings, the metadata beside them, and what can only be refused.

The listing opens no recording. Each file has a stamp (its size with its ETag or time), by which a later run sees that
it need not read the file again. Remarks say what was left out, by patterns or because of an unknown ending.
"""

import errno
import gc
import os
import stat
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from operator import attrgetter
from pathlib import PurePosixPath
from typing import Any, NamedTuple

from fsspec import AbstractFileSystem
from fsspec.implementations.local import LocalFileSystem

from stages.audio.archives import member_uri, members
from stages.audio.locations import locate, uri_of
from stages.audio.sound_tables import OTHER_COLUMNS, row_uri, sound_table
from stages.ingest.choosing import Chosen
from stages.ingest.endings import COMPANIONS, ending_of, is_archive, is_metadata, is_recording, is_table
from stages.ingest.fields import clean_text
from stages.pipeline.contract import Reject
from stages.pipeline.remarks import Remarks


class File(NamedTuple):
    """A file at the source. A tuple, since a million of them may be made, and be in memory, at once."""

    uri: str
    """An absolute path or a URL that `stages.audio.locate` finds."""
    relative: str
    """Its path under the source, with `/`."""
    stamp: str
    size: int


_URI = attrgetter("uri")


@dataclass
class Listing:
    """What is at a source."""

    recordings: list[File] = field(default_factory=list)
    """Sorted by URI."""
    metadata: list[File] = field(default_factory=list)
    rejects: list[Reject] = field(default_factory=list)
    """Recordings that are not regular files or cannot be read, and folders and links that lead nowhere."""
    unreadable_folders: list[str] = field(default_factory=list)
    """URIs of folders that could not be listed: it is unknown which files are still in them."""
    remarks: Remarks = field(default_factory=Remarks)
    """What was excluded or ignored."""

    def exclude(self, relative: str, pattern: str, is_folder: bool) -> None:
        """Remark that a pattern of `ingest.exclude` excludes a folder or a recording; other files need no remark."""
        if is_folder:
            self.remarks.add("folders excluded by ingest.exclude", pattern, relative)
        elif is_recording(relative):
            self.remarks.add("recordings excluded by ingest.exclude", pattern, relative)

    def not_included(self, relative: str) -> None:
        """Remark that no pattern of `ingest.include` names a recording."""
        self.remarks.add("recordings that ingest.include does not name", "", relative)

    def unknown(self, relative: str) -> None:
        """Remark that a file is neither a recording nor metadata, unless its ending says that it is something else."""
        ending = ending_of(PurePosixPath(relative).name)
        if ending not in COMPANIONS:
            shown = f".{ending}" if ending else "no ending"
            self.remarks.add("files ignored because of their ending", shown, relative)

    def take(self, file: File, chosen: Chosen) -> None:
        """Enter a file that no pattern excludes: a recording, metadata, an archive of both, or something else."""
        if is_recording(file.relative):
            if chosen.includes(file.relative):
                self.recordings.append(file)
            else:
                self.not_included(file.relative)
        elif is_table(file.relative) and (names := _sounds_in(file)):
            self._take_members(file, names, row_uri, chosen)
        elif is_metadata(file.relative):
            self.metadata.append(file)
        elif is_archive(file.relative):
            self._take_archive(file, chosen)
        else:
            self.unknown(file.relative)

    def _take_archive(self, archive: File, chosen: Chosen) -> None:
        """Enter the members of a tar file, like files of a folder. A member's stamp includes its archive's: only that
        tells whether it changed. A text with a recording's name is its description, as in WebDataset."""
        try:
            by_name = members(*locate(archive.uri))
        except (ValueError, OSError) as error:
            self.rejects.append(Reject(archive.uri, archive.uri, "unreadable", clean_text(str(error)), stamp=LISTED))
            return
        self._take_members(archive, {name: member.size for name, member in by_name.items()}, member_uri, chosen)

    def _take_members(
        self, archive: File, sizes: Mapping[str, int], member_uri: Callable[[str, str], str], chosen: Chosen
    ) -> None:
        """Enter the members of an archive, given by name with their sizes in bytes."""
        described = {name.rpartition(".")[0] for name in sizes if is_recording(name)}
        for name, size in sizes.items():
            relative = f"{archive.relative}/{name}"
            excluded = chosen.excludes_any_part(name)
            if excluded is not None:
                pattern = chosen.excluding_pattern(PurePosixPath(excluded).name, excluded)
                self.exclude(relative, pattern, is_folder=False)
                continue
            if "::" in name or not name.isprintable():
                message = "expected a member's name without :: and unprintable characters, got a name with them"
                self.rejects.append(
                    Reject(f"{archive.uri}/{clean_text(name)}", archive.uri, "name", message, stamp=LISTED)
                )
                continue
            file = File(member_uri(name, archive.uri), relative, f"{size}-{archive.stamp}", size)
            stem, _, ending = name.rpartition(".")
            if name == OTHER_COLUMNS or (ending.lower() == "txt" and stem in described):
                self.metadata.append(file)
            elif not is_archive(name):
                self.take(file, chosen)

    def is_in_unreadable_folder(self, uri: str) -> bool:
        return any(uri.startswith(f"{folder}/") for folder in self.unreadable_folders)


def _sounds_in(table: File) -> dict[str, int]:
    """Return the names of the sounds in a Parquet table, and of the member that describes them, with approximate sizes.
    Return none for a table without sounds, or one that cannot be read: it is taken for metadata."""
    try:
        sounds = sound_table(*locate(table.uri))
    except (ValueError, OSError):
        return {}
    names = [*sounds.rows, OTHER_COLUMNS] if sounds else []
    return dict.fromkeys(names, table.size // max(len(names), 1))


def list_source(source: str, store: str = "", chosen: Chosen = Chosen()) -> Listing:
    """List a folder, bucket or single file.

    Args:
        store: the URL of a store; if it is inside the source, its files are left out.
        chosen: which files and folders are looked at.

    Raises:
        ValueError: there is nothing at `source`, or no recording (an unmounted disk must not empty the tables). Or it
            is the store itself, whose clips are not recordings.
        OSError: the network failed.
    """
    try:
        filesystem, root = locate(os.path.expanduser(source))
    except (ImportError, ValueError) as error:
        raise ValueError(f"expected a folder or URL of recordings as the source, got {source!r}: {error}") from error
    if store and _is_same_place(filesystem, root, store):
        raise ValueError(f"expected a source outside the store, got the store itself, {source!r}")
    listing = Listing()
    if isinstance(filesystem, LocalFileSystem):
        if not os.path.exists(root):
            raise ValueError(
                f"expected a folder or URL of recordings as the source, got {source!r}, which does not exist"
            )
        walk = _Walk(root if os.path.isdir(root) else os.path.dirname(root), listing, chosen)
        with _uncollected():
            if os.path.isdir(root):
                walk.all(store)
            else:
                walk.file(root)
    else:
        _list_remote(filesystem, root, source, store, listing, chosen)
    if not listing.recordings and not listing.rejects:
        advice = "check that the disk is mounted and the path is right"
        raise ValueError(f"expected recordings (wav, flac, mp3, ogg, m4a …) at {source!r}, got none; {advice}")
    return sorted_listing(listing)


def _is_same_place(filesystem: AbstractFileSystem, root: str, store: str) -> bool:
    """Return whether a store is at exactly this place."""
    other, store_root = locate(store)
    if isinstance(filesystem, LocalFileSystem) and isinstance(other, LocalFileSystem):
        return os.path.realpath(root) == os.path.realpath(store_root)
    return bool(other == filesystem) and store_root.rstrip("/") == root.rstrip("/")


def sorted_listing(listing: Listing) -> Listing:
    """Sort the files and rejects of a listing by URI or key, and return it."""
    listing.recordings.sort(key=_URI)
    listing.metadata.sort(key=_URI)
    listing.rejects.sort(key=lambda reject: reject.key)
    return listing


@contextmanager
def _uncollected() -> Iterator[None]:
    """Turn the garbage collector off: while a million objects are made it would examine them again and again, and none
    of them is garbage."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


# -- a local disk ------------------------------------------------------------------------------------------------------


class _Walk:
    """A walk over a folder: real folders first, then those that links lead to. So each folder is listed once, and by
    its own name if it has one under the source. Links to what is listed already add nothing; circles are refused."""

    def __init__(self, root: str, listing: Listing, chosen: Chosen) -> None:
        self._root, self._listing, self._chosen, self._disk = root, listing, chosen, LocalFileSystem()
        self._start = len(root.rstrip("/")) + 1
        self._listed: set[tuple[int, int]] = set()
        self._links: list[str] = []

    def all(self, store: str) -> None:
        """List the root and everything below it, except a store that is in it."""
        filesystem, store_root = locate(store) if store else (None, "")
        inside = os.path.realpath(store_root).startswith(os.path.realpath(self._root).rstrip("/") + "/")
        if isinstance(filesystem, LocalFileSystem) and inside and os.path.isdir(store_root):
            self._enter(store_root)
        self._descend(self._root)
        while self._links:
            links, self._links = sorted(self._links), []
            for link in links:
                self._follow(link)

    def file(self, path: str) -> None:
        """Enter a file under the root, or the file that a link there leads to."""
        recording = is_recording(path)
        if recording or is_metadata(path) or is_archive(path):
            self._take(path, path[self._start :], recording, lambda: os.stat(path))

    def _take(self, path: str, relative: str, recording: bool, read_state: Callable[[], os.stat_result]) -> None:
        """Enter a recording, or otherwise a file of metadata or an archive."""
        try:
            state = read_state()
        except OSError as error:
            self._refuse(path, "unreadable", f"expected a file, got {error.strerror or error}")
            return
        mode, size = state.st_mode, state.st_size
        if not stat.S_ISREG(mode):
            if recording:
                kind = _KINDS.get(stat.S_IFMT(mode), "something else")
                self._refuse(path, "not a file", f"expected a regular file, got {kind}")
        elif recording and mode & _READABLE_BY_ALL != _READABLE_BY_ALL and not os.access(path, os.R_OK):
            self._refuse(path, "unreadable", "expected a readable file, got no permission to read it")
        else:
            uri = path if path.isascii() else uri_of(self._disk, path, self._root)
            # Equal to `File(…)`, but without that function in Python around this call.
            file = tuple.__new__(File, (uri, relative, f"{size}-{state.st_mtime_ns}", size))
            if recording:
                self._listing.recordings.append(file)
            else:
                self._listing.take(file, self._chosen)

    def _enter(self, folder: str | int) -> bool:
        """Mark a folder, given by path or descriptor, as listed. Return False if it was listed before."""
        state = os.stat(folder)
        identity = (state.st_dev, state.st_ino)
        if identity in self._listed:
            return False
        self._listed.add(identity)
        return True

    def _descend(self, folder: str) -> None:
        """List a folder and all real folders below it; links are kept in `_links`."""
        waiting = [folder]
        while waiting:
            current = waiting.pop()
            try:
                descriptor = os.open(current, os.O_RDONLY)
                try:
                    waiting += self._list_folder(current, descriptor)
                finally:
                    os.close(descriptor)
            except OSError as error:
                self._listing.unreadable_folders.append(uri_of(self._disk, current, self._root))
                why = error.strerror or str(error)
                self._refuse(
                    current, "unreadable", f"expected a folder that can be listed, got: {why}; its tracks are kept"
                )

    def _list_folder(self, folder: str, descriptor: int) -> list[str]:
        """Enter the files of an open folder, and return the real folders in it. With the folder's descriptor the system
        need not resolve each file's path."""
        if not self._enter(descriptor):
            return []
        with os.scandir(descriptor) as entries:
            children = list(entries)
        inner, prefix = [], folder if folder.endswith("/") else f"{folder}/"
        excludes, includes = self._chosen.excludes, self._chosen.includes
        inside = prefix[self._start :]
        for entry in children:
            name = entry.name
            path, relative = prefix + name, inside + name
            if excludes(name, relative):
                pattern = self._chosen.excluding_pattern(name, relative)
                self._listing.exclude(relative, pattern, entry.is_dir(follow_symlinks=False))
            elif entry.is_dir(follow_symlinks=False):
                inner.append(path)
            elif entry.is_symlink() and not os.path.isfile(path):
                self._links.append(path)
            else:
                recording = is_recording(name)
                if recording and not includes(relative):
                    self._listing.not_included(relative)
                elif recording or is_metadata(name) or is_archive(name):
                    self._take(path, relative, recording, entry.stat)
                else:
                    self._listing.unknown(relative)
        return inner

    def _follow(self, link: str) -> None:
        try:
            os.stat(link)
        except OSError as error:
            if error.errno == errno.ELOOP:
                self._refuse(link, "link loop", "expected a link to recordings, got one that leads back to itself")
            elif is_recording(link):
                self._refuse(link, "broken link", f"expected a file behind the link, got: {error.strerror or error}")
            return
        target, parent = os.path.realpath(link), os.path.realpath(os.path.dirname(link))
        if not os.path.isdir(link):
            self.file(link)
        elif parent == target or parent.startswith(target.rstrip("/") + "/"):
            self._refuse(link, "link loop", f"expected a link to other recordings, got one to {target!r} above it")
        else:
            self._descend(link)

    def _refuse(self, path: str, kind: str, message: str) -> None:
        uri = uri_of(self._disk, path, self._root)
        self._listing.rejects.append(Reject(uri, uri, kind, clean_text(message), stamp=LISTED))


_READABLE_BY_ALL = stat.S_IRUSR | stat.S_IRGRP | stat.S_IROTH

_KINDS = {stat.S_IFIFO: "a pipe", stat.S_IFSOCK: "a socket", stat.S_IFCHR: "a device", stat.S_IFBLK: "a device"}

LISTED = "listed"
"""The stamp of rejects that follow from name and kind alone: the file was not read."""


# -- object stores and others ------------------------------------------------------------------------------------------


def _list_remote(
    filesystem: AbstractFileSystem, root: str, source: str, store: str, listing: Listing, chosen: Chosen
) -> None:
    filesystem.invalidate_cache()
    try:
        entries = filesystem.find(root, detail=True)
    except FileNotFoundError as error:
        raise ValueError(
            f"expected a folder or URL of recordings as the source, got {source!r}, which does not exist"
        ) from error
    other, store_root = locate(store) if store else (None, "")
    store_prefix = store_root.rstrip("/") + "/" if other == filesystem else None
    inside = store_prefix is not None and store_prefix.startswith(root.rstrip("/") + "/")
    reported: set[str] = set()
    for path, entry in sorted(entries.items()):
        relative = (path[len(root) :].lstrip("/") if path.startswith(root) else path) or PurePosixPath(path).name
        if entry.get("type", "file") != "file" or (inside and path.startswith(str(store_prefix))):
            continue
        excluded = chosen.excludes_any_part(relative)
        if excluded is not None:
            if excluded not in reported:
                reported.add(excluded)
                pattern = chosen.excluding_pattern(PurePosixPath(excluded).name, excluded)
                listing.exclude(excluded, pattern, is_folder=excluded != relative)
            continue
        size = int(entry.get("size") or 0)
        listing.take(File(uri_of(filesystem, path, source), relative, f"{size}-{_version(entry)}", size), chosen)


_STATE_NAMES = ("ETag", "etag", "md5Hash", "LastModified", "last_modified", "updated", "mtime", "created", "date_time")


def _version(entry: dict[str, Any]) -> str:
    """Return what an object store says about the state of an object: its ETag or checksum, otherwise its time."""
    for name in _STATE_NAMES:
        if entry.get(name):
            return str(entry[name]).strip('"')
    return ""


def state_of(filesystem: AbstractFileSystem, path: str) -> tuple[str, int]:
    """Return what, beside the size, changes with a file's content (a time, ETag or checksum), and its size in bytes."""
    if isinstance(filesystem, LocalFileSystem):
        state = os.stat(path)
        return str(state.st_mtime_ns), state.st_size
    entry = filesystem.info(path)
    return _version(entry), int(entry.get("size") or 0)
