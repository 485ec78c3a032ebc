"""Leases: if two runs would make the same thing in one store, the second waits for the first.

A lease is a numbered file that its holder rewrites every few seconds. The file with the highest number is in force. A
waiting run that sees no change for a while, by its own clock, or finds that the holder's process is gone, writes the
next number; a store lets only one run create it. So no clocks are compared, and nothing is locked for ever.
"""

import json
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from datetime import datetime
from functools import cache
from pathlib import Path

from schemas.storage.file_store import STALE_SECONDS
from schemas.storage.holdings import age_of
from schemas.storage.store import Store

BEAT_SECONDS = 10.0
"""Seconds between two signs of life of a holder."""

SILENT_SECONDS = 60.0
"""Seconds without a sign of life after which a holder is taken for dead."""

LOOK_SECONDS = 1.0
"""Seconds between two looks at a lease that is waited for."""


class LeaseLost(OSError):
    """Another run took this one for dead and now makes the same thing."""


@dataclass(frozen=True)
class Holder:
    """The process that holds a lease."""

    run_id: str
    host: str
    pid: int
    started: str
    """The process's start time, in the system's own terms; tells it from a later process with the same number."""
    beat: int = 0
    """How many signs of life it has given."""

    def __str__(self) -> str:
        began = self._began()
        since = f", since {began:%-d %B %H:%M} UTC" if began else ""
        return f"run {self.run_id} (process {self.pid} on {self.host.partition('/')[0]}{since})"

    def _began(self) -> datetime | None:
        """Return when the run began, which its id says; None for an id of another form."""
        try:
            return datetime.strptime(self.run_id.partition("-")[0], "%Y%m%dT%H%M%S")
        except ValueError:  # an id that a test or another program chose
            return None

    def is_dead(self) -> bool:
        """Return whether the process is known to be gone. For a process on another machine this is never known."""
        return self.host == _host() and _start_of(self.pid) != self.started


class Lease:
    """A lease that this process holds. A thread gives signs of life until it is released."""

    def __init__(self, store: Store, name: str, number: int, holder: Holder) -> None:
        self._store, self._folder, self._number, self._holder = store, _folder(name), number, holder
        self._released, self._lost = threading.Event(), False
        self._thread = threading.Thread(target=self._keep_alive, name=f"lease of {name}", daemon=True)
        self._thread.start()

    def check(self) -> None:
        """Check that the lease is still this run's. Call this before what it guards becomes visible.

        Raises:
            LeaseLost: another run has it now.
        """
        if self._lost or _numbers(self._store, self._folder)[-1:] != [self._number]:
            raise LeaseLost(
                f"expected to be the only run that writes {self._folder.partition('/')[2]} in {self._store.url}, got "
                f"another one, because this one gave no sign of life for {SILENT_SECONDS:.0f} seconds; what is done is "
                "kept: run the same command again"
            )

    def release(self) -> None:
        """Give up the lease, so that the next run can take it."""
        self._released.set()
        self._thread.join()
        with suppress(OSError):  # if the file stays, the next run finds it silent
            self._store.remove(f"{self._folder}/{self._number}")

    def _keep_alive(self) -> None:
        beat = 0
        while not self._released.wait(BEAT_SECONDS):
            beat += 1
            with suppress(OSError):  # a single sign of life may get lost
                if _numbers(self._store, self._folder)[-1:] != [self._number]:
                    self._lost = True
                    return
                self._store.write_bytes(f"{self._folder}/{self._number}", _encode(self._holder, beat))


@contextmanager
def hold_lease(
    store: Store, name: str, run_id: str, on_wait: Callable[[Holder], None], check_stopped: Callable[[], None]
) -> Iterator[tuple[Lease, bool]]:
    """Hold the lease `name` for a block, after waiting until no other run holds it. Yield the lease, and whether this
    run had to wait.

    Args:
        on_wait: called once with the holder that this run waits for.
        check_stopped: called while waiting; an exception that it raises ends the wait.
    """
    holder, waited = Holder(run_id, _host(), os.getpid(), _start_of(os.getpid())), False
    seen, since = "", time.monotonic()
    while True:
        numbers = _numbers(store, _folder(name))
        current, content = _read(store, name, numbers[-1]) if numbers else (None, "")
        if content != seen:
            seen, since = content, time.monotonic()
        if current == holder:  # an earlier try created the file, but the store's answer was lost
            number = numbers.pop()
            break
        silent = time.monotonic() - since > SILENT_SECONDS
        if current is None or current.is_dead() or silent:
            number = numbers[-1] + 1 if numbers else 1
            if store.write_new(f"{_folder(name)}/{number}", _encode(holder, 0)):
                break
            continue
        if not waited:
            waited = True
            on_wait(current)
        check_stopped()
        time.sleep(LOOK_SECONDS)
    for number_before in numbers:
        store.remove(f"{_folder(name)}/{number_before}")
    lease = Lease(store, name, number, holder)
    try:
        yield lease, waited
    finally:
        lease.release()


def _folder(name: str) -> str:
    return f"leases/{name}"


def _numbers(store: Store, folder: str) -> list[int]:
    return sorted(int(name) for name in store.files(folder) if name.isdecimal())


def _encode(holder: Holder, beat: int) -> bytes:
    return json.dumps(asdict(holder) | {"beat": beat}).encode()


def _read(store: Store, name: str, number: int) -> tuple[Holder | None, str]:
    """Return the holder in a lease's file, and the file's text; None and an empty text if the lease was released
    meanwhile or its file is no lease."""
    try:
        content = store.read_bytes(f"{_folder(name)}/{number}").decode()
        return Holder(**json.loads(content)), content
    except FileNotFoundError:
        return None, ""
    except (ValueError, TypeError):
        return None, ""


@cache
def _host() -> str:
    """Return a name for this machine that differs from that of another machine with the same host name, and changes
    when this one restarts."""
    boot = Path("/proc/sys/kernel/random/boot_id")
    return f"{socket.gethostname()}/{boot.read_text().strip()[:8] if boot.exists() else ''}"


def _start_of(pid: int) -> str:
    """Return when a process began, in the system's own terms; "alive" where that is not known; empty where there is no
    such process."""
    try:
        status = Path(f"/proc/{pid}/stat").read_text()
        return status.rpartition(")")[2].split()[19]
    except (OSError, IndexError):
        with suppress(OSError):
            os.kill(pid, 0)
            return "alive"
        return ""


def live_leases(store: Store, silent: float = STALE_SECONDS) -> dict[str, Holder]:
    """Return the holders of leases that are in use, by the lease's name. A lease is in use if its process is not known
    to be gone and gave a sign of life in the last `silent` seconds.

    Args:
        silent: seconds, compared by the clocks of this machine and of the store. The default is long, for callers that
            must not remove anything that a run may need.
    """
    live = {}
    for name in store.folders("leases"):
        numbers = _numbers(store, _folder(name))
        holder, _ = _read(store, name, numbers[-1]) if numbers else (None, "")
        if holder is not None and not holder.is_dead() and age_of(store, f"{_folder(name)}/{numbers[-1]}") < silent:
            live[name] = holder
    return live


def runs_at_work(store: Store) -> dict[str, Holder]:
    """Return the runs that are making something in a store now, by the names of their leases, the longest-running run
    first. A killed run is left out: at once on its own machine, after `SILENT_SECONDS` on another."""
    live = live_leases(store, SILENT_SECONDS)
    return dict(sorted(live.items(), key=lambda each: each[1].run_id))
