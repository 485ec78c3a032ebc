"""Comparing clips, and held-out recordings beside them, with all recordings that models learned from.

The subjects, which are the clips and held-out recordings, are in memory as series of codes and as prints. The
recordings are read in two passes, shard by shard. The first reads only the quads of their prints and the short runs of
their codes, to find those that each subject has most in common with (`schemas.queries.postings`). The second compares
these few peak by peak and code by code. So memory grows with the catalog, and time with the sum of the catalog and the
training set, not with their product.
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
"""Most recordings, or clips, that a subject is compared with: those that it has most in common with."""

LEAST_SOUND, LEAST_CODES = 1.0, 0.25
"""What a subject must have in common with a recording to be compared with it, as `schemas.queries.postings` counts: two
quads, or half a short run of codes, that nothing else has. This is less than for copies among recordings, because clips
that are not copies should be measured too."""

SUBJECTS = 2**40
"""Number of the first subject among the rows; recordings have lower numbers."""

NO_PRINT = Print(np.zeros(0, np.int32), np.zeros(0, np.uint8))
NO_CODES = np.zeros(0, np.uint16)


@dataclass(frozen=True, eq=False)
class Subject:
    """A clip, or a held-out recording, that is compared with recordings."""

    codes: Codes
    """Codes of the first codebook, [T]."""
    codec: str | None
    """Identity of the codec that made the codes; only codes of the same codec can be equal."""
    peaks: Print
    learned: frozenset[str]
    """Ids of the recordings that it is compared with."""
    melodies: frozenset[str] = frozenset()
    """Ids of the recordings whose melody was asked for: having their sound in common is allowed, having their codes is
    not."""


@dataclass
class Nearest:
    """What a subject has most in common with the recordings that it is compared with, and with which of them."""

    run: Run | None = None
    run_track: str | None = None
    passage: Passage | None = None
    passage_track: str | None = None
    allowed: Passage | None = None
    """The longest passage in common with a recording whose melody was asked for."""
    allowed_track: str | None = None

    def add_run(self, run: Run, track: str) -> None:
        """Keep a run with a recording if it has more equal codes than the one so far."""
        # If two are equal, the lower id wins, so that the order of the shards does not matter.
        if self.run is None or (-run.equal, track) < (-self.run.equal, self.run_track or ""):
            self.run, self.run_track = run, track

    def add_passage(self, passage: Passage, track: str, is_allowed: bool) -> None:
        """Keep a passage with a recording if it is stronger than the one so far, allowed passages apart from the
        others."""
        if is_allowed:
            if self.allowed is None or passage.strength > self.allowed.strength:
                self.allowed, self.allowed_track = passage, track
        elif self.passage is None or (-passage.strength, track) < (-self.passage.strength, self.passage_track or ""):
            self.passage, self.passage_track = passage, track


def compare_with_learned(context: Context, subjects: Sequence[Subject]) -> list[Nearest]:
    """Return what each subject has most in common with the recordings that it is compared with.

    Raises:
        Stopped: the run was asked to stop.
    """
    nearest = [Nearest() for _ in subjects]
    wanted = frozenset[str]().union(*(subject.learned for subject in subjects))
    if not wanted or TRACKS.name not in context.versions:
        return nearest
    shards = context.store.shards(TRACKS, context.versions[TRACKS.name])
    context.progress.start("originality", 2 * len(shards), "shards")

    def quads_by_shard() -> Iterator[KeysOfTracks]:
        for shard in shards:
            context.check_stopped()
            yield shard, quads_of(context, shard, wanted)
            context.progress.advance()

    def runs_by_shard() -> Iterator[KeysOfTracks]:
        for shard in shards:
            context.check_stopped()
            read = codes_of(context, shard, wanted)
            yield shard, {track: short_run_keys(codes, codec) for track, (codec, _, codes) in read.items()}
            context.progress.advance()

    by_sound = _candidates([quads(each.peaks) for each in subjects], quads_by_shard(), LEAST_SOUND)
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
    by_codes = _candidates([short_run_keys(each.codes, each.codec) for each in subjects], runs_by_shard(), LEAST_CODES)
    for shard, owners_of in by_codes.items():
        context.check_stopped()
        for track, (_, _, codes) in codes_of(context, shard, frozenset(owners_of)).items():
            for owner in owners_of[track]:
                if track in subjects[owner].learned and (run := longest_run(subjects[owner].codes, codes)) is not None:
                    nearest[owner].add_run(run, track)
    return nearest


KeysOfTracks = tuple[str, Mapping[str, npt.NDArray[np.uint64]]]
"""A shard, and the keys of its recordings by id."""


def _candidates(
    subjects: Sequence[npt.NDArray[np.uint64]], learned: Iterable[KeysOfTracks], least: float
) -> dict[str, dict[str, list[int]]]:
    """Return the recordings that subjects have most in common with.

    Args:
        subjects: the keys of each subject.
        learned: the keys of the recordings, shard by shard.
        least: how much a subject and a recording must have in common.

    Returns:
        For each shard, for the id of each of its recordings: the numbers of the subjects to compare it with.
    """
    tracks: list[tuple[str, str]] = []

    def track_keys() -> Iterator[Keys]:
        for shard, keys in learned:
            yield keys_of(list(keys.values()), len(tracks))
            tracks.extend((shard, track) for track in keys)

    # Recordings are numbered in the order in which they are read; subjects have higher numbers than all of them.
    asked = keys_of(subjects, SUBJECTS)
    pairs = most_in_common([asked], track_keys(), least=least, most=COMPARED, among_asked=False)
    candidates: dict[str, dict[str, list[int]]] = defaultdict(lambda: defaultdict(list))
    for subject, track_number in zip(pairs.asked.tolist(), pairs.others.tolist(), strict=True):
        shard, track = tracks[track_number]
        candidates[shard][track].append(subject - SUBJECTS)
    return candidates


@dataclass(frozen=True)
class MostSimilar:
    """The clip that another clip is most similar to."""

    number: int
    """Its number among the subjects."""
    passage: Passage | None
    """What they have in common; None if their codes are equal, and so their sound."""


def compare_with_each_other(subjects: Sequence[Subject]) -> list[MostSimilar | None]:
    """Return for each subject the other subject that it has most in common with; None if there is none.

    A subject with equal codes comes first (the earliest of them), because short or quiet clips have too few peaks to
    recognise equal sound by. Otherwise the longest passage counts."""
    best = list[MostSimilar | None]([None] * len(subjects))
    prints = [each.peaks for each in subjects]
    pairs = most_in_common([keys_of([quads(each) for each in prints])], [], least=LEAST_SOUND, most=COMPARED)
    for later, earlier in zip(pairs.asked.tolist(), pairs.others.tolist(), strict=True):
        for number, other in ((later, earlier), (earlier, later)):
            passage, previous = compare(prints[number], prints[other]), best[number]
            longest = previous.passage.strength if previous and previous.passage else 0
            if passage is not None and passage.strength > longest:
                best[number] = MostSimilar(other, passage)
    same: dict[tuple[str | None, bytes], list[int]] = defaultdict(list)
    for number, subject in enumerate(subjects):
        if len(subject.codes):
            same[subject.codec, subject.codes.tobytes()].append(number)
    for first, *others in same.values():
        for number in others:
            best[number] = MostSimilar(first, None)
        if others:
            best[first] = MostSimilar(others[0], None)
    return best


def quads_of(context: Context, shard: str, wanted: frozenset[str]) -> dict[str, npt.NDArray[np.uint64]]:
    """Return the quads of some of a shard's recordings, by `track_id`."""
    rows = _among(context.store.read(PRINTS, context.versions[TRACKS.name], [shard], ["track_id", "quads"]), wanted)
    lists = (each.values.to_numpy() for each in rows.column("quads"))
    return dict(zip(rows.column("track_id").to_pylist(), lists, strict=True))


