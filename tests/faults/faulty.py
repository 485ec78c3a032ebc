"""A filesystem around another one whose n-th operation fails (SQLite's way to test: sqlite.org/testing.html, 3.2).

`faulty://` is an object store in memory: one PUT replaces a whole file, and folders exist as long as something is in
them.
"""

import errno
import io
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import fsspec
from fsspec.implementations.memory import MemoryFileSystem

Kind = Literal["before", "after", "stale", "not found", "away", "killed before", "killed after"]
"""The operation fails before it is done, or after; a listing lacks the last change; an existing file is not found; the
whole store is replaced by an empty one for a while; the process is killed before the operation or after it."""
WRITES = ("pipe_file", "rm_file", "cp_file")


class Killed(BaseException):
    """Stands for a kill: nothing catches it, and nothing can be asked of the filesystem after it."""


@dataclass(frozen=True)
class Fault:
    """What fails, and when."""

    kind: Kind
    at: int
    """The number of the operation that fails, counting from 1 those that can fail in this way."""
    lasting: bool = False
    """Whether all later ones fail too."""


@dataclass(frozen=True)
class Operation:
    """An operation that the filesystem was asked for."""

    name: str
    path: str
    there: bool
    empty: bool
    """Whether the filesystem was empty."""


def can_fail(kind: Kind, operation: Operation) -> bool:
    """Return whether an operation can fail in this way."""
    # A store that is still empty cannot be distinguished from another empty one.
    reads_what_is_there = operation.there and operation.name not in WRITES
    limits = {"stale": operation.name == "ls", "away": not operation.empty, "not found": reads_what_is_there}
    return limits.get(kind, True)


class FaultyFileSystem(fsspec.AbstractFileSystem):  # type: ignore[misc]
    """See the module; all instances, in all threads, are one store with one fault."""

    protocol = "faulty"
    inner: ClassVar[Any] = MemoryFileSystem(skip_instance_cache=True)
    fault: ClassVar[Fault | None] = None
    met: ClassVar[int] = 0
    """Number of faults that happened."""
    log: ClassVar[list[Operation]] = []
    _possible: ClassVar[int] = 0
    _changed: ClassVar[dict[str, bytes | None]] = {}
    """The content of the last changed file before the change."""
    _away: ClassVar[dict[str, bytes] | None] = None
    """The files of a store that is away, restored at its return."""

    @classmethod
    @contextmanager
    def failing(cls, fault: Fault | None) -> Iterator[type["FaultyFileSystem"]]:
        """Let the fault happen inside the block."""
        cls.fault, cls.met, cls._possible, cls._changed, cls._away = fault, 0, 0, {}, None
        cls.log.clear()
        try:
            yield cls
        finally:
            cls.fault = None
            if cls._away is not None:
                cls.restore(cls._away)

    @classmethod
    def contents(cls) -> dict[str, bytes]:
        """Every file, by path."""
        return {path: bytes(file.getvalue()) for path, file in cls.inner.store.items()}

    @classmethod
    def restore(cls, contents: dict[str, bytes]) -> None:
        """Make the store hold these files and no others."""
        cls.inner.store, cls.inner.pseudo_dirs = {}, [""]
        for path, data in contents.items():
            cls.inner.pipe_file(path, data)

    def _do(self, operation: str, path: str, act: Callable[[], Any]) -> Any:
        cls = type(self)
        fault, asked = cls.fault, Operation(operation, path, self.inner.exists(path), not self.inner.store)
        cls.log.append(asked)
        if fault is None or (cls._away is None and not can_fail(fault.kind, asked)):
            return act()
        cls._possible += 1
        if cls._possible < fault.at or (cls._possible > fault.at and not (fault.lasting or "killed" in fault.kind)):
            return act()
        cls.met += 1
        if fault.kind == "not found":
            raise FileNotFoundError(errno.ENOENT, "No such file or directory (injected)", path)
        if fault.kind == "away":
            if cls._away is None:
                cls._away = self.contents()
                self.restore({})
            return act()
        if fault.kind == "stale":
            return self._before_last_change(path, act)
        if fault.kind in ("after", "killed after") and cls._possible == fault.at:
            with suppress(FileNotFoundError, FileExistsError):  # a lost reply may also be an error
                act()
        if "killed" in fault.kind:
            raise Killed
        raise ConnectionResetError(errno.ECONNRESET, f"Connection reset by peer (injected at {fault.at})")

    def _before_last_change(self, folder: str, act: Callable[[], Any]) -> Any:
        """List a folder as it was before the last change of a file."""
        now = self.contents()
        before = {path: data for path, data in (now | self._changed).items() if data is not None}
        self.restore(before)
        try:
            return act()
        finally:
            self.restore(now)

    def _change(self, path: str) -> None:
        path = self.inner._strip_protocol(path)
        type(self)._changed = {path: self.contents().get(path)}

    def _named(self, entry: dict[str, Any]) -> dict[str, Any]:
        return entry | {"name": entry["name"].lstrip("/")}

    def ls(self, path: str, detail: bool = True, **options: Any) -> Any:
        path = self._strip_protocol(path)
        entries = self._do("ls", path, lambda: [self._named(entry) for entry in self.inner.ls(path, detail=True)])
        return entries if detail else [entry["name"] for entry in entries]

    def info(self, path: str, **options: Any) -> dict[str, Any]:
        path = self._strip_protocol(path)
        return dict(self._do("info", path, lambda: self._named(self.inner.info(path))))

    def modified(self, path: str) -> Any:
        return self.inner.modified(self._strip_protocol(path))

    def exists(self, path: str, **options: Any) -> bool:
        try:  # as remote filesystems do: an error is not an answer
            self.info(path)
        except FileNotFoundError:
            return False
        return True

    def isdir(self, path: str) -> bool:
        return self.exists(path) and self.info(path)["type"] == "directory"

    def cat_file(self, path: str, start: int | None = None, end: int | None = None, **options: Any) -> bytes:
        path = self._strip_protocol(path)
        return bytes(self._do("cat_file", path, lambda: self.inner.cat_file(path, start=start, end=end)))

    def pipe_file(self, path: str, value: bytes, mode: str = "overwrite", **options: Any) -> None:
        path = self._strip_protocol(path)
        self._change(path)

        def put() -> None:
            if mode == "create" and self.inner.exists(path):
                raise FileExistsError(errno.EEXIST, "File exists", path)
            self.inner.pipe_file(path, value)

        self._do("pipe_file", path, put)

    def rm_file(self, path: str) -> None:
        path = self._strip_protocol(path)
        self._change(path)
        self._do("rm_file", path, lambda: self.inner.rm_file(path))

    _rm = rm_file

    def cp_file(self, path1: str, path2: str, **options: Any) -> None:
        path1, path2 = self._strip_protocol(path1), self._strip_protocol(path2)
        self._change(path2)
        self._do("cp_file", path1, lambda: self.inner.pipe_file(path2, self.inner.cat_file(path1)))

    def mkdir(self, path: str, create_parents: bool = True, **options: Any) -> None:
        """Do nothing: an object store has no folders."""

    makedirs = rmdir = mkdir

    def _open(self, path: str, mode: str = "rb", **options: Any) -> io.BytesIO:
        if mode != "rb":
            raise NotImplementedError("expected whole files to be written by pipe_file")
        return io.BytesIO(self.cat_file(path))


fsspec.register_implementation("faulty", FaultyFileSystem, clobber=True)
