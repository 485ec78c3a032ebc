"""Clips as the page shows them: each with its request, its scores in words, and where it comes from."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from urllib.parse import quote

Row = dict
"""A row of a table, by column."""

SHORT = 8
"""Digits of an identity that a page shows; the whole one is in the tables."""


@dataclass(frozen=True)
class Score:
    """A score in words. `verdict` is empty, or `right` or `wrong`."""

    name: str
    value: str
    note: str = ""
    verdict: str = ""


@dataclass(frozen=True)
class Meter:
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
    meter: Meter | None
    lineage: tuple[tuple[str, str], ...]
    checkpoint: str
    order: dict[str, float]
    """Values to sort by, larger first; NaN-free, what is missing is left out."""
    kinds: tuple[str, ...]
    """Words to filter by: `melody`, `clap`, `prompt`, `key`, `tempo`."""


def relative_address(path: str) -> str:
    """The address, from the page in `report/`, of a file of the store.

    Raises:
        ValueError: the path leads out of the store.
    """
    parts = PurePosixPath(path).parts
    if not parts or parts[0] == "/" or ".." in parts:
        raise ValueError(f"expected a relative path inside the store, got {path!r}")
    return "../" + "/".join(quote(part, safe="=") for part in parts)


def minutes(seconds: float) -> str:
    """`0:08`, `12:05`, `1:02:03`."""
    whole = round(seconds)
    hours, rest = divmod(whole, 3600)
    return f"{hours}:{rest // 60:02d}:{rest % 60:02d}" if hours else f"{rest // 60}:{rest % 60:02d}"


def view(
    clip: Row, request: Row, generation: Row, score: Row | None, tracks: Mapping[str, Row], picture: str, versions: str
) -> ClipView:
    """A clip with all that belongs to it.

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
    description = request["description"] or ""
    takes = f" · take {clip['take'] + 1}" if (request["takes"] or 1) > 1 else ""
    return ClipView(
        anchor=f"clip-{clip['request_id'][:16]}-{clip['take']}",
        title=(request["title"] or request["name"] or description or clip["request_id"][:SHORT]) + takes,
        description=description,
        audio=relative_address(clip["path"]),
        picture=picture,
        length=minutes(clip["seconds"]),
        facts=_facts(clip, request, references, tracks),
        scores=_scores(score, tracks),
        meter=_meter(score),
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
        checkpoint=clip["checkpoint_id"],
        order=_order(clip, score),
        kinds=tuple(kinds),
    )


def _facts(clip: Row, request: Row, references: Mapping[str, str], tracks: Mapping[str, Row]) -> tuple[Score, ...]:
    facts = [Score(name.capitalize(), _named(reference, tracks)) for name, reference in references.items()]
    facts += [Score(name.capitalize(), value) for name, value in request["fields"] or ()]
    sampling = f"guidance {request['guidance']:g}, temperature {request['temperature']:g}, top-k {request['top_k']}"
    if request["guidance_text"] not in (None, 1):
        sampling = f"text guidance {request['guidance_text']:g}, {sampling}"
    facts.append(Score("Sampling", sampling + (f", top-p {request['top_p']:g}" if request["top_p"] else "")))
    loudness = f"{_number(clip['loudness'], '.1f')} LUFS, peak {_number(clip['true_peak'], '.1f')} dBTP"
    return (
        *facts,
        Score("Level", loudness),
        Score("File", f"{clip['format'].upper()}, {clip['sample_rate'] / 1000:g} kHz"),
    )


def _named(reference: str, tracks: Mapping[str, Row]) -> str:
    """A reference with the title of the track that it names, where it names one."""
    kind, _, value = reference.partition(":")
    track = tracks.get(value) if kind == "track" else None
    if track is None:
        return reference[:200]
    return " by ".join(filter(None, (track["title"] or "untitled", track["artist"])))


def _scores(score: Row, tracks: Mapping[str, Row]) -> tuple[Score, ...]:
    found = []
    if score.get("key_asked") is not None:
        found.append(
            Score("Key", score["key"] or "none heard", f"asked {score['key_asked']}", _verdict(score["key_correct"]))
        )
    if score.get("bpm_asked") is not None:
        heard = _number(score["bpm"], ".0f", " bpm")
        found.append(Score("Tempo", heard, f"asked {score['bpm_asked']:.0f}", _verdict(score["bpm_correct"])))
    if score.get("clap_similarity") is not None:
        found.append(Score("Text match", f"{score['clap_similarity']:.2f}"))
    if score.get("nearest_track") is not None:
        track = tracks.get(score["nearest_track"], {})
        name = track.get("title") or score["nearest_track"][:SHORT]
        found.append(Score("Nearest track", f"{score['nearest_similarity']:.2f}", name))
    if score.get("seconds_asked") is not None and abs(score["seconds"] - score["seconds_asked"]) > 0.02:
        found.append(Score("Length", f"{score['seconds']:.2f} s", f"asked {score['seconds_asked']:.2f}", "wrong"))
    for name, word in (("silence", "Silence"), ("clipping", "Clipping")):
        if score.get(name):
            found.append(
                Score(word, f"{score[name]:.1%}", "", "wrong" if score[name] > 0.5 or name == "clipping" else "")
            )
    return tuple(found)


def _meter(score: Row) -> Meter | None:
    value = score.get("chroma_similarity")
    if value is None:
        return None
    marks = {name: score.get(f"chroma_similarity_{name}") for name in ("untrained", "chance", "ceiling")}
    words = [f"{name} {100 * mark:.0f}" for name, mark in marks.items() if mark is not None]
    percent = {name: None if mark is None else round(100 * mark, 1) for name, mark in marks.items()}
    return Meter(round(100 * value, 1), percent["untrained"], percent["chance"], percent["ceiling"], " · ".join(words))


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


def _number(value: float | None, form: str, unit: str = "") -> str:
    return "–" if value is None or not math.isfinite(value) else f"{value:{form}}{unit}"


def views(
    clips: Sequence[Row],
    requests: Sequence[Row],
    generations: Sequence[Row],
    scores: Sequence[Row],
    tracks: Sequence[Row],
    pictures: Mapping[str, str],
    versions: str,
) -> list[ClipView]:
    """All clips in the order of the requests file, then of takes. `pictures` are addresses by the clip's SHA-256."""
    request_of = {row["request_id"]: row for row in requests}
    generation_of = {(row["request_id"], row["take"]): row for row in generations}
    score_of = {(row["request_id"], row["take"]): row for row in scores}
    track_of = {row["track_id"]: row for row in tracks}

    def place(clip: Row) -> tuple[int, int, str, int]:
        request = request_of[clip["request_id"]]
        return request["shard"] or 0, request["line"] or 0, clip["request_id"], clip["take"]

    return [
        view(
            clip,
            request_of[clip["request_id"]],
            generation_of[clip["request_id"], clip["take"]],
            score_of.get((clip["request_id"], clip["take"])),
            track_of,
            pictures[clip["sha256"]],
            versions,
        )
        for clip in sorted(clips, key=place)
    ]