def prints_of(context: Context, shard: str, wanted: frozenset[str]) -> dict[str, Print]:
    """Return the prints of some of a shard's recordings, by `track_id`."""
    columns = ["track_id", "peak_frames", "peak_pitches"]
    rows = _among(context.store.read(PRINTS, context.versions[TRACKS.name], [shard], columns), wanted)
    peaks = zip(rows.column("peak_frames"), rows.column("peak_pitches"), strict=True)
    prints = [Print(frames.values.to_numpy(), pitches.values.to_numpy()) for frames, pitches in peaks]
    return dict(zip(rows.column("track_id").to_pylist(), prints, strict=True))


def codes_of(context: Context, shard: str, wanted: frozenset[str]) -> dict[str, tuple[str | None, float, Codes]]:
    """Return the codec's identity, its frames per second and the codes of the first codebook of some of a shard's
    recordings, by `track_id`. Empty if the shard has no tokens."""
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
    """Return the peaks of a part of a print, with its beginning, s, moved to 0."""
    first = round(begin * FRAMES_A_SECOND)
    chosen = peaks.frames >= first
    if seconds is not None:
        chosen &= peaks.frames < first + round(seconds * FRAMES_A_SECOND)
    return Print((peaks.frames[chosen] - first).astype(np.int32), peaks.pitches[chosen])


def _among(rows: pa.Table, wanted: frozenset[str]) -> pa.Table:
    return rows.filter(pc.is_in(rows.column("track_id"), pa.array(sorted(wanted), pa.string())))
