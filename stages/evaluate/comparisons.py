"""What a clip's melody following is compared with: an untrained model, and the most that the codec lets through."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers import T5EncoderModel

from model.chroma import chroma
from model.conditioning.captions import request_text
from model.decoding import GenerationStoppedError
from model.decoding.generation import GenerationRequest
from model.decoding.windows import generate_long
from model.lm.config import STRIDE, stride_frames
from model.music_model import Attributes, MusicModel
from schemas import WeightsRef
from schemas.identity import by_hash
from schemas.tables import TOKENS, TRACKS
from stages.audio import resample, to_mono
from stages.checkpoints.codecs import AnyCodec, Codes, codes_of_row, load_codec_of
from stages.checkpoints.loading import load_checkpoint
from stages.evaluate.listening import agreement_with, expected_agreement
from stages.pipeline.contract import Context, Stopped
from stages.pipeline.machine import resources_of

CHROMA_SAMPLE_RATE, CHROMA_HOP = 32_000, 4_096
"""Sounds are brought to this rate (Hz) and cut into frames of this hop (samples) to be compared with a melody."""

Row = Mapping[str, Any]
Key = tuple[str, int]
"""A clip: its request's id and its take."""


@dataclass
class Comparisons:
    """Chroma similarities beside the clips' own, by clip; a clip that is not there has none."""

    untrained: dict[Key, float] = field(default_factory=dict)
    ceiling: dict[Key, float] = field(default_factory=dict)


def key_of(row: Row) -> Key:
    """The clip that a row is about."""
    return row["request_id"], row["take"]


def chroma_of(samples: Float[np.ndarray, "C N"], sample_rate: int) -> Float[Tensor, "F 12"]:
    """The chroma of a sound's mix, 7.8125 frames a second."""
    sound = resample(to_mono(samples), sample_rate, CHROMA_SAMPLE_RATE)
    return chroma(torch.from_numpy(sound), CHROMA_SAMPLE_RATE, hop=CHROMA_HOP)[0]


def similarity(heard: Float[Tensor, "F 12"], generation: Row) -> float:
    """How well chroma agrees with the melody that a generation was given."""
    asked = torch.from_numpy(np.array(generation["chroma"], dtype=np.float32))
    return agreement_with(heard, CHROMA_SAMPLE_RATE / CHROMA_HOP, asked, generation["chroma_frame_rate"])


def chance(heard: Float[Tensor, "F 12"], generation: Row) -> float:
    """The same with the melody's frames in random order."""
    asked = torch.from_numpy(np.array(generation["chroma"], dtype=np.float32))
    return expected_agreement(heard, CHROMA_SAMPLE_RATE / CHROMA_HOP, asked, generation["chroma_frame_rate"])


def compare(
    context: Context,
    codec_reference: WeightsRef,
    clips: Sequence[Row],
    request_of: Mapping[str, Row],
    generation_of: Mapping[Key, Row],
    untrained_clips: int,
    untrained_seed: int,
) -> Comparisons:
    """The codec's ceiling for every clip whose melody is a track's, and the untrained model for some.

    Args:
        clips: those to be scored.
        request_of, generation_of: all requests and generations of the shard.
        untrained_clips: how many clips of the shard are compared with an untrained model's.
        untrained_seed: where its weights come from.

    Raises:
        ValueError: the codec is not the one that the generations' codes belong to.
        Stopped: the run was asked to stop.
    """
    comparisons = Comparisons()
    melodic = [generation_of[key_of(clip)] for clip in clips if generation_of[key_of(clip)]["chroma"]]
    if not melodic:
        return comparisons
    codecs = _codecs(context, codec_reference, melodic)
    tracks = {key_of(row): _melody_track(request_of[row["request_id"]]) for row in melodic}
    codes = _codes_of_tracks(context, {track for track in tracks.values() if track})
    for generation in melodic:
        context.check_stopped()
        reference = codes.get(tracks[key_of(generation)] or "")
        if reference is not None and reference.kind == codes_of_row(generation):
            heard = _hear(codecs[reference.kind], reference.codes[:, : generation["frames"]])
            comparisons.ceiling[key_of(generation)] = similarity(heard, generation)
    chosen = _chosen(untrained_clips, generation_of.values())
    compared = [generation for generation in melodic if key_of(generation) in chosen]
    for checkpoint in sorted({generation["checkpoint_id"] for generation in compared}):
        own = [generation for generation in compared if generation["checkpoint_id"] == checkpoint]
        made = _by_untrained(context, checkpoint, untrained_seed, own, request_of)
        comparisons.untrained |= {
            key_of(row): similarity(_hear(codecs[codes_of_row(row)], one), row)
            for row, one in zip(own, made, strict=False)
        }
    return comparisons


