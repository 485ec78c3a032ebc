"""Processes of this machine that have not ended, as `ps` lists them."""

import subprocess
from dataclasses import dataclass


@dataclass(frozen=True)
class Process:
    """A process: its number, its parent's and its group's, and its command line."""

    pid: int
    parent: int
    group: int
    words: str


def processes() -> list[Process]:
    """Every process that has not ended."""
    columns = ["ps", "-eo", "pid=,ppid=,pgid=,stat=,args="]
    listed = subprocess.run(columns, capture_output=True, text=True, check=True).stdout
    rows = [line.split(maxsplit=4) for line in listed.splitlines()]
    return [
        Process(int(pid), int(parent), int(group), words)
        for pid, parent, group, state, words in (row for row in rows if len(row) == 5)
        if not state.startswith("Z")
    ]


def family(root: int) -> list[Process]:
    """A process and all that it started, and those started, each after its parent."""
    found = [one for one in processes() if one.pid == root]
    for above in found:  # which grows as it is read
        found.extend(one for one in processes() if one.parent == above.pid)
    return found
