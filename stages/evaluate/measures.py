"""Measures: the score card of a catalog, a row for each measure of each group of sounds, with n and an interval.

The groups are

- `clips`: the clips that users see;
- `chance`: the same clips judged by what other requests asked for, so that a model that always makes the commonest key
  scores no more than chance;
- the groups of the table `controls`.

A share has Wilson's interval, a mean or a distance a bootstrap's (`stages.evaluate.statistics`), all of 95 %.

Sets of sounds are compared by the Fréchet distance of two Gaussians, as in FAD (K. Kilgour et al., "Fréchet audio
distance", Interspeech 2019). The name FAD implies embeddings: `fad_clap` uses those of a CLAP whose digest is given,
while `mel_fd` uses plain statistics of mel bands. If there are too few sounds for the number of dimensions, the
distance is refused.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

import schemas
from schemas import WeightsRef
from schemas.identity import by_hash
from schemas.tables import CLAP, CLIPS, CONTROLS, MEASURES, ORIGINALITY, SCORES, TRACKS, Row
from schemas.tables.catalog import clips_shown
from schemas.weights import LocalWeights
from stages.evaluate.statistics import Estimate, Vectors, frechet_interval, mean_interval, wilson_interval
from stages.judging.judging import Asked, Detected, judge
from stages.networks.published import LAION_CLAP
from stages.pipeline.contract import Context, Dependencies, ReduceResult

READS, STREAMS = (SCORES, CONTROLS, CLIPS, ORIGINALITY, TRACKS, CLAP), (CLAP,)
OPTIONAL, WRITES, VERSION = (CONTROLS, ORIGINALITY, TRACKS, CLAP), MEASURES, 4

CLIPS_GROUP, CHANCE_GROUP = "clips", "chance"
REFERENCE_GROUP = "raw"
"""Group that sets are compared with: held-out recordings as they are."""

ROTATIONS = 5
"""Most other requests that each clip is judged by for the chance level."""

LENGTH_TOLERANCE = 0.02
"""Largest difference, s, between a clip's length and the length that was asked for."""


class Config(schemas.Config):
    """The model whose embeddings sets are compared by."""

    clap: WeightsRef | None = LAION_CLAP
    """The CLAP model of the clips' and the tracks' embeddings, whose digest `fad_clap` names. In a recipe it is
    `clap.model` unless it is given. None leaves that distance out."""


def dependencies(config: Config, weights: Callable[[WeightsRef], LocalWeights]) -> Dependencies:
    """Return what the measures depend on: the clips' models, the columns that say which clips users see, and the
    tracks' splits."""
    columns = {
        CLIPS.name: ("request_id", "take", "checkpoint_id", "reasons", "sha256"),
        ORIGINALITY.name: ("request_id", "take", "sha256", "too_near"),
        TRACKS.name: ("track_id", "split"),
    }
    return Dependencies(config, (), columns=columns)


@dataclass(frozen=True)
class Measure:
    """A column of `scores` that is averaged over sounds."""

    column: str
    unit: str
    """`share` (0 to 1), `cosine`, `Hz`, `s` or `full scale`."""
    of: Callable[[Row], Any] | None = None
    """Computes the value from a row, if it is not a column."""

    def values(self, rows: Sequence[Row]) -> list[Any]:
        """Return the values of those rows that have one."""
        values = (self.of(row) if self.of else row.get(self.column) for row in rows)
        return [value for value in values if value is not None]


def _has_its_length(row: Row) -> bool | None:
    asked = row.get("seconds_asked")
    return None if asked is None else abs(row["seconds"] - asked) <= LENGTH_TOLERANCE


CARD = (
    *(Measure(name, "share") for name in ("chroma_similarity", "key_correct", "key_score")),
    *(Measure(name, "share") for name in ("bpm_correct", "bpm_correct_octave", "beat_f_measure")),
    *(Measure(name, "share") for name in ("chord_accuracy", "drums_correct", "instrument_recall")),
    Measure("seconds_correct", "share", _has_its_length),
    Measure("clap_similarity", "cosine"),
    *(Measure(name, "share") for name in ("seam_contrast", "pulse_clarity", "pitch_strength")),
    Measure("centroid", "Hz"),
    Measure("silence", "share"),
    Measure("zeros", "share"),
    Measure("head_silence", "s"),
    Measure("tail_silence", "s"),
    Measure("dc", "full scale"),
)
"""The measures, in the order of the card. True or false values give the share of sounds that are right; others are
averaged."""

