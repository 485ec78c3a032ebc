"""Which cores are this process's own: by its affinity, and by what its container grants it of their time."""

import os
from collections.abc import Iterator
from pathlib import Path

GROUPS = Path("/sys/fs/cgroup")
"""Where control groups are mounted: those of version 2 here, version 1's of processors in a folder `cpu`."""

OWN_GROUPS = Path("/proc/self/cgroup")
"""In which control groups this process is."""


def available_cores() -> int:
    """Return how many cores this process may use: those that it may run on, or the time that its control groups grant
    it where that is less. A part of a core counts for nothing: threads that wait for one another would all stand still
    whenever the time is spent."""
    return max(1, int(min([len(usable_cpus()), *_granted_cores()])))


def usable_cpus() -> set[int]:
    """Return the numbers of the processors that this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return os.sched_getaffinity(0)
    return set(range(os.cpu_count() or 1))  # a system other than Linux


def _granted_cores() -> Iterator[float]:
    """Yield the seconds of processor time a second that each of this process's control groups may use."""
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
    """Return the folders of this process's control groups for processors, and of those above them. A container may see
    its own as the root, and still go by its name outside: what is not there is passed over."""
    folders = {GROUPS, GROUPS / "cpu"}
    lines = OWN_GROUPS.read_text(encoding="utf-8").splitlines() if OWN_GROUPS.exists() else []
    for _, controllers, name in (line.split(":", 2) for line in lines):
        if controllers == "" or "cpu" in controllers.split(","):
            root = GROUPS / "cpu" if controllers else GROUPS
            own = root / name.strip("/")
            folders |= {own, *(parent for parent in own.parents if parent.is_relative_to(root))}
    return folders