def _chosen(count: int, generations: Iterable[Row]) -> set[Key]:
    """The clips of a shard that are compared with an untrained model's: by the hash of their keys, so that it does not
    depend on which of them are still to be scored."""
    melodic = [key_of(row) for row in generations if row["chroma"]]
    return set(sorted(melodic, key=lambda key: by_hash(f"{key[0]}/{key[1]}"))[:count])


def _codecs(context: Context, reference: WeightsRef, generations: Iterable[Row]) -> dict[Codes, AnyCodec]:
    """The codec for each kind of codes among the generations: more than one where models of several kinds made them."""
    found: dict[Codes, AnyCodec] = {}
    path, got = context.weights(reference).path, f"evaluate.codec = {reference}"
    for row in generations:
        if (codes := codes_of_row(row)) not in found:
            found[codes] = load_codec_of(codes, path, context.device, got, f"the checkpoint {row['checkpoint_id']}")
    return found


def _melody_track(request: Row) -> str | None:
    """The id of the track whose melody was asked for; None where it was a file."""
    kind, _, value = (request["melody"] or "").partition(":")
    return value if kind == "track" else None


@dataclass(frozen=True, eq=False)
class _Reference:
    """A track as the store's own codes: there is no ceiling for a model that speaks others."""

    codes: Int[Tensor, "K T"]
    kind: Codes


def _codes_of_tracks(context: Context, ids: set[str]) -> dict[str, _Reference]:
    """Codes by track, out of the shards of `tokens` that hold them."""
    if not ids:
        return {}
    wanted = pa.array(sorted(ids))
    tracks = context.rows(TRACKS, ["track_id", "shard"])
    shards = pc.unique(tracks.filter(pc.is_in(tracks.column("track_id"), wanted)).column("shard")).to_pylist()
    version = context.versions[TOKENS.name]
    tokens = context.store.read(TOKENS, version, [str(one) for one in sorted(shards)])
    found = tokens.filter(pc.is_in(tokens.column("track_id"), wanted)).to_pylist()
    return {
        row["track_id"]: _Reference(torch.tensor(np.array(row["codes"], dtype=np.int64)), codes_of_row(row))
        for row in found
    }


def _hear(codec: AnyCodec, codes: Int[Tensor, "K T"]) -> Float[Tensor, "F 12"]:
    """The chroma of decoded codes."""
    return chroma_of(codec.decode_track(codes).numpy(), codec.sample_rate)


def _by_untrained(
    context: Context, checkpoint: str, seed: int, generations: Sequence[Row], request_of: Mapping[str, Row]
) -> list[Int[Tensor, "K T"]]:
    """What an untrained model of a checkpoint's architecture makes of the same requests and seeds; nothing where the
    checkpoint is not one of this store."""
    if context.library.checkpoint(checkpoint) is None:
        return []
    local = context.weights(WeightsRef.to_checkpoint(checkpoint))
    trained = load_checkpoint(local.path, context.weights)
    model, window = untrained(trained.model, seed).to(context.device), trained.facts.segment_frames
    asked = []
    for row in generations:
        request, codes = request_of[row["request_id"]], np.array(row["codes"], dtype=np.int64)
        text = request_text(request["description"], request["key"], request["bpm"])
        # A CLAP reference is left out: random weights make nothing of it, and it would have to be embedded again.
        attributes = Attributes(
            description=text if "description" in model.config.conditions else None,
            chroma=torch.from_numpy(np.array(row["chroma"], dtype=np.float32)),
        )
        asked.append(
            GenerationRequest(
                attributes,
                frames=row["frames"],
                seed=row["seed"],
                guidance=request["guidance"],
                guidance_text=1.0 if request["guidance_text"] is None else request["guidance_text"],
                temperature=request["temperature"],
                top_k=request["top_k"],
                top_p=request["top_p"],
                prompt=torch.from_numpy(codes[:, : row["prompt_frames"]]) if row["prompt_frames"] else None,
            )
        )
    try:
        return generate_long(
            model,
            asked,
            window=window,
            stride=stride_frames(STRIDE, window),
            frame_rate=trained.facts.frame_rate,
            stop=context.stop.is_set,
            resources=resources_of(context),
        )
    except GenerationStoppedError as error:
        raise Stopped(str(error)) from error


def untrained(model: MusicModel, seed: int) -> MusicModel:
    """A model of the same architecture with the random weights that training would begin with; a text encoder that
    learned with the model is random again, a frozen one stays."""
    encoder, tokenizer = None, None
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if model.description is not None:
            encoder, tokenizer = model.description.encoder, model.description.tokenizer
            if model.config.description is not None and model.config.description.finetune:
                encoder = T5EncoderModel(encoder.config)
        return MusicModel(model.config, encoder, tokenizer).eval()
