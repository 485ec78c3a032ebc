"""Clips as the page shows them: each with its request, its scores in words and in numbers, and where it comes from."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from urllib.parse import quote

from schemas.tables import Row
from stages.audio.references import Reference
from stages.report.annotations import Annotations, annotations
from stages.report.columns import WORDS, has_its_length, values

SHORT_ID = 8
"""How many digits of an id the page shows; the tables have all of them."""

CLEAR_SEAM = 0.9
"""A clip's seams are listed as a fault if more than this share of other moments change less than they do."""

AUDIBLE_OFFSET = 0.01
"""A constant offset above this share of full scale is listed as a fault: the clip clicks at both ends."""

MARKED_ZEROS = 0.05
"""A clip is marked if more than this share of its samples is exactly zero. It is more than ten times what recordings
and a codec's versions of them have (0.4 %)."""

MARKED_SILENCE = 0.5
"""A clip is marked if it is silent for more than this share of its time."""


@dataclass(frozen=True)
class Score:
    """A score as text. `verdict` is empty, `right` or `wrong`."""

    column: str
    value: str
    note: str = ""
    verdict: str = ""

    @property
    def name(self) -> str:
        return WORDS[self.column]


@dataclass(frozen=True)
class Sound:
    """A sound that the clip can be compared with by ear."""

    role: str
    """What the sound is to the clip, such as `Untrained model`."""
    title: str
    audio: str
    """The file's address relative to the page."""
    picture: str


@dataclass(frozen=True)
class Twin:
    """The clip that another checkpoint made for the same request and seed."""

    checkpoint: str
    audio: str
    picture: str
    scores: tuple[Score, ...]
    values: Mapping[str, float]
    annotations: Annotations | None


@dataclass(frozen=True)
class ClipView:
    """A clip, ready to be drawn. All texts are data: template and scripts write them only as text."""

    request_id: str
    take: int
    """Number of the take, from 1."""
    takes: int
    """How many takes the request has."""
    title: str
    description: str
    audio: str
    """The file's address relative to the page."""
    picture: str
    path: str
    """The file's path in the store."""
    length: str
    seed: int
    checkpoint: str
    facts: tuple[tuple[str, str], ...]
    scores: tuple[Score, ...]
    values: Mapping[str, float]
    """Values by column, to sort and filter by; missing values are left out."""
    marks: tuple[tuple[str, str], ...]
    """What a listener should know first: a word or two, and a sentence that explains them."""
    annotations: Annotations | None
    """The clip's beats and chords, as asked and as heard."""
    lineage: tuple[tuple[str, str], ...]
    kinds: tuple[str, ...]
    """Words to filter by: `melody`, `clap`, `prompt`, `key`, `tempo`, `chords`, `drums` or `no-drums` as heard,
    `stale`, `marked`."""
    fields: tuple[tuple[str, str], ...] = ()
    """The fields of its request, such as a genre."""
    sounds: tuple[Sound, ...] = ()
    twin: Twin | None = None

    @property
    def anchor(self) -> str:
        return f"clip-{self.request_id[:16]}-{self.take}"


@dataclass(frozen=True)
class ClipContext:
    """The context of a catalog's clips: rows to look things up in, and files that were made for the page."""

    tracks: Mapping[str, Row]
    """Rows of `tracks` by id."""
    pictures: Mapping[str, str]
    """Addresses relative to the page, by the sound's SHA-256."""
    untrained: Mapping[tuple[str, int], Row] = field(default_factory=dict)
    """Rows of `controls` with the sound of an untrained model, by request and take."""
    excerpts: Mapping[str, Sound] = field(default_factory=dict)
    """Excerpts of recordings by the reference to them; their `role` is empty."""
    versions: str = ""
    """The versions of the tables that the clips come from, in words."""


def relative_address(path: str) -> str:
    """Return the address of a file of the store, relative to the page in `report/`.

    Raises:
        ValueError: the path leads out of the store.
    """
    parts = PurePosixPath(path).parts
    if not parts or parts[0] == "/" or ".." in parts:
        raise ValueError(f"expected a relative path inside the store, got {path!r}")
    return "../" + "/".join(quote(part, safe="=") for part in parts)


def minutes(seconds: float) -> str:
    """Return a length in seconds as `0:08`, `12:05` or `1:02:03`."""
    whole = round(seconds)
    hours, rest = divmod(whole, 3600)
    return f"{hours}:{rest // 60:02d}:{rest % 60:02d}" if hours else f"{rest // 60}:{rest % 60:02d}"


