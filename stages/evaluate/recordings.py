"""Held-out recordings as they are and through the codec: how far detectors are to be believed, and the most that a
language model over the codec's codes can reach."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import torch

from schemas import WeightsRef
from schemas.identity import by_hash
from schemas.tables import CHROMA, TOKENS, Row, Table
from stages.audio import AudioError, read_audio
from stages.checkpoints.codecs import AnyCodec, CodesFormat, borrow_codecs_of_rows
from stages.evaluate.scoring import score_sound
from stages.judging.asking import truth_of_track
from stages.judging.judging import Asked
from stages.judging.melody import Melody, melody_analysis
from stages.pipeline.contract import Context, Reject

if TYPE_CHECKING:
    from model.conditioning.config import ChromaConfig

DEFAULT_SECONDS = 10.0
"""Length of what is scored of a recording where there is no request to be as long as."""


@dataclass(frozen=True)
class HeldOut:
    """A recording that no model has learned from, and what its beginning is known to be."""

    track: Row
    truth: Asked
    seconds: float
    """Of its beginning that are scored."""


def held_out_recordings(count: int, requests: pa.Table, tracks: pa.Table, pieces: pa.Table) -> list[HeldOut]:
    """Choose at most `count` recordings of the splits valid and test, by the hash of their shards and then their ids:
    out of as few shards as hold so many, for these are read whole."""
    lengths = requests.column("seconds").to_numpy()
    wanted = float(np.median(lengths)) if len(lengths) else DEFAULT_SECONDS
    piece_of = {piece["uri"]: piece for piece in pieces.to_pylist()}
    columns = ["track_id", "uri", "seconds", "key", "bpm", "split", "shard"]
    rows = [row for row in tracks.select(columns).to_pylist() if row["split"] in ("valid", "test")]
    rows.sort(key=lambda row: (by_hash(f"shard {row['shard']}"), by_hash(row["track_id"])))
    chosen = []
    for row in rows[:count]:
        seconds = min(wanted, row["seconds"] or wanted)
        chosen.append(HeldOut(row, truth_of_track(row, piece_of.get(row["uri"]), seconds), seconds))
    return chosen


def score_recordings(
    context: Context, codec_reference: WeightsRef, chosen: Sequence[HeldOut], generations: Sequence[Row]
) -> tuple[list[Row], list[Reject]]:
    """Score recordings, raw and through the codec where they have codes.

    Args:
        generations: of the models whose melodies' measure theirs is taken by.

    Raises:
        ValueError: the codec is not the one that the tokens belong to.
    """
    scored: list[Row] = []
    rejects = []
    analysis = melody_analysis(context, sorted({row["checkpoint_id"] for row in generations}))
    codecs: dict[CodesFormat, AnyCodec] = {}
    for recording, tokens, chroma in _with_tables(context, chosen):
        context.check_stopped()
        track = recording.track["track_id"]
        melody = _melody(chroma, recording.seconds) if analysis else None
        try:
            sound = read_audio(recording.track["uri"])
        except AudioError as error:
            rejects.append(Reject(track, recording.track["uri"], error.kind, str(error), passing=error.passing))
        else:
            samples = sound.samples[:, : round(recording.seconds * sound.sample_rate)]
            scored.append(_row("raw", recording, samples, sound.sample_rate, melody, analysis))
            if tokens is not None:
                codec = _codec_of(context, codec_reference, tokens, codecs)
                frames = round(recording.seconds * tokens["frame_rate"])
                codes = torch.tensor(np.array(tokens["codes"], dtype=np.int64)[:, :frames])
                decoded = codec.decode_track(codes).float().numpy()
                length = round(recording.seconds * codec.sample_rate)
                scored.append(_row("codec", recording, decoded[:, :length], codec.sample_rate, melody, analysis))
        context.progress.advance()
    return scored, rejects


def _with_tables(context: Context, chosen: Sequence[HeldOut]) -> Iterator[tuple[HeldOut, Row | None, Row | None]]:
    """Yield each recording with its rows of `tokens` and `chroma`, a shard at a time."""
    shards: dict[int, list[HeldOut]] = {}
    for recording in chosen:
        shards.setdefault(recording.track["shard"] or 0, []).append(recording)
    for shard, recordings in shards.items():
        ids = {recording.track["track_id"] for recording in recordings}
        tokens, chroma = (_rows_of_shard(context, table, shard, ids) for table in (TOKENS, CHROMA))
        for recording in recordings:
            track = recording.track["track_id"]
            yield recording, tokens.get(track), chroma.get(track)


def _rows_of_shard(context: Context, table: Table, shard: int, ids: set[str]) -> dict[str, Row]:
    version = context.versions.get(table.name)
    if version is None or str(shard) not in context.store.shards(table, version):
        return {}
    rows = context.store.read(table, version, [str(shard)])
    chosen = rows.filter(pa.compute.is_in(rows.column("track_id"), pa.array(sorted(ids))))
    return {row["track_id"]: row for row in chosen.to_pylist()}


def _codec_of(context: Context, reference: WeightsRef, tokens: Row, codecs: dict[CodesFormat, AnyCodec]) -> AnyCodec:
    codes = CodesFormat.from_row(tokens)
    if codes not in codecs:
        speaker = {**tokens, "checkpoint_id": "of the table tokens"}
        codecs |= borrow_codecs_of_rows([speaker], reference, context, "controls.codec")
    return codecs[codes]


def _melody(chroma: Row | None, seconds: float) -> Melody | None:
    """Return the melody of the first seconds of a track, by its row of `chroma`."""
    if chroma is None:
        return None
    frames = np.array(chroma["chroma"][: max(1, round(seconds * chroma["frame_rate"]))], dtype=np.float32)
    return Melody(torch.from_numpy(frames), chroma["frame_rate"])


def _row(
    sounds: str,
    recording: HeldOut,
    samples: "np.ndarray[Any, np.dtype[np.float32]]",
    sample_rate: int,
    melody: Melody | None,
    analysis: "ChromaConfig | None",
) -> Row:
    row: dict[str, Any] = {"sounds": sounds, "item": recording.track["track_id"], "checkpoint_id": ""}
    row |= {"track_id": recording.track["track_id"]} | score_sound(samples, sample_rate, recording.truth)
    if melody is not None and analysis is not None:
        row |= melody.scores(samples, sample_rate, analysis)
    return row
