"""The codec as the other stages see it: sound to integers and back.

A `Codec` wraps an `EncodecModel` from transformers. What it makes of a recording depends on the recording alone, never
on what is encoded or decoded beside it: see `encode_track` and `decode_track`.
"""

import hashlib
import math
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers import EncodecModel

from model.codec.network import fold_weight_norm


def codebook_identity(network: EncodecModel, levels: int) -> str:
    """What a codec's codes mean, as 64 hexadecimal digits: SHA-256 of the float32 values of its first `levels`
    codebooks. Codes of networks that agree in it can be read by each other, in whatever form the networks came.

    Raises:
        ValueError: the network has fewer codebooks.
    """
    layers: Any = network.quantizer.layers
    if not 1 <= levels <= len(layers):
        raise ValueError(f"expected 1 to {len(layers)} codebooks, got {levels}")
    digest = hashlib.sha256()
    for layer in layers[:levels]:
        digest.update(layer.codebook.embed.detach().float().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


class Codec:
    """EnCodec for inference.

    Args:
        network: trained, as `EncodecModel.from_pretrained` gives it; it is changed in place (plain weights, no
            gradients) and moved to `device`.
        codebooks: how many levels to use; None takes all that the network has.

    Raises:
        ValueError: a network that scales or chunks its input (EnCodec at 48 kHz), or has fewer codebooks.
    """

    def __init__(self, network: EncodecModel, device: str = "cpu", codebooks: int | None = None) -> None:
        config = network.config
        if config.normalize or config.chunk_length_s is not None:
            raise ValueError("expected an EnCodec without normalisation and chunks, got one with (such as 48 kHz)")
        available = config.num_quantizers
        if codebooks is not None and not 1 <= codebooks <= available:
            raise ValueError(f"expected 1 to {available} codebooks, got {codebooks}")
        self.network = fold_weight_norm(network).eval().requires_grad_(False).to(device)
        self.device = device
        self.codebooks = available if codebooks is None else codebooks
        self.cardinality: int = config.codebook_size
        self.sample_rate: int = config.sampling_rate
        self.channels: int = config.audio_channels
        self.hop: int = config.hop_length

    @property
    def frame_rate(self) -> float:
        """Frames a second."""
        return self.sample_rate / self.hop

    @property
    def identity(self) -> str:
        """`codebook_identity` of the codebooks in use."""
        return codebook_identity(self.network, self.codebooks)

    @torch.no_grad()
    def encode(self, wav: Float[Tensor, "B C N"]) -> Int[Tensor, "B K T"]:
        """Codes of waveforms in one pass, T = ceil(N / hop).

        Raises:
            ValueError: another number of channels, or no samples.
        """
        if wav.shape[1] != self.channels or wav.shape[2] == 0:
            raise ValueError(f"expected a waveform [B, {self.channels}, N > 0], got {tuple(wav.shape)}")
        latents = self.network.encoder(wav.to(self.device))
        residual = latents
        codes = []
        for layer in self.network.quantizer.layers[: self.codebooks]:
            indices = layer.encode(residual)
            residual = residual - layer.decode(indices)
            codes.append(indices)
        return torch.stack(codes, dim=1)

    @torch.no_grad()
    def decode(self, codes: Int[Tensor, "B K T"]) -> Float[Tensor, "B C N"]:
        """Waveforms of codes in one pass, N = T * hop.

        Raises:
            ValueError: another number of codebooks, no frames, or a code that is not in the codebooks.
        """
        if not 1 <= codes.shape[1] <= self.network.config.num_quantizers or codes.shape[2] == 0:
            raise ValueError(f"expected codes [B, {self.codebooks}, T > 0], got {tuple(codes.shape)}")
        if int(codes.min()) < 0 or int(codes.max()) >= self.cardinality:
            raise ValueError(
                f"expected codes from 0 to {self.cardinality - 1}, got {int(codes.min())} to {int(codes.max())}"
            )
        latents = self.network.quantizer.decode(codes.to(self.device).long().transpose(0, 1))
        return self.network.decoder(latents)

    def encode_track(
        self, wav: Float[Tensor, "C N"], window: int = 1500, context: int = 50, windows_at_once: int = 4
    ) -> Int[Tensor, "K T"]:
        """Codes of a whole recording, in memory that its length does not change.

        Windows of `window` frames overlap by twice `context`, and the outer `context` frames at a seam are thrown away:
        the network sees both sides of a seam, so that a seam leaves codes as one long pass would give them but for the
        recurrent layers' memory of what lies further back. A recording of at most one window is encoded in one pass.
        The last window is encoded alone, ending where the recording ends; the others, all equal, go
        `windows_at_once` at a time. Only this recording's own windows ever share a batch, so its codes depend on
        nothing else.

        Raises:
            ValueError: windows that are all context, or a bad waveform.
        """
        step = window - 2 * context
        if step < 1 or context < 0 or windows_at_once < 1:
            raise ValueError(f"expected window > 2 * context >= 0, got a window of {window} and a context of {context}")
        frames = math.ceil(wav.shape[-1] / self.hop)
        starts = _window_starts(frames, window, step)
        pieces = []
        for first in range(0, len(starts) - 1, windows_at_once):
            group = starts[first : min(first + windows_at_once, len(starts) - 1)]
            batch = torch.stack([wav[:, at * self.hop : (at + window) * self.hop] for at in group])
            pieces += list(self.encode(batch).cpu())
        pieces.append(self.encode(wav[None, :, starts[-1] * self.hop :])[0].cpu())
        return torch.cat(_joined(pieces, starts, context), dim=-1)

    def decode_track(self, codes: Int[Tensor, "K T"], window: int = 1500, context: int = 50) -> Float[Tensor, "C N"]:
        """The sound of a whole recording's codes, N = T * hop, in windows that overlap as in `encode_track`.

        Each window is decoded alone, so the samples depend on these codes and nothing else.

        Raises:
            ValueError: windows that are all context, or bad codes.
        """
        step = window - 2 * context
        if step < 1 or context < 0:
            raise ValueError(f"expected window > 2 * context >= 0, got a window of {window} and a context of {context}")
        starts = _window_starts(codes.shape[-1], window, step)
        pieces = [self.decode(codes[None, :, at : at + window])[0].cpu() for at in starts]
        return torch.cat(_joined(pieces, [at * self.hop for at in starts], context * self.hop), dim=-1)


def _window_starts(frames: int, window: int, step: int) -> list[int]:
    """First frames of the windows: every `step`, and the last as late as its full length allows."""
    last = max(0, frames - window)
    return [*range(0, last, step), last]


def _joined(pieces: list[Tensor], starts: list[int], context: int) -> list[Tensor]:
    """The part of each window that is kept: up to `context` before its end, from where the one before it stopped."""
    kept, done = [], 0
    for i, (piece, start) in enumerate(zip(pieces, starts, strict=True)):
        end = start + piece.shape[-1] - (context if i < len(pieces) - 1 else 0)
        kept.append(piece[..., done - start : end - start])
        done = end
    return kept