FAMILIES: Mapping[str, tuple[str, ...]] = {
    "key": ("key_correct", "key_score"),
    "bpm": ("bpm_correct", "bpm_correct_octave"),
    "beats": ("beat_f_measure",),
    "chords": ("chord_accuracy",),
    "drums": ("drums_correct",),
    "instruments": ("instrument_recall",),
}
"""What is asked for → the measures of whether it was followed."""


def reduce(
    config: Config,
    context: Context,
    scores: pa.Table,
    controls: pa.Table,
    clips: pa.Table,
    originality: pa.Table,
    tracks: pa.Table,
) -> ReduceResult:
    """Return the score cards of the clips of each model."""
    control_rows = controls.to_pylist()
    shown = clips_shown(clips.to_pylist(), originality.to_pylist())
    model_of = {(row["request_id"], row["take"]): row["checkpoint_id"] for row in shown}
    score_rows = [row for row in scores.to_pylist() if (row["request_id"], row["take"]) in model_of]
    by_model: dict[str, list[Row]] = {}
    for row in score_rows:
        by_model.setdefault(model_of[row["request_id"], row["take"]], []).append(row)
    rows: list[Row] = []
    for checkpoint, own in sorted(by_model.items()):
        beside = [row for row in control_rows if row["checkpoint_id"] in ("", checkpoint)]
        groups = {CLIPS_GROUP: own} | _by_sounds(beside)
        rows += [row | {"checkpoint_id": checkpoint} for row in card_rows(groups)]
        if config.clap is not None:
            digest = context.weights(config.clap).digest[:16]
            rows += [row | {"checkpoint_id": checkpoint} for row in _clap_rows(context, own, tracks, digest)]
    return ReduceResult(rows)


def _by_sounds(rows: Sequence[Row]) -> dict[str, list[Row]]:
    groups: dict[str, list[Row]] = {}
    for row in rows:
        groups.setdefault(row["sounds"], []).append(row)
    return groups


def card_rows(groups: Mapping[str, Sequence[Row]]) -> Iterator[Row]:
    """Yield the rows of `measures`, without their checkpoint, for groups of rows of `scores` and `controls`. Chance is
    computed for the clips."""
    for measure in CARD:
        for sounds, rows in groups.items():
            if values := measure.values(rows):
                yield _averaged(measure.column, sounds, measure.unit, values)
            if sounds == CLIPS_GROUP and (by_chance := chance_values(measure.column, rows)):
                yield _averaged(measure.column, CHANCE_GROUP, measure.unit, by_chance)
    reference = _mel_vectors(groups.get(REFERENCE_GROUP, ()))
    for sounds, rows in groups.items():
        first, second = _mel_vectors(rows), reference
        if sounds == REFERENCE_GROUP:
            first, second = reference[::2], reference[1::2]
        note = "between two halves of them" if sounds == REFERENCE_GROUP else "from the held-out recordings"
        yield _distance("mel_fd", sounds, first, second, f"8 mel bands, mean and deviation; {note}")


def _averaged(measure: str, sounds: str, unit: str, values: Sequence[Any]) -> Row:
    """Return the row of a measure: a share with Wilson's interval, or a mean with a bootstrap's."""
    if isinstance(values[0], bool):
        right = sum(values)
        return _row(measure, sounds, unit, wilson_interval(right, len(values))) | {"successes": right}
    if any(measure in columns for columns in FAMILIES.values()) and set(values) in ({0.0}, {1.0}):
        # If all answers are entirely right, or all entirely wrong, a bootstrap has no spread to resample.
        return _row(measure, sounds, unit, wilson_interval(round(sum(values)), len(values)))
    return _row(measure, sounds, unit, mean_interval(values))


