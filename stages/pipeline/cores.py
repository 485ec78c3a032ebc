"""How many processor cores this process may use: by its affinity, and by the CPU quota of its container."""

import os
from collections.abc import Iterator
from pathlib import Path

GROUPS = Path("/sys/fs/cgroup")
"""Where control groups are mounted. Version 2 has its files here, version 1 has those for processors in a folder
`cpu`."""

OWN_GROUPS = Path("/proc/self/cgroup")
"""Lists the control groups of this process."""


def available_cores() -> int:
    """Return how many cores this process may use: the smaller of the cores that it may run on and the CPU quota of its
    control groups. A quota is rounded down: with one thread too many, all threads, which wait for one another, would
    stand still whenever the quota is used up."""
    return max(1, int(min([len(usable_cpus()), *_granted_cores()])))


def usable_cpus() -> set[int]:
    """Return the numbers of the processors that this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return os.sched_getaffinity(0)
    return set(range(os.cpu_count() or 1))  # not Linux


def _granted_cores() -> Iterator[float]:
    """Yield the CPU quota of each of this process's control groups that has one, in cores (CPU seconds a second)."""
    for folder in _groups():
        limit, quota = folder / "cpu.max", folder / "cpu.cfs_quota_us"  # version 2 and 1
        if limit.exists():
            most, period = limit.read_text(encoding="ascii").split()
        elif quota.exists():
            most, period = ((folder / name).read_text(encoding="ascii") for name in (quota.name, "cpu.cfs_period_us"))
        else:
            continue
        if most != "max" and int(most) > 0:  # version 1 says -1 for no limit
            yield int(most) / int(period)


def _groups() -> set[Path]:
    """Return the folders of this process's control groups for processors, and of their parent groups. A container may
    see its own group as the root, though the group is listed under its name outside; so a folder may not exist."""
    folders = {GROUPS, GROUPS / "cpu"}
    lines = OWN_GROUPS.read_text(encoding="utf-8").splitlines() if OWN_GROUPS.exists() else []
    for _, controllers, name in (line.split(":", 2) for line in lines):
        if controllers == "" or "cpu" in controllers.split(","):
            root = GROUPS / "cpu" if controllers else GROUPS
            own = root / name.strip("/")
            folders |= {own, *(parent for parent in own.parents if parent.is_relative_to(root))}
    return folders