def clip_view(
    clip: Row, request: Row, seed: int, score: Row | None, context: ClipContext, twin: Twin | None
) -> ClipView:
    """Return the view of a clip with everything that belongs to it.

    Args:
        clip, request, score: rows of one (request_id, take); a clip may have no score.
        twin: the clip that another checkpoint made for the same request and seed; None if there is none.

    Raises:
        ValueError: the clip's path leads out of the store.
    """
    score = score or {}
    references = {name: request[name] for name in ("melody", "clap", "prompt") if request[name]}
    description = request["description"] or ""
    marks = _marks(request, score)
    return ClipView(
        request_id=clip["request_id"],
        take=clip["take"],
        takes=request["takes"] or 1,
        title=request["title"] or request["name"] or description or clip["request_id"][:SHORT_ID],
        description=description,
        audio=relative_address(clip["path"]),
        picture=context.pictures[clip["sha256"]],
        path=clip["path"],
        length=minutes(clip["seconds"]),
        seed=seed,
        checkpoint=clip["checkpoint_id"],
        facts=_clip_facts(clip, request, references, context.tracks),
        scores=score_words(score, context.tracks),
        values=values(clip, score),
        marks=marks,
        annotations=annotations(score, clip["seconds"]),
        lineage=(
            ("Request", clip["request_id"]),
            *((f"{name.capitalize()} reference", reference) for name, reference in references.items()),
            ("Line", f"{request['line']} of the requests file" if request["line"] is not None else "–"),
            ("Take and seed", f"{clip['take']}, {seed}"),
            ("Checkpoint", clip["checkpoint_id"]),
            ("File", clip["path"]),
            ("SHA-256", clip["sha256"]),
        ),
        kinds=_kinds(request, score, references, marks),
        fields=tuple((str(name), str(value)) for name, value in request["fields"] or ()),
        sounds=tuple(_sounds(clip, score, references, context)),
        twin=twin,
    )


def _marks(request: Row, score: Row) -> tuple[tuple[str, str], ...]:
    marks = []
    if request.get("stale"):
        marks.append(("stale", f"Its line has been refused since; the clip is from the last order: {request['stale']}"))
    if (score.get("zeros") or 0) > MARKED_ZEROS:
        words = f"{score['zeros']:.0%}".replace("%", " %")
        marks.append((f"{words} digital silence", f"{words} of its samples are exactly zero"))
    elif (score.get("silence") or 0) > MARKED_SILENCE:
        words = f"{score['silence']:.0%}".replace("%", " %")
        marks.append((f"{words} silence", f"{words} of its length is below -60 dBFS"))
    return tuple(marks)


def _kinds(
    request: Row, score: Row, references: Mapping[str, str], marks: Sequence[tuple[str, str]]
) -> tuple[str, ...]:
    kinds = [*references]
    kinds += [word for word, column in (("key", "key"), ("tempo", "bpm")) if request[column] is not None]
    kinds += ["chords"] if score.get("chords_asked") else []
    if score.get("drums") is not None:
        kinds.append("drums" if score["drums"] else "no-drums")
    kinds += ["stale"] if request.get("stale") else []
    return (*kinds, *(["marked"] if marks else []))


def _clip_facts(
    clip: Row, request: Row, references: Mapping[str, str], tracks: Mapping[str, Row]
) -> tuple[tuple[str, str], ...]:
    facts = [(name.capitalize(), _with_title(reference, tracks)) for name, reference in references.items()]
    facts += [(name.capitalize(), value) for name, value in request["fields"] or ()]
    if request.get("reading"):
        facts.append(("Read as", request["reading"]))
    sampling = f"guidance {request['guidance']:g}, temperature {request['temperature']:g}, top-k {request['top_k']}"
    if request["guidance_text"] not in (None, 1):
        sampling = f"text guidance {request['guidance_text']:g}, {sampling}"
    facts.append(("Sampling", sampling + (f", top-p {request['top_p']:g}" if request["top_p"] else "")))
    loudness = f"{_finite(clip['loudness'], '.1f')} LUFS, peak {_finite(clip['true_peak'], '.1f')} dBTP"
    return (
        *facts,
        ("Level", loudness),
        ("Format", f"{clip['format'].upper()}, {clip['sample_rate'] / 1000:g} kHz"),
    )


def _with_title(reference: str, tracks: Mapping[str, Row]) -> str:
    """Return the title of the track that a reference names; the reference itself if it names none."""
    named = Reference.from_row(reference)
    track = tracks.get(named.value) if named.kind == "track" else None
    return reference[:200] if track is None else track_title(track)


def track_title(track: Row) -> str:
    """Return the name of a recording as `Title by Artist`."""
    return " by ".join(filter(None, (track["title"] or "untitled", track["artist"])))


