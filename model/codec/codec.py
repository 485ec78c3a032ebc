"""The codec as the stages see it: sound to integers and back.

A `Codec` wraps a network of transformers (EnCodec, DAC, Mimi) behind its `Coder`. A recording's codes and sound depend
only on the recording, never on other recordings that are encoded or decoded at the same time: see `encode_track` and
`decode_track`.
"""

import hashlib
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers import DacModel, EncodecModel

from model.codec.captured import CapturedDecoding
from model.codec.coders import CodecNetwork, Coder, Margins, dac_coder, encodec_coder, mimi_coder
from model.kernels.codec.inference import prepare_codec_for_inference

WINDOW_SECONDS = 30.0
"""Default length of a window; a codec with wide margins has longer windows, because at most half may be margins."""
FRAMES_AT_ONCE = 24_000
"""Maximum number of frames that are decoded together, unless one window is longer: the activations between recurrent
layers then take some hundred megabytes."""


def coder_of(network: CodecNetwork) -> Coder:
    """Return the coder for a network, by its class.

    Raises:
        ValueError: the network is a Mimi that lacks its encoder or decoder, or whose codes have the frame rate of its
            transformer.
    """
    if isinstance(network, EncodecModel):
        return encodec_coder(network)
    return dac_coder(network) if isinstance(network, DacModel) else mimi_coder(network)


