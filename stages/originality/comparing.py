"""Clips, and held-out recordings beside them, compared with all that models learned from.

What is asked about is held in memory, as series of codes and as prints. What was learned from goes by twice, shard by
shard: once by the quads of its prints and the short runs of its codes alone, which say what of it each subject has most
in common with (`schemas.queries.postings`); and then those few are compared peak by peak and code by code. So memory
grows with the catalog, and time with the catalog and the training set, and not with their product.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from schemas.queries.postings import Keys, keys_of, most_in_common
from schemas.tables import PRINTS, TOKENS, TRACKS
from stages.analysis import Passage, Print, PrintIndex, compare
from stages.analysis.prints import FRAMES_A_SECOND, quads
from stages.originality.codes import Codes, Run, longest_run, short_run_keys
from stages.pipeline.contract import Context

COMPARED = 32
"""Recordings, or clips, that a subject is compared with: those that it has most in common with."""

LEAST_SOUND, LEAST_CODES = 1.0, 0.25
"""How much it has in common with them at the least (`schemas.queries.postings`): two quads, or half a short run of
codes, that nothing else has. Less than for copies among recordings, for what is no copy is to be measured too."""

SUBJECTS = 2**40
"""The number of the first subject."""

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
    """Find the nearest recordings of each subject among those it is compared with.

    Raises:
        Stopped: the run was asked to stop.
    """
    nearest = [Nearest() for _ in subjects]
    wanted = frozenset[str]().union(*(subject.learned for subject in subjects))
    if not wanted or TRACKS.name not in context.versions:
        return nearest
    shards = context.store.shards(TRACKS, context.versions[TRACKS.name])
    context.progress.start("originality", 2 * len(shards), "shards")

    def sounds() -> Iterator[KeysOfTracks]:
        for shard in shards:
            context.check_stopped()
            yield shard, quads_of(context, shard, wanted)
            context.progress.advance()

    def series() -> Iterator[KeysOfTracks]:
        for shard in shards:
            context.check_stopped()
            read = codes_of(context, shard, wanted)
            yield shard, {track: short_run_keys(codes, codec) for track, (codec, _, codes) in read.items()}
            context.progress.advance()

    by_sound = _candidates([quads(each.peaks) for each in subjects], sounds(), LEAST_SOUND)
    for shard, owners_of in by_sound.items():
        context.check_stopped()
        prints, tracks_of = prints_of(context, shard, frozenset(owners_of)), defaultdict[int, list[str]](list)
        for track in prints:
            for owner in owners_of[track]:
                if track in subjects[owner].learned:
                    tracks_of[owner].append(track)
        for owner, tracks in tracks_of.items():
            index = PrintIndex([subjects[owner].peaks])  # once for all that the subject is compared with
            for track in tracks:
                if (passage := index.longest(prints[track])) is not None:
                    nearest[owner].add_passage(passage, track, track in subjects[owner].melodies)
    by_codes = _candidates([short_run_keys(each.codes, each.codec) for each in subjects], series(), LEAST_CODES)
    for shard, owners_of in by_codes.items():
        context.check_stopped()
        for track, (_, _, codes) in codes_of(context, shard, frozenset(owners_of)).items():
            for owner in owners_of[track]:
                if track in subjects[owner].learned and (run := longest_run(subjects[owner].codes, codes)) is not None:
                    nearest[owner].add_run(run, track)
    return nearest


KeysOfTracks = tuple[str, Mapping[str, npt.NDArray[np.uint64]]]
"""A shard, and the keys of its recordings."""


def _candidates(
    subjects: Sequence[npt.NDArray[np.uint64]], learned: Iterable[KeysOfTracks], least: float
) -> dict[str, dict[str, list[int]]]:
    """Find what was learned from that subjects have most in common with.

    Args:
        subjects: their keys.

    Returns:
        The subjects that each recording is to be compared with, by their places, by its shard and id.
    """
    tracks: list[tuple[str, str]] = []

    def known() -> Iterator[Keys]:
        for shard, keys in learned:
            yield keys_of(list(keys.values()), len(tracks))
            tracks.extend((shard, track) for track in keys)

    # Recordings are numbered as they come, and subjects stand behind them all.
    asked = keys_of(subjects, SUBJECTS)
    found = most_in_common([asked], known(), least=least, most=COMPARED, among_asked=False)
    candidates: dict[str, dict[str, list[int]]] = defaultdict(lambda: defaultdict(list))
    for subject, place in zip(found.asked.tolist(), found.others.tolist(), strict=True):
        shard, track = tracks[place]
        candidates[shard][track].append(subject - SUBJECTS)
    return candidates


@dataclass(frozen=True)
class Likest:
    """The clip that another one is most like."""

    place: int
    passage: Passage | None
    """What they have in common; None where they are of the same codes, and so the same sound."""


def compare_with_each_other(subjects: Sequence[Subject]) -> list[Likest | None]:
    """Find of each subject the one among the others that it has most in common with, and what: one of the same codes,
    the earliest, else by their sound. A clip of few peaks, short or quiet, has too few to tell the same sound by."""
    best = list[Likest | None]([None] * len(subjects))
    prints = [each.peaks for each in subjects]
    found = most_in_common([keys_of([quads(each) for each in prints])], [], least=LEAST_SOUND, most=COMPARED)
    for later, earlier in zip(found.asked.tolist(), found.others.tolist(), strict=True):
        for place, other in ((later, earlier), (earlier, later)):
            passage, known = compare(prints[place], prints[other]), best[place]
            if passage is not None and passage.strength > (known.passage.strength if known and known.passage else 0):
                best[place] = Likest(other, passage)
    same: dict[tuple[str | None, bytes], list[int]] = defaultdict(list)
    for place, each in enumerate(subjects):
        if len(each.codes):
            same[each.codec, each.codes.tobytes()].append(place)
    for first, *others in same.values():
        for place in others:
            best[place] = Likest(first, None)
        if others:
            best[first] = Likest(others[0], None)
    return best


def quads_of(context: Context, shard: str, wanted: frozenset[str]) -> dict[str, npt.NDArray[np.uint64]]:
    """Return the quads of the prints of some of a shard's recordings by `track_id`."""
    rows = _among(context.store.read(PRINTS, context.versions[TRACKS.name], [shard], ["track_id", "quads"]), wanted)
    lists = (each.values.to_numpy() for each in rows.column("quads"))
    return dict(zip(rows.column("track_id").to_pylist(), lists, strict=True))


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
