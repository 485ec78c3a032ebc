"""Power cuts: every state that one may leave a disk in, from a record of the operations on the disk.

On a POSIX file system only what was synced is sure to be there: a file's bytes after an fsync of the file, a name after
an fsync of its folder. Any part of the rest may be there, in any order (Pillai et al., "All File Systems Are Not
Created Equal", OSDI 2014).
"""

import builtins
import copy
import io
import itertools
import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self
from unittest.mock import patch

Tree = dict[str, bytes | None]
"""The contents of a folder: the bytes of each file and None for each folder, by relative path."""


@dataclass(frozen=True)
class Named:
    """A name in a folder was set to a file or folder, or removed; with `moved_from`, another name was removed in the
    same operation."""

    folder: int
    name: str
    node: int | None
    moved_from: tuple[int, str] | None = None


@dataclass(frozen=True)
class Written:
    """A file was seen with these bytes."""

    node: int
    data: bytes


@dataclass(frozen=True)
class Synced:
    """An fsync of a file or of a folder returned."""

    node: int


class Disk:
    """A folder on a real disk, and the operations on it while `recording`."""

    def __init__(self, root: Path) -> None:
        self.root = str(root)
        self.operations: list[Named | Written | Synced] = []
        self._nodes = {self.root: 0}
        self._seen: dict[int, bytes] = {}
        for path in map(str, sorted(root.rglob("*"))):
            self._name(path, len(self.operations) + 1)
            self._see(path)
        self._before = len(self.operations)  # these count as synced

    @contextmanager
    def recording(self) -> Iterator[None]:
        """Record the operations of this process on the disk inside the block."""
        with ExitStack() as stack:
            for then, module, names in (
                (self._after_create, os, ("mkdir", "open")),
                (self._after_create, builtins, ("open",)),
                (self._after_create, io, ("open",)),
                (self._after_link, os, ("link",)),
                (self._after_rename, os, ("rename", "replace")),
                (self._after_remove, os, ("unlink", "remove", "rmdir")),
                (self._after_sync, os, ("fsync",)),
            ):
                for name in names:
                    noted = self._noting(getattr(module, name), then)
                    stack.enter_context(patch.object(module, name, noted))
            yield
            self._see_all()

    def _noting(self, real: Callable[..., Any], then: Callable[..., None]) -> Callable[..., Any]:
        def noted(path: Any, *rest: Any, **options: Any) -> Any:
            # Paths and descriptors are resolved before the call, because they may not exist after it.
            words = [self._absolute(word, options.get("dir_fd")) for word in (path, *rest[:1])]
            self._see_all()
            answer = real(path, *rest, **options)
            then(*words)
            return answer

        return noted

    @staticmethod
    def _absolute(word: Any, folder: int | None) -> str:
        if isinstance(word, int):
            return os.readlink(f"/proc/self/fd/{word}") if os.path.exists(f"/proc/self/fd/{word}") else ""
        if not isinstance(word, str | os.PathLike):
            return ""
        start = os.getcwd() if folder is None else os.readlink(f"/proc/self/fd/{folder}")
        return os.path.normpath(os.path.join(start, os.fspath(word)))

    def _name(self, path: str, node: int | None, moved_from: str | None = None) -> None:
        folder, name = os.path.split(path)
        old = (self._nodes[os.path.dirname(moved_from)], os.path.basename(moved_from)) if moved_from else None
        self.operations.append(Named(self._nodes[folder], name, node, old))
        if node is None:
            del self._nodes[path]
        else:
            self._nodes[path] = node

    def _after_create(self, path: str, *_: str) -> None:
        if path.startswith(f"{self.root}/") and path not in self._nodes and os.path.lexists(path):
            self._name(path, len(self.operations) + 1)

    def _after_link(self, old: str, new: str) -> None:
        if old in self._nodes:
            self._name(new, self._nodes[old])

    def _after_rename(self, old: str, new: str) -> None:
        if not old.startswith(f"{self.root}/"):
            return
        self._name(new, self._nodes[old], moved_from=old)
        for path in [path for path in self._nodes if path == old or path.startswith(f"{old}/")]:
            self._nodes[new + path.removeprefix(old)] = self._nodes.pop(path)

    def _after_remove(self, path: str, *_: str) -> None:
        if path in self._nodes:
            self._name(path, None)

    def _after_sync(self, path: str, *_: str) -> None:
        if path in self._nodes:
            self.operations.append(Synced(self._nodes[path]))

    def _see_all(self) -> None:
        for path in list(self._nodes):
            self._see(path)

    def _see(self, path: str) -> None:
        if os.path.isdir(path):
            return
        with io.FileIO(path) as file:
            data = file.readall()
        node = self._nodes[path]
        if self._seen.get(node) != data:
            self.operations.append(Written(node, data))
            self._seen[node] = data

    def instants(self) -> range:
        """The numbers of operations after which the power may be cut; the last one is all of them."""
        return range(self._before, len(self.operations) + 1)

    def without(self, place: int) -> Self:
        """Return the record of a program that left out the operation at `place`."""
        other = copy.copy(self)
        other.operations = [*self.operations[:place], *self.operations[place + 1 :]]
        return other

    def states(self, instant: int) -> Iterator[Tree]:
        """Yield once each state that the disk may be in if the power was cut after `instant` operations."""
        done = self.operations[:instant]
        last_sync = {one.node: place for place, one in enumerate(done) if isinstance(one, Synced)}
        open_names, contents = [], {}
        for place, one in enumerate(done):
            sure = place < self._before
            if isinstance(one, Named) and not sure and last_sync.get(one.folder, -1) < place:
                open_names.append(place)
            elif isinstance(one, Written):
                if sure or last_sync.get(one.node, -1) > place:
                    contents[one.node] = [one.data]
                else:
                    contents[one.node] = [*contents.get(one.node, [b""]), one.data[: len(one.data) // 2], one.data]
        known = set()
        for choice in itertools.product((False, True), repeat=len(open_names)):
            tree = self._tree(done, set(itertools.compress(open_names, choice)))
            files = {path: node for path, node in tree.items() if node in contents}
            for data in itertools.product(*(dict.fromkeys(contents[node]) for node in files.values())):
                state: Tree = dict.fromkeys(tree) | dict(zip(files, data, strict=True))
                if (mark := frozenset(state.items())) not in known:
                    known.add(mark)
                    yield state

    def _tree(self, done: list[Named | Written | Synced], lost: set[int]) -> dict[str, int]:
        folders: dict[int, dict[str, int]] = {}
        for place, one in enumerate(done):
            if isinstance(one, Named) and place not in lost:
                if one.moved_from:
                    folders.setdefault(one.moved_from[0], {}).pop(one.moved_from[1], None)
                names = folders.setdefault(one.folder, {})
                names.pop(one.name, None)
                if one.node is not None:
                    names[one.name] = one.node
        tree: dict[str, int] = {}

        def walk(folder: int, prefix: str) -> None:
            for name, node in folders.get(folder, {}).items():
                tree[prefix + name] = node
                walk(node, f"{prefix}{name}/")

        walk(0, "")
        return tree
