"""`segue gates`: a folder of recordings, measured from the command line."""

import json
from pathlib import Path

import numpy as np
import pytest

from flows.cli import run_command
from stages.audio import encode_audio


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    time = np.arange(12 * 16_000) / 16_000
    sound = (0.1 * np.sin(2 * np.pi * 220 * time))[None].astype(np.float32)
    late = sound.copy()
    late[:, : 5 * 16_000] = 0
    (tmp_path / "music").mkdir()
    (tmp_path / "music" / "sound.flac").write_bytes(encode_audio(sound, 16_000, "flac"))
    (tmp_path / "music" / "late.flac").write_bytes(encode_audio(late, 16_000, "flac"))
    (tmp_path / "music" / "broken.flac").write_bytes(b"fLaC nothing")
    return tmp_path / "music"


def test_failing_recordings_are_named_with_the_reason_and_the_limits_that_would_pass_them(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_command(["gates", "--source", str(folder), "--format", "json"]) == 1
    printed = capsys.readouterr()
    rows = {row["limit"]: row for row in json.loads(printed.out)}
    assert rows["head_silence"]["in"].startswith("late.flac")
    assert rows["head_silence"]["failing"] >= 1
    assert rows["true_peak"]["failing"] == 0
    assert "broken.flac is left out" in printed.err
    assert "1 of 2 recordings pass as a whole" in printed.err
    assert "late.flac: head_silence: expected at most 2 s of silence at the beginning, got 5.00" in printed.err
    (line,) = [line for line in printed.err.splitlines() if line.startswith("segue: for these recordings: ")]
    options = line.removeprefix("segue: for these recordings: ").split()
    assert run_command(["gates", "--source", str(folder), *options]) == 0


def test_an_unknown_limit_and_a_folder_without_recordings_are_usage_errors(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_command(["gates", "--source", str(folder), "--set", "gate.limits.hed_silence=3"]) == 2
    assert "head_silence" in capsys.readouterr().err
    (tmp_path / "empty").mkdir()
    assert run_command(["gates", "--source", str(tmp_path / "empty")]) == 2
    assert "recordings" in capsys.readouterr().err


def test_on_eighty_columns_the_limits_are_two_tables_of_lines_that_are_not_broken(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TTY_COMPATIBLE", "1")
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "80")
    run_command(["gates", "--source", str(folder), "--source", str(folder / "sound.flac")])
    printed = capsys.readouterr().out.replace("\x1b[1m", "").replace("\x1b[0m", "")
    assert all(len(line) <= 80 for line in printed.splitlines())
    limits, owners = printed.split("\n\n")
    assert limits.split("\n")[0].split() == ["limit", "passes", "median", "passing", "furthest", "failing", "suggested"]
    assert owners.split("\n")[0].split() == ["limit", "measured", "in"]
    names = [line.split()[0] for line in limits.splitlines()[1:]]
    assert names == [line.split()[0] for line in owners.splitlines()[1:]]
    assert "head_silence" in names
    assert "row 1 of" not in printed
