"""What a training is about to learn from, reported before it begins: hours, splits, which conditions the tracks have,
tempi and keys, licences, and how much of each description the drawn texts keep.

Captions that are merged, dropped and shortened with the published probabilities rarely hold their whole description,
and the loss does not show it. So texts are drawn here by the same function as in training. The module loads no torch
and reads only short columns of the tables, so that a plan can report all of it.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from model.conditioning.captions import CaptionKind, draw_caption
from schemas.licences import parse_licence
from schemas.storage.shards import read_columns
from schemas.tables import TOKENS, TRACKS, Table
from stages.checkpoints.model_card import literal
from stages.pipeline.contract import Context
from stages.pipeline.remarks import Remarks
from stages.train.config import CONDITION_TABLES, Config
from stages.train.tracks import METADATA, SPLITS, split_positions

PRESENCE_COLUMNS = {"chroma": "track_id", "clap": "track_id", "beat": "beats", "chords": "chords"}
"""Conditions with tables of their own -> a short column of the table that shows whether a track has the condition."""

DRAWN_TEXTS = 4_000
"""Texts that are drawn to estimate what they hold: shares are then within 1.6 points, 19 times out of 20."""

LEAST_WHOLE = 0.5
"""Share of the texts of described tracks that should hold the whole description; below it, a remark says so."""

TEMPO_STEP = 20
"""Width of a bin of tempi, beats a minute."""

MOST_LICENCES = 50
"""Licences that a model's card names; the table `tracks` holds all."""

UNKNOWN = "not stated"
"""The name under which tracks without a licence are counted."""


@dataclass(frozen=True)
class SplitSize:
    """How much music a split has."""

    tracks: int
    hours: float

    def __str__(self) -> str:
        return f"{self.tracks:,} track{'' if self.tracks == 1 else 's'} ({self.hours:.3g} h)"


@dataclass(frozen=True)
class TextShares:
    """What drawn texts hold, counted by `CaptionKind`. An item that loses its description to dropout counts as
    `none`."""

    kinds: Mapping[CaptionKind, int]
    of_described: int
    """Texts of tracks that have a description."""
    example: str
    """A text that lost some of its description, with that description; empty where none did."""

    @property
    def drawn(self) -> int:
        return sum(self.kinds.values())

    @property
    def whole(self) -> int:
        """Number of texts that hold their whole description, alone or with other metadata."""
        return self.kinds.get("whole", 0) + self.kinds.get("merged", 0)

    @property
    def is_thin(self) -> bool:
        """Whether fewer than `LEAST_WHOLE` of the texts of described tracks hold the whole description."""
        return self.of_described > 0 and self.whole < LEAST_WHOLE * self.of_described


