"""Stereo with a mono codec: left and right are encoded separately, and their codes are interleaved (MusicGen,
arXiv:2306.05284, 3.1).

The published stereo models interleave codebooks, L0, R0, L1, R1, …, so that a frame has twice as many codes; the two
codes of a level share a delay (`delays=(0, 0, 1, 1, 2, 2, 3, 3)`). AudioCraft can also interleave frames, left at even
frames and right at odd ones, which doubles the frame rate instead.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from model.codec.codec import Codec
from model.codec.coders import Margins

CODEBOOKS, FRAMES = 1, 2
"""Dimensions of codes [B, K, T]."""


@dataclass(frozen=True, eq=False)
class StereoCodes:
    """The codes of both channels."""

    left: Int[Tensor, "B _ _"]
    right: Int[Tensor, "B _ _"]


def interleave(sides: StereoCodes, by: Literal["codebooks", "frames"] = "codebooks") -> Int[Tensor, "B _ _"]:
    """Interleave the codes of both channels, left first: [B, 2K, T] by codebooks, [B, K, 2T] by frames.

    Raises:
        ValueError: the channels have different shapes.
    """
    if sides.left.shape != sides.right.shape:
        raise ValueError(
            f"expected left and right of the same shape, got {list(sides.left.shape)} and {list(sides.right.shape)}"
        )
    along = CODEBOOKS if by == "codebooks" else FRAMES
    return torch.stack([sides.left, sides.right], dim=along + 1).flatten(along, along + 1)


def deinterleave(codes: Int[Tensor, "B _ _"], by: Literal["codebooks", "frames"] = "codebooks") -> StereoCodes:
    """Undo `interleave`.

    Raises:
        ValueError: the number of codebooks (or of frames) is odd.
    """
    along = CODEBOOKS if by == "codebooks" else FRAMES
    if codes.shape[along] % 2:
        raise ValueError(f"expected an even number of {by}, left and right interleaved, got {codes.shape[along]}")
    left, right = codes.unflatten(along, (-1, 2)).unbind(along + 1)
    return StereoCodes(left, right)


class StereoCodec:
    """A mono codec that encodes and decodes two channels, with the interface of `Codec`.

    Args:
        codec: the mono codec. It encodes each channel as a recording of its own, so that equal channels have equal
            codes.

    Raises:
        ValueError: the codec has more than one channel.
    """

    channels = 2

    def __init__(self, codec: Codec) -> None:
        if codec.channels != 1:
            raise ValueError(f"expected a mono codec to encode each channel with, got one of {codec.channels} channels")
        self.codec = codec
        self.network, self.device = codec.network, codec.device
        self.codebooks = 2 * codec.codebooks
        self.cardinality, self.sample_rate, self.hop = codec.cardinality, codec.sample_rate, codec.hop

    @property
    def frame_rate(self) -> float:
        """Frames a second."""
        return self.codec.frame_rate

    @property
    def margins(self) -> Margins:
        """Margins of the mono codec."""
        return self.codec.margins

    @property
    def identity(self) -> str:
        """Identity of the mono codec: its codebooks mean the same for both channels."""
        return self.codec.identity

    def encode(self, wav: Float[Tensor, "B C N"]) -> Int[Tensor, "B K T"]:
        """Encode waveforms in one pass, T = ceil(N / hop).

        Raises:
            ValueError: there are not two channels, or no samples.
        """
        self._check(wav.shape[1], tuple(wav.shape))
        return interleave(StereoCodes(self.codec.encode(wav[:, :1]), self.codec.encode(wav[:, 1:])))

    def decode(self, codes: Int[Tensor, "B K T"]) -> Float[Tensor, "B 2 N"]:
        """Decode codes in one pass, N = T * hop.

        Raises:
            ValueError: the number of codebooks is odd, there are no frames, or a code is not in the codebooks.
        """
        sides = deinterleave(codes)
        return torch.cat([self.codec.decode(sides.left), self.codec.decode(sides.right)], dim=1)

    def encode_track(
        self,
        wav: Float[Tensor, "C N"],
        window: int | None = None,
        context: int | None = None,
        windows_at_once: int = 4,
    ) -> Int[Tensor, "K T"]:
        """Encode a whole recording, each channel by `Codec.encode_track`.

        Raises:
            ValueError: the window is no longer than its context, or the waveform is wrong.
        """
        self._check(wav.shape[0], tuple(wav.shape))
        left, right = (self.codec.encode_track(side, window, context, windows_at_once) for side in wav.split(1))
        return interleave(StereoCodes(left[None], right[None]))[0]

    def decode_track(
        self, codes: Int[Tensor, "K T"], window: int | None = None, context: int | None = None
    ) -> Float[Tensor, "2 N"]:
        """Decode a whole recording's codes, each channel as by `Codec.decode_track`.

        Raises:
            ValueError: the window is no longer than its context, or the codes are wrong.
        """
        return next(self.decode_tracks([codes], window, context))

    def decode_tracks(
        self, tracks: Sequence[Int[Tensor, "_K _T"]], window: int | None = None, context: int | None = None
    ) -> Iterator[Float[Tensor, "2 _N"]]:
        """Decode the codes of several recordings, each channel as a recording of `Codec.decode_tracks`.

        Raises:
            ValueError: the window is no longer than its context, or the codes are wrong.
        """
        both = [deinterleave(codes[None]) for codes in tracks]
        sides = self.codec.decode_tracks(
            [side[0] for each in both for side in (each.left, each.right)], window, context
        )
        for _ in tracks:
            yield torch.cat([next(sides), next(sides)])

    def _check(self, channels: int, shape: tuple[int, ...]) -> None:
        if channels != self.channels:
            raise ValueError(f"expected a stereo waveform, left and right, got {channels} channels of shape {shape}")
