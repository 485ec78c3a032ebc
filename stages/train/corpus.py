"""Tracks as training examples: windows of codes with the conditions of the same span of time.

A catalog of 10,000 hours has 14 GB of codes at 50 frames of 4 codebooks a second. So codes, melodies, embeddings, beats
and chords are packed into files that are mapped into memory (`stages.train.packing`). An example is made of slices of
these files; no code here loops over frames.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import torch
from jaxtyping import Int

from model.chroma import chroma_at
from model.conditioning.config import MusicModelConfig
from model.conditioning.frame_wise import beat_vectors, chord_vectors, frame_times
from model.music_model import Attributes
from model.objective import Batch
from stages.checkpoints.facts import CodecFacts
from stages.train.packing import PackedTable, TrackVectors
from stages.train.tracks import METADATA


@dataclass(frozen=True)
class TrackWindow:
    """A span of one track."""

    track: int
    """Position of the track in the corpus."""
    start: int
    """First frame of the window."""


class Corpus:
    """The tracks of a training with their codes and conditions, in the order of their ids.

    Args:
        tracks: rows of this table.
        chroma, clap, tokens, beats, downbeats, chords: packed columns, in the order of `PACKED`. Tracks without tokens
            are left out. A track that was refused when chroma, embeddings, beats or chords were made lacks that
            condition.

    Raises:
        ValueError: there are no tokens, or they come from several codecs.
    """

    def __init__(
        self,
        tracks: pa.Table,
        chroma: PackedTable,
        clap: PackedTable,
        tokens: PackedTable,
        beats: PackedTable,
        downbeats: PackedTable,
        chords: PackedTable,
    ) -> None:
        if not tokens.rows.num_rows:
            raise ValueError("expected codes of at least one track in tokens, got none")
        self._codes = replace(tokens, rows=tokens.rows.sort_by("track_id").combine_chunks())
        rows = self._codes.rows
        self.ids: list[str] = rows.column("track_id").to_pylist()
        self.frame_rate = float(_single_value(rows, "frame_rate"))
        self.cardinality = int(_single_value(rows, "cardinality"))
        self.frames = rows.column("frames").to_numpy().astype(np.int64)
        self.codebooks = _checked_codebooks(rows, self.cardinality)
        self.codec = _codec_of_tokens(rows, self.codebooks)

        positions = pc.index_in(rows.column("track_id"), value_set=tracks.column("track_id"))
        if positions.null_count:
            unknown = pc.filter(rows.column("track_id"), pc.is_null(positions))[0]
            raise ValueError(f"expected a row in tracks for every row of tokens, got none for {unknown}")
        self._metadata = tracks.select(["split", *METADATA]).take(positions).combine_chunks()
        self.splits: list[str] = self._metadata.column("split").to_pylist()

        self.chroma_rate = float(_single_value(chroma.rows, "frame_rate")) if chroma.rows.num_rows else math.nan
        self.chroma = TrackVectors(chroma, self.ids, "chroma bins")
        self.embeddings = TrackVectors(clap, self.ids, "embedding widths")
        self.beats, self.downbeats = (TrackVectors(packed, self.ids, "times") for packed in (beats, downbeats))
        self.chords = TrackVectors(chords, self.ids, "numbers of a chord")

    def metadata(self, track: int) -> dict[str, Any]:
        """Return the values of the columns `METADATA` of `tracks` for a track."""
        return {name: self._metadata.column(name)[track].as_py() for name in METADATA}

    def seconds(self, frames: int) -> float:
        return frames / self.frame_rate

    def window_codes(self, window: TrackWindow, frames: int) -> Int[npt.NDArray[Any], "K T"]:
        """Return the codes of a window; fewer than `frames` where the track ends first."""
        return self._codes.matrix(window.track)[:, window.start : window.start + frames]

    def fields(self, track: int, names: Iterable[str]) -> dict[str, str | float]:
        """Return a track's values in some columns of `tracks`, by name: lists joined to one text, numbers as they are.
        Empty values are left out."""
        fields: dict[str, str | float] = {}
        for name in names:
            value = self._metadata.column(name)[track].as_py()
            if isinstance(value, list):
                value = ", ".join(value)
            if isinstance(value, float) or (value and value.strip()):
                fields[name] = value
        return fields

    def attributes(
        self, window: TrackWindow, frames: int, model: MusicModelConfig, description: str | None
    ) -> Attributes:
        """Return the conditions of a window that a model reads: `description`, the fields, the melody of the same span
        of time (as far as the window and the track reach), the joint embedding whose own window starts nearest, and the
        beat and chords of every frame.

        Args:
            frames: the window's length in frames of codes.
        """
        begin, track = self.seconds(window.start), window.track
        melody = embedding = None
        if model.chroma is not None and track in self.chroma:
            rate = model.chroma.frame_rate
            count = min(model.chroma.frames, math.ceil(frames * (rate / self.frame_rate)))
            span = chroma_at(self.chroma.of(track), self.chroma_rate, begin, count, rate)
            melody = torch.from_numpy(span) if len(span) else None
        if model.clap is not None and track in self.embeddings:
            nearest = int(np.abs(np.array(self.embeddings.value(track, "starts")) - begin).argmin())
            embedding = torch.from_numpy(self.embeddings.of(track)[nearest].copy())
        beat = chords = None
        times = frame_times(window.start, frames, self.frame_rate)
        if model.beat is not None and track in self.beats:
            downbeats = self.downbeats.of(track)[:, 0] if track in self.downbeats else np.zeros(0)
            beat = torch.from_numpy(beat_vectors(self.beats.of(track)[:, 0], downbeats, times, model.beat))
        if model.chords is not None and track in self.chords:
            chords = torch.from_numpy(chord_vectors(self.chords.of(track), times))
        text = description if model.description is not None else None
        return Attributes(text, melody, embedding, self.fields(track, model.fields), beat, chords)

    def batch(self, windows: Sequence[TrackWindow], frames: int, attributes: Sequence[Attributes]) -> Batch:
        """Return the codes of some windows, padded to `frames`, with the given conditions of each."""
        padded = np.zeros((len(windows), self.codebooks, frames), dtype=np.int64)
        lengths = np.zeros(len(windows), dtype=np.int64)
        for item, window in enumerate(windows):
            codes = self.window_codes(window, frames)
            padded[item, :, : codes.shape[1]], lengths[item] = codes, codes.shape[1]
        return Batch(torch.from_numpy(padded), torch.from_numpy(lengths), attributes)


def tiled_windows(corpus: Corpus, tracks: Sequence[int], frames: int, shortest: int, most: int) -> list[TrackWindow]:
    """Return windows that cover whole tracks one after another, for validation: at most `most` of them, evenly spaced.

    What is left at the end of a track is a window if it has at least `shortest` frames, or if it is the track's only
    one.
    """
    windows = [
        TrackWindow(track, start)
        for track in tracks
        for start in range(0, int(corpus.frames[track]), frames)
        if start == 0 or corpus.frames[track] - start >= shortest
    ]
    if len(windows) <= most:
        return windows
    return [windows[position * len(windows) // most] for position in range(most)]


def code_frequencies(corpus: Corpus, tracks: Sequence[int]) -> Int[npt.NDArray[np.int64], "K V"]:
    """Count how often each code of each codebook occurs in some tracks."""
    offsets = np.arange(corpus.codebooks)[:, None] * corpus.cardinality
    counts = np.zeros(corpus.codebooks * corpus.cardinality, dtype=np.int64)
    for track in tracks:
        codes = corpus.window_codes(TrackWindow(track, 0), int(corpus.frames[track]))
        counts += np.bincount((codes + offsets).ravel(), minlength=counts.size)
    return counts.reshape(corpus.codebooks, corpus.cardinality)


def _single_value(table: pa.Table, column: str) -> Any:
    values = pc.unique(table.column(column)).to_pylist()
    if len(values) != 1:
        different = sorted(values, key=str)
        raise ValueError(f"expected one {column} in all rows, got {different}: they come from different models")
    return values[0]


def _codec_of_tokens(tokens: pa.Table, codebooks: int) -> CodecFacts | None:
    """Return the codec that the codes come from; None where it was not recorded."""
    identity, channels, sample_rate = (
        _single_value(tokens, name) for name in ("codec_identity", "channels", "sample_rate")
    )
    if identity is None:
        return None
    # A codec that was moved has several names in rows of different times; each of them meant this codec.
    names = sorted(name for name in pc.unique(tokens.column("codec_reference")).to_pylist() if name)
    return CodecFacts(
        reference=names[0] if names else None,
        digest=_single_value(tokens, "codec"),
        identity=identity,
        sample_rate=sample_rate,
        frame_rate=_single_value(tokens, "frame_rate"),
        codebooks=codebooks,
        cardinality=_single_value(tokens, "cardinality"),
        channels=channels,
    )


def _checked_codebooks(rows: pa.Table, cardinality: int) -> int:
    """Return the number of codebooks of packed tokens.

    Raises:
        ValueError: tracks differ in codebooks, or codes do not match what their rows say.
    """
    codebooks, frames, widths = (rows.column(name).to_numpy() for name in ("vectors", "frames", "width"))
    ids, different = rows.column("track_id"), sorted(set(codebooks.tolist()))
    if len(different) != 1 or different == [0]:
        wrong_track = int(np.flatnonzero(codebooks != np.median(codebooks))[0]) if codebooks.any() else 0
        raise ValueError(f"expected one number of codebooks, got {different} (track {ids[wrong_track]})")
    if (widths != frames).any():
        wrong_track = int(np.flatnonzero(widths != frames)[0])
        raise ValueError(
            f"expected {frames[wrong_track]} codes in each codebook of {ids[wrong_track]}, got {widths[wrong_track]}"
        )
    largest = int(rows.column("largest").to_numpy().max())
    if largest >= cardinality:
        raise ValueError(f"expected codes below the cardinality {cardinality}, got {largest}")
    return int(different[0])
