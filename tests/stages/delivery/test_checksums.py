"""A delivery's checksums: what `sha256sum` writes is read, and only paths in the folder are accepted."""

import hashlib
import shutil
import subprocess
from pathlib import Path

import pytest

from stages.delivery.checksums import CHECKSUMS, checksums, file_digest, read_checksums

DIGEST = hashlib.sha256(b"sound").hexdigest()


def test_written_checksums_are_read_back(tmp_path: Path) -> None:
    digests = {"clips/Ünïcode ♪_1.mp3": DIGEST, "catalog.csv": "0" * 64}
    (tmp_path / CHECKSUMS).write_bytes(checksums(digests))
    assert read_checksums(tmp_path) == digests


@pytest.mark.skipif(shutil.which("sha256sum") is None, reason="no sha256sum here")
@pytest.mark.parametrize("name", ["plain.mp3", " two  spaces .mp3", "back\\slash.mp3", "new\nline.mp3"])
@pytest.mark.parametrize("mode", ["--text", "--binary"])
def test_checksums_written_by_sha256sum_are_read(tmp_path: Path, name: str, mode: str) -> None:
    (tmp_path / name).write_bytes(b"sound")
    words = ["sha256sum", mode, "--", name]
    written = subprocess.run(words, cwd=tmp_path, capture_output=True, check=True).stdout
    (tmp_path / CHECKSUMS).write_bytes(written)
    assert read_checksums(tmp_path) == {name: DIGEST}
    assert file_digest(tmp_path / name) == DIGEST


@pytest.mark.parametrize(
    ("line", "why"),
    [
        (f"{DIGEST}  ../secret", "expected a path in the folder in line 1"),
        (f"{DIGEST}  /etc/passwd", "expected a path in the folder in line 1"),
        (f"{DIGEST[:-1]}  a.mp3", "expected a SHA-256 and a path in line 1"),
        ("<html>", "expected a SHA-256 and a path in line 1"),
    ],
)
def test_lines_that_are_not_checksums_or_leave_the_folder_are_refused(tmp_path: Path, line: str, why: str) -> None:
    (tmp_path / CHECKSUMS).write_text(line + "\n")
    with pytest.raises(ValueError, match=why):
        read_checksums(tmp_path)