def codebook_identity(network: CodecNetwork, levels: int, rounded: torch.dtype = torch.float16) -> str:
    """Return the identity of a codec's codes as 64 hexadecimal digits: the SHA-256 of its first `levels` codebooks,
    rounded to half precision.

    Networks of equal identity can decode each other's codes. A copy of a network in float16 has the identity of its
    original, because its values are those that the original is rounded to.

    Args:
        rounded: the type that the values are rounded to; older identities were made with float32.

    Raises:
        ValueError: the network has fewer than `levels` codebooks.
    """
    coder = coder_of(network)
    if not 1 <= levels <= coder.codebooks:
        raise ValueError(f"expected 1 to {coder.codebooks} codebooks, got {levels}")
    digest = hashlib.sha256()
    for level in range(levels):
        digest.update(coder.codebook(level).detach().to(rounded).cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


class Codec:
    """A codec for inference.

    Args:
        network: a trained network, as `from_pretrained` of its class returns it. It is changed in place (plain
            weights, no gradients) and moved to `device`. On CUDA, decoding is captured as graphs
            (`model.codec.captured`). On a CPU, a copy that shares its weights is prepared for inference
            (`model.kernels.codec.inference`); later changes of the network's weights may not reach this copy.
        codebooks: how many levels to use; None uses all levels of the network.

    Raises:
        ValueError: the network's sound does not depend on its codes alone (EnCodec at 48 kHz), or the network has fewer
            codebooks.
    """

    def __init__(self, network: CodecNetwork, device: str = "cpu", codebooks: int | None = None) -> None:
        coder = coder_of(network)
        if coder.obstacle is not None:
            raise ValueError(
                f"expected a codec whose codes alone determine the sound, got an {coder.kind} with {coder.obstacle}"
            )
        if codebooks is not None and not 1 <= codebooks <= coder.codebooks:
            raise ValueError(f"expected 1 to {coder.codebooks} codebooks, got {codebooks}")
        network.train(False).requires_grad_(False).to(device)
        coder.prepare()
        self.coder, self.network, self.device = coder_of(prepare_codec_for_inference(network)), network, device
        on_cuda = torch.device(device).type == "cuda"
        self.decoding = CapturedDecoding(self.coder.decode) if on_cuda else self.coder.decode
        self.codebooks = coder.codebooks if codebooks is None else codebooks
        self.cardinality, self.sample_rate = coder.cardinality, coder.sample_rate
        self.channels, self.hop = coder.channels, coder.hop

    @property
    def frame_rate(self) -> float:
        """Frames a second."""
        return self.coder.frame_rate

    @property
    def margins(self) -> Margins:
        """Context that a window needs on either side of the frames that are kept of it, in frames."""
        return self.coder.margins

    @property
    def identity(self) -> str:
        """`codebook_identity` of the codebooks in use."""
        return codebook_identity(self.network, self.codebooks)

    @torch.no_grad()
    def encode(self, wav: Float[Tensor, "B C N"]) -> Int[Tensor, "B K T"]:
        """Encode waveforms in one pass, T = ceil(N / hop).

        Raises:
            ValueError: the number of channels is wrong, or there are no samples.
        """
        if wav.shape[1] != self.channels or wav.shape[2] == 0:
            raise ValueError(f"expected a waveform [B, {self.channels}, N > 0], got {tuple(wav.shape)}")
        return self.coder.encode(wav.to(self.device), self.codebooks)

    @torch.no_grad()
    def decode(self, codes: Int[Tensor, "B K T"]) -> Float[Tensor, "B C N"]:
        """Decode codes in one pass, N = T * hop.

        Raises:
            ValueError: the network has fewer codebooks, there are no frames, or a code is not in the codebooks.
        """
        return self.decoding(self._checked(codes))

    def _checked(self, codes: Int[Tensor, "B K T"]) -> Int[Tensor, "B K T"]:
        """Check codes as `decode` does, and return them on the device."""
        if not 1 <= codes.shape[1] <= self.coder.codebooks or codes.shape[2] == 0:
            raise ValueError(f"expected codes [B, {self.codebooks}, T > 0], got {tuple(codes.shape)}")
        if int(codes.min()) < 0 or int(codes.max()) >= self.cardinality:
            raise ValueError(
                f"expected codes from 0 to {self.cardinality - 1}, got {int(codes.min())} to {int(codes.max())}"
            )
        return codes.to(self.device).long()

    def encode_track(
        self,
        wav: Float[Tensor, "C N"],
        window: int | None = None,
        context: int | None = None,
        windows_at_once: int = 4,
    ) -> Int[Tensor, "K T"]:
        """Encode a whole recording, in an amount of memory that does not depend on its length.

        Windows overlap, and the outer frames at each seam, as many as `margins`, are discarded. So the network sees the
        sound around a seam, and the codes there are those of one long pass, except for what recurrent layers and
        attention carry from further back. A recording of at most one window is encoded in one pass. The last window
        ends where the recording ends and is encoded alone; the others are equally long and are encoded
        `windows_at_once` at a time. Only windows of this recording share a batch, so its codes depend on nothing else.

        Args:
            window: length of a window, frames; None is 30 s, or twice the sum of the margins where that is more.
            context: frames that are discarded on either side; None is the codec's margins.

        Raises:
            ValueError: the window is no longer than its context, or the waveform is wrong.
        """
        if windows_at_once < 1:
            raise ValueError(f"expected 1 or more windows at once, got {windows_at_once}")
        frames = math.ceil(wav.shape[-1] / self.hop)
        windows = self._windows(frames, window, context)
        pieces = []
        for first in range(0, len(windows.starts) - 1, windows_at_once):
            group = windows.starts[first : min(first + windows_at_once, len(windows.starts) - 1)]
            batch = torch.stack([wav[:, start * self.hop : (start + windows.length) * self.hop] for start in group])
            pieces += list(self.encode(batch).cpu())
        pieces.append(self.encode(wav[None, :, windows.starts[-1] * self.hop :])[0].cpu())
        return windows.joined(pieces, 1)

    def decode_track(
        self, codes: Int[Tensor, "K T"], window: int | None = None, context: int | None = None
    ) -> Float[Tensor, "C N"]:
        """Decode a whole recording's codes, N = T * hop, in windows that overlap as in `encode_track`.

        Each window is decoded alone, so the samples depend only on these codes.

        Raises:
            ValueError: the window is no longer than its context, or the codes are wrong.
        """
        return next(self.decode_tracks([codes], window, context))

    def decode_tracks(
        self, tracks: Sequence[Int[Tensor, "_K _T"]], window: int | None = None, context: int | None = None
    ) -> Iterator[Float[Tensor, "C _N"]]:
        """Decode the codes of several recordings; yield the sound of each in order, with the bits of `decode_track`.

        If the codec can do so (EnCodec on a CPU), recurrent layers run over all recordings at once, which takes hardly
        longer than for one.

        Raises:
            ValueError: the window is no longer than its context, or the codes are wrong.
        """
        windows = [self._windows(codes.shape[-1], window, context) for codes in tracks]
        pieces = self._decode_each(
            codes[:, start : start + track_windows.length]
            for codes, track_windows in zip(tracks, windows, strict=True)
            for start in track_windows.starts
        )
        for track_windows in windows:
            yield track_windows.joined([next(pieces).cpu() for _ in track_windows.starts], self.hop)

    def _decode_each(self, pieces: Iterable[Int[Tensor, "_K _T"]]) -> Iterator[Float[Tensor, "C _N"]]:
        if self.coder.decode_each is None:
            yield from (self.decode(codes[None])[0] for codes in pieces)
            return
        group: list[Tensor] = []
        for codes in pieces:
            if group and sum(each.shape[1] for each in group) + codes.shape[1] > FRAMES_AT_ONCE:
                yield from self.coder.decode_each(group)
                group = []
            group.append(self._checked(codes[None])[0])
        yield from self.coder.decode_each(group)

    def _windows(self, frames: int, window: int | None, context: int | None) -> "_Windows":
        """Cut `frames` into windows: one every `step` frames, and a last one that ends with the recording."""
        margins = self.margins if context is None else Margins(context, context)
        discarded = margins.before + margins.after
        length = max(round(WINDOW_SECONDS * self.frame_rate), 2 * discarded, 1) if window is None else window
        step = length - discarded
        if step < 1 or min(margins.before, margins.after) < 0:
            raise ValueError(
                f"expected a window longer than its context of {margins.before} frames before and {margins.after} "
                f"after (0 or more each), got a window of {length} frames"
            )
        last = max(0, frames - length)
        return _Windows([*range(0, last, step), last], length, margins.after)


@dataclass(frozen=True)
class _Windows:
    """The positions of a recording's windows, in frames."""

    starts: list[int]
    length: int
    after: int
    """Frames at the end of a window that are taken from the next window instead."""

    def joined(self, pieces: list[Tensor], scale: int) -> Tensor:
        """Join the results of the windows, which have `scale` entries a frame. Each result is used from where the
        previous one stopped to `after` frames before its end; the last result to its end."""
        kept, done = [], 0
        for i, (piece, start) in enumerate(zip(pieces, self.starts, strict=True)):
            end = start * scale + piece.shape[-1] - (self.after * scale if i < len(pieces) - 1 else 0)
            kept.append(piece[..., done - start * scale : end - start * scale])
            done = end
        return torch.cat(kept, dim=-1)
