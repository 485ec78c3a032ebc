"""What a command takes: `python -m tests.true_sizes.measuring COMMAND …` runs one of `segue`, and then prints as JSON
the seconds that it took and the most memory that the process had.

The process has its memory to itself: recordings are decoded in it (`settings.workers=1`), and nothing ran in it before.
"""

import json
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass

from tests.worlds.command_line import ROOT
from tests.worlds.loading_memory import most_resident


@dataclass(frozen=True)
class Taken:
    """What a command took."""

    seconds: float
    peak: int
    """Bytes in memory at most."""
    output: str
    """What it said."""


def measure(command: Sequence[str]) -> Taken:
    """Run a command of `segue` in a process of its own.

    Raises:
        AssertionError: it failed; the message is what it said.
    """
    program = [sys.executable, "-m", "tests.true_sizes.measuring", *command]
    done = subprocess.run(program, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{' '.join(command)}\n{done.stdout}\n{done.stderr}"
    *said, taken = done.stdout.splitlines()
    return Taken(**json.loads(taken), output="\n".join([*said, done.stderr]))


def main(command: Sequence[str]) -> int:
    """Run a command, and tell what it took."""
    from flows.cli import run_command

    started = time.perf_counter()
    status = run_command([*command])
    print(json.dumps({"seconds": time.perf_counter() - started, "peak": most_resident()}))
    return status


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
