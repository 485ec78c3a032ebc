"""Locations of recordings, and opening their bytes as files that can seek.

A recording is named by an absolute local path or an fsspec URL. Names come from other people's disks and buckets, so
they are taken literally: `::` in a name chains filesystems only if a URL follows it. Bytes that are not UTF-8 are kept
in tables of text as a percent-encoded `file://` URL.
"""

import io
import os
import stat
from typing import IO
from urllib.parse import quote_from_bytes, unquote_to_bytes

import fsspec
from fsspec import AbstractFileSystem
from fsspec.implementations.local import LocalFileSystem

from stages.audio import archives, sound_tables

WHOLE_BYTES = 64 * 2**20
"""Remote files up to this size are fetched whole, in one request; larger files are read through a window."""

WINDOW_BYTES = 8 * 2**20
"""Bytes in the window for larger remote files, which bounds the memory that they take."""


class AudioError(ValueError):
    """Raised if a recording cannot be used. `kind` is a short word for the table of rejects.

    `passing` is true if the cause may not be the recording: a disk may be offline, or a permission missing. Then the
    next run tries again.
    """

    def __init__(self, kind: str, message: str, passing: bool = False) -> None:
        super().__init__(kind, message, passing)
        self.kind, self.message, self.passing = kind, message, passing

    def __str__(self) -> str:
        return self.message


def locate(uri: str) -> tuple[AbstractFileSystem, str]:
    """Return the filesystem of `uri` and the path in it.

    Raises:
        ValueError: no filesystem is known for its protocol.
    """
    if uri.startswith("file://"):
        path = uri.removeprefix("file://")
        if not os.path.lexists(path):
            path = os.fsdecode(unquote_to_bytes(path))
        return LocalFileSystem(), path
    if "://" not in uri:
        return LocalFileSystem(), os.path.abspath(uri)
    if "::" in uri and "://" not in uri.rpartition("::")[2]:
        protocol = uri.partition("://")[0]
        filesystem = fsspec.filesystem(protocol)
        # Some filesystems take any `::` for a chain, so it is hidden from them here.
        return filesystem, str(filesystem._strip_protocol(uri.replace("::", "\0"))).replace("\0", "::")
    filesystem, path = fsspec.core.url_to_fs(uri)
    return filesystem, str(path)


def uri_of(filesystem: AbstractFileSystem, path: str, source: str) -> str:
    """Return the name by which `locate` finds a `path` from a listing of `source`: a plain absolute path on a local
    disk, else a URL, with the rest of the source's chain (`zip://…::s3://…`) if it has one."""
    if isinstance(filesystem, LocalFileSystem):
        try:
            path.encode()
            return path
        except UnicodeEncodeError:
            return "file://" + quote_from_bytes(os.fsencode(path))
    outer, chained, rest = source.partition("::")
    if not chained or "://" not in rest:
        return str(filesystem.unstrip_protocol(path))
    if "://" in outer:
        return f"{outer.partition('://')[0]}://{path}::{rest}"
    return f"{outer}::{rest.partition('://')[0]}://{path}"


def open_binary(uri: str) -> IO[bytes]:
    """Open the bytes of a recording as a file that can seek.

    Raises:
        AudioError: the file does not exist or may not be read, or it is a folder, pipe, socket or device.
        OSError: the disk or the network failed; another attempt may succeed.
    """
    try:
        if uri.startswith(archives.PROTOCOL) and "::" in uri:
            return _open_member(uri)
        if uri.startswith(sound_tables.PROTOCOL) and "::" in uri:
            return _open_row(uri)
        filesystem, path = locate(uri)
        if isinstance(filesystem, LocalFileSystem):
            # Without O_NONBLOCK, opening a pipe that nobody writes to would wait forever.
            descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                os.close(descriptor)
                raise AudioError("not a file", f"expected a regular file, got something else at {path!r}")
            return os.fdopen(descriptor, "rb")
        size = filesystem.size(path)
        # An archive closes its file when the filesystem object is deleted, so such a file is read completely here.
        if not filesystem.cachable or (size is not None and size <= WHOLE_BYTES):
            return io.BytesIO(filesystem.cat_file(path))
        opened: IO[bytes] = filesystem.open(path, "rb", block_size=WINDOW_BYTES, cache_type="readahead")
        return opened
    except FileNotFoundError as error:
        raise AudioError("missing", f"expected a recording at {uri!r}, got no such file", passing=True) from error
    except PermissionError as error:
        message = f"expected a readable file, got no permission to read {uri!r}"
        raise AudioError("unreadable", message, passing=True) from error
    except IsADirectoryError as error:
        raise AudioError("not a file", f"expected a file, got {uri!r}, which is a folder") from error


def _open_member(uri: str) -> IO[bytes]:
    """Open a recording in an archive in place. From a remote archive, a recording of usual size is fetched by
    itself."""
    name, _, archive = uri.removeprefix(archives.PROTOCOL).partition("::")
    filesystem, path = locate(archive)
    try:
        member = archives.members(filesystem, path).get(name)
    except ValueError as error:
        raise AudioError("unreadable", f"{error}: {archive}") from error
    if member is None:
        raise AudioError("missing", f"expected a recording at {uri!r}, got no such member of the archive", passing=True)
    if not isinstance(filesystem, LocalFileSystem) and member.size <= WHOLE_BYTES:
        return io.BytesIO(filesystem.cat_file(path, start=member.offset, end=member.offset + member.size))
    opened = filesystem.open(path, "rb", block_size=WINDOW_BYTES)
    return io.BufferedReader(archives.Section(opened, member))


def _open_row(uri: str) -> IO[bytes]:
    """Open a recording in a Parquet table."""
    name, _, table = uri.removeprefix(sound_tables.PROTOCOL).partition("::")
    try:
        opened = sound_tables.open_row(*locate(table), name)
    except ValueError as error:
        raise AudioError("unreadable", f"{error}: {table}") from error
    if opened is None:
        raise AudioError("missing", f"expected a recording at {uri!r}, got no such row with bytes", passing=True)
    return opened
