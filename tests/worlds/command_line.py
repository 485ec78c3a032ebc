"""`segue` as a program, and recordings for it to ingest."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import soundfile

from flows.cli import PLANNING
from flows.commands.foreground import STARTING

ROOT = Path(__file__).resolve().parents[2]


def make_recordings(folder: Path, count: int, seconds: float = 1.0) -> Path:
    """Tones in a new folder, each with its own pitch."""
    folder.mkdir()
    for number in range(count):
        tone = 0.3 * np.sin(np.arange(int(16_000 * seconds)) * (0.05 + 0.001 * number))
        soundfile.write(folder / f"{number}.flac", tone, 16_000)
    return folder


def segue(*words: str, environment: dict[str, str] | None = None, **options: object) -> subprocess.Popen[str]:
    """Start the command line in a process of its own."""
    command = [sys.executable, "-c", "from flows.cli import main; main()", *words]
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(command, cwd=ROOT, env=environment, **streams, **options)  # type: ignore[call-overload]


def complaints(errors: str) -> list[str]:
    """The lines of a run's standard error, without those that announce what it is about to do."""
    return [line for line in errors.splitlines() if line not in (PLANNING, STARTING)]
