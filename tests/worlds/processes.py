"""Processes of this machine that have not ended, as listed by `ps`."""

import subprocess
from dataclasses import dataclass


@dataclass(frozen=True)
class Process:
    """A process: its id and its parent's, and its command line."""

    pid: int
    parent: int
    words: str


def processes() -> list[Process]:
    """Every process that has not ended."""
    columns = ["ps", "-ww", "-eo", "pid=,ppid=,stat=,args="]
    listed = subprocess.run(columns, capture_output=True, text=True, check=True).stdout
    rows = [line.split(maxsplit=3) for line in listed.splitlines()]
    return [
        Process(int(pid), int(parent), words)
        for pid, parent, state, words in (row for row in rows if len(row) == 4)
        if not state.startswith("Z")
    ]


def family(root: int) -> list[Process]:
    """A process and all its descendants, each after its parent."""
    found = [one for one in processes() if one.pid == root]
    for above in found:  # grows while it is read
        found.extend(one for one in processes() if one.parent == above.pid)
    return found


def still_there(before: list[Process]) -> list[Process]:
    """Those of some processes that have not ended (another process may have got the id of one)."""
    known = {(one.pid, one.words) for one in before}
    return [one for one in processes() if (one.pid, one.words) in known]
