"""Which instruments play, told from a sound's codes.

A codec that has learned on music spends its codes on what there is to hear, so how often each code comes tells
instruments apart where detectors of sound are misled by what the codec does to it. A recording is the roots of its
codes' frequencies, by codebook (a bag of audio words: S. Pancoast and M. Akbacak, Interspeech 2012; roots as in
Hellinger's distance), and a ridge regression of the names in the metadata of training recordings on them ranks those
names for any other codes of the same codec. No network is needed, and nothing is learned but from the store itself.

How far it is to be believed is what it says of held-out recordings, whose codes it hears as it hears those of clips.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import partial
from threading import Lock
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from jaxtyping import Float, Int

from schemas.identity import by_hash, keys_digest
from schemas.tables import TOKENS, TRACKS, Row
from stages.checkpoints.codecs import CodesFormat
from stages.judging.asking import instrument_names
from stages.pipeline.contract import Context

Codes = Int[npt.NDArray[Any], "K T"]

RECORDINGS = 1024
"""Most recordings that it learns from."""

LEAST_RECORDINGS, LEAST_OF_AN_INSTRUMENT = 64, 8
"""Recordings with instruments, and with one of them, below which there is nothing to learn."""

REGULARISATION = 0.3
"""Weight of the ridge, where features have unit variance and the norm of their number. Of 0.03 to 1 it ranked the
demo's held-out recordings best: 89 % of what plays was among as many names, where 85 to 87 % were with the others."""


@dataclass(frozen=True, eq=False)
class InstrumentJudge:
    """A ridge regression from codes to names of instruments."""

    names: tuple[str, ...]
    cardinality: int
    mean: Float[npt.NDArray[np.float64], " F"]
    scale: Float[npt.NDArray[np.float64], " F"]
    weights: Float[npt.NDArray[np.float64], "F I"]
    shares: Float[npt.NDArray[np.float64], " I"]
    """Of the recordings in which each instrument plays."""
    usual: int
    """Instruments, of these, that play in a recording: the median."""

    @classmethod
    def fit(
        cls, codes: Sequence[Codes], instruments: Sequence[Collection[str]], cardinality: int
    ) -> "InstrumentJudge | None":
        """Learn from recordings; None where they are too few, or no instrument plays in some and not in others."""
        counts: dict[str, int] = {}
        for name in (name for names in instruments for name in set(names)):
            counts[name] = counts.get(name, 0) + 1
        most = len(codes) - LEAST_OF_AN_INSTRUMENT
        names = tuple(sorted(name for name, count in counts.items() if LEAST_OF_AN_INSTRUMENT <= count <= most))
        if len(codes) < LEAST_RECORDINGS or not names:
            return None
        features = np.stack([_features(each, cardinality) for each in codes])
        mean, scale = features.mean(axis=0), (features.std(axis=0) + 1e-6) * np.sqrt(features.shape[1])
        standard = (features - mean) / scale
        plays = np.array([[name in each for name in names] for each in instruments], dtype=np.float64)
        shares = plays.mean(axis=0)
        # As many equations as recordings, which are fewer than features.
        products = standard @ standard.T + REGULARISATION * np.eye(len(standard))
        weights = standard.T @ np.linalg.solve(products, plays - shares)
        return cls(names, cardinality, mean, scale, weights, shares, max(1, round(float(np.median(plays.sum(axis=1))))))

    def hear(self, codes: Codes) -> tuple[str, ...]:
        """Return as many names as usually play, those first that are most likely to."""
        likely = (_features(codes, self.cardinality) - self.mean) / self.scale @ self.weights + self.shares
        return tuple(self.names[number] for number in np.argsort(-likely, kind="stable")[: self.usual])


def _features(codes: Codes, cardinality: int) -> Float[npt.NDArray[np.float64], " F"]:
    """Return the roots of the frequencies of codes, F = K x cardinality."""
    counts = [np.bincount(level, minlength=cardinality) for level in codes]
    frequencies: npt.NDArray[np.float64] = np.concatenate(counts) / max(1, codes.shape[1])
    return np.sqrt(frequencies)


@dataclass(frozen=True)
class HeardInstruments:
    """What is told of a sound's instruments."""

    likeliest: tuple[str, ...]
    """As many as usually play, the likeliest first."""
    names: tuple[str, ...]
    """All that can be told apart."""


class InstrumentJudges:
    """Tells the instruments of rows of `generations` or `tokens`, by a judge for each format of codes.

    Each learns from at most `RECORDINGS` training recordings, out of as few shards as hold so many, by hash. Of codes
    that the store has no such recordings of nothing is told.
    """

    def __init__(self, context: Context) -> None:
        self._context, self._judges, self._lock = context, dict[CodesFormat, InstrumentJudge | None](), Lock()
        has_codes = {TOKENS.name, TRACKS.name} <= context.versions.keys()
        self._recordings = _labelled(context) if has_codes else []
        self._key = keys_digest((row["track_id"],) for row in self._recordings)

    def hear(self, row: Row) -> HeardInstruments | None:
        """Tell the instruments of a row's codes, without those of a prompt. Threads may call it at once."""
        judge = self._judge(CodesFormat.from_row(row))
        codes = np.array(row["codes"], dtype=np.int64)[:, row.get("prompt_frames") or 0 :]
        return None if judge is None or not codes.size else HeardInstruments(judge.hear(codes), judge.names)

    def _judge(self, codes: CodesFormat) -> InstrumentJudge | None:
        with self._lock:
            if codes not in self._judges:
                learn = partial(_fit, self._context, self._recordings, codes)
                lent = self._context.borrow(("instruments", codes, self._key), learn) if self._recordings else None
                self._judges[codes] = lent
            return self._judges[codes]


def _labelled(context: Context) -> list[Row]:
    """Return the training recordings to learn from: rows of `tracks`."""
    rows = context.rows(TRACKS, ["track_id", "split", "shard", "instrument"]).to_pylist()
    labelled = [row for row in rows if row["split"] == "train" and instrument_names(row["instrument"])]
    labelled.sort(key=lambda row: (by_hash(f"shard {row['shard']}"), by_hash(row["track_id"])))
    return labelled[:RECORDINGS]


def _fit(context: Context, chosen: Sequence[Row], codes_format: CodesFormat) -> InstrumentJudge | None:
    names_of = {row["track_id"]: instrument_names(row["instrument"]) for row in chosen}
    shards = sorted({str(row["shard"] or 0) for row in chosen})
    version = context.versions[TOKENS.name]
    codes, instruments = [], []
    for shard in (shard for shard in context.store.shards(TOKENS, version) if shard in shards):
        context.check_stopped()
        rows = context.store.read(TOKENS, version, [shard])
        for row in rows.filter(pc.is_in(rows.column("track_id"), pa.array(sorted(names_of)))).to_pylist():
            if CodesFormat.from_row(row) == codes_format:
                codes.append(np.array(row["codes"], dtype=np.int64))
                instruments.append(names_of[row["track_id"]])
    return InstrumentJudge.fit(codes, instruments, codes_format.cardinality)
