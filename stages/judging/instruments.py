"""Which instruments play, detected from a sound's codes.

A codec that was trained on music spends its codes on what is audible. So the frequencies of its codes distinguish
instruments, where detectors that work on sound are misled by the codec's distortions. The features of a recording are
the square roots of its codes' frequencies, for each codebook (a bag of audio words: S. Pancoast and M. Akbacak,
Interspeech 2012; roots as in Hellinger's distance). A ridge regression from these features to the instrument names in
the metadata of training recordings then ranks the names for any codes of the same codec. It needs no network and learns
only from the store itself.

How reliable it is shows on held-out recordings, whose codes it judges in the same way as those of clips.
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
"""Most recordings that a judge learns from."""

LEAST_RECORDINGS, LEAST_OF_AN_INSTRUMENT = 64, 8
"""Fewest recordings with instruments, and fewest with a given instrument, that a judge can learn from."""

REGULARISATION = 0.3
"""Weight of the ridge, for features of unit variance that are divided by the root of their number. Of the values from
0.03 to 1 it ranked the instruments of the demo's held-out recordings best: 89 % of those that play were among the names
returned; with the other values, 85 to 87 %."""


@dataclass(frozen=True, eq=False)
class InstrumentJudge:
    """A ridge regression from codes to names of instruments."""

    names: tuple[str, ...]
    cardinality: int
    mean: Float[npt.NDArray[np.float64], " F"]
    scale: Float[npt.NDArray[np.float64], " F"]
    weights: Float[npt.NDArray[np.float64], "F I"]
    shares: Float[npt.NDArray[np.float64], " I"]
    """Share of the recordings in which each instrument plays."""
    usual_count: int
    """Median number of these instruments in a recording."""

    @classmethod
    def fit(
        cls, codes: Sequence[Codes], instruments: Sequence[Collection[str]], cardinality: int
    ) -> "InstrumentJudge | None":
        """Learn from recordings. None if there are too few, or if no instrument plays in enough of them and is missing
        in enough."""
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
        # Solved in the dual form, with one equation for each recording: there are fewer recordings than features.
        products = standard @ standard.T + REGULARISATION * np.eye(len(standard))
        weights = standard.T @ np.linalg.solve(products, plays - shares)
        return cls(names, cardinality, mean, scale, weights, shares, max(1, round(float(np.median(plays.sum(axis=1))))))

    def detect(self, codes: Codes) -> tuple[str, ...]:
        """Return the most likely names, the likeliest first, as many as usually play."""
        likely = (_features(codes, self.cardinality) - self.mean) / self.scale @ self.weights + self.shares
        return tuple(self.names[number] for number in np.argsort(-likely, kind="stable")[: self.usual_count])


def _features(codes: Codes, cardinality: int) -> Float[npt.NDArray[np.float64], " F"]:
    """Return the square roots of the codes' frequencies, [F] with F = K x cardinality."""
    counts = [np.bincount(level, minlength=cardinality) for level in codes]
    frequencies: npt.NDArray[np.float64] = np.concatenate(counts) / max(1, codes.shape[1])
    return np.sqrt(frequencies)


@dataclass(frozen=True)
class DetectedInstruments:
    """The instruments detected in a sound."""

    likeliest: tuple[str, ...]
    """The likeliest instruments first, as many as usually play."""
    names: tuple[str, ...]
    """All instruments that the judge knows."""


class InstrumentJudges:
    """Detects the instruments in rows of `generations` or `tokens`, with one judge for each format of codes.

    Each judge learns from at most `RECORDINGS` training recordings, which are chosen by hash from as few shards as
    possible. If the store has no such recordings for a format of codes, nothing is detected for it.
    """

    def __init__(self, context: Context) -> None:
        self._context, self._judges, self._lock = context, dict[CodesFormat, InstrumentJudge | None](), Lock()
        has_codes = {TOKENS.name, TRACKS.name} <= context.versions.keys()
        self._recordings = _labelled(context) if has_codes else []
        self._key = keys_digest((row["track_id"],) for row in self._recordings)

    def detect(self, row: Row) -> DetectedInstruments | None:
        """Return the instruments in a row's codes, without those of its prompt; None if no judge can be trained or
        there are no codes. Threads may call this at the same time."""
        judge = self._judge(CodesFormat.from_row(row))
        codes = np.array(row["codes"], dtype=np.int64)[:, row.get("prompt_frames") or 0 :]
        return None if judge is None or not codes.size else DetectedInstruments(judge.detect(codes), judge.names)

    def _judge(self, codes: CodesFormat) -> InstrumentJudge | None:
        with self._lock:
            if codes not in self._judges:
                fit = partial(_fit, self._context, self._recordings, codes)
                judge = self._context.borrow(("instruments", codes, self._key), fit) if self._recordings else None
                self._judges[codes] = judge
            return self._judges[codes]


def _labelled(context: Context) -> list[Row]:
    """Return the training recordings to learn from, as rows of `tracks`."""
    rows = context.rows(TRACKS, ["track_id", "split", "shard", "instrument"]).to_pylist()
    labelled = [row for row in rows if row["split"] == "train" and instrument_names(row["instrument"])]
    labelled.sort(key=lambda row: (by_hash(f"shard {row['shard']}"), by_hash(row["track_id"])))
    return labelled[:RECORDINGS]


def _fit(context: Context, chosen: Sequence[Row], codes_format: CodesFormat) -> InstrumentJudge | None:
    """Train a judge on the codes of the chosen recordings that have this format; None if they are too few."""
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
