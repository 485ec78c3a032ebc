"""Tokenize: the codec's codes of every track, [K, T] integers, what the language model learns to continue.

The codec is EnCodec (arXiv:2210.13438), DAC (arXiv:2306.06546) or Mimi (arXiv:2410.00037) from transformers. It encodes
at its own sample rate and with its own channels, or a mono codec encodes stereo. Every row names the codec of its
codes. A recording is encoded in windows that overlap (`Codec.encode_track`). Only windows of one recording share a
batch, and their number is part of the recipe, so that a row depends on the recording and the codec alone, not on other
recordings.
"""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from pydantic import Field, model_validator

import schemas
from schemas import WeightsRef
from schemas.tables import TOKENS, TRACKS, Row
from stages.audio.mapping import map_recordings
from stages.audio.prefetching import PrefetchItem
from stages.audio.reading import Waveform
from stages.networks.published import ENCODEC_32KHZ
from stages.pipeline.contract import Context, Reject, Shard

if TYPE_CHECKING:
    from stages.checkpoints.codecs import AnyCodec

READS, WRITES, VERSION = (TRACKS,), TOKENS, 4


class Config(schemas.Config):
    """How recordings become codes."""

    codec: WeightsRef = ENCODEC_32KHZ
    """An EnCodec, DAC or Mimi in transformers' format; MusicGen's is an EnCodec (arXiv:2306.05284, 3.1). In a recipe
    the stages generate, decode and evaluate use it too, unless they name another."""
    channels: Literal["codec", "stereo"] = "codec"
    """What is encoded: the codec's own channels (`codec`), or left and right separately by a mono codec (`stereo`). The
    codebooks then alternate (L0, R0, L1, R1, …), as in MusicGen's stereo models (AudioCraft:
    `interleave_stereo_codebooks`)."""
    codebooks: int | None = Field(default=None, ge=1)
    """Number of codebooks, of both sides together; None keeps all that the codec has."""
    window_seconds: float | None = Field(default=None, gt=0)
    """Length of a window, seconds; recordings up to this length are encoded in one pass. None is 30 s, or twice the
    sound that is thrown away where that is more (a minute for Mimi)."""
    context_seconds: float | None = Field(default=None, ge=0)
    """Sound on either side of a window's kept part that is encoded and thrown away, seconds. None is what the codec
    needs to give the codes of a single pass: a second for EnCodec, the receptive field of DAC's convolutions, half a
    minute of the past for Mimi."""
    windows_at_once: int = Field(default=4, ge=1)
    """Windows of one recording in one pass. It bounds memory, and counts in the recipe because it affects how sums are
    rounded."""

    @model_validator(mode="after")
    def _windows_keep_something(self) -> "Config":
        if self.window_seconds and self.context_seconds and self.window_seconds <= 2 * self.context_seconds:
            raise ValueError(
                f"expected window_seconds > 2 * context_seconds, got {self.window_seconds} and {self.context_seconds}"
            )
        return self


def shard(config: Config, context: Context, tracks: pa.Table) -> Iterator[Shard]:
    """Encode every track that can still be read and lasts at least one frame, one track at a time.

    Raises:
        ValueError: the weights are not a codec that can be used here.
    """
    from stages.checkpoints.codecs import load_codec  # imports torch, which a plan does not need

    channels = 2 if config.channels == "stereo" else None
    local = context.weights(config.codec)
    codec = context.borrow("codec", lambda: load_codec(local.path, context.device, config.codebooks, channels))
    codec_columns = {
        "codec": local.digest,
        "codec_identity": codec.identity,
        "codec_reference": _lasting_reference(config.codec, context),
        "sample_rate": codec.sample_rate,
        "channels": codec.channels,
        "frame_rate": codec.frame_rate,
        "cardinality": codec.cardinality,
    }
    if codec.cardinality > 2**16:
        raise ValueError(f"expected a codec with at most 65536 codes, got {config.codec} with {codec.cardinality}")

    def row_of(item: PrefetchItem, waveform: Waveform) -> Row | Reject:
        if waveform.samples.shape[1] < codec.hop:
            frame_seconds = codec.hop / codec.sample_rate
            message = f"expected at least one frame of {frame_seconds:.3f} s, got {waveform.seconds:.4f} s"
            return Reject(item.key, item.uri, "too short", message)
        codes = _encode_waveform(config, codec, waveform)
        return {"track_id": item.key, **codec_columns, "frames": codes.shape[1], "codes": list(codes)}

    yield from map_recordings(
        context, "tokenize", tracks, row_of, sample_rate=codec.sample_rate, channels=codec.channels
    )


def _encode_waveform(config: Config, codec: "AnyCodec", waveform: Waveform) -> npt.NDArray[np.uint16]:
    """Return the codes [K, T] of a recording, T = ceil(N / hop) for its N samples at the codec's rate."""
    import torch

    window, context = (_frames(seconds, codec) for seconds in (config.window_seconds, config.context_seconds))
    codes = codec.encode_track(torch.from_numpy(waveform.samples), window, context, config.windows_at_once)
    return codes.numpy().astype(np.uint16)


def _frames(seconds: float | None, codec: "AnyCodec") -> int | None:
    return None if seconds is None else round(seconds * codec.frame_rate)


def _lasting_reference(reference: WeightsRef, context: Context) -> str:
    """Return a name of weights that keeps its meaning: instead of the newest checkpoint of a kind the checkpoint's
    id."""
    if reference.checkpoint is not None:
        return WeightsRef.to_checkpoint(context.checkpoint(reference)["checkpoint_id"])
    return reference
