"""Leases: of two runs that would make the same thing in one store, the second waits for the first.

A lease is a numbered file that its holder rewrites every few seconds. The highest number holds. Who finds that it has
not changed for a while, by its own clock, or that the process behind it is gone, writes the next number, which a store
gives to one alone; so no clocks are compared and nothing is locked for ever.
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
"""Between two signs of life."""

SILENT_SECONDS = 60.0
"""A holder that gave no sign for so long is taken for dead."""

LOOK_SECONDS = 1.0
"""Between two looks of who waits."""


class LeaseLost(OSError):
    """Another run took this one for dead and makes the same thing now."""


@dataclass(frozen=True)
class Holder:
    """Who holds a lease."""

    run_id: str
    host: str
    pid: int
    started: str
    """Tells the process from a later one with its number."""
    beat: int = 0

    def __str__(self) -> str:
        began = self._began()
        since = f", since {began:%-d %B %H:%M} UTC" if began else ""
        return f"run {self.run_id} (process {self.pid} on {self.host.partition('/')[0]}{since})"

    def _began(self) -> datetime | None:
        """Return when the run began, which its id says."""
        try:
            return datetime.strptime(self.run_id.partition("-")[0], "%Y%m%dT%H%M%S")
        except ValueError:  # an id that a test or another program chose
            return None

    def is_dead(self) -> bool:
        """Return whether the process is known to be gone: of another machine nothing is known."""
        return self.host == _host() and _start_of(self.pid) != self.started


class Lease:
    """A lease that is held; it gives signs of life until it is released."""

    def __init__(self, store: Store, name: str, number: int, holder: Holder) -> None:
        self._store, self._folder, self._number, self._holder = store, _folder(name), number, holder
        self._released, self._lost = threading.Event(), False
        self._thread = threading.Thread(target=self._keep, name=f"lease of {name}", daemon=True)
        self._thread.start()

    def check(self) -> None:
        """See that the lease is still this run's: called before what it guards becomes visible.

        Raises:
            LeaseLost: it is not.
        """
        if self._lost or _numbers(self._store, self._folder)[-1:] != [self._number]:
            raise LeaseLost(
                f"expected to be the only run that writes {self._folder.partition('/')[2]} in {self._store.url}, got "
                f"another one, since this one gave no sign of life for {SILENT_SECONDS:.0f} seconds; what is done is "
                "kept: run the same command again"
            )

    def release(self) -> None:
        """Let the next run have it."""
        self._released.set()
        self._thread.join()
        with suppress(OSError):  # whoever comes next will find it silent
            self._store.remove(f"{self._folder}/{self._number}")

    def _keep(self) -> None:
        beat = 0
        while not self._released.wait(BEAT_SECONDS):
            beat += 1
            with suppress(OSError):  # a sign that does not arrive is one of several
                if _numbers(self._store, self._folder)[-1:] != [self._number]:
                    self._lost = True
                    return
                self._store.write_bytes(f"{self._folder}/{self._number}", _encode(self._holder, beat))


@contextmanager
def hold_lease(
    store: Store, name: str, run_id: str, on_wait: Callable[[Holder], None], check_stopped: Callable[[], None]
) -> Iterator[tuple[Lease, bool]]:
    """Hold the lease `name` for a block, once no other run does; yield it, and whether it had to be waited for.

    Args:
        on_wait: told once whom this run waits for.
        check_stopped: called while waiting; what it raises ends the wait.
    """
    holder, waited = Holder(run_id, _host(), os.getpid(), _start_of(os.getpid())), False
    seen, since = "", time.monotonic()
    while True:
        numbers = _numbers(store, _folder(name))
        current, content = _read(store, name, numbers[-1]) if numbers else (None, "")
        if content != seen:
            seen, since = content, time.monotonic()
        if current == holder:  # it was given, and the answer was lost on its way
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
    """Return who holds a lease, and the text of its file; nobody where it was released meanwhile or is no lease."""
    try:
        content = store.read_bytes(f"{_folder(name)}/{number}").decode()
        return Holder(**json.loads(content)), content
    except FileNotFoundError:
        return None, ""
    except (ValueError, TypeError):
        return None, ""


@cache
def _host() -> str:
    """Return a name of this machine that another one with the same name, or this one after a restart, does not have."""
    boot = Path("/proc/sys/kernel/random/boot_id")
    return f"{socket.gethostname()}/{boot.read_text().strip()[:8] if boot.exists() else ''}"


def _start_of(pid: int) -> str:
    """Return when a process began, in the system's own terms; empty where there is none."""
    try:
        status = Path(f"/proc/{pid}/stat").read_text()
        return status.rpartition(")")[2].split()[19]
    except (OSError, IndexError):
        with suppress(OSError):
            os.kill(pid, 0)
            return "alive"
        return ""


def live_leases(store: Store, silent: float = STALE_SECONDS) -> dict[str, Holder]:
    """Return who holds which lease, by its name, as far as can be told: its process is not known to be gone, and it
    gave a sign of life not long ago.

    Args:
        silent: seconds without a sign of life, by the clocks of this machine and the store's, after which a holder is
            none any more. The default is long, for whoever is to remove nothing that a run may need.
    """
    live = {}
    for name in store.folders("leases"):
        numbers = _numbers(store, _folder(name))
        holder, _ = _read(store, name, numbers[-1]) if numbers else (None, "")
        if holder is not None and not holder.is_dead() and age_of(store, f"{_folder(name)}/{numbers[-1]}") < silent:
            live[name] = holder
    return live


def runs_at_work(store: Store) -> dict[str, Holder]:
    """Return which runs are making something in a store now, by the names of their leases, the longest at work first.
    One that was killed is none of them: at once on its own machine, after `SILENT_SECONDS` on another."""
    live = live_leases(store, SILENT_SECONDS)
    return dict(sorted(live.items(), key=lambda each: each[1].run_id))
