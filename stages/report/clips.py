"""Clips as the page shows them: each with its request, its scores in words, and where it comes from."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from urllib.parse import quote

from schemas.tables import Row
from stages.audio.references import Reference
from stages.report.annotations import Annotations, annotations

SHORT_ID = 8
"""Digits of an identity that a page shows; the whole one is in the tables."""


CLEAR_SEAM = 0.9
"""Share of other moments with less change above which a clip's seams are told."""

AUDIBLE_OFFSET = 0.01
"""Constant part of a clip, as a share of full scale, from which it is told: it clicks at both ends."""


@dataclass(frozen=True)
class Score:
    """A score in words. `verdict` is empty, or `right` or `wrong`."""

    name: str
    value: str
    note: str = ""
    verdict: str = ""


@dataclass(frozen=True)
class SimilarityMeter:
    """Chroma similarity on a line from 0 to 100, with the marks that it is compared with."""

    value: float
    untrained: float | None
    chance: float | None
    ceiling: float | None
    words: str


@dataclass(frozen=True)
class ClipView:
    """A clip, ready to be drawn. Every text is data: the template escapes it."""

    anchor: str
    title: str
    description: str
    audio: str
    """The file's address relative to the page."""
    picture: str
    length: str
    facts: tuple[Score, ...]
    scores: tuple[Score, ...]
    meter: SimilarityMeter | None
    annotations: Annotations | None
    """Its beats and chords, asked and heard."""
    lineage: tuple[tuple[str, str], ...]
    order: dict[str, float]
    """Values to sort by, larger first; NaN-free, what is missing is left out."""
    kinds: tuple[str, ...]
    """Words to filter by: `melody`, `clap`, `prompt`, `key`, `tempo`, `chords`."""


def relative_address(path: str) -> str:
    """Return the address, from the page in `report/`, of a file of the store.

    Raises:
        ValueError: the path leads out of the store.
    """
    parts = PurePosixPath(path).parts
    if not parts or parts[0] == "/" or ".." in parts:
        raise ValueError(f"expected a relative path inside the store, got {path!r}")
    return "../" + "/".join(quote(part, safe="=") for part in parts)


def minutes(seconds: float) -> str:
    """Write a length as `0:08`, `12:05` or `1:02:03`."""
    whole = round(seconds)
    hours, rest = divmod(whole, 3600)
    return f"{hours}:{rest // 60:02d}:{rest % 60:02d}" if hours else f"{rest // 60}:{rest % 60:02d}"


def clip_view(
    clip: Row, request: Row, generation: Row, score: Row | None, tracks: Mapping[str, Row], picture: str, versions: str
) -> ClipView:
    """Show a clip with all that belongs to it.

    Args:
        clip, request, generation, score: rows of one (request_id, take); a clip may have no score.
        tracks: rows of `tracks` by id, for titles.
        picture: address of its picture relative to the page.
        versions: the versions of the tables behind it, in words.

    Raises:
        ValueError: the clip's path leads out of the store.
    """
    score = score or {}
    references = {name: request[name] for name in ("melody", "clap", "prompt") if request[name]}
    kinds = [*references]
    kinds += [word for word, column in (("key", "key"), ("tempo", "bpm")) if request[column] is not None]
    kinds += ["chords"] if score.get("chords_asked") else []
    description = request["description"] or ""
    takes = f" · take {clip['take'] + 1}" if (request["takes"] or 1) > 1 else ""
    return ClipView(
        anchor=f"clip-{clip['request_id'][:16]}-{clip['take']}",
        title=(request["title"] or request["name"] or description or clip["request_id"][:SHORT_ID]) + takes,
        description=description,
        audio=relative_address(clip["path"]),
        picture=picture,
        length=minutes(clip["seconds"]),
        facts=_clip_facts(clip, request, references, tracks),
        scores=_score_words(score, tracks),
        meter=_meter(score),
        annotations=annotations(score, clip["seconds"]),
        lineage=(
            ("Request", clip["request_id"]),
            *((f"{name.capitalize()} reference", reference) for name, reference in references.items()),
            ("Line", f"{request['line']} of the requests file" if request["line"] is not None else "–"),
            ("Take and seed", f"{clip['take']}, {generation['seed']}"),
            ("Checkpoint", clip["checkpoint_id"]),
            ("Tables", versions),
            ("File", clip["path"]),
            ("SHA-256", clip["sha256"]),
        ),
        order=_order(clip, score),
        kinds=tuple(kinds),
    )


def _clip_facts(clip: Row, request: Row, references: Mapping[str, str], tracks: Mapping[str, Row]) -> tuple[Score, ...]:
    facts = [Score(name.capitalize(), _with_title(reference, tracks)) for name, reference in references.items()]
    facts += [Score(name.capitalize(), value) for name, value in request["fields"] or ()]
    sampling = f"guidance {request['guidance']:g}, temperature {request['temperature']:g}, top-k {request['top_k']}"
    if request["guidance_text"] not in (None, 1):
        sampling = f"text guidance {request['guidance_text']:g}, {sampling}"
    facts.append(Score("Sampling", sampling + (f", top-p {request['top_p']:g}" if request["top_p"] else "")))
    loudness = f"{_finite(clip['loudness'], '.1f')} LUFS, peak {_finite(clip['true_peak'], '.1f')} dBTP"
    return (
        *facts,
        Score("Level", loudness),
        Score("File", f"{clip['format'].upper()}, {clip['sample_rate'] / 1000:g} kHz"),
    )


