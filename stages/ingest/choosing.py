"""Which files of a source are looked at: glob patterns, as in `.gitignore`.

A pattern without `/` is compared with every name on the path to a file: `node_modules` passes over every folder of that
name with all its content, `*.tmp.wav` over such files anywhere. A pattern with `/` is compared with the path from the
source; `**` in it stands for any number of folders. Case makes no difference.
"""

import fnmatch
import re
from collections.abc import Sequence
from functools import cached_property

EXCLUDED = (
    *(".*", "@eaDir", "#recycle", "@Recycle", "$RECYCLE.BIN", "RECYCLER", "System Volume Information", "lost+found"),
    *("__MACOSX", "node_modules", "__pycache__"),
)
"""Hidden files and folders, thumbnails and recycle bins of network disks, and what programs leave behind."""


class Chosen:
    """The files and folders that patterns choose.

    Args:
        include: patterns of the recordings that are taken; none means all.
        exclude: patterns of files and folders that are passed over, whatever `include` says.
    """

    def __init__(self, include: Sequence[str] = (), exclude: Sequence[str] = EXCLUDED) -> None:
        self.include, self.exclude = tuple(include), tuple(exclude)

    def excludes(self, name: str, relative: str) -> bool:
        """Tell whether a file or folder is passed over by itself. The folders above it are not checked: callers have
        done so.

        Args:
            name: its own name.
            relative: its path under the source.
        """
        names, paths = self._excluded
        return bool((names and names.match(name)) or (paths and paths.match(relative)))

    def excludes_any_part(self, relative: str) -> str | None:
        """Return the shortest leading part of a path (a folder above the file, or the file) that is passed over, None
        if none is."""
        parts = relative.split("/")
        paths = ("/".join(parts[: count + 1]) for count in range(len(parts)))
        return next((path for name, path in zip(parts, paths, strict=True) if self.excludes(name, path)), None)

    def excluding_pattern(self, name: str, relative: str) -> str:
        """Return the pattern by which a file or folder is passed over."""
        return next(pattern for pattern in self.exclude if Chosen((), (pattern,)).excludes(name, relative))

    def includes(self, relative: str) -> bool:
        """Tell whether a recording that no pattern excludes is taken."""
        if not self.include:
            return True
        names, paths = self._included
        parts = relative.split("/")
        return bool((names and any(names.match(part) for part in parts)) or (paths and paths.match(relative)))

    @cached_property
    def _excluded(self) -> tuple[re.Pattern[str] | None, re.Pattern[str] | None]:
        return _compile(self.exclude)

    @cached_property
    def _included(self) -> tuple[re.Pattern[str] | None, re.Pattern[str] | None]:
        return _compile(self.include)


def _compile(patterns: Sequence[str]) -> tuple[re.Pattern[str] | None, re.Pattern[str] | None]:
    """Return one expression for all patterns of names and one for all patterns of paths, None where there are none.
    There is only one of each because a million names are compared with it."""
    names = [_expression(pattern.rstrip("/")) for pattern in patterns if "/" not in pattern.rstrip("/")]
    paths = [_path_expression(pattern.strip("/")) for pattern in patterns if "/" in pattern.rstrip("/")]
    return _any_of(names), _any_of(paths)


def _any_of(expressions: Sequence[str]) -> re.Pattern[str] | None:
    return re.compile(f"(?:{'|'.join(expressions)})\\Z", re.IGNORECASE | re.DOTALL) if expressions else None


def _expression(pattern: str) -> str:
    """Return the expression of a pattern of one name."""
    return fnmatch.translate(pattern).removesuffix("\\Z").replace(".*", "[^/]*")


def _path_expression(pattern: str) -> str:
    """Return the expression of a pattern of a path. A folder that matches stands for all its content."""
    expression = ""
    for part in pattern.split("/"):
        expression += "(?:[^/]+/)*" if part == "**" else f"{_expression(part)}/"
    return f"{expression.removesuffix('/')}(?:/.*)?" if expression.endswith("/") else f"{expression}.*"
