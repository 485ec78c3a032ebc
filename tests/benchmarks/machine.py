"""The machine that figures were measured on, in words: without it a figure means nothing.

No torch is imported here for a processor, so that it does not count in measurements of memory.
"""

import datetime
import os
import platform
from importlib import metadata
from pathlib import Path

PACKAGES = ("torch", "transformers", "prefect", "pyarrow")
"""Packages whose versions affect figures."""


def describe(device: str, threads: int) -> str:
    """Processor, cores, threads and accelerator, for a heading."""
    names = [_accelerator(device)] if device != "cpu" else []
    names.append(f"{_processor()}, {os.cpu_count()} cores, {threads} thread{'s' * (threads > 1)}")
    return ", ".join(names)


def circumstances() -> str:
    """The time, the load of the machine and the versions of what was measured, in one line."""
    versions = [f"{name} {metadata.version(name)}" for name in PACKAGES if _installed(name)]
    now = datetime.datetime.now().astimezone().isoformat(" ", "minutes")
    return f"{now}, load {os.getloadavg()[0]:.1f}, Python {platform.python_version()}, {', '.join(versions)}"


def peak_megabytes() -> float:
    """Peak memory of this process, MB. The usual number, `ru_maxrss`, also covers the process which started it if that
    was larger."""
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return next(int(line.split()[1]) * 1024 / 1e6 for line in lines if line.startswith("VmHWM"))


def _processor() -> str:
    """Return the processor's name with its generation, or with family and model, which distinguish processors of the
    same name."""
    file = Path("/proc/cpuinfo")
    lines = file.read_text(encoding="utf-8").splitlines() if file.exists() else []
    facts = dict(line.split(":", 1) for line in lines if ":" in line)
    facts = {name.strip(): value.strip() for name, value in facts.items()}
    name = facts.get("model name") or platform.processor() or platform.machine()
    if "cpu family" not in facts or "model" not in facts:
        return name
    family, model = int(facts["cpu family"]), int(facts["model"])
    return f"{name} ({zen_generation(facts.get('vendor_id', ''), family, model) or f'family {family} model {model}'})"


def zen_generation(vendor: str, family: int, model: int) -> str | None:
    """Return the generation of an AMD processor whose name does not contain it; None for others.

    Linux distinguishes them by the same numbers (arch/x86/kernel/cpu/amd.c).
    """
    if vendor != "AuthenticAMD":
        return None
    if family == 0x19:
        is_fourth = 0x10 <= model <= 0x1F or 0x60 <= model <= 0xAF
        return "Zen 4" if is_fourth else "Zen 3"
    return "Zen 5" if family == 0x1A and model < 0x50 else None


def _accelerator(device: str) -> str:
    import torch

    return torch.cuda.get_device_name(device)


def _installed(name: str) -> bool:
    try:
        metadata.version(name)
    except metadata.PackageNotFoundError:
        return False
    return True
