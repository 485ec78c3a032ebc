"""The discriminators of the reference pack, with its weights."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from model.codec.adversarial import Discriminators
from model.codec.config import AdversarialConfig, SpectrogramDiscriminatorConfig
from tests.worlds.oracles import Pack, read_pack

PARAMETERS = {
    "conv.weight": "weight",
    "conv.bias": "bias",
    "conv.weight_g": "parametrizations.weight.original0",
    "conv.weight_v": "parametrizations.weight.original1",
}
"""Names of a convolution's parameters in AudioCraft, and here."""


def discriminator_pack(folder: Path) -> Pack:
    return read_pack(folder, "discriminator")


def settings(facts: dict[str, Any], loss: Any = "hinge", windows: Sequence[int] | None = None) -> AdversarialConfig:
    """The discriminators of the pack, or only those with windows of these lengths."""
    sizes = facts["config"]
    every = zip(sizes["n_ffts"], sizes["hop_lengths"], sizes["win_lengths"], strict=True)
    ffts, hops, lengths = zip(*(one for one in every if windows is None or one[2] in windows), strict=True)
    return AdversarialConfig(
        spectrogram=SpectrogramDiscriminatorConfig(
            filters=sizes["filters"],
            ffts=ffts,
            hops=hops,
            windows=lengths,
            dilations=tuple(sizes["dilations"]),
            negative_slope=sizes["negative_slope"],
        ),
        loss=loss,
    )


def fill(discriminators: Discriminators, pack: Pack, prefix: str) -> None:
    """Load the pack's weights into the discriminators; all must be there, and none left over."""
    state = {name_here(name.removeprefix(prefix)): value for name, value in stored(pack, prefix).items()}
    discriminators.load_state_dict(state)


WINDOW = "spec_transform.window"
"""End of the name of a buffer that is stored with the weights and depends only on a size."""


def stored(pack: Pack, prefix: str) -> dict[str, Tensor]:
    return {name: value for name, value in pack.tensors.items() if name.startswith(prefix) and WINDOW not in name}


def window_lengths(pack: Pack, prefix: str) -> list[int]:
    """The window lengths of the discriminators whose weights' names begin with a prefix."""
    return [len(value) for name, value in pack.tensors.items() if name.startswith(prefix) and name.endswith(WINDOW)]


def name_here(name: str) -> str:
    """The name used here for `discriminators.0.convs.1.conv.weight_g` and similar names."""
    _, number, kind, *rest = name.split(".")
    place = f"layers.{rest.pop(0)}" if kind == "convs" else "last"
    return f"kinds.spectrogram.{number}.{place}.{PARAMETERS['.'.join(rest)]}"


def convolutions(discriminator: nn.Module) -> list[nn.Module]:
    """A discriminator's convolutions, first to last."""
    return [module for module in discriminator.modules() if isinstance(module, nn.Conv1d | nn.Conv2d)]
