"""Findings: claims about the catalog, each with its evidence and a plain verdict on whether it holds.

Every number is stored: it is a row of `measures`, where what was asked is compared with chance and with an untrained
model's sounds for the same requests, or a metric of the checkpoint.
"""

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

from schemas.tables import Row
from stages.report.score_card import COLUMNS, cell_of

Verdict = Literal["holds", "does not hold", "not clear", "not measured"]

STANDARD_ERRORS = 2.0
"""A difference counts if it is this many standard errors from zero, which gives about 95 % confidence."""

INTERVAL_ERRORS = 3.92
"""The width of a 95 % interval in standard errors."""

LEAST = 3
"""The smallest group of sounds about which a claim is made."""


@dataclass(frozen=True)
class Finding:
    """A claim, the verdict on it, and a sentence with the numbers behind the verdict."""

    claim: str
    verdict: Verdict
    evidence: str


@dataclass(frozen=True)
class Bar:
    """A mean over sounds, drawn as a bar from 0 to 1."""

    name: str
    about: str
    mean: float
    count: int


CLAIMS = {
    "chroma_similarity": "Clips follow the melody that was asked for",
    "beat_f_measure": "Clips keep the beat that was asked for",
    "bpm_correct": "Clips have the tempo that was asked for",
    "key_correct": "Clips are in the key that was asked for",
    "chord_accuracy": "Clips play the chords that were asked for",
    "drums_correct": "Clips have drums where they were asked for, and none where none were",
    "instrument_recall": "Clips have the instruments that were asked for",
}
"""Measure -> the claim that clips are better than chance, and than an untrained model if there is one."""

BARS = ("codec", "clips", "untrained", "chance")
"""The groups for which melody following is drawn as bars."""


def melody_bars(measures: Sequence[Row]) -> list[Bar]:
    """Return the mean chroma similarity of each group that has one."""
    rows = {row["sounds"]: row for row in measures if row["measure"] == "chroma_similarity"}
    return [Bar(*COLUMNS[name], rows[name]["value"], rows[name]["n"]) for name in BARS if name in rows]


def findings(measures: Sequence[Row], metrics: dict[str, float], originality: Sequence[Row] = ()) -> list[Finding]:
    """Judge each claim about a catalog, the most important first.

    Args:
        measures: rows of `measures` of one model.
        metrics: metrics of that model's checkpoint.
        originality: rows of `originality`.
    """
    by_name = {(row["measure"], row["sounds"]): row for row in measures}
    return [
        *(_followed_finding(by_name, measure, claim) for measure, claim in CLAIMS.items()),
        _order_finding(
            metrics,
            "Held-out cross-entropy is below ln(cardinality) and below a unigram model's",
            ("valid_cross_entropy", "valid_cross_entropy_unigram", "uniform_cross_entropy"),
            ("the model", "a unigram model", "ln(cardinality)"),
        ),
        _order_finding(
            metrics,
            "The right conditions predict better than none, and none better than wrong ones",
            ("valid_cross_entropy", "valid_cross_entropy_unconditional", "valid_cross_entropy_shuffled"),
            ("the right conditions", "none", "shuffled ones"),
        ),
        _length_finding(by_name.get(("seconds_correct", "clips"))),
        _originality_finding([row for row in originality if row["compared"]]),
    ]


def _followed_finding(by_name: Mapping[tuple[str, str], Row], measure: str, claim: str) -> Finding:
    """Judge whether clips do what was asked better than chance and better than an untrained model."""
    clips = by_name.get((measure, "clips"))
    if clips is None:
        return Finding(claim, "not measured", "No request asks for this, or nothing was scored.")
    others = {name: by_name[measure, name] for name in ("chance", "untrained") if (measure, name) in by_name}
    evidence = "; ".join(
        f"{COLUMNS[name][0].lower()} {cell.value} ({cell.interval})"
        for name in COLUMNS
        if (measure, name) in by_name and (cell := cell_of(by_name[measure, name]))
    )
    if clips["n"] < LEAST or not others:
        return Finding(claim, "not clear", f"{evidence}: too few to tell.")
    differences = [clips["value"] - row["value"] for row in others.values()]
    errors = [math.hypot(_error(clips), _error(row)) for row in others.values() if row["n"] >= LEAST]
    beyond = [difference > STANDARD_ERRORS * error for difference, error in zip(differences, errors, strict=False)]
    if min(differences) <= 0:
        return Finding(claim, "does not hold", f"{evidence}.")
    return Finding(claim, "holds" if all(beyond) and len(beyond) == len(others) else "not clear", f"{evidence}.")