def score_words(score: Row, tracks: Mapping[str, Row]) -> tuple[Score, ...]:
    """Return the scores of a row of `scores` as text: first what was asked for, then what is striking about the sound
    itself."""
    words = []
    if score.get("chroma_similarity") is not None:
        marks = {name: score.get(f"chroma_similarity_{name}") for name in ("untrained", "chance", "ceiling")}
        beside = " · ".join(f"{name} {100 * mark:.0f}" for name, mark in marks.items() if mark is not None)
        words.append(Score("chroma_similarity", _percent(score["chroma_similarity"]), beside))
    if score.get("key_asked") is not None:
        asked = f"asked {score['key_asked']}"
        words.append(Score("key_correct", score["key"] or "none heard", asked, _verdict(score["key_correct"])))
    if score.get("bpm_asked") is not None:
        bpm = _finite(score["bpm"], ".0f", " bpm")
        words.append(Score("bpm_correct", bpm, f"asked {score['bpm_asked']:.0f}", _verdict(score["bpm_correct"])))
    for column in ("beat_f_measure", "chord_accuracy"):
        if score.get(column) is not None:
            words.append(Score(column, _percent(score[column])))
    if score.get("drums_asked") is not None:
        asked = "asked for" if score["drums_asked"] else "asked for none"
        heard = "drums" if score["drums"] else "none"
        words.append(Score("drums_correct", heard, asked, _verdict(score["drums_correct"])))
    if score.get("instruments_asked"):
        missing = [name for name in score["instruments_asked"] if name not in score["instruments"]]
        beside = f"not heard: {', '.join(missing)}" if missing else "all that were asked for"
        words.append(Score("instrument_recall", _percent(score["instrument_recall"]), beside))
    if score.get("clap_similarity") is not None:
        words.append(Score("clap_similarity", _finite(score["clap_similarity"], ".2f")))
    if score.get("nearest_track") is not None:
        track = tracks.get(score["nearest_track"], {})
        name = track.get("title") or score["nearest_track"][:SHORT_ID]
        words.append(Score("nearest_similarity", _finite(score["nearest_similarity"], ".2f"), name))
    return (*words, *_faults(score))


def _faults(score: Row) -> list[Score]:
    faults = []
    if has_its_length(score) is False:
        asked = f"asked {score['seconds_asked']:.2f}"
        faults.append(Score("seconds_correct", f"{score['seconds']:.2f} s", asked, "wrong"))
    if (score.get("seam_contrast") or 0) > CLEAR_SEAM:
        faults.append(Score("seam_contrast", _percent(score["seam_contrast"]), "of moments change less", "wrong"))
    if (score.get("dc") or 0) > AUDIBLE_OFFSET:
        faults.append(Score("dc", f"{score['dc']:.3f}", "", "wrong"))
    for column, most in (("zeros", MARKED_ZEROS), ("silence", MARKED_SILENCE), ("clipping", 0.0)):
        if score.get(column) and (score[column] > most or column == "silence"):
            verdict = "wrong" if score[column] > most else ""
            faults.append(Score(column, f"{score[column]:.1%}".replace("%", " %"), "", verdict))
    return faults


def _sounds(clip: Row, score: Row, references: Mapping[str, str], context: ClipContext) -> list[Sound]:
    sounds = []
    untrained = context.untrained.get((clip["request_id"], clip["take"]))
    if untrained is not None:
        audio, picture = relative_address(untrained["path"]), context.pictures[untrained["sha256"]]
        sounds.append(Sound("Untrained model", "same request and seed", audio, picture))
    known = [(f"{name.capitalize()} reference", reference) for name, reference in references.items()]
    if score.get("nearest_track") is not None:
        known.append((WORDS["nearest_similarity"], f"track:{score['nearest_track']}"))
    for role, reference in known:
        excerpt = context.excerpts.get(reference)
        if excerpt is not None:
            sounds.append(Sound(role, excerpt.title, excerpt.audio, excerpt.picture))
    return sounds


def _percent(share: float) -> str:
    return f"{share:.0%}".replace("%", " %")


def _verdict(right: bool | None) -> str:
    return "" if right is None else "right" if right else "wrong"


def _finite(value: float | None, form: str, unit: str = "") -> str:
    return "–" if value is None or not math.isfinite(value) else f"{value:{form}}{unit}".replace("-", "−")


def clip_views(
    clips: Sequence[Row],
    requests: Sequence[Row],
    seeds: Mapping[tuple[str, int], int],
    scores: Sequence[Row],
    context: ClipContext,
    twins: Mapping[tuple[str, int], Twin],
) -> list[ClipView]:
    """Return the views of all clips, in the order of the requests file and then of the takes.

    Args:
        seeds: seeds by request and take.
        twins: what another checkpoint made, by request and take.
    """
    request_of = {row["request_id"]: row for row in requests}
    score_of = {(row["request_id"], row["take"]): row for row in scores}

    def order(clip: Row) -> tuple[int, int, str, int]:
        request = request_of[clip["request_id"]]
        return request["shard"] or 0, request["line"] or 0, clip["request_id"], clip["take"]

    return [
        clip_view(
            clip,
            request_of[clip["request_id"]],
            seeds[clip["request_id"], clip["take"]],
            score_of.get((clip["request_id"], clip["take"])),
            context,
            twins.get((clip["request_id"], clip["take"])),
        )
        for clip in sorted(clips, key=order)
    ]
