"""Commands that are timed from their start to their end, each in a process of its own."""

import os
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType


@dataclass(frozen=True)
class Run:
    """Cost of one run of a command: wall time, processor time, and the memory of its largest process."""

    seconds: float
    processor_seconds: float
    megabytes: float


def timed(command: Sequence[str], threads: int, variables: Mapping[str, str] = MappingProxyType({})) -> Run:
    """Run a command to its end; SystemExit with the end of its error output if it fails.

    Args:
            threads: threads of torch.
            variables: additional environment variables.
    """
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads), "HF_HUB_OFFLINE": "1", **variables}
    with tempfile.TemporaryFile() as errors:
        begun = time.perf_counter()
        redirect = [(os.POSIX_SPAWN_DUP2, errors.fileno(), 1), (os.POSIX_SPAWN_DUP2, errors.fileno(), 2)]
        process = os.posix_spawnp(command[0], list(command), environment, file_actions=redirect)
        with _most_memory(process) as most:
            _, status, usage = os.wait4(process, 0)
        seconds = time.perf_counter() - begun
        if status:
            errors.seek(0)
            raise SystemExit(f"expected {' '.join(command[:6])} … to end well, got {errors.read()[-800:].decode()}")
    return Run(seconds, usage.ru_utime + usage.ru_stime, max(most) / 1e6)


@contextmanager
def _most_memory(process: int) -> Iterator[list[int]]:
    """Look every so often how many bytes a process has had at most, as long as the context lasts. What `wait4` says is
    no less than what this process had when it started that one."""
    ended, seen = threading.Event(), [0]

    def look() -> None:
        while not ended.wait(0.05):
            with suppress(OSError, StopIteration):
                lines = Path(f"/proc/{process}/status").read_text(encoding="ascii", errors="replace").splitlines()
                seen.append(int(next(line.split()[1] for line in lines if line.startswith("VmHWM:"))) * 1024)

    watcher = threading.Thread(target=look)
    watcher.start()
    try:
        yield seen
    finally:
        ended.set()
        watcher.join()