def _error(row: Row) -> float:
    return float((row["high"] - row["low"]) / INTERVAL_ERRORS)


def _order_finding(metrics: dict[str, float], claim: str, names: Sequence[str], words: Sequence[str]) -> Finding:
    values = [metrics.get(name) for name in names]
    known = [value for value in values if value is not None]
    if len(known) < len(values):
        missing = ", ".join(name for name, value in zip(names, values, strict=True) if value is None)
        return Finding(claim, "not measured", f"The checkpoint has no {missing}.")
    evidence = "; ".join(f"{word} {value:.3f}" for word, value in zip(words, known, strict=True)) + " nats a code."
    rising = all(lower < higher for lower, higher in pairwise(known))
    return Finding(claim, "holds" if rising else "does not hold", evidence)


def _length_finding(row: Row | None) -> Finding:
    claim = "Clips are as long as requested"
    if row is None:
        return Finding(claim, "not measured", "There are no clips.")
    evidence = f"{row['successes']} of {row['n']} within 0.02 s."
    return Finding(claim, "holds" if row["successes"] == row["n"] else "does not hold", evidence)


def _originality_finding(rows: Sequence[Row]) -> Finding:
    """Judge whether clips have no more in common with the training data than held-out music has. Clips that have more
    are not shown on the page."""
    claim = "Clips have no more in common with the training data than held-out music has"
    if not rows:
        return Finding(claim, "not measured", "Nothing was compared, or the training data is not known.")
    near = sum(any(row[f"{what}_seconds"] >= row[f"{what}_threshold"] for what in ("code", "sound")) for row in rows)
    duplicates = sum(row["too_near"] for row in rows) - near
    largest = [
        f"{max(row[f'{what}_seconds'] for row in rows):.1f} s of {words} (too near from "
        f"{max(row[f'{what}_threshold'] for row in rows):.1f} s)"
        for what, words in (("code", "equal codes"), ("sound", "equal sound"))
    ]
    evidence = f"{near} of {len(rows)} clips too near and {max(duplicates, 0)} later duplicates, which are quarantined"
    evidence += f"; at largest {' and '.join(largest)}."
    return Finding(claim, "does not hold" if near else "holds", evidence)


def gate_finding(verdicts: Sequence[Row]) -> Finding:
    """Judge how many takes passed the gate, with the number of retakes and the reasons against takes that failed.

    Args:
        verdicts: rows of `verdicts`.
    """
    claim = "Takes pass the gate"
    if not verdicts:
        return Finding(claim, "not measured", "No take was judged.")
    first = sum(1 for row in verdicts if row["passed"] and row["retake"] == 0)
    passed = sum(1 for row in verdicts if row["passed"])
    retakes = sum(len(row["tries"]) - 1 for row in verdicts)
    quarantined = f"{len(verdicts) - passed:,}" if passed < len(verdicts) else "none"
    sentences = [f"{first:,} of {len(verdicts):,} at their first try; {retakes:,} retakes; {quarantined} quarantined"]
    for group, against in (
        ("at first", _kinds(row["tries"][0]["reasons"] for row in verdicts)),
        ("quarantined", _kinds(row["reasons"] for row in verdicts)),
    ):
        if against:
            sentences.append(f"{group}: " + ", ".join(f"{kind} {count}" for kind, count in against.most_common()))
    return Finding(claim, "holds" if passed == len(verdicts) else "does not hold", "; ".join(sentences) + ".")


def _kinds(reasons: Iterable[Sequence[str]]) -> Counter[str]:
    """Count reasons by the measure at their beginning."""
    return Counter(reason.partition(":")[0].replace("_", " ") for each in reasons for reason in each)
