"""Prepares a codec's network for inference on a CPU: its two halves, encoder and decoder, use channels-last memory.

transformers' EnCodec, Mimi and DAC are chains of a few kinds of layers. This module converts them, with their padding,
to the layers of `channels_last` and `recurrence`. The parts between the halves (quantisers, Mimi's transformers) are
not changed.
"""

import copy
import math
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from transformers import MimiModel
from transformers.models.dac.modeling_dac import (
    DacDecoder,
    DacDecoderBlock,
    DacEncoder,
    DacEncoderBlock,
    DacResidualUnit,
    Snake1d,
)
from transformers.models.encodec.modeling_encodec import (
    EncodecConv1d,
    EncodecConvTranspose1d,
    EncodecDecoder,
    EncodecEncoder,
    EncodecLSTM,
    EncodecResnetBlock,
)
from transformers.models.mimi.modeling_mimi import (
    MimiConv1d,
    MimiConvTranspose1d,
    MimiDecoder,
    MimiEncoder,
    MimiResnetBlock,
)

from model import kernels
from model.codec.coders import CodecNetwork
from model.kernels import operators
from model.kernels.codec.channels_last import (
    PADDING_MODES,
    Activation,
    Convolution,
    HyperbolicTangent,
    Padding,
    Residual,
    TransposedConvolution,
    elu_into,
    snake_into,
)
from model.kernels.codec.chunked_layers import ChunkedLayers, RowLayer, chunk_layers
from model.kernels.codec.recurrence import Recurrence

CHAINS = (EncodecEncoder, EncodecDecoder, MimiEncoder, MimiDecoder, DacEncoder, DacDecoder)
"""Classes of halves whose children run in their order."""
LINKS = (nn.ModuleList, DacEncoderBlock, DacDecoderBlock)
"""Classes of parts of a chain whose children run in their order too."""


def prepare_codec_for_inference(network: CodecNetwork) -> CodecNetwork:
    """Return a copy of the network whose two halves are `InferenceHalf`, only for inference; everything else is shared
    with the network.

    If kernels are disabled, or the network is not in float32 on a CPU with oneDNN, the network itself is returned. A
    half with a layer of an unknown kind is not replaced.
    """
    weight = next(network.parameters())
    on_cpu = weight.device.type == "cpu" and weight.dtype == torch.float32 and operators.available("onednn")
    if not kernels.enabled() or not on_cpu:
        return network
    whole: Any = network
    seanet = isinstance(network, MimiModel)
    halves = (whole.encoder.encoder_seanet, whole.decoder.decoder_seanet) if seanet else (whole.encoder, whole.decoder)
    # deepcopy uses the objects of this memo instead of copying.
    memo: dict[int, Any] = {id(tensor): tensor for tensor in (*network.parameters(), *network.buffers())}
    memo |= {id(half): InferenceHalf(half) for half in halves if _is_supported_half(half)}
    return copy.deepcopy(network, memo)


class InferenceHalf(nn.Module):
    """An encoder or a decoder over channels-last memory. Its layers are built at the first call, because most codecs
    are loaded for only one of the two."""

    def __init__(self, half: nn.Module) -> None:
        super().__init__()
        self.plain = half
        self.parts: list[ChunkedLayers | Recurrence] | None = None

    @torch.no_grad()
    def forward(self, inputs: Float[Tensor, "B C N"], padding_cache: None = None) -> Float[Tensor, "B D M"]:
        """Return the half's output.

        Args:
            padding_cache: always None; Mimi passes this argument.
        """
        assert padding_cache is None
        return torch.stack(list(self.each(inputs.unbind())))

    def each(self, items: Sequence[Float[Tensor, "C _N"]]) -> Iterator[Float[Tensor, "D _M"]]:
        """Yield the half's output for each of several inputs of any lengths, with the bits that it has alone.

        Recurrent layers run over all inputs at once; the other layers run over one input after another.
        """
        pending: list[ChunkedLayers] = []
        # Not as a decorator: with another decorator in between, no_grad would not recognise a generator function.
        with torch.no_grad():
            if self.parts is None:
                self.parts = _inference_parts(_leaves(self.plain))
            rows = [item.t().contiguous() for item in items]
            for part in self.parts:
                if isinstance(part, Recurrence):
                    rows, pending = part([_through(pending, each) for each in rows]), []
                else:
                    pending.append(part)
        for each in rows:
            with torch.no_grad():
                output = _through(pending, each).t().contiguous()
            yield output


