"""The codec as the stages see it: sound to integers and back.

A `Codec` wraps a network of transformers (EnCodec, DAC, Mimi) behind its `Coder`. A recording's codes and sound depend
on the recording alone, never on what is encoded or decoded beside it: see `encode_track` and `decode_track`.
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
"""Length of a window, where the margins of the codec are not so wide that most of it would be thrown away."""
FRAMES_AT_ONCE = 24_000
"""Of recordings that are decoded together, at most, or of one window: what is between recurrent layers then takes some
hundred megabytes."""


def coder_of(network: CodecNetwork) -> Coder:
    """Make the coder of a network, by its kind.

    Raises:
        ValueError: a Mimi without one half, or at its transformer's own rate.
    """
    if isinstance(network, EncodecModel):
        return encodec_coder(network)
    return dac_coder(network) if isinstance(network, DacModel) else mimi_coder(network)


def codebook_identity(network: CodecNetwork, levels: int, rounded: torch.dtype = torch.float16) -> str:
    """Return what a codec's codes mean, as 64 hexadecimal digits: SHA-256 of its first `levels` codebooks, rounded to
    half precision. Codes of networks that agree in it can be read by each other, in whatever form the networks came: a
    copy in float16 has the very values that its original is rounded to.

    Args:
        rounded: what the values are rounded to; before half precision was allowed for, it was float32.

    Raises:
        ValueError: the network has fewer codebooks.
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
        network: trained, as `from_pretrained` of its class gives it; it is changed in place (plain weights, no
            gradients) and moved to `device`, where decoding is captured if that is CUDA (`model.codec.captured`). On a
            CPU a copy that shares its weights is prepared for inference (`model.kernels.codec.inference`), and changes
            of the network's weights after that may not reach it.
        codebooks: how many levels to use; None takes all that the network has.

    Raises:
        ValueError: a network whose codes alone are not the sound (EnCodec at 48 kHz), or that has fewer codebooks.
    """

    def __init__(self, network: CodecNetwork, device: str = "cpu", codebooks: int | None = None) -> None:
        coder = coder_of(network)
        if coder.obstacle is not None:
            raise ValueError(
                f"expected a codec whose codes are all of its sound, got an {coder.kind} with {coder.obstacle}"
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
        """What a window needs on either side of what is kept of it, in frames."""
        return self.coder.margins

    @property
    def identity(self) -> str:
        """`codebook_identity` of the codebooks in use."""
        return codebook_identity(self.network, self.codebooks)

    @torch.no_grad()
    def encode(self, wav: Float[Tensor, "B C N"]) -> Int[Tensor, "B K T"]:
        """Encode waveforms in one pass, T = ceil(N / hop).

        Raises:
            ValueError: another number of channels, or no samples.
        """
        if wav.shape[1] != self.channels or wav.shape[2] == 0:
            raise ValueError(f"expected a waveform [B, {self.channels}, N > 0], got {tuple(wav.shape)}")
        return self.coder.encode(wav.to(self.device), self.codebooks)

    @torch.no_grad()
    def decode(self, codes: Int[Tensor, "B K T"]) -> Float[Tensor, "B C N"]:
        """Decode codes in one pass, N = T * hop.

        Raises:
            ValueError: another number of codebooks, no frames, or a code that is not in the codebooks.
        """
        return self.decoding(self._checked(codes))

    def _checked(self, codes: Int[Tensor, "B K T"]) -> Int[Tensor, "B K T"]:
        """Return codes on the device."""
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
        """Encode a whole recording, in memory that its length does not change.

        Windows overlap, and the outer frames at a seam are thrown away, `margins` of them: the network sees what is
        around a seam, so that a seam leaves codes as one long pass would give them, but for what recurrent layers
        and attention bring from further back. A recording of at most one window is encoded in one pass. The
        last window is encoded alone, ending where the recording ends; the others, all equal, go `windows_at_once` at a
        time. Only this recording's own windows ever share a batch, so its codes depend on nothing else.

        Args:
            window: frames; None takes 30 s, or twice the margins where that is more.
            context: frames thrown away on either side; None takes the codec's margins.

        Raises:
            ValueError: windows that are all context, or a bad waveform.
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

        Each window is decoded alone, so the samples depend on these codes and nothing else.

        Raises:
            ValueError: windows that are all context, or bad codes.
        """
        return next(self.decode_tracks([codes], window, context))

    def decode_tracks(
        self, tracks: Sequence[Int[Tensor, "_K _T"]], window: int | None = None, context: int | None = None
    ) -> Iterator[Float[Tensor, "C _N"]]:
        """Decode several recordings' codes, and yield the sound of each in their order, as `decode_track` gives it,
        to the bit. Where the codec can do so (EnCodec on a CPU), recurrent layers run over all of them at once, which
        takes hardly longer than one.

        Raises:
            ValueError: windows that are all context, or bad codes.
        """
        windows = [self._windows(codes.shape[-1], window, context) for codes in tracks]
        pieces = self._decode_each(
            codes[:, start : start + each.length]
            for codes, each in zip(tracks, windows, strict=True)
            for start in each.starts
        )
        for each in windows:
            yield each.joined([next(pieces).cpu() for _ in each.starts], self.hop)

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
        """Cut `frames` into windows: one every `step` frames, the last as late as its full length allows."""
        margins = self.margins if context is None else Margins(context, context)
        discarded = margins.before + margins.after
        length = max(round(WINDOW_SECONDS * self.frame_rate), 2 * discarded, 1) if window is None else window
        step = length - discarded
        if step < 1 or min(margins.before, margins.after) < 0:
            raise ValueError(
                f"expected a window of more frames than the {margins.before} before and {margins.after} after what is "
                f"kept of it, which are 0 or more, got {length}"
            )
        last = max(0, frames - length)
        return _Windows([*range(0, last, step), last], length, margins.after)


@dataclass(frozen=True)
class _Windows:
    """Where the windows of a recording lie, in frames."""

    starts: list[int]
    length: int
    after: int
    """Frames at the end of a window that the next one has better."""

    def joined(self, pieces: list[Tensor], scale: int) -> Tensor:
        """Join the windows' results, of `scale` entries a frame: from each what lies up to `after` before its end, from
        where the one before it stopped."""
        kept, done = [], 0
        for i, (piece, start) in enumerate(zip(pieces, self.starts, strict=True)):
            end = start * scale + piece.shape[-1] - (self.after * scale if i < len(pieces) - 1 else 0)
            kept.append(piece[..., done - start * scale : end - start * scale])
            done = end
        return torch.cat(kept, dim=-1)
