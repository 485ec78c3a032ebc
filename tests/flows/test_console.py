"""Lines for people: wrapped at words on a terminal, and unwrapped in a file or a pipe."""

import os
import pty
import re
import struct
import subprocess
import sys
import termios
from fcntl import ioctl
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st
from rich.cells import cell_len

from flows.console import wrap
from tests.worlds.smallest_run import ROOT

SEGUE = [sys.executable, "-c", "from flows.cli import main; main()"]
COMMAND = '`segue sql "SELECT stage, kind, uri, message FROM rejects" --store /music/store`'


def on_terminal(columns: int, *words: str) -> tuple[int, list[str]]:
    """Run a command on a terminal with `columns` columns, and return its exit code and the lines that it writes."""
    leader, follower = pty.openpty()
    ioctl(follower, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    environment = {name: value for name, value in os.environ.items() if name not in ("COLUMNS", "NO_COLOR")}
    environment |= {"PYTHONPATH": str(ROOT), "TERM": "xterm", "HF_HUB_OFFLINE": "1"}
    process = subprocess.Popen([*SEGUE, *words], env=environment, stdin=follower, stdout=follower, stderr=follower)
    os.close(follower)
    written = b""
    try:
        while block := os.read(leader, 65536):
            written += block
    except OSError:  # the other end is closed
        pass
    finally:
        os.close(leader)
    text = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", written.decode()).replace("\r\n", "\n")
    return process.wait(), text.splitlines()


def test_lines_are_wrapped_at_words_on_a_terminal_and_not_wrapped_in_a_pipe(tmp_path: Path) -> None:
    (tmp_path / "music").mkdir()
    words = ["plan", "--preset", "musicgen-smal", "--source", str(tmp_path / "music")]
    code, lines = on_terminal(80, *words)
    assert code == 2
    assert len(lines) > 2
    assert max(map(len, lines)) <= 80
    piped = subprocess.run([*SEGUE, *words], capture_output=True, text=True, check=False).stderr.splitlines()
    assert len(piped) == len([line for line in lines if not line.startswith(" ")])
    assert " ".join(" ".join(lines).split()) == " ".join(" ".join(piped).split())


def test_wrapped_lines_of_the_second_column_are_indented_to_it() -> None:
    _, lines = on_terminal(80, "doctor")
    assert max(map(len, lines)) <= 80
    beginning = next(line for line in lines if "published weights" in line)
    onward = lines[lines.index(beginning) + 1 :]
    column = len(re.match(r"\S+ published weights\s+", beginning)[0])  # type: ignore[index]
    wrapped = [line for line in onward if line.startswith(" ")]
    assert wrapped
    assert {len(line) - len(line.lstrip()) for line in wrapped} == {column}


def test_paths_ids_and_commands_are_not_broken() -> None:
    path = "/music/" + "a" * 90 + "/page.html"
    spaced = "'/music/of my own/and of others/that came from somewhere'"
    line = f"segue: the page is {path}, the rest in {spaced}, and all of it by {COMMAND}; that's the users' all"
    wrapped = wrap(line, 80)
    assert all(piece in wrapped for piece in (path, spaced, COMMAND))
    others = wrapped.replace(path, "").split("\n")
    assert max(map(len, others)) <= 80 + len("'")
    assert " ".join(wrapped.split()) == line


def test_a_long_quoted_text_is_broken_at_its_words() -> None:
    line = f"segue: expected words, got '{'word ' * 40}' of the table"
    assert max(map(len, wrap(line, 80).split("\n"))) <= 80


def test_short_lines_and_very_narrow_windows_are_not_wrapped() -> None:
    line = "    a line with an indent, and two  spaces"
    assert wrap(line, 80) == line
    assert wrap(line * 3, 20) == line * 3


@settings(max_examples=50)
@given(st.text(alphabet="ab 表'`\"/", max_size=200), st.integers(40, 130))
def test_wrapping_loses_no_word_and_only_single_pieces_are_wider(line: str, width: int) -> None:
    wrapped = wrap(line, width)
    assert wrapped.split() == line.split()
    for part in wrapped.split("\n"):
        one_piece = not re.search(r"[^\s'\"`/]\s", part.strip()) or any(quote in part for quote in "'\"`")
        assert cell_len(part.rstrip()) <= width or one_piece