def _through(layers: Iterable[ChunkedLayers], rows: Float[Tensor, "N C"]) -> Float[Tensor, "M D"]:
    for layer in layers:
        rows = layer(rows)
    return rows


def _is_supported_half(half: nn.Module) -> bool:
    return isinstance(half, CHAINS) and all(_is_supported(leaf) for leaf in _leaves(half))


def _leaves(module: nn.Module) -> Iterator[nn.Module]:
    """Yield the layers of a half in order."""
    for child in module.children():
        if isinstance(child, LINKS):
            yield from _leaves(child)
        else:
            yield child


def _is_supported(layer: nn.Module) -> bool:
    """Return whether `_row_layers` can convert a layer."""
    match layer:
        case EncodecConv1d():
            return bool(layer.norm_type == "weight_norm" and layer.pad_mode in PADDING_MODES)
        case EncodecConvTranspose1d():
            return bool(layer.norm_type == "weight_norm")
        case MimiConv1d():
            return bool(layer.pad_mode in PADDING_MODES and layer.conv.groups == 1)
        case MimiConvTranspose1d():
            return bool(layer.conv.groups == 1)
        case EncodecResnetBlock() | MimiResnetBlock():
            return all(_is_supported(each) for each in (*layer.block, layer.shortcut))
        case DacResidualUnit():
            return all(_is_supported(each) for each in layer.children())
        case nn.Conv1d():
            return layer.groups == 1 and not isinstance(layer.padding, str)
        case nn.ConvTranspose1d():
            return layer.groups == layer.dilation[0] == 1 and layer.output_padding[0] == 0
        case nn.ELU():
            return layer.alpha == 1
    return isinstance(layer, Snake1d | EncodecLSTM | nn.Tanh | nn.Identity)


def _inference_parts(modules: Iterable[nn.Module]) -> list[ChunkedLayers | Recurrence]:
    """Split a half into groups of layers that run over blocks of time, and the recurrent layers between them."""
    parts: list[ChunkedLayers | Recurrence] = []
    pending: list[nn.Module] = []
    for module in modules:
        if isinstance(module, EncodecLSTM):
            parts += [*chunk_layers(_row_layers(pending)), Recurrence(module.lstm)]
            pending = []
        else:
            pending.append(module)
    return parts + chunk_layers(_row_layers(pending))


def _row_layers(modules: Iterable[nn.Module]) -> list[RowLayer]:
    """Convert modules to layers over rows. An activation becomes a part of the convolution after it."""
    layers: list[RowLayer] = []
    activation: Activation | None = None
    for module in modules:
        match module:
            case nn.ELU():
                activation = elu_into
                continue
            case Snake1d():
                activation = snake_into(module.alpha.detach()[0, :, 0])
                continue
            case EncodecResnetBlock() | MimiResnetBlock():
                shortcut = None if isinstance(module.shortcut, nn.Identity) else _convolution(module.shortcut, None)
                layers.append(Residual(_row_layers(module.block), shortcut))
            case DacResidualUnit():
                layers.append(Residual(_row_layers(module.children())))
            case nn.Tanh():
                layers.append(HyperbolicTangent())
            case _:
                layers.append(_convolution(module, activation))
        activation = None
    return layers


def _convolution(module: Any, activation: Activation | None) -> Convolution | TransposedConvolution:
    """Convert a convolution, including the padding or trimming of its class."""
    wrapped = isinstance(module, EncodecConv1d | EncodecConvTranspose1d | MimiConv1d | MimiConvTranspose1d)
    plain = module.conv if wrapped else module
    weight, bias = plain.weight.detach(), None if plain.bias is None else plain.bias.detach()
    stride, dilation = plain.stride[0], plain.dilation[0]
    total = (plain.kernel_size[0] - 1) * dilation + 1 - stride
    if isinstance(plain, nn.ConvTranspose1d):
        before = after = int(plain.padding[0])
        if wrapped:
            after = math.ceil(total * module.trim_right_ratio) if module.causal else total // 2
            before = total - after
        return TransposedConvolution(weight, bias, stride, before, after, activation)
    padding = Padding(plain.padding[0], plain.padding[0])
    if wrapped:
        after = 0 if module.causal else total // 2
        padding = Padding(total - after, after, fill=True, mode=module.pad_mode)
    return Convolution(weight, bias, stride, dilation, padding, activation)
