"""`segue pattern` shows patterns, and reports an invalid pattern in one line."""

import pytest

from flows.cli import run_command


def test_a_pattern_is_shown_on_the_terminal(capfd):
    assert run_command(["pattern", "delay", "--codebooks", "2", "--frames", "3"]) == 0
    lines = [line.split() for line in capfd.readouterr().out.splitlines()]
    assert lines == [
        ["step", "0", "1", "2", "3", "4"],
        ["codebook", "1", "·", "1", "2", "3", "·"],
        ["codebook", "2", "·", "·", "1", "2", "3"],
    ]


def test_a_pattern_is_drawn_into_a_file_under_its_title(tmp_path, capfd):
    words = ["pattern", "grouped", "--group", "2", "--svg", str(tmp_path / "x.svg"), "--title", "Groups"]
    assert run_command(words) == 0
    assert capfd.readouterr().out == ""
    assert ">Groups</text>" in (tmp_path / "x.svg").read_text()


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["grouped", "--group", "3"], "expected a group that divides 4 codebooks, got 3"),
        (["delay", "--delays", "0,1"], "expected 4 delays, each 0 or more, got (0, 1)"),
        (["delay", "--delays", "0,b,1,2"], "delays.1"),
        (["delay", "--svg", "/nowhere/x.svg"], "/nowhere/x.svg"),
        (["spiral"], "'delay', 'unroll', 'coarse_first', 'grouped'"),
    ],
)
def test_an_invalid_pattern_is_one_line_and_exit_code_2(words, told, capfd):
    assert run_command(["pattern", *words]) == 2
    lines = capfd.readouterr().err.splitlines()
    assert len(lines) == 1
    assert told in lines[0]