def _with_title(reference: str, tracks: Mapping[str, Row]) -> str:
    """Write a reference as the title of the track that it names, where it names one."""
    named = Reference.from_row(reference)
    track = tracks.get(named.value) if named.kind == "track" else None
    if track is None:
        return reference[:200]
    return " by ".join(filter(None, (track["title"] or "untitled", track["artist"])))


def _score_words(score: Row, tracks: Mapping[str, Row]) -> tuple[Score, ...]:
    words = []
    if score.get("key_asked") is not None:
        words.append(
            Score("Key", score["key"] or "none heard", f"asked {score['key_asked']}", _verdict(score["key_correct"]))
        )
    if score.get("bpm_asked") is not None:
        bpm = _finite(score["bpm"], ".0f", " bpm")
        words.append(Score("Tempo", bpm, f"asked {score['bpm_asked']:.0f}", _verdict(score["bpm_correct"])))
    for name, word in (("beat_f_measure", "Beats"), ("chord_accuracy", "Chords")):
        if score.get(name) is not None:
            words.append(Score(word, f"{score[name]:.0%}"))
    if score.get("drums_asked") is not None:
        asked = "asked for" if score["drums_asked"] else "asked for none"
        words.append(Score("Drums", "yes" if score["drums"] else "none", asked, _verdict(score["drums_correct"])))
    if score.get("clap_similarity") is not None:
        words.append(Score("Text match", f"{score['clap_similarity']:.2f}"))
    if score.get("nearest_track") is not None:
        track = tracks.get(score["nearest_track"], {})
        name = track.get("title") or score["nearest_track"][:SHORT_ID]
        words.append(Score("Nearest track", f"{score['nearest_similarity']:.2f}", name))
    if score.get("seconds_asked") is not None and abs(score["seconds"] - score["seconds_asked"]) > 0.02:
        words.append(Score("Length", f"{score['seconds']:.2f} s", f"asked {score['seconds_asked']:.2f}", "wrong"))
    if (score.get("seam_contrast") or 0) > CLEAR_SEAM:
        words.append(Score("Seams", f"{score['seam_contrast']:.0%}", "of moments change less", "wrong"))
    if (score.get("dc") or 0) > AUDIBLE_OFFSET:
        words.append(Score("DC offset", f"{score['dc']:.3f}", "", "wrong"))
    for name, word in (("silence", "Silence"), ("clipping", "Clipping")):
        if score.get(name):
            words.append(
                Score(word, f"{score[name]:.1%}", "", "wrong" if score[name] > 0.5 or name == "clipping" else "")
            )
    return tuple(words)


def _meter(score: Row) -> SimilarityMeter | None:
    value = score.get("chroma_similarity")
    if value is None:
        return None
    marks = {name: score.get(f"chroma_similarity_{name}") for name in ("untrained", "chance", "ceiling")}
    percent = {name: None if mark is None else round(100 * mark, 1) for name, mark in marks.items()}
    return SimilarityMeter(
        value=round(100 * value, 1),
        untrained=percent["untrained"],
        chance=percent["chance"],
        ceiling=percent["ceiling"],
        words=" · ".join(f"{name} {100 * mark:.0f}" for name, mark in marks.items() if mark is not None),
    )


def _order(clip: Row, score: Row) -> dict[str, float]:
    # A sort key of the page -> the value to sort by.
    nearest = score.get("nearest_similarity")
    values = {
        "melody": score.get("chroma_similarity"),
        "text": score.get("clap_similarity"),
        "nearest": nearest,
        "seconds": clip["seconds"],
        "loudness": clip["loudness"],
    }
    return {name: round(value, 5) for name, value in values.items() if value is not None and math.isfinite(value)}


def _verdict(right: bool | None) -> str:
    return "" if right is None else "right" if right else "wrong"


def _finite(value: float | None, form: str, unit: str = "") -> str:
    return "–" if value is None or not math.isfinite(value) else f"{value:{form}}{unit}"


def clip_views(
    clips: Sequence[Row],
    requests: Sequence[Row],
    generations: Sequence[Row],
    scores: Sequence[Row],
    tracks: Sequence[Row],
    pictures: Mapping[str, str],
    versions: str,
) -> list[ClipView]:
    """Show all clips in the order of the requests file, then of takes.

    Args:
        pictures: addresses relative to the page, by the clip's SHA-256.
        versions: the versions of the tables behind them, in words.
    """
    request_of = {row["request_id"]: row for row in requests}
    generation_of = {(row["request_id"], row["take"]): row for row in generations}
    score_of = {(row["request_id"], row["take"]): row for row in scores}
    track_of = {row["track_id"]: row for row in tracks}

    def order(clip: Row) -> tuple[int, int, str, int]:
        request = request_of[clip["request_id"]]
        return request["shard"] or 0, request["line"] or 0, clip["request_id"], clip["take"]

    return [
        clip_view(
            clip,
            request_of[clip["request_id"]],
            generation_of[clip["request_id"], clip["take"]],
            score_of.get((clip["request_id"], clip["take"])),
            track_of,
            pictures[clip["sha256"]],
            versions,
        )
        for clip in sorted(clips, key=order)
    ]
