"""Tracks as training examples: windows of codes with the conditions of the same span of time.

All codes lie in one array of 16-bit integers, so a catalog of thousands of hours fits into memory, and an example is a
slice of it: nothing here walks over frames.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from jaxtyping import Int

from model.conditioning.configuration import FIELDS, MusicModelConfig
from model.music_model import Attributes
from model.objective import Batch
from stages.checkpoints.facts import CodecFacts
from stages.training.captions import MERGED

MELODY_RATE = 32_000 / 4096
"""Frames a second of a melody as MusicGen reads it (arXiv:2306.05284, 4.1: hop 4096 at 32 kHz)."""

METADATA = tuple(dict.fromkeys(("description", "paraphrases", *MERGED, *FIELDS)))
"""The columns of `tracks` that captions and conditions are made of."""


@dataclass(frozen=True)
class Window:
    """A span of one track."""

    track: int
    """Position in the corpus."""
    start: int
    """First frame."""


class Packed:
    """Rows of vectors of one width: all values in one array, and where each row's begin. A row may have none."""

    def __init__(self, values: np.ndarray, starts: np.ndarray, counts: np.ndarray) -> None:
        self.values, self.starts, self.counts = values, starts, counts

    def row(self, number: int) -> np.ndarray:
        return self.values[self.starts[number] : self.starts[number] + self.counts[number]]


class Corpus:
    """The tracks of a training with their codes and conditions, in the order of their ids.

    Args:
        tracks, chroma, clap, tokens: rows of these tables. Tracks without tokens are left out; a track without chroma
            or embeddings (they were refused) has none.

    Raises:
        ValueError: there are no tokens, or they are not all of one codec.
    """

    def __init__(self, tracks: pa.Table, chroma: pa.Table, clap: pa.Table, tokens: pa.Table) -> None:
        if not tokens.num_rows:
            raise ValueError("expected codes of at least one track in tokens, got none")
        tokens = tokens.sort_by("track_id")
        self.ids: list[str] = tokens.column("track_id").to_pylist()
        self.frame_rate = float(_only(tokens, "frame_rate"))
        self.cardinality = int(_only(tokens, "cardinality"))
        self.frames = tokens.column("frames").to_numpy()
        self.codes, self.codebooks = _pack_codes(tokens, self.cardinality)
        self.codec = _codec_facts(tokens, self.codebooks)

        rows = tracks.select(["track_id", "split", *METADATA]).to_pylist()
        known = {row["track_id"]: row for row in rows}
        unknown = [track_id for track_id in self.ids if track_id not in known]
        if unknown:
            raise ValueError(f"expected a row in tracks for every row of tokens, got none for {unknown[0]}")
        self.metadata = [known[track_id] for track_id in self.ids]
        self.splits = [row["split"] for row in self.metadata]

        self.chroma_rate = float(_only(chroma, "frame_rate")) if chroma.num_rows else math.nan
        self.chroma = _pack_vectors(chroma, "chroma", self.ids, "chroma bins")
        self.embeddings = _pack_vectors(clap, "embeddings", self.ids, "embedding widths")
        starts = dict(zip(clap.column("track_id").to_pylist(), clap.column("starts").to_pylist(), strict=True))
        self.embedding_starts = [np.array(starts.get(track_id) or [], dtype=np.float64) for track_id in self.ids]

    def seconds(self, frames: int) -> float:
        return frames / self.frame_rate

    def window_codes(self, window: Window, frames: int) -> Int[np.ndarray, "K T"]:
        """The codes of a window, fewer than `frames` where the track ends before it."""
        start, total = self.codes.starts[window.track], self.frames[window.track]
        block = self.codes.values[start : start + self.codebooks * total].reshape(self.codebooks, total)
        return block[:, window.start : window.start + frames]

    def fields(self, track: int, names: Iterable[str]) -> dict[str, str | float]:
        """What `tracks` says of a track in some columns: lists as one text, numbers as they are; no entry where it says
        nothing."""
        found: dict[str, str | float] = {}
        for name in names:
            value = self.metadata[track][name]
            if isinstance(value, list):
                value = ", ".join(value)
            if isinstance(value, float) or (value and value.strip()):
                found[name] = value
        return found

    def attributes(self, window: Window, frames: int, model: MusicModelConfig, description: str | None) -> Attributes:
        """The conditions of a window that a model reads: `description`, what `tracks` says in the fields, the melody of
        the same span of time (without what lies past its end or the end of the track), and the joint embedding whose
        own window starts nearest.

        Args:
            frames: the window's length in frames of codes.
        """
        begin, track = self.seconds(window.start), window.track
        melody = embedding = None
        if model.chroma is not None and self.chroma.counts[track]:
            rate = model.chroma.frame_rate
            count = min(model.chroma.frames, math.ceil(frames * (rate / self.frame_rate)))
            span = melody_at(self.chroma.row(track), self.chroma_rate, begin, count, rate)
            melody = torch.from_numpy(span) if len(span) else None
        if model.clap is not None and self.embeddings.counts[track]:
            nearest = int(np.abs(self.embedding_starts[track] - begin).argmin())
            embedding = torch.from_numpy(self.embeddings.row(track)[nearest].copy())
        text = description if model.description is not None else None
        return Attributes(text, melody, embedding, self.fields(track, model.fields))

    def batch(self, windows: Sequence[Window], frames: int, attributes: Sequence[Attributes]) -> Batch:
        """The codes of some windows, with conditions given for each."""
        codes = np.zeros((len(windows), self.codebooks, frames), dtype=np.int64)
        lengths = np.zeros(len(windows), dtype=np.int64)
        for item, window in enumerate(windows):
            found = self.window_codes(window, frames)
            codes[item, :, : found.shape[1]], lengths[item] = found, found.shape[1]
        return Batch(torch.from_numpy(codes), torch.from_numpy(lengths), attributes)


