"""The files of adapters: where they are, which of them a request names, and what identifies them. Loads no torch."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from schemas import WeightsRef
from schemas.names import did_you_mean
from schemas.tables import CHECKPOINTS, Row
from schemas.weights import LocalWeights, MissingWeights, folder_digest
from stages.pipeline.contract import Context

ADAPTER = "adapter"
"""Name of the folder in a checkpoint that holds the low-rank updates; they are merged into its weights already."""

ADAPTER_CONFIG, ADAPTER_WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
"""The files of an adapter, as peft names them."""

LARGEST_STRENGTH = 10.0
"""Largest strength that is accepted; more is taken for a mistake. With 1 an update is added as it was learned."""

_ITEM = re.compile(r"(?P<name>[^:,;]+)(:(?P<strength>[^:,;]*))?")


class UnknownAdapter(ValueError):
    """No adapter has the name that a request gives."""


@dataclass(frozen=True, order=True)
class AdapterChoice:
    """An adapter as a request asks for it."""

    name: str
    strength: float = 1.0

    def __str__(self) -> str:
        return f"{self.name}:{self.strength:g}"


@dataclass(frozen=True, order=True)
class AdapterUse:
    """An adapter that a clip is made with."""

    digest: str
    """Digest of the adapter's folder: the same files are the same adapter under any name."""
    strength: float
    reference: str
    """Name of the weights: a folder, a hub id, or the checkpoint that contains the adapter."""


def parse_adapters(text: str) -> tuple[AdapterChoice, ...]:
    """Parse the adapters of a request, such as `noir:0.8, strings:0.4`, and return them sorted by name.

    Raises:
        ValueError: the text cannot be parsed, or names an adapter twice.
    """
    choices = {}
    for item in filter(None, (part.strip() for part in re.split("[,;]", text))):
        match = _ITEM.fullmatch(item)
        try:
            strength = float(match["strength"] or "1") if match else float("nan")
        except ValueError:
            strength = float("nan")
        if match is None or not abs(strength) <= LARGEST_STRENGTH:
            raise ValueError(
                f"expected adapters with strengths from -{LARGEST_STRENGTH:g} to {LARGEST_STRENGTH:g}, such as "
                f"'noir:0.8, strings:0.4', got {item!r}"
            )
        name = match["name"].strip()
        if name in choices:
            raise ValueError(f"expected each adapter once, got {name!r} twice")
        choices[name] = AdapterChoice(name, strength)
    return tuple(choices[name] for name in sorted(choices))


def adapter_folder(folder: Path) -> Path | None:
    """Return the folder of the adapter in a local folder: the folder itself, or the one inside a checkpoint; None where
    there is no adapter."""
    return next((candidate for candidate in (folder, folder / ADAPTER) if (candidate / ADAPTER_CONFIG).is_file()), None)


class AdapterNames:
    """Finds adapters by name: those that a recipe names, and those of the store's checkpoints.

    Args:
        named: the recipe's adapters, by name.
    """

    def __init__(self, named: Mapping[str, WeightsRef], context: Context) -> None:
        self._named, self._context = named, context

    def find(self, choice: AdapterChoice) -> AdapterUse:
        """Find the adapter that a request asks for.

        Raises:
            UnknownAdapter: no adapter has that name, or the weights that it names are not an adapter or cannot be
                fetched.
        """
        reference = self._named.get(choice.name) or self._own().get(choice.name)
        if reference is None:
            known = sorted({*self._named, *self._own()})
            expected = (
                f"one of {', '.join(known)}" if known else "one of the recipe (requests.adapters) or of the store"
            )
            raise UnknownAdapter(f"expected {expected}, got {choice.name!r}{did_you_mean(choice.name, known)}")
        try:
            local = self._context.weights(reference)
        except MissingWeights as error:
            raise UnknownAdapter(str(error)) from error
        return AdapterUse(_digest(local, reference), choice.strength, str(reference))

    def _own(self) -> Mapping[str, WeightsRef]:
        """Return the adapters of the store's checkpoints, by name and by checkpoint id. If several have a name, the
        newest counts."""
        rows: Sequence[Row] = self._context.store.read_all(
            CHECKPOINTS, ["checkpoint_id", "adapter", "created_at"]
        ).to_pylist()
        own: dict[str, WeightsRef] = {}
        for row in sorted((row for row in rows if row["adapter"]), key=lambda row: row["created_at"]):
            reference = WeightsRef.to_checkpoint(row["checkpoint_id"])
            own |= {row["adapter"]: reference, row["checkpoint_id"]: reference}
        return own


def _digest(local: LocalWeights, reference: WeightsRef) -> str:
    folder = adapter_folder(local.path)
    if folder is None:
        raise UnknownAdapter(f"expected an adapter ({ADAPTER_CONFIG}) in {reference}, got none")
    return folder_digest(folder)


def uses_of(request: Row) -> tuple[AdapterUse, ...]:
    """Return the adapters that a row of `requests` is made with; rows of an earlier release have none."""
    rows: Sequence[Row] = request.get("adapters") or ()
    return tuple(AdapterUse(row["digest"], row["strength"], row["reference"]) for row in rows)


def checked_folder(context: Context, use: AdapterUse) -> Path:
    """Return the local folder of an adapter.

    Raises:
        ValueError: the adapter is missing, or is not the one that was there when the request was read.
        MissingWeights: it cannot be fetched.
    """
    folder = adapter_folder(context.weights(WeightsRef(use.reference)).path)
    if folder is None or folder_digest(folder) != use.digest:
        raise ValueError(
            f"expected the adapter {use.reference} as it was when the request was read, got changed files: run the "
            "stage requests again"
        )
    return folder