def _row(measure: str, sounds: str, unit: str, estimate: Estimate, note: str = "") -> Row:
    row: Row = {"measure": measure, "sounds": sounds, "unit": unit, "note": note, "n": estimate.n}
    return row | {"value": estimate.value, "low": estimate.low, "high": estimate.high}


def chance_values(column: str, rows: Sequence[Row]) -> list[float]:
    """Return the chance values of a measure: for each clip its mean over what some other requests asked for; for the
    melody, over all orders of its frames. Empty if the measure has no chance level, or there is no other request."""
    if column == "chroma_similarity":
        return [row["chroma_similarity_chance"] for row in rows if row.get("chroma_similarity_chance") is not None]
    family = next((asked for asked, columns in FAMILIES.items() if column in columns), None)
    if family is None:
        return []
    asking = [row for row in rows if row.get(f"{family}_asked") is not None]
    asking.sort(key=lambda row: by_hash(f"{row['request_id']}/{row['take']}"))
    shifts = range(1, min(ROTATIONS, len(asking) - 1) + 1)
    values = []
    for number, row in enumerate(asking if shifts else ()):
        others = [_asked(asking[(number + shift) % len(asking)]) for shift in shifts]
        values.append(float(np.mean([judge(other, _detected(row))[column] for other in others])))
    return values


def _asked(row: Row) -> Asked:
    """Return what was asked, by a row's columns."""
    beats, chords, instruments = row["beats_asked"], row["chords_asked"], row["instruments_asked"]
    return Asked(
        key=row["key_asked"],
        bpm=row["bpm_asked"],
        beats=None if beats is None else tuple(beats),
        chords=tuple(chords) if chords else None,
        drums=row["drums_asked"],
        instruments=tuple(instruments) if instruments else None,
    )


def _detected(row: Row) -> Detected:
    beats, chords, instruments = tuple(row["beats"] or ()), tuple(row["chords"] or ()), row["instruments"]
    return Detected(
        row["key"], row["bpm"], beats, chords, bool(row["drums"]), tuple(instruments) if instruments else None
    )


def _mel_vectors(rows: Sequence[Row]) -> Vectors:
    return np.array([row["mel_statistics"] for row in rows if row["mel_statistics"]], dtype=np.float64).reshape(-1, 16)


def _distance(measure: str, sounds: str, first: Vectors, second: Vectors, note: str) -> Row:
    """Return the row of a distance; if there are too few sounds, the row says that it was refused."""
    try:
        return _row(measure, sounds, "distance", frechet_interval(first, second), note)
    except ValueError as error:
        n = min(len(first), len(second))
        return {"measure": measure, "sounds": sounds, "unit": "distance", "n": n, "note": f"refused: {error}"}


def _clap_rows(context: Context, scores: Sequence[Row], tracks: pa.Table, digest: str) -> list[Row]:
    """Return the row for the distance between clips and held-out recordings in CLAP's space. Each sound is the mean of
    its windows' embeddings. Empty if clips or recordings have none."""
    of_clips = [np.mean(row["embeddings"], axis=0) for row in scores if row["embeddings"]]
    held_out = tracks.filter(pc.is_in(tracks.column("split"), pa.array(["valid", "test"]))).column("track_id")
    of_tracks: list[Any] = []
    version = context.versions.get(CLAP.name, "")
    for shard in context.store.shards(CLAP, version) if version and of_clips else ():
        context.check_stopped()
        rows = context.store.read(CLAP, version, [shard], ["track_id", "embeddings"])
        chosen = rows.filter(pc.is_in(rows.column("track_id"), held_out)).to_pylist()
        of_tracks += [np.mean(row["embeddings"], axis=0) for row in chosen if row["embeddings"]]
    if not of_clips or not of_tracks:
        return []
    first, second = (np.array(sounds, dtype=np.float64) for sounds in (of_clips, of_tracks))
    return [_distance("fad_clap", CLIPS_GROUP, first, second, f"CLAP {digest}; from the held-out recordings")]
