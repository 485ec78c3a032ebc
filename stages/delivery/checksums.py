"""The checksums of a delivery, as `sha256sum` writes and reads them.

They say which files the delivery has and whether these are unchanged. A line holds the digest of a file and its path in
the folder. If the path contains a backslash or a line break, these are escaped and the line begins with a backslash.
"""

import hashlib
import re
from collections.abc import Mapping
from pathlib import Path, PurePosixPath

CHECKSUMS = "SHA256SUMS"
"""The name of the file with the checksums."""

_LINE = re.compile(r"(\\?)([0-9a-fA-F]{64}) [ *](.+)")
_ESCAPED = {"\\\\": "\\", "\\n": "\n", "\\r": "\r"}


def checksums(digests: Mapping[str, str]) -> bytes:
    """Return the text that `sha256sum -c` reads, given the digest of each file by its path."""
    return "".join(f"{digests[name]}  {name}\n" for name in sorted(digests)).encode()


def read_checksums(folder: Path) -> dict[str, str]:
    """Return the digest of each file of a delivered local folder, by its path in the folder.

    Raises:
        FileNotFoundError: the folder has no checksums.
        ValueError: a line cannot be parsed, or names a file outside the folder.
    """
    file = folder / CHECKSUMS
    digests = {}
    for number, line in enumerate(file.read_bytes().decode("utf-8", "surrogateescape").split("\n"), start=1):
        if not line.strip():
            continue
        match = _LINE.fullmatch(line.removesuffix("\r"))
        if match is None:
            raise ValueError(f"expected a SHA-256 and a path in line {number} of {file}, got {line[:80]!r}")
        escaped, digest, name = match.groups()
        if escaped:
            name = re.sub(r"\\[\\nr]", lambda escape: _ESCAPED[escape[0]], name)
        path = PurePosixPath(name)
        if path.is_absolute() or ".." in path.parts:
            raise ValueError(f"expected a path in the folder in line {number} of {file}, got {name[:80]!r}")
        digests[str(path)] = digest.lower()
    return digests


def file_digest(path: Path) -> str:
    """Return the SHA-256 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
