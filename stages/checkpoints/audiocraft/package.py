"""The files that AudioCraft exports (`audiocraft/utils/export.py`, version 1.3.0): tensors and their configuration.

Each is a PyTorch pickle of `best_state` (the tensors by name), `xp.cfg` (the configuration of the training, as YAML),
`version` and `exported`. It is read by the restricted unpickler and the safe YAML loader, so that no code in it is run.
The YAML still contains references from one setting to another (`${sample_rate}`), as OmegaConf writes them.
"""

import math
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import Tensor

from schemas.weights import AUDIOCRAFT_FILES
from stages.checkpoints.disk_errors import disk_errors
from stages.networks.loading import floats_of, load_pickle

LANGUAGE_MODEL_FILE, CODEC_FILE = AUDIOCRAFT_FILES
VERSION = "1.3.0"
"""The version of AudioCraft whose form is written."""

_REFERENCE = re.compile(r"\$\{([\w.]+)\}")
_DEEPEST = 32
"""Largest depth of nested mappings and chained references; any sensible configuration has less."""


@dataclass(frozen=True)
class Section:
    """A mapping in a configuration, and its dotted name for error messages."""

    name: str
    values: Mapping[str, Any]

    def full_name(self, key: str) -> str:
        """Return the dotted name of a setting."""
        return f"{self.name}.{key}" if self.name else key

    def section(self, key: str) -> "Section":
        """Return the mapping under a key; where it is absent or empty, one without settings.

        Raises:
            ValueError: the key has a value that is not a mapping.
        """
        value = self.values.get(key)
        if value is not None and not isinstance(value, Mapping):
            raise ValueError(f"expected a mapping for {self.full_name(key)}, got {value!r}")
        return Section(self.full_name(key), value or {})

    def require(self, key: str) -> Any:
        """Return the value of a setting that must be there.

        Raises:
            ValueError: it is absent.
        """
        if self.values.get(key) is None:
            raise ValueError(f"expected {self.full_name(key)} in the configuration, got none")
        return self.values[key]

    def number(self, key: str) -> float:
        """Return the value of a setting that must be a number above 0.

        Raises:
            ValueError: it is absent or something else.
        """
        value = self.require(key)
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < math.inf:
            raise ValueError(f"expected a number above 0 for {self.full_name(key)}, got {value!r}")
        return value

    def get(self, key: str, default: Any) -> Any:
        """Return the value of a setting, or AudioCraft's default where it is absent.

        Raises:
            ValueError: the value has another type than the default.
        """
        value = self.values.get(key, default)
        kinds = (int, float) if isinstance(default, float) else type(default)
        if default is not None and (
            not isinstance(value, kinds) or isinstance(value, bool) != isinstance(default, bool)
        ):
            raise ValueError(f"expected {self.full_name(key)} to be like {default!r}, got {value!r}")
        return value

    def check(self, key: str, *allowed: Any, why: str = "") -> None:
        """Check that a setting has one of the values `allowed`; an absent one has AudioCraft's default, which is
        allowed.

        Raises:
            ValueError: it has another value; the message names the setting.
        """
        if key in self.values and self.values[key] not in allowed:
            raise ValueError(
                f"expected {self.full_name(key)} to be {' or '.join(repr(value) for value in allowed)}"
                f"{', ' + why if why else ''}, got {self.values[key]!r}"
            )

    def refuse_unknown(self, known: Collection[str]) -> None:
        """Refuse settings that are not known here: they may change what the model computes.

        Raises:
            ValueError: there are some.
        """
        if unknown := sorted(set(map(str, self.values)) - set(known)):
            raise ValueError(f"expected settings of {self.name} among {sorted(known)}, got {unknown}")


@dataclass(frozen=True, eq=False)
class Package:
    """The content of an exported file."""

    state: Mapping[str, Tensor]
    """Tensors by AudioCraft's names; floating-point tensors as float32."""
    config: Section


def read_package(path: Path) -> Package:
    """Read an exported file.

    Raises:
        ValueError: the file does not exist, is damaged, names code, or lacks its weights or configuration.
    """
    return parse_package(read_pickled(path, mapped=False), path)


def read_settings(path: Path) -> Section:
    """Read only the configuration of an exported file.

    Raises:
        ValueError: as in `read_package`.
    """
    return _parse_settings(read_pickled(path), path)


def read_pickled(path: Path, mapped: bool = True) -> Mapping[str, Any]:
    """Read the mapping in a file of AudioCraft's, whatever it contains. For `mapped` see `load_pickle`.

    Raises:
        ValueError: there is none, or one that cannot be loaded safely.
    """
    if not path.is_file():
        raise ValueError(f"expected {path.name} in {path.parent}, got no such file")
    content = load_pickle(path, mapped=mapped)
    if not isinstance(content, Mapping):
        raise ValueError(f"expected a mapping in {path}, got {type(content).__name__}")
    return content


def parse_package(content: Mapping[str, Any], path: Path) -> Package:
    """Take weights and configuration out of a file's content; the tensors are removed from it. `path` is for error
    messages.

    Raises:
        ValueError: one of them is missing or malformed.
    """
    state = _entry(content, "best_state", path)
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise ValueError(f"expected tensors by name under 'best_state' in {path}, got something else")
    return Package(floats_of(state), _parse_settings(content, path))


def _entry(content: Mapping[str, Any], key: str, path: Path) -> Any:
    if key not in content:
        raise ValueError(
            f"expected {key!r} in {path}, as AudioCraft's export writes it, got {sorted(map(str, content))}"
        )
    return content[key]


def _parse_settings(content: Mapping[str, Any], path: Path) -> Section:
    try:
        config = yaml.safe_load(_entry(content, "xp.cfg", path))
    except (yaml.YAMLError, AttributeError) as error:
        raise ValueError(f"expected YAML under 'xp.cfg' in {path}, got {' '.join(str(error).split())}") from error
    if not isinstance(config, Mapping):
        raise ValueError(f"expected a mapping under 'xp.cfg' in {path}, got {type(config).__name__}")
    return Section("", _resolve(config, config))


@disk_errors()
def write_package(path: Path, state: Mapping[str, Tensor], config: Mapping[str, Any]) -> None:
    """Write an exported file that `read_package` and AudioCraft's loaders read."""
    content = {
        "best_state": {name: _with_own_memory(value.detach().cpu()) for name, value in state.items()},
        "xp.cfg": yaml.safe_dump(dict(config), sort_keys=False),
        "version": VERSION,
        "exported": True,
    }
    with open(path, "wb") as file:  # with a file object torch raises the system's own error
        torch.save(content, file)


def _with_own_memory(value: Tensor) -> Tensor:
    """Return a tensor that has its memory to itself: torch would write all memory of a tensor that is part of
    another."""
    return value if value.untyped_storage().nbytes() == value.nbytes else value.clone()


def _resolve(value: Any, root: Mapping[str, Any], depth: int = 0) -> Any:
    """Replace references to other settings by their values; references of another kind (`${oc.env:…}`) stay text."""
    if depth > _DEEPEST:
        raise ValueError(f"expected at most {_DEEPEST} nested settings and references in the configuration, got more")
    if isinstance(value, Mapping):
        return {key: _resolve(item, root, depth + 1) for key, item in value.items()}
    if isinstance(value, list):
        return [_resolve(item, root, depth + 1) for item in value]
    if isinstance(value, str) and (reference := _REFERENCE.fullmatch(value)) is not None:
        target: Any = root
        for key in reference[1].split("."):
            target = target.get(key) if isinstance(target, Mapping) else None
        return _resolve(target, root, depth + 1)
    return value
