"""The score card: the rows of `measures` as a table with a line for each measure and a column for each group of sounds.

Each value has its n and its interval. Nothing is computed here except the share of the ceiling that clips reach."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from schemas.tables import Row

COLUMNS = {
    "clips": ("Clips", "the clips of this catalog"),
    "chance": ("Chance", "the same clips, judged by other requests"),
    "untrained": ("Untrained", "same architecture, requests and seeds; random weights"),
    "codec": ("Codec ceiling", "held-out recordings, through the codec"),
    "raw": ("Recordings", "held-out recordings as they are: how reliable the detector is"),
}
"""Group of sounds -> its heading and a description."""

FOLLOWED = {
    "chroma_similarity": ("Melody", "frames whose strongest pitch class is the requested one"),
    "key_correct": ("Key", "exactly the requested one of 24"),
    "key_score": ("Key, MIREX score", "a fifth off counts a half, the relative key 0.3, the parallel 0.2"),
    "bpm_correct": ("Tempo", "within 4 %"),
    "bpm_correct_octave": ("Tempo, octave forgiven", "within 4 % of it, or of 2, 3, 1/2 or 1/3 times it"),
    "beat_f_measure": ("Beats", "F-measure within 70 ms"),
    "chord_accuracy": ("Chords by bar", "root and major or minor right for most of a bar"),
    "drums_correct": ("Drums or none", "as the description says"),
    "instrument_recall": ("Instruments", "share of the named ones among as many as usually play, judged by the codes"),
    "seconds_correct": ("Length", "within 0.02 s"),
    "clap_similarity": ("Text", "CLAP cosine of clip and description"),
}
"""Measures of what was asked for -> their names and descriptions."""

SOUND = {
    "pulse_clarity": ("Pulse clarity", "highest autocorrelation of the onsets at a tempo"),
    "pitch_strength": ("Pitch strength", "share of a frame's strongest pitch class"),
    "centroid": ("Spectral centroid", "centre of the mean spectrum"),
    "silence": ("Silence", "share of the time under -60 dBFS"),
    "zeros": ("Digital silence", "share of samples that are exactly zero"),
    "head_silence": ("Silence at the beginning", ""),
    "tail_silence": ("Silence at the end", ""),
    "dc": ("DC offset", "mean of the samples"),
    "seam_contrast": ("Seams of windows", "share of other moments with less change; about 50 % where windows fit"),
    "mel_fd": ("mel-FD", "Fréchet distance of mel statistics from held-out recordings; not FAD"),
    "fad_clap": ("FAD, CLAP", "Fréchet distance of CLAP embeddings from held-out recordings"),
}
"""Measures of the sound itself -> their names and descriptions."""


SMALL_SHARE = 0.1
"""Shares below this are written with one decimal."""


@dataclass(frozen=True)
class Cell:
    """A value with its interval and n, as text. `value` is empty if there is no row; if the row has no value,
    `interval` says why."""

    value: str = ""
    interval: str = ""


@dataclass(frozen=True)
class Line:
    """A measure with one cell for each heading."""

    name: str
    about: str
    cells: tuple[Cell, ...]


@dataclass(frozen=True)
class Card:
    """A table of the score card."""

    title: str
    headings: tuple[tuple[str, str], ...]
    """Each heading with its description."""
    lines: tuple[Line, ...]


def score_cards(measures: Sequence[Row]) -> list[Card]:
    """Lay out the measures of one model: what was asked for, the sound itself, and the experiments that were made."""
    by_name = {(row["measure"], row["sounds"]): row for row in measures}
    cards = [
        _card("What was asked", FOLLOWED, COLUMNS, by_name, ceiling=True),
        _card("The sound itself", SOUND, COLUMNS, by_name),
        _card("Swap test", FOLLOWED, _swap_columns(by_name), by_name),
        _card("Guidance", FOLLOWED, _guidance_columns(measures), by_name),
    ]
    return [card for card in cards if card is not None]


def _swap_columns(by_name: Mapping[tuple[str, str], Row]) -> dict[str, tuple[str, str]]:
    if not any(sounds == "swap_followed" for _, sounds in by_name):
        return {}
    return {
        "swap_followed": (
            "As requested",
            "another request’s conditions with the clip’s own seed, judged by those conditions",
        ),
        "swap_ignored": ("As the own request", "the same sounds, judged by what their own request asked for: chance"),
    }


def _guidance_columns(measures: Sequence[Row]) -> dict[str, tuple[str, str]]:
    guided = {row["sounds"] for row in measures if row["sounds"].startswith("guidance ")}
    ordered = sorted(guided, key=lambda sounds: float(sounds.removeprefix("guidance ")))
    return {sounds: (sounds.capitalize(), "the same requests and seeds") for sounds in ordered}


def _card(
    title: str,
    names: Mapping[str, tuple[str, str]],
    columns: Mapping[str, tuple[str, str]],
    by_name: Mapping[tuple[str, str], Row],
    ceiling: bool = False,
) -> Card | None:
    """Lay out a table of the measures and groups that have rows; None if none has.

    Args:
        ceiling: whether a last column says which share of the codec's ceiling the clips reach.
    """
    shown = {sounds: words for sounds, words in columns.items() if any((name, sounds) in by_name for name in names)}
    lines = []
    for name, (words, about) in names.items():
        rows = [by_name.get((name, sounds)) for sounds in shown]
        if any(rows):
            cells = [cell_of(row) for row in rows]
            if ceiling:
                cells.append(Cell(_share_of_ceiling(by_name.get((name, "clips")), by_name.get((name, "codec")))))
            lines.append(Line(words, about, tuple(cells)))
    if not lines:
        return None
    headings = list(shown.values()) + ([("Of the ceiling", "clips over codec ceiling")] if ceiling else [])
    return Card(title, tuple(headings), tuple(lines))


def _share_of_ceiling(clips: Row | None, codec: Row | None) -> str:
    if clips is None or codec is None or not codec["value"] or clips["value"] is None:
        return ""
    return f"{clips['value'] / codec['value']:.0%}".replace("%", " %")


def cell_of(row: Row | None) -> Cell:
    """Return a row of `measures` as text. If it has no value, the cell says why."""
    if row is None:
        return Cell()
    if row["value"] is None:
        return Cell("–", f"{row['note']}")
    scale, unit, form = {
        "share": (100.0, " %", ".0f"),
        "Hz": (1.0, " Hz", ",.0f"),
        "s": (1.0, " s", ".2f"),
        "full scale": (1.0, "", ".4f"),
    }.get(row["unit"], (1.0, "", ".2f"))
    if row["unit"] == "share" and abs(row["value"]) < SMALL_SHARE:
        form = ".1f"
    interval = f"n {row['n']:,}"
    if math.isfinite(row["low"]) and math.isfinite(row["high"]):
        interval = f"{scale * row['low']:{form}}–{scale * row['high']:{form}} · {interval}"
    return Cell(f"{scale * row['value']:{form}}{unit}", interval)
