"""What the codec's training is judged by: held-out sound, figures beside those of an untrained and of a plain codec.

A few reconstructions are kept to be heard.
"""

import hashlib
import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch

from model.codec.codec import Codec
from model.codec.evaluation import CodecQuality, fidelity, judge, judge_scalar
from schemas.identity import by_hash
from stages.audio import AudioError, encode_audio
from stages.pipeline.contract import Context
from stages.train_codec.config import Config
from stages.train_codec.segments import Sounds, Source

log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class HeldOut:
    """Sound that a codec is judged by: the waveform [1, C, N] of the beginning of a recording."""

    source: Source
    wav: torch.Tensor


def held_out(config: Config, sounds: Sounds, sources: Sequence[Source]) -> list[HeldOut]:
    """The first recordings by hash; those that cannot be read or have no sound there are left out."""
    found = []
    length = round(config.held_out_seconds * config.network.sample_rate)
    for source in sorted(sources, key=lambda source: by_hash(source.track_id))[: config.held_out_tracks]:
        try:
            wav = torch.from_numpy(sounds.read(source)[:, :length]).clone()
        except AudioError as error:
            log.warning("left out of judging: %s", error)
            continue
        if wav.shape[1] >= config.network.hop and _sounds(wav):
            found.append(HeldOut(source, wav[None]))
    return found


def _sounds(wav: torch.Tensor) -> bool:
    """Whether anything moves: a constant is silence."""
    return bool((wav - wav.mean(-1, keepdim=True)).abs().max() > 0)


def quality_of(codec: Codec, heard: Sequence[HeldOut]) -> CodecQuality:
    """How good a codec is on held-out sound."""
    return judge(codec, [one.wav for one in heard])


def named(quality: CodecQuality, before: str = "", after: str = "") -> dict[str, float]:
    """The measures as metrics, a codebook's with its number from 1."""
    found = asdict(quality.fidelity) | {"bit_rate": quality.bit_rate}
    for level, (used, perplexity) in enumerate(zip(quality.used, quality.perplexity, strict=True), start=1):
        found |= {f"codebook_{level}_used": used, f"codebook_{level}_perplexity": perplexity}
    return _renamed(found, before, after)


def compared(untrained: Codec, heard: Sequence[HeldOut], split: str) -> dict[str, float]:
    """What the trained codec's figures on a split are read against: those of a network before its first step, and of a
    plain scalar quantiser that takes no more bits."""
    quality = quality_of(untrained, heard)
    plain = judge_scalar([one.wav for one in heard], untrained.sample_rate, quality.bit_rate)
    metrics = named(quality, split, "_untrained")
    return metrics | _renamed(asdict(plain.fidelity) | {"bit_rate": plain.bit_rate}, split, "_scalar")


def _renamed(metrics: Mapping[str, float], before: str, after: str) -> dict[str, float]:
    prefix = f"{before}_" if before else ""
    return {f"{prefix}{name}{after}": value for name, value in metrics.items()}


def keep_reconstructions(
    config: Config, context: Context, codec: Codec, heard: Sequence[HeldOut]
) -> list[dict[str, Any]]:
    """Write the beginnings of held-out recordings as they are and as the codec gives them back, two FLAC files each;
    the rows of `reconstructions`.

    They lie apart from the checkpoint's folder, which holds the codec and nothing else: its digest is the codec's.
    """
    rows: list[dict[str, Any]] = []
    length = round(config.reconstruction_seconds * codec.sample_rate)
    for one in heard:
        original = one.wav[..., :length].clamp(-1, 1)
        if len(rows) == config.reconstructions:
            break
        if original.shape[-1] < codec.hop or not _sounds(original):
            continue
        decoded = codec.decode(codec.encode(original))[..., : original.shape[-1]].cpu().clamp(-1, 1)
        row = {"checkpoint_id": context.identity, "number": len(rows) + 1, "track_id": one.source.track_id}
        for name, wav in (("original", original), ("decoded", decoded)):
            data = encode_audio(wav[0].numpy(), codec.sample_rate, "flac", _tags(row, name))
            path = f"audio/checkpoint={context.identity}/{row['number']}-{name}.flac"
            context.store.write_bytes(path, data)
            row |= {name: path, f"{name}_sha256": hashlib.sha256(data).hexdigest()}
        row |= {"sample_rate": codec.sample_rate, "channels": codec.channels}
        row |= {"seconds": original.shape[-1] / codec.sample_rate}
        rows.append(row | asdict(fidelity(decoded, original, codec.sample_rate)))
    return rows


def _tags(row: Mapping[str, Any], name: str) -> dict[str, str]:
    tags = {"title": f"Reconstruction {row['number']}: {name}", "track": row["track_id"]}
    return tags if name == "original" else tags | {"generated": "true", "checkpoint": row["checkpoint_id"]}
