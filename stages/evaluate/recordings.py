"""Held-out recordings, as they are and through the codec: their scores show how reliable detectors are, and the most
that a language model over the codec's codes can reach."""

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
from stages.judging.instruments import DetectedInstruments, InstrumentJudges
from stages.judging.judging import Asked
from stages.judging.melody import Melody, melody_analysis
from stages.pipeline.contract import Context, Reject
from stages.pipeline.cores import available_cores
from stages.pipeline.threads import computing_threads
from stages.pipeline.workers import map_in_order

if TYPE_CHECKING:
    from model.conditioning.config import ChromaConfig

DEFAULT_SECONDS = 10.0
"""Seconds of a recording that are scored if there are no requests whose length could be taken."""


@dataclass(frozen=True)
class HeldOut:
    """A recording that no model has learned from, and what its beginning is known to be."""

    track: Row
    truth: Asked
    seconds: float
    """Length of the beginning that is scored."""


def held_out_recordings(count: int, requests: pa.Table, tracks: pa.Table, pieces: pa.Table) -> list[HeldOut]:
    """Choose at most `count` recordings of the splits valid and test, by the hashes of their shards and then of their
    ids. So they come from as few shards as possible, because whole shards are read."""
    lengths = requests.column("seconds").to_numpy()
    wanted = float(np.median(lengths)) if len(lengths) else DEFAULT_SECONDS
    piece_of = {_path_in_corpus(piece["uri"]): piece for piece in pieces.to_pylist()}
    columns = ["track_id", "uri", "files", "sample_rate", "seconds", "title", "artist", "key", "bpm", "instrument"]
    columns += ["split", "shard"]
    rows = [row for row in tracks.select(columns).to_pylist() if row["split"] in ("valid", "test")]
    rows.sort(key=lambda row: (by_hash(f"shard {row['shard']}"), by_hash(row["track_id"])))
    chosen = []
    for row in rows[:count]:
        seconds = min(wanted, row["seconds"] or wanted)
        paths = [_path_in_corpus(uri) for uri in (row["uri"], *(file["uri"] for file in row["files"] or ()))]
        candidates = (piece_of[path] for path in paths if path in piece_of)
        piece = next((piece for piece in candidates if _is_piece(row, piece)), None)
        chosen.append(HeldOut(row, truth_of_track(row, piece, seconds), seconds))
    return chosen


def _path_in_corpus(uri: str) -> str:
    """Return the path of a piece's file within the demo corpus, which identifies the piece wherever the corpus is.
    Earlier releases stored the corpus's location, and a store may have been moved since."""
    return uri.rpartition("/demo/")[2]


def _is_piece(track: Row, piece: Row) -> bool:
    """Return whether a recording at the path of a piece is that piece: it has its title and artist, and its length to
    the sample. A user's own folder may also be called `demo`."""
    if any(track[name] != piece[name] for name in ("title", "artist", "sample_rate")):
        return False
    return bool(abs(track["seconds"] - piece["seconds"]) * piece["sample_rate"] <= 1.5)


def score_recordings(
    context: Context, codec_reference: WeightsRef, chosen: Sequence[HeldOut], generations: Sequence[Row]
) -> tuple[list[Row], list[Reject]]:
    """Score recordings, raw, and through the codec if they have codes.

    Args:
        generations: rows of `generations`; the recordings' melodies are measured by the settings of their models.

    Raises:
        ValueError: the codec is not the one that made the tokens.
    """
    analysis = melody_analysis(context, sorted({row["checkpoint_id"] for row in generations}))
    codecs: dict[CodesFormat, AnyCodec] = {}
    instruments = InstrumentJudges(context)
    threads = available_cores()

    def score(sounds: _Sounds) -> list[Row] | Reject:
        with computing_threads(context.settings, threads):
            return _scored(sounds, analysis, instruments)

    def all_sounds() -> Iterator[_Sounds]:
        for recording, tokens, chroma in _with_tables(context, chosen):
            codec = None if tokens is None else _codec_of(context, codec_reference, tokens, codecs)
            melody = _melody(chroma, recording.seconds) if analysis else None
            yield _Sounds(recording, melody, tokens, codec)

    scored: list[Row] = []
    rejects = []
    for _, result in map_in_order(score, all_sounds(), threads, 2 * threads, context.check_stopped):
        if isinstance(result, Reject):
            rejects.append(result)
        else:
            scored += result
        context.progress.advance()
    return scored, rejects


@dataclass(frozen=True)
class _Sounds:
    """A recording with its melody, its row of `tokens` and the codec of its codes; None for what it does not have."""

    recording: HeldOut
    melody: Melody | None
    tokens: Row | None
    codec: AnyCodec | None


def _scored(sounds: _Sounds, analysis: "ChromaConfig | None", instruments: InstrumentJudges) -> list[Row] | Reject:
    """Score a recording as it is, and through the codec if it has codes."""
    recording, melody = sounds.recording, sounds.melody
    try:
        sound = read_audio(recording.track["uri"])
    except AudioError as error:
        uri = recording.track["uri"]
        return Reject(recording.track["track_id"], uri, error.kind, str(error), passing=error.passing)
    samples = sound.samples[:, : round(recording.seconds * sound.sample_rate)]
    rows = [_row("raw", recording, samples, sound.sample_rate, melody, analysis)]
    if sounds.tokens is not None and sounds.codec is not None:
        frames = round(recording.seconds * sounds.tokens["frame_rate"])
        codes = np.array(sounds.tokens["codes"], dtype=np.int64)[:, :frames]
        detected = instruments.detect(sounds.tokens | {"codes": codes})
        decoded = sounds.codec.decode_track(torch.tensor(codes)).float().numpy()
        length = round(recording.seconds * sounds.codec.sample_rate)
        decoded, sample_rate = decoded[:, :length], sounds.codec.sample_rate
        rows.append(_row("codec", recording, decoded, sample_rate, melody, analysis, detected))
    return rows


def _with_tables(context: Context, chosen: Sequence[HeldOut]) -> Iterator[tuple[HeldOut, Row | None, Row | None]]:
    """Yield each recording with its rows of `tokens` and `chroma`, one shard after the other."""
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
    """Return the melody of the first seconds of a track, from its row of `chroma`; None if it has no row."""
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
    instruments: DetectedInstruments | None = None,
) -> Row:
    row: dict[str, Any] = {"sounds": sounds, "item": recording.track["track_id"], "checkpoint_id": ""}
    row |= {"track_id": recording.track["track_id"]} | score_sound(
        samples, sample_rate, recording.truth, instruments=instruments
    )
    if melody is not None and analysis is not None:
        row |= melody.scores(samples, sample_rate, analysis)
    return row
