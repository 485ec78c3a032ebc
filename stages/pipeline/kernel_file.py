"""The file in which a machine remembers the kernels that were fastest on it: JSON in the user's cache folder.

A file belongs to one processor with one number of threads, one version of torch and one version of the kernels. It
names all of these, and a file that names others is not read. The first process that writes a choice decides for all
processes: kernels differ in the last bits, so two choices would give two results. After the file is removed, the
kernels are timed again.
"""

import fcntl
import hashlib
import json
import os
import platform
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from model.kernels.choosing import KernelChoice
from model.kernels.linear import MAX_ROWS
from schemas.storage.file_store import cache_folder

KERNELS_VERSION = 4
"""The version of the kernels and of how they are chosen. Raise it when earlier choices no longer name the fastest
kernel."""
PROCESSORS = Path("/proc/cpuinfo")

Machine = dict[str, str | int]
"""The properties that the choice of a kernel depends on, by name."""


class KernelFile:
    """A `KernelMemory` in a file.

    Args:
        folder: where the files of all machines are; by default in the user's cache folder.
        machine: the properties of the machine; by default those of this one.
    """

    def __init__(self, folder: Path | None = None, machine: Machine | None = None) -> None:
        self.machine = this_machine() if machine is None else machine
        digest = hashlib.sha256(json.dumps(self.machine, sort_keys=True).encode()).hexdigest()[:16]
        self.path = (cache_folder() / "kernels" if folder is None else folder) / f"{digest}.json"

    def recall(self, kind: str) -> KernelChoice | None:
        """Return the choice that is stored for a kind of matrix; None if there is none, or the file is unreadable or
        malformed."""
        return self._read().get(kind)

    def keep(self, kind: str, choice: KernelChoice) -> KernelChoice | None:
        """Store a choice, unless another process has stored one meanwhile, and return the stored choice; None if the
        file cannot be written."""
        try:
            with self._locked():
                choices = self._read()
                if kind not in choices:
                    choices[kind] = choice
                    self._write(choices)
                return choices[kind]
        except OSError:
            return None

    def _read(self) -> dict[str, KernelChoice]:
        """Return the stored choices by kind of matrix; empty if the file is unreadable, malformed or of another
        machine."""
        try:
            content = json.loads(self.path.read_text(encoding="utf-8"))
            if content["machine"] != self.machine:
                return {}
            return {kind: _choice_of(value) for kind, value in content["choices"].items()}
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return {}

    def _write(self, choices: Mapping[str, KernelChoice]) -> None:
        named = {kind: {"kernel": choice.kernel, "rows": list(choice.sizes)} for kind, choice in choices.items()}
        text = json.dumps({"machine": self.machine, "choices": named}, indent=1)
        temporary = self.path.with_name(f"{self.path.name}.{uuid.uuid4().hex}.inprogress")
        try:
            temporary.write_text(text + "\n", encoding="utf-8")
            temporary.replace(self.path)
        finally:
            temporary.unlink(missing_ok=True)

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """Keep other processes from writing meanwhile. Raises OSError if the file cannot be written."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.with_suffix(".lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield


def this_machine() -> Machine:
    """Return what the kernels' speed depends on here: processor, threads, torch, and the version of the kernels."""
    import torch

    processor = _processor()
    return {
        "processor": processor.get("model name") or platform.processor() or platform.machine(),
        "family, model, stepping": ", ".join(processor.get(name, "") for name in ("cpu family", "model", "stepping")),
        "flags": hashlib.sha256(" ".join(sorted(processor.get("flags", "").split())).encode()).hexdigest()[:16],
        "cores": os.cpu_count() or 1,
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "kernels": KERNELS_VERSION,
    }


def _processor() -> dict[str, str]:
    """Return what the system says about the first processor; empty if it says nothing."""
    try:
        first = PROCESSORS.read_text(encoding="utf-8").split("\n\n", 1)[0]
    except OSError:
        return {}
    pairs = (line.partition(":") for line in first.splitlines())
    return {name.strip(): value.strip() for name, _, value in pairs}


def _choice_of(value: Mapping[str, Any]) -> KernelChoice:
    """Parse a stored choice; raise ValueError or TypeError if it is malformed."""
    sizes = tuple(value["rows"])
    if not all(isinstance(size, int) and size > 0 for size in sizes) or sorted(set(sizes)) != list(sizes):
        raise ValueError(f"expected ascending numbers of rows, got {sizes}")
    if sizes[-1:] not in ((), (MAX_ROWS,)) or not isinstance(value["kernel"], str):
        raise ValueError(f"expected a kernel for up to {MAX_ROWS} rows or for any number, got {value}")
    return KernelChoice(value["kernel"], sizes)