def melody_at(
    chroma: np.ndarray, chroma_rate: float, begin: float, count: int, rate: float = MELODY_RATE
) -> np.ndarray:
    """The melody [F, 12] of a track from second `begin` on, fewer frames than asked for where it ends.

    Args:
        chroma: the melody of the whole track, `chroma_rate` frames a second.
        count: frames that are wanted.
        rate: of these, frames a second; each is the frame of `chroma` that is nearest in time.
    """
    places = np.rint((begin + np.arange(count) / rate) * chroma_rate).astype(np.int64)
    return chroma[places[places < len(chroma)]]


def tiled_windows(corpus: Corpus, tracks: Sequence[int], frames: int, shortest: int, most: int) -> list[Window]:
    """Windows that lie one after another over whole tracks, for validation: at most `most` of them, evenly chosen.

    The rest at the end of a track is a window of its own from `shortest` frames on, or where it is the only one.
    """
    found = [
        Window(track, start)
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
        codes = corpus.window_codes(Window(track, 0), int(corpus.frames[track]))
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


def _pack_codes(tokens: pa.Table, cardinality: int) -> tuple[Packed, int]:
    """All codes in one array, `[K, T]` of each track in turn, and the number of codebooks."""
    column = tokens.column("codes")
    books = pc.list_value_length(column).to_numpy()
    frames = np.repeat(tokens.column("frames").to_numpy().astype(np.int64), books)
    lengths = np.concatenate(
        [pc.list_value_length(chunk.flatten()).to_numpy(zero_copy_only=False) for chunk in column.chunks]
    )
    ids = tokens.column("track_id")
    if len(set(books.tolist())) != 1 or books[0] == 0:
        odd = int(np.flatnonzero(books != np.median(books))[0]) if books.any() else 0
        raise ValueError(f"expected one number of codebooks, got {sorted(set(books.tolist()))} (track {ids[odd]})")
    if (lengths != frames).any():
        odd = int(np.flatnonzero(lengths != frames)[0])
        track = ids[odd // int(books[0])]
        raise ValueError(f"expected {frames[odd]} codes in each codebook of {track}, got {lengths[odd]}")
    values = np.concatenate([chunk.flatten().flatten().to_numpy(zero_copy_only=False) for chunk in column.chunks])
    if values.size and int(values.max()) >= cardinality:
        raise ValueError(f"expected codes below the cardinality {cardinality}, got {int(values.max())}")
    counts = frames[:: int(books[0])] * int(books[0])
    return Packed(values, np.cumsum(counts) - counts, counts), int(books[0])


def _pack_vectors(table: pa.Table, column: str, ids: Sequence[str], what: str) -> Packed:
    """The vectors of each track of `ids`, none where the table has no row for it."""
    parts, widths, row_counts = [], set(), []
    for chunk in table.column(column).chunks:
        rows = chunk.flatten()
        widths |= set(pc.unique(pc.list_value_length(rows)).to_pylist())
        row_counts.append(pc.fill_null(pc.list_value_length(chunk), 0).to_numpy(zero_copy_only=False))
        parts.append(rows.flatten().to_numpy(zero_copy_only=False))
    if len(widths) > 1:
        raise ValueError(f"expected one number of {what}, got {sorted(widths)}")
    width = widths.pop() if widths else 1
    values = (
        np.concatenate(parts).astype(np.float32, copy=False).reshape(-1, width)
        if parts
        else np.zeros((0, 1), np.float32)
    )
    counts = np.concatenate(row_counts).astype(np.int64) if row_counts else np.zeros(0, np.int64)
    begins = np.cumsum(counts) - counts
    place = {track_id: row for row, track_id in enumerate(table.column("track_id").to_pylist())}
    rows_of = [place.get(track_id, -1) for track_id in ids]
    starts = np.array([begins[row] if row >= 0 else 0 for row in rows_of], dtype=np.int64)
    return Packed(values, starts, np.array([counts[row] if row >= 0 else 0 for row in rows_of], dtype=np.int64))
