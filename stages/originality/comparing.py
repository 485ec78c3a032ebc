"""Clips, and held-out recordings beside them, compared with all that models learned from.

What is asked about is held in memory, as series of codes and as prints; what was learned from goes by shard by shard,
and each of it is looked at once. So memory grows with the catalog, and time with the training set.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from schemas.tables import PRINTS, TOKENS, TRACKS
from stages.analysis import Passage, Print, PrintIndex
from stages.analysis.prints import FRAMES_A_SECOND
from stages.originality.codes import CodeIndex, Codes, Run
from stages.pipeline.contract import Context

NO_PRINT = Print(np.zeros(0, np.int32), np.zeros(0, np.uint8))
NO_CODES = np.zeros(0, np.uint16)


@dataclass(frozen=True, eq=False)
class Subject:
    """A clip, or a held-out recording, that is compared."""

    codes: Codes
    """Of its first codebook."""
    codec: str | None
    """Whose codes they are: only those of one codec can be equal."""
    peaks: Print
    learned: frozenset[str]
    """The recordings that it is compared with."""
    melodies: frozenset[str] = frozenset()
    """Those whose melody was asked for: their sound, though not their codes, may be heard."""


@dataclass
class Nearest:
    """What a subject has most of in common with recordings."""

    run: Run | None = None
    run_track: str | None = None
    passage: Passage | None = None
    passage_track: str | None = None
    allowed: Passage | None = None
    """The passage with a recording whose melody was asked for."""
    allowed_track: str | None = None

    def add_run(self, run: Run, track: str) -> None:
        # At a tie the first id wins, whatever the order of the shards.
        if self.run is None or (-run.equal, track) < (-self.run.equal, self.run_track or ""):
            self.run, self.run_track = run, track

    def add_passage(self, passage: Passage, track: str, is_allowed: bool) -> None:
        if is_allowed:
            if self.allowed is None or passage.strength > self.allowed.strength:
                self.allowed, self.allowed_track = passage, track
        elif self.passage is None or (-passage.strength, track) < (-self.passage.strength, self.passage_track or ""):
            self.passage, self.passage_track = passage, track


def compare_with_learned(context: Context, subjects: Sequence[Subject]) -> list[Nearest]:
    """Find the nearest recordings of each subject among those it is compared with."""
    nearest = [Nearest() for _ in subjects]
    wanted = frozenset[str]().union(*(subject.learned for subject in subjects))
    if not wanted or TRACKS.name not in context.versions:
        return nearest
    codes, prints = CodeIndex([each.codes for each in subjects]), PrintIndex([each.peaks for each in subjects])
    store, version = context.store, context.versions
    shards = store.shards(TRACKS, version[TRACKS.name])
    context.progress.start("originality", len(shards), "shards")
    for shard in shards:
        context.check_stopped()
        for track, (codec, _, series) in codes_of(context, shard, wanted).items():
            for owner, run in codes.runs(series):
                if track in subjects[owner].learned and codec == subjects[owner].codec:
                    nearest[owner].add_run(run, track)
        for track, peaks in prints_of(context, shard, wanted).items():
            for owner, passage in prints.passages(peaks):
                if track in subjects[owner].learned:
                    nearest[owner].add_passage(passage, track, track in subjects[owner].melodies)
        context.progress.advance()
    return nearest


def compare_with_each_other(prints: Sequence[Print]) -> list[tuple[int, Passage] | None]:
    """Find of each print the one among the others that it has most in common with, and what."""
    index, best = PrintIndex(prints), list[tuple[int, Passage] | None]([None] * len(prints))
    for place, each in enumerate(prints):
        for other, passage in index.passages(each):
            known = best[other]
            if other != place and (known is None or passage.strength > known[1].strength):
                best[other] = place, passage
    return best


def prints_of(context: Context, shard: str, wanted: frozenset[str]) -> dict[str, Print]:
    """Return the prints of some of a shard's recordings by `track_id`."""
    columns = ["track_id", "peak_frames", "peak_pitches"]
    rows = _among(context.store.read(PRINTS, context.versions[TRACKS.name], [shard], columns), wanted)
    peaks = zip(rows.column("peak_frames"), rows.column("peak_pitches"), strict=True)
    prints = [Print(frames.values.to_numpy(), pitches.values.to_numpy()) for frames, pitches in peaks]
    return dict(zip(rows.column("track_id").to_pylist(), prints, strict=True))


def codes_of(context: Context, shard: str, wanted: frozenset[str]) -> dict[str, tuple[str | None, float, Codes]]:
    """Return of some of a shard's recordings the codec, its frames a second, and the codes of the first codebook."""
    version = context.versions.get(TOKENS.name)
    if version is None or shard not in context.store.shards(TOKENS, version):
        return {}
    columns = ["track_id", "codec_identity", "frame_rate", "codes"]
    rows = _among(context.store.read(TOKENS, version, [shard], columns), wanted)
    first = pc.list_element(rows.column("codes"), 0)
    facts = rows.select(columns[:3]).to_pylist()
    return {
        row["track_id"]: (row["codec_identity"], row["frame_rate"], codes.values.to_numpy())
        for row, codes in zip(facts, first, strict=True)
    }


def cut(peaks: Print, begin: float, seconds: float | None = None) -> Print:
    """Return the peaks of a span of a print, its beginning at 0."""
    first = round(begin * FRAMES_A_SECOND)
    chosen = peaks.frames >= first
    if seconds is not None:
        chosen &= peaks.frames < first + round(seconds * FRAMES_A_SECOND)
    return Print((peaks.frames[chosen] - first).astype(np.int32), peaks.pitches[chosen])


def _among(rows: pa.Table, wanted: frozenset[str]) -> pa.Table:
    return rows.filter(pc.is_in(rows.column("track_id"), pa.array(sorted(wanted), pa.string())))