@dataclass(frozen=True)
class DataReport:
    """What a training learns from. Coverage, tempi, keys, licences and texts are those of the split `train`."""

    splits: Mapping[str, SplitSize]
    held_out: int
    """Tracks of `train` that are held out as the split `valid`, where that split was empty."""
    left_out: int
    """Tracks that are left out because they are too short."""
    coverage: Mapping[str, int]
    """Tracks that have each condition that the model reads; before there are tokens, only of conditions that `tracks`
    holds."""
    tempi: Mapping[str, int]
    """Tracks by tempo, such as `80–99`."""
    keys: Mapping[str, int]
    licences: Mapping[str, int]
    """Tracks by licence, the commonest first; those without a licence under `UNKNOWN`."""
    texts: TextShares | None
    """What drawn texts hold; None for a model that reads no descriptions, or without tracks."""

    @property
    def tracks(self) -> int:
        """Number of tracks that are learned from."""
        return self.splits["train"].tracks

    def metrics(self) -> dict[str, float]:
        """Return the figures as metrics of a checkpoint, by name."""
        metrics = {f"{split}_tracks": float(size.tracks) for split, size in self.splits.items()}
        metrics |= {f"{split}_hours": size.hours for split, size in self.splits.items()}
        metrics |= {f"train_coverage_{name}": count / self.tracks for name, count in self.coverage.items()}
        if self.texts is not None:
            metrics |= {f"train_text_{kind}": self.texts.kinds.get(kind, 0) / self.texts.drawn for kind in TEXT_WORDS}
        return metrics

    def lines(self) -> list[str]:
        """Return the report as lines for a person, one fact a line."""
        sizes = [f"{size} in {split}" for split, size in self.splits.items()]
        lines = [f"data: {', '.join(sizes)}" + (f"; {self.left_out:,} too short" if self.left_out else "")]
        if not self.tracks:
            return lines
        if self.coverage:
            shares = ", ".join(f"{name} {count / self.tracks:.0%}" for name, count in self.coverage.items())
            lines.append(f"conditions of the tracks in train: {shares}")
        for name, counts in (("tempo, bpm", self.tempi), ("key", self.keys), ("licence", self.licences)):
            if counts:
                lines.append(f"{name}: {histogram(counts)}")
        if self.texts is not None:
            lines.append(f"texts, of {self.texts.drawn:,} drawn: {', '.join(self.text_shares())}")
        return lines

    def card_items(self) -> list[str]:
        """Return the report as list items of a model's card, in Markdown."""
        sizes = [f"{size} in `{split}`" for split, size in self.splits.items()]
        items = [f"tracks: {', '.join(sizes)}"]
        if self.coverage:
            shares = ", ".join(f"`{name}` {count / self.tracks:.1%}" for name, count in self.coverage.items())
            items.append(f"share of the training tracks that have each condition: {shares}")
        for name, counts in (("tempo, bpm", self.tempi), ("key", self.keys)):
            if counts:
                items.append(f"{name}: {histogram({literal(value): count for value, count in counts.items()})}")
        if self.texts is not None:
            items.append(f"texts in the training: {', '.join(self.text_shares())}")
        return items

    def licence_items(self) -> list[str]:
        """Return the licences of the training tracks as list items of a model's card, in Markdown: the first
        `MOST_LICENCES`."""
        items = [f"{literal(name)}: {count:,} tracks" for name, count in [*self.licences.items()][:MOST_LICENCES]]
        rest = len(self.licences) - len(items)
        return [*items, *([f"and {rest:,} more"] if rest > 0 else [])]

    def text_shares(self) -> list[str]:
        """Return the share of the texts of each kind, such as `the whole description 12.5%`, in the order of
        `TEXT_WORDS`."""
        if self.texts is None:
            return []
        return [f"{words} {self.texts.kinds.get(kind, 0) / self.texts.drawn:.1%}" for kind, words in TEXT_WORDS.items()]

    def remark(self, remarks: Remarks) -> None:
        """Add remarks on what a person may want to change before the training."""
        if self.held_out:
            text = "held out of the training, because `tracks` has none in the split valid"
            remarks.add(text, "train.held_out_share", count=self.held_out)
        if self.texts is not None and self.texts.is_thin:
            text = (
                f"texts of {self.texts.of_described:,} drawn do not hold their track's whole description: lower "
                "drop_words, merge or the dropouts if the model should follow requests closely"
            )
            lost = self.texts.of_described - self.texts.whole
            remarks.add(text, "train.captions", self.texts.example, count=lost)


TEXT_WORDS: Mapping[CaptionKind, str] = {
    "whole": "the whole description",
    "merged": "all of it with other metadata",
    "shortened": "with words left out",
    "metadata": "other metadata instead",
    "none": "none",
}
"""Kinds of texts, in the words of the report."""


def histogram(counts: Mapping[str, int], most: int = 24) -> str:
    """Write counts as one line, a bar of one character before each: `80–99 ▃ 12, 100–119 █ 31`."""
    bars, largest = "▁▂▃▄▅▆▇█", max(counts.values())
    shown = [
        f"{name} {bars[round((len(bars) - 1) * count / largest)]} {count:,}" for name, count in [*counts.items()][:most]
    ]
    rest = len(counts) - most
    return ", ".join(shown) + (f", and {rest:,} more" if rest > 0 else "")


def data_report(config: Config, context: Context) -> DataReport:
    """Read what a training is about to learn from: the tracks that have tokens, in the order of their ids. Before there
    are tokens, report on all tracks, by what `tracks` alone says of them."""
    tracks = _short_columns(context, TRACKS, ["track_id", "split", "licence", *METADATA])
    tokens = _short_columns(context, TOKENS, ["track_id", "frames", "frame_rate"]).sort_by("track_id")
    is_tokenized = bool(context.store.shards(TOKENS, context.versions[TOKENS.name]))
    if is_tokenized:
        positions = pc.index_in(tokens.column("track_id"), value_set=tracks.column("track_id"))
        tracks, tokens = tracks.take(positions.drop_null()), tokens.filter(pc.is_valid(positions))
        lengths = pc.divide(pc.cast(tokens.column("frames"), pa.float64()), tokens.column("frame_rate"))
    else:
        tracks = tracks.sort_by("track_id")
        lengths = tracks.column("seconds")
    seconds = lengths.to_pylist()
    ready = [name for name in config.model.conditions if is_tokenized or name not in CONDITION_TABLES]
    track_splits = tracks.column("split").to_pylist()
    chosen = split_positions(tracks.column("track_id").to_pylist(), track_splits, seconds, config)
    sizes = {
        split: SplitSize(len(chosen[split]), sum(seconds[track] for track in chosen[split]) / 3600) for split in SPLITS
    }
    train = tracks.take(pa.array(chosen["train"], pa.int64()))
    usable = sum(len(split_tracks) for split_tracks in chosen.values())
    return DataReport(
        splits=sizes,
        held_out=0 if "valid" in track_splits else sizes["valid"].tracks,
        left_out=sum(split in SPLITS for split in track_splits) - usable,
        coverage={name: _covered(context, name, train) for name in ready},
        tempi=_tempi(train.column("bpm")),
        keys=dict(sorted(_counts(train.column("key")).items())),
        licences=_licences(train.column("licence")),
        texts=_draw_texts(train, config) if config.model.description is not None and train.num_rows else None,
    )


