"""Tracks as training examples: windows of codes with the conditions of the same span of time.

Codes, melodies and embeddings lie packed in files that are mapped into memory (`stages.train.packing`), and an
example is slices of them: nothing here walks over frames.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from jaxtyping import Int

from model.chroma import chroma_at
from model.conditioning.captions import MERGED
from model.conditioning.config import FIELDS, MusicModelConfig
from model.music_model import Attributes
from model.objective import Batch
from stages.checkpoints.facts import CodecFacts
from stages.train.packing import Packed

METADATA = tuple(dict.fromkeys(("description", "paraphrases", *MERGED, *FIELDS)))
"""The columns of `tracks` that captions and conditions are made of."""


class TrackVectors:
    """The vectors of a packed table for each track, none for one that the table has no row for."""

    def __init__(self, packed: Packed, ids: Sequence[str], what: str) -> None:
        vectors, widths = (packed.rows.column(name).to_numpy() for name in ("vectors", "width"))
        found = sorted(set(widths[vectors > 0].tolist()))
        if len(found) > 1:
            raise ValueError(f"expected one number of {what}, got {found}")
        self.width: int = found[0] if found else 0
        self._packed = replace(packed, rows=packed.rows.combine_chunks())
        places = pc.index_in(pa.array(ids, pa.string()), value_set=packed.rows.column("track_id"))
        self._places = pc.fill_null(places, -1).to_numpy(zero_copy_only=False)
        self.given = np.array([place >= 0 and vectors[place] > 0 for place in self._places])
        """Whether a track has vectors."""

    def __contains__(self, track: int) -> bool:
        return bool(self.given[track])

    def of(self, track: int) -> np.ndarray:
        """The vectors [count, width] of a track that has some."""
        return self._packed.matrix(int(self._places[track]))

    def told(self, track: int, column: str) -> Any:
        """What the table says besides of such a track."""
        return self._packed.rows.column(column)[int(self._places[track])].as_py()


@dataclass(frozen=True)
class TrackWindow:
    """A span of one track."""

    track: int
    """Position in the corpus."""
    start: int
    """First frame."""


class Corpus:
    """The tracks of a training with their codes and conditions, in the order of their ids.

    Args:
        tracks: rows of this table.
        chroma, clap, tokens: these tables, their matrices packed. Tracks without tokens are left out; a track without
            chroma or embeddings (they were refused) has none.

    Raises:
        ValueError: there are no tokens, or they are not all of one codec.
    """

    def __init__(self, tracks: pa.Table, chroma: Packed, clap: Packed, tokens: Packed) -> None:
        if not tokens.rows.num_rows:
            raise ValueError("expected codes of at least one track in tokens, got none")
        self._codes = replace(tokens, rows=tokens.rows.sort_by("track_id").combine_chunks())
        rows = self._codes.rows
        self.ids: list[str] = rows.column("track_id").to_pylist()
        self.frame_rate = float(_only(rows, "frame_rate"))
        self.cardinality = int(_only(rows, "cardinality"))
        self.frames = rows.column("frames").to_numpy().astype(np.int64)
        self.codebooks = _codebooks(rows, self.cardinality)
        self.codec = _codec_facts(rows, self.codebooks)

        place = pc.index_in(rows.column("track_id"), value_set=tracks.column("track_id"))
        if place.null_count:
            unknown = pc.filter(rows.column("track_id"), pc.is_null(place))[0]
            raise ValueError(f"expected a row in tracks for every row of tokens, got none for {unknown}")
        self._told = tracks.select(["split", *METADATA]).take(place).combine_chunks()
        self.splits: list[str] = self._told.column("split").to_pylist()

        self.chroma_rate = float(_only(chroma.rows, "frame_rate")) if chroma.rows.num_rows else math.nan
        self.chroma = TrackVectors(chroma, self.ids, "chroma bins")
        self.embeddings = TrackVectors(clap, self.ids, "embedding widths")

    def metadata(self, track: int) -> dict[str, Any]:
        """What `tracks` says of a track, by the columns `METADATA`."""
        return {name: self._told.column(name)[track].as_py() for name in METADATA}

    def seconds(self, frames: int) -> float:
        return frames / self.frame_rate

    def window_codes(self, window: TrackWindow, frames: int) -> Int[np.ndarray, "K T"]:
        """The codes of a window, fewer than `frames` where the track ends before it."""
        return self._codes.matrix(window.track)[:, window.start : window.start + frames]

    def fields(self, track: int, names: Iterable[str]) -> dict[str, str | float]:
        """What `tracks` says of a track in some columns: lists as one text, numbers as they are; no entry where it says
        nothing."""
        found: dict[str, str | float] = {}
        for name in names:
            value = self._told.column(name)[track].as_py()
            if isinstance(value, list):
                value = ", ".join(value)
            if isinstance(value, float) or (value and value.strip()):
                found[name] = value
        return found

    def attributes(
        self, window: TrackWindow, frames: int, model: MusicModelConfig, description: str | None
    ) -> Attributes:
        """The conditions of a window that a model reads: `description`, what `tracks` says in the fields, the melody of
        the same span of time (without what lies past its end or the end of the track), and the joint embedding whose
        own window starts nearest.

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
            nearest = int(np.abs(np.array(self.embeddings.told(track, "starts")) - begin).argmin())
            embedding = torch.from_numpy(self.embeddings.of(track)[nearest].copy())
        text = description if model.description is not None else None
        return Attributes(text, melody, embedding, self.fields(track, model.fields))

    def batch(self, windows: Sequence[TrackWindow], frames: int, attributes: Sequence[Attributes]) -> Batch:
        """The codes of some windows, with conditions given for each."""
        codes = np.zeros((len(windows), self.codebooks, frames), dtype=np.int64)
        lengths = np.zeros(len(windows), dtype=np.int64)
        for item, window in enumerate(windows):
            found = self.window_codes(window, frames)
            codes[item, :, : found.shape[1]], lengths[item] = found, found.shape[1]
        return Batch(torch.from_numpy(codes), torch.from_numpy(lengths), attributes)


