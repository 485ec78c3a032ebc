"""What AudioCraft calls the tensors of an EnCodec (EnCodec, arXiv:2210.13438).

Both projects build the same stack of layers in the same order, so that a number in one's names is the number in the
other's. They differ in the wrappers around a convolution, in how weight normalisation is stored (`weight_g` and
`weight_v`, or the two originals of a parametrisation), and in where a level's codebook lies.
"""

from torch import nn
from transformers import EncodecModel

_INSIDE_A_CONVOLUTION = {
    "conv.parametrizations.weight.original0": "{kind}.{kind}.weight_g",
    "conv.parametrizations.weight.original1": "{kind}.{kind}.weight_v",
    "conv.weight": "{kind}.{kind}.weight",
    "conv.bias": "{kind}.{kind}.bias",
    "norm.weight": "{kind}.norm.weight",
    "norm.bias": "{kind}.norm.bias",
}
"""A tensor of a convolution here, and there; `kind` is `conv` or, for a transposed one, `convtr`."""


def audiocraft_codec_names(network: EncodecModel) -> dict[str, str]:
    """For every entry of a network's state, its name in the state of AudioCraft's `EncodecModel`.

    Raises:
        ValueError: the network's weight normalisation is folded away (`model.codec.network.fold_weight_norm`).
    """
    if network.config.norm_type == "weight_norm" and not any(
        "parametrizations" in name for name in network.state_dict()
    ):
        raise ValueError("expected a codec with its weight normalisation, got one with plain weights")
    names = {}
    for path, module in network.named_modules():
        if isinstance(getattr(module, "conv", None), nn.Conv1d | nn.ConvTranspose1d):
            kind = "convtr" if isinstance(module.conv, nn.ConvTranspose1d) else "conv"
            there = path.replace(".layers.", ".model.", 1)
            for inside in module.state_dict():
                names[f"{path}.{inside}"] = f"{there}.{_INSIDE_A_CONVOLUTION[inside].format(kind=kind)}"
    for name in network.state_dict():
        if ".lstm." in name:
            names[name] = name.replace(".layers.", ".model.", 1)
        elif name.startswith("quantizer."):
            names[name] = name.replace("quantizer.", "quantizer.vq.", 1).replace(".codebook.", "._codebook.", 1)
    return names