def _short_columns(context: Context, table: Table, names: Sequence[str]) -> pa.Table:
    """Read some short columns of a table without its long ones; no rows where the model does not read the table."""
    version, store = context.versions.get(table.name), context.store
    schema = pa.schema([table.schema.field(name) for name in names])
    parts = [pa.Table.from_batches([], schema)]
    for shard in store.shards(table, version) if version else []:
        path = store.path(store.shard_path(table, version or "", shard))
        part = read_columns(store.filesystem, path, names).replace_schema_metadata(None)
        parts.append(part.select(names).cast(schema))
    return pa.concat_tables(parts)


def _covered(context: Context, condition: str, tracks: pa.Table) -> int:
    """Count the tracks that have a condition."""
    if condition not in CONDITION_TABLES:
        return len(_non_empty(tracks.column(condition)))
    table, column = CONDITION_TABLES[condition], PRESENCE_COLUMNS[condition]
    rows = _short_columns(context, table, list(dict.fromkeys(("track_id", column))))
    if column != "track_id":
        rows = rows.filter(pc.greater(pc.fill_null(pc.list_value_length(rows.column(column)), 0), 0))
    return int(pc.sum(pc.is_in(tracks.column("track_id"), value_set=rows.column("track_id"))).as_py() or 0)


def _non_empty(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Return the values of a column that are not empty: lists joined to one text, nulls and blanks left out."""
    if pa.types.is_list(column.type):
        column = pc.binary_join(column, ", ")
    if pa.types.is_string(column.type):
        column = pc.utf8_trim_whitespace(column)
        return column.filter(pc.greater(pc.utf8_length(column), 0))
    return column.drop_null()


def _counts(column: pa.ChunkedArray) -> dict[str, int]:
    """Count the values of a column of text that are not empty."""
    return {row["values"]: row["counts"] for row in pc.value_counts(_non_empty(column)).to_pylist()}


def _licences(column: pa.ChunkedArray) -> dict[str, int]:
    """Count tracks by licence, the commonest first. A licence that is not understood counts as it is written."""
    counts: Counter[str] = Counter()
    for written, count in _counts(column).items():
        licence = parse_licence(written)
        counts[licence.name if licence is not None and licence.is_known else written] += count
    counts[UNKNOWN] += len(column) - counts.total()
    return dict((+counts).most_common())


def _tempi(column: pa.ChunkedArray) -> dict[str, int]:
    """Count tempi by bins of `TEMPO_STEP`, with the empty bins between the slowest and the fastest."""
    numbers = column.drop_null().to_numpy()
    if not len(numbers):
        return {}
    bins = (numbers // TEMPO_STEP).astype(int)
    counts = np.bincount(bins - bins.min())
    lows = [(bins.min() + number) * TEMPO_STEP for number in range(len(counts))]
    return {f"{low}–{low + TEMPO_STEP - 1}": int(count) for low, count in zip(lows, counts, strict=True)}


def _draw_texts(tracks: pa.Table, config: Config) -> TextShares:
    """Draw texts as training does: a track uniformly, then its caption, then whether all conditions or the description
    alone are dropped."""
    random = np.random.default_rng([config.seed])
    chosen = random.integers(tracks.num_rows, size=DRAWN_TEXTS)
    rows: list[dict[str, Any]] = tracks.select(METADATA).take(pa.array(chosen)).to_pylist()
    kinds: Counter[CaptionKind] = Counter()
    of_described, example = 0, ""
    for row in rows:
        caption = draw_caption(row, config.captions, random)
        dropped = random.random(2) < (config.all_dropout, config.dropouts["description"])
        kinds["none" if dropped.any() else caption.kind] += 1
        description = (row["description"] or "").strip()
        of_described += bool(description)
        if description and not example and caption.kind in ("shortened", "metadata"):
            example = f"{caption.text!r} of {description!r}"
    return TextShares(kinds, of_described, example)