def tiled_windows(corpus: Corpus, tracks: Sequence[int], frames: int, shortest: int, most: int) -> list[TrackWindow]:
    """Windows that lie one after another over whole tracks, for validation: at most `most` of them, evenly chosen.

    The rest at the end of a track is a window of its own from `shortest` frames on, or where it is the only one.
    """
    found = [
        TrackWindow(track, start)
        for track in tracks
        for start in range(0, int(corpus.frames[track]), frames)
        if start == 0 or corpus.frames[track] - start >= shortest
    ]
    if len(found) <= most:
        return found
    return [found[position * len(found) // most] for position in range(most)]


def code_frequencies(corpus: Corpus, tracks: Sequence[int]) -> Int[np.ndarray, "K V"]:
    """How often each code of each codebook occurs in some tracks."""
    offsets = np.arange(corpus.codebooks)[:, None] * corpus.cardinality
    found = np.zeros(corpus.codebooks * corpus.cardinality, dtype=np.int64)
    for track in tracks:
        codes = corpus.window_codes(TrackWindow(track, 0), int(corpus.frames[track]))
        found += np.bincount((codes + offsets).ravel(), minlength=found.size)
    return found.reshape(corpus.codebooks, corpus.cardinality)


def _only(table: pa.Table, column: str) -> Any:
    values = pc.unique(table.column(column)).to_pylist()
    if len(values) != 1:
        found = sorted(values, key=str)
        raise ValueError(f"expected one {column} in all rows, got {found}: they come from different models")
    return values[0]


def _codec_facts(tokens: pa.Table, codebooks: int) -> CodecFacts | None:
    """The codec that the codes are of; None where it was not written down."""
    identity, channels, sample_rate = (_only(tokens, name) for name in ("codec", "channels", "sample_rate"))
    if identity is None:
        return None
    # A codec that moved has several names in the rows of its time; each of them led to this one.
    names = sorted(name for name in pc.unique(tokens.column("codec_reference")).to_pylist() if name)
    return CodecFacts(
        reference=names[0] if names else None,
        identity=identity,
        sample_rate=sample_rate,
        frame_rate=_only(tokens, "frame_rate"),
        codebooks=codebooks,
        cardinality=_only(tokens, "cardinality"),
        channels=channels,
    )


def _codebooks(rows: pa.Table, cardinality: int) -> int:
    """The number of codebooks of packed tokens. Raises ValueError unless codes are what their rows say."""
    books, frames, widths = (rows.column(name).to_numpy() for name in ("vectors", "frames", "width"))
    ids, found = rows.column("track_id"), sorted(set(books.tolist()))
    if len(found) != 1 or found == [0]:
        odd = int(np.flatnonzero(books != np.median(books))[0]) if books.any() else 0
        raise ValueError(f"expected one number of codebooks, got {found} (track {ids[odd]})")
    if (widths != frames).any():
        odd = int(np.flatnonzero(widths != frames)[0])
        raise ValueError(f"expected {frames[odd]} codes in each codebook of {ids[odd]}, got {widths[odd]}")
    largest = int(rows.column("largest").to_numpy().max())
    if largest >= cardinality:
        raise ValueError(f"expected codes below the cardinality {cardinality}, got {largest}")
    return found[0]
