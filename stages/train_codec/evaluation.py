"""The evaluation of a trained codec on held-out sound, compared with an untrained codec and a plain quantiser.

A few reconstructions are kept for listening.
"""

import hashlib
import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch

from model.codec.codec import Codec
from model.codec.evaluation import CodecQuality, evaluate_codec, evaluate_scalar_codec, fidelity
from schemas.identity import by_hash
from stages.audio import AudioError, SourceType, encode_audio
from stages.pipeline.contract import Context
from stages.train_codec.config import Config
from stages.train_codec.segments import DecodedRecordings, Track

log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class HeldOut:
    """Sound that a codec is evaluated on: the waveform [1, C, N] of the beginning of a recording."""

    track: Track
    wav: torch.Tensor


def held_out(config: Config, decoded: DecodedRecordings, tracks: Sequence[Track]) -> list[HeldOut]:
    """Read the beginnings of the first recordings in the order of their hashes. Recordings that cannot be read, or are
    silent or too short there, are left out."""
    readable = []
    length = round(config.held_out_seconds * config.network.sample_rate)
    for track in sorted(tracks, key=lambda each: by_hash(each.track_id))[: config.held_out_tracks]:
        try:
            wav = torch.from_numpy(decoded.read(track)[:, :length]).clone()
        except AudioError as error:
            log.warning("left out of the evaluation: %s", error)
            continue
        if wav.shape[1] >= config.network.hop and _has_sound(wav):
            readable.append(HeldOut(track, wav[None]))
    return readable


def _has_sound(wav: torch.Tensor) -> bool:
    """Return whether a waveform is not constant: a constant is silence."""
    return bool((wav - wav.mean(-1, keepdim=True)).abs().max() > 0)


def quality_metrics(quality: CodecQuality, prefix: str = "", suffix: str = "") -> dict[str, float]:
    """Return the measures of a codec as metrics by name; codebooks are numbered from 1."""
    metrics = asdict(quality.fidelity) | {"bit_rate": quality.bit_rate}
    if not math.isnan(quality.si_snr_error):
        metrics["si_snr_error"] = quality.si_snr_error
    for level, (used, perplexity) in enumerate(zip(quality.used, quality.perplexity, strict=True), start=1):
        metrics |= {f"codebook_{level}_used": used, f"codebook_{level}_perplexity": perplexity}
    return _renamed(metrics, prefix, suffix)


def baseline_metrics(untrained: Codec, sounds: Sequence[HeldOut], split: str) -> dict[str, float]:
    """Measure what the trained codec's metrics on a split are compared with: a network before its first step, and a
    plain scalar quantiser at no higher bit rate."""
    wavs = [sound.wav for sound in sounds]
    quality = evaluate_codec(untrained, wavs)
    plain = evaluate_scalar_codec(wavs, untrained.sample_rate, quality.bit_rate)
    metrics = quality_metrics(quality, split, "_untrained")
    return metrics | _renamed(asdict(plain.fidelity) | {"bit_rate": plain.bit_rate}, split, "_scalar")


def _renamed(metrics: Mapping[str, float], prefix: str, suffix: str) -> dict[str, float]:
    start = f"{prefix}_" if prefix else ""
    return {f"{start}{name}{suffix}": value for name, value in metrics.items()}


def keep_reconstructions(
    config: Config, context: Context, codec: Codec, sounds: Sequence[HeldOut]
) -> list[dict[str, Any]]:
    """Write the beginnings of held-out recordings as two FLAC files each, the original and the codec's reconstruction.
    Return the rows of `reconstructions`.

    They are not in the checkpoint's folder: it holds only the codec, so that its digest is the codec's.
    """
    rows: list[dict[str, Any]] = []
    length = round(config.reconstruction_seconds * codec.sample_rate)
    for sound in sounds:
        original = sound.wav[..., :length].clamp(-1, 1)
        if len(rows) == config.reconstructions:
            break
        if original.shape[-1] < codec.hop or not _has_sound(original):
            continue
        decoded = codec.decode(codec.encode(original))[..., : original.shape[-1]].cpu().clamp(-1, 1)
        row = {"checkpoint_id": context.identity, "number": len(rows) + 1, "track_id": sound.track.track_id}
        for name, wav, origin in (("original", original, None), ("decoded", decoded, SourceType.TRAINED)):
            data = encode_audio(
                wav[0].numpy(), codec.sample_rate, "flac", _reconstruction_tags(row, name), source=origin
            )
            path = f"audio/checkpoint={context.identity}/{row['number']}-{name}.flac"
            context.store.write_bytes(path, data)
            row |= {name: path, f"{name}_sha256": hashlib.sha256(data).hexdigest()}
        row |= {"sample_rate": codec.sample_rate, "channels": codec.channels}
        row |= {"seconds": original.shape[-1] / codec.sample_rate}
        rows.append(row | asdict(fidelity(decoded, original, codec.sample_rate)))
    return rows


def _reconstruction_tags(row: Mapping[str, Any], name: str) -> dict[str, str]:
    tags = {"title": f"Reconstruction {row['number']}: {name}", "track": row["track_id"]}
    return tags if name == "original" else tags | {"generated": "true", "checkpoint": row["checkpoint_id"]}
