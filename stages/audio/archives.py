"""Recordings inside tar files, as WebDataset keeps them. A member is named `tar://member::archive` and read in place,
by its position in the archive. Nothing is ever unpacked.

The members of an archive are found by reading its headers once; the lists of the archives used last are cached.
"""

import io
import tarfile
from functools import lru_cache
from typing import IO, NamedTuple

from fsspec import AbstractFileSystem

PROTOCOL = "tar://"

ARCHIVES_KEPT = 16
"""Archives whose lists of members are cached. Recordings are read in the order of their names, so one archive after the
other."""

HEADER_BYTES = 64 * 2**10
"""Bytes of a remote archive that are fetched at each header."""


class Member(NamedTuple):
    """Position and size of a file in an archive, in bytes."""

    offset: int
    size: int


def member_uri(name: str, archive: str) -> str:
    """Return the URI of a member. `archive` is an absolute path or a URL."""
    return f"{PROTOCOL}{name}::{archive if '://' in archive else f'file://{archive}'}"


def members(filesystem: AbstractFileSystem, path: str) -> dict[str, Member]:
    """Return the files in an archive by name. If a name occurs twice, the last one counts, as in tar.

    Raises:
        ValueError: the file is not an uncompressed tar file, or is cut short.
        OSError: the disk or the network failed.
    """
    return _members(filesystem, path, archive_state(filesystem, path))


def archive_state(filesystem: AbstractFileSystem, path: str) -> tuple[str, ...]:
    """Return values that change when an archive changes: its size first, then its times and its ETag."""
    info = filesystem.info(path)
    return tuple(str(info.get(name)) for name in ("size", "mtime", "ETag", "LastModified", "created"))


@lru_cache(ARCHIVES_KEPT)
def _members(filesystem: AbstractFileSystem, path: str, state: tuple[str, ...]) -> dict[str, Member]:
    """Read the headers of an archive; `state` is part of the cache's key, so that a changed archive is read again."""
    members: dict[str, Member] = {}
    end = int(state[0])
    try:
        with filesystem.open(path, "rb", block_size=HEADER_BYTES) as file, tarfile.open(fileobj=file, mode="r:") as tar:
            for entry in tar:
                if entry.isreg() and not entry.issparse():
                    if entry.offset_data + entry.size > end:
                        raise ValueError(f"expected a whole tar file, got one that was cut short in {entry.name!r}")
                    members[entry.name.removeprefix("./")] = Member(entry.offset_data, entry.size)
    except tarfile.TarError as error:
        raise ValueError(f"expected a tar file that is not compressed, got {error}") from error
    return members


class Section(io.RawIOBase):
    """A member of an open archive as a file of its own. Closing it closes the archive."""

    def __init__(self, archive: IO[bytes], member: Member) -> None:
        self._archive, self._member, self._position = archive, member, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        wanted = max(0, min(len(buffer), self._member.size - self._position))
        self._archive.seek(self._member.offset + self._position)
        data = self._archive.read(wanted)
        buffer[: len(data)] = data
        self._position += len(data)
        return len(data)

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        start = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._member.size}[whence]
        self._position = max(0, start + offset)
        return self._position

    def tell(self) -> int:
        return self._position

    def close(self) -> None:
        self._archive.close()
        super().close()
