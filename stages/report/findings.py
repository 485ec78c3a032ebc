"""Findings: each claim about the catalog with its evidence and whether it holds, plainly where it fails.

The melody is compared with three things, always over the clips that have both numbers: what an untrained model of the
same architecture makes of the same request, what the right notes at the wrong times would score (chance), and what the
codec leaves of the reference itself (the ceiling).
"""

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

from schemas.tables import Row

Verdict = Literal["holds", "does not hold", "not clear", "not measured"]

STANDARD_ERRORS = 2.0
"""A difference counts when its mean is this many standard errors from zero: about 95 % confidence."""

SIGNIFICANCE = 0.025
"""A share of right answers counts when chance alone gives so many less often than this (exact binomial tail)."""


@dataclass(frozen=True)
class Finding:
    """A claim, the verdict on it, and the sentence with the numbers behind that."""

    claim: str
    verdict: Verdict
    evidence: str


@dataclass(frozen=True)
class Bar:
    """A mean over clips, drawn as a bar from 0 to 1."""

    name: str
    about: str
    mean: float
    count: int


MELODY = (
    ("chroma_similarity_ceiling", "Codec ceiling", "the reference melody itself, through the codec"),
    ("chroma_similarity", "Trained model", "the clips of this catalog"),
    ("chroma_similarity_untrained", "Untrained model", "same architecture, request and seed; random weights"),
    ("chroma_similarity_chance", "Chance", "the asked pitch classes at shuffled times"),
)


def melody_bars(scores: Sequence[Row]) -> list[Bar]:
    """Return the mean chroma similarity of trained, untrained, chance and ceiling, each over the clips that have it."""
    bars = []
    for column, name, about in MELODY:
        values = [row[column] for row in scores if row[column] is not None]
        if values:
            bars.append(Bar(name, about, statistics.fmean(values), len(values)))
    return bars


def findings(scores: Sequence[Row], metrics: dict[str, float]) -> list[Finding]:
    """Judge everything that a catalog should show, in the order of importance.

    Args:
        scores: rows of `scores`.
        metrics: those of the checkpoint that made the clips.
    """
    return [
        _melody_finding(
            scores, "chroma_similarity_untrained", "Clips follow the asked melody better than an untrained model's do"
        ),
        _melody_finding(scores, "chroma_similarity_chance", "Clips follow the asked melody better than chance"),
        _order_finding(
            metrics,
            "Held-out cross-entropy is under ln(cardinality), and under a unigram model's",
            ("valid_cross_entropy", "valid_cross_entropy_unigram", "uniform_cross_entropy"),
            ("the model", "a unigram model", "ln(cardinality)"),
        ),
        _order_finding(
            metrics,
            "The right condition predicts better than none, and none better than a wrong one",
            ("valid_cross_entropy", "valid_cross_entropy_unconditional", "valid_cross_entropy_shuffled"),
            ("the right condition", "none", "a shuffled one"),
        ),
        _length_finding(scores),
        _share_finding(scores, "key", "Clips are in the key that was asked for", 1 / 24),
        _share_finding(scores, "bpm", "Clips have the tempo that was asked for", None),
    ]


def _melody_finding(scores: Sequence[Row], against: str, claim: str) -> Finding:
    pairs = [
        (row["chroma_similarity"], row[against])
        for row in scores
        if row["chroma_similarity"] is not None and row[against] is not None
    ]
    if not pairs:
        return Finding(claim, "not measured", "No clip has both numbers.")
    clip_mean, other_mean = (statistics.fmean(column) for column in zip(*pairs, strict=True))
    wins = sum(clip > other for clip, other in pairs)
    evidence = f"{clip_mean:.1%} against {other_mean:.1%} of frames on average; better in {wins} of {len(pairs)} clips"
    if len(pairs) < 3:
        return Finding(claim, "not clear", f"{evidence}: too few to tell.")
    differences = [clip - other for clip, other in pairs]
    error = statistics.stdev(differences) / math.sqrt(len(differences))
    mean = clip_mean - other_mean
    evidence += f" (difference {100 * mean:+.1f} ± {100 * error:.1f} points, mean ± standard error)."
    if mean > STANDARD_ERRORS * error:
        return Finding(claim, "holds", evidence)
    return Finding(claim, "not clear" if mean > 0 else "does not hold", evidence)


def _order_finding(metrics: dict[str, float], claim: str, names: Sequence[str], words: Sequence[str]) -> Finding:
    values = [metrics.get(name) for name in names]
    known = [value for value in values if value is not None]
    if len(known) < len(values):
        missing = ", ".join(name for name, value in zip(names, values, strict=True) if value is None)
        return Finding(claim, "not measured", f"The checkpoint has no {missing}.")
    evidence = "; ".join(f"{word} {value:.3f}" for word, value in zip(words, known, strict=True)) + " nats a code."
    rising = all(lower < higher for lower, higher in pairwise(known))
    return Finding(claim, "holds" if rising else "does not hold", evidence)


def _length_finding(scores: Sequence[Row]) -> Finding:
    claim = "Clips are as long as asked"
    off = [abs(row["seconds"] - row["seconds_asked"]) for row in scores if row["seconds_asked"] is not None]
    if not off:
        return Finding(claim, "not measured", "There are no clips.")
    right = sum(value <= 0.02 for value in off)
    evidence = f"{right} of {len(off)} within 0.02 s; the furthest is off by {max(off):.2f} s."
    return Finding(claim, "holds" if right == len(off) else "does not hold", evidence)


def _share_finding(scores: Sequence[Row], quality: str, claim: str, chance: float | None) -> Finding:
    """Judge a share of right answers about a quality, `key` or `bpm`; where `chance` is known, it must be unlikely to
    give as many."""
    asked = [row for row in scores if row[f"{quality}_asked"] is not None]
    scored = [bool(row[f"{quality}_correct"]) for row in asked if row[f"{quality}_correct"] is not None]
    if not scored:
        return Finding(claim, "not measured", "No request names one." if not asked else "None could be heard.")
    share = statistics.fmean(scored)
    evidence = f"{sum(scored)} of {len(scored)} ({share:.0%}) by the estimator"
    if len(asked) > len(scored):
        evidence += f"; in {len(asked) - len(scored)} more nothing could be heard"
    if chance is None:
        return Finding(claim, "holds" if share > 0.5 else "does not hold", f"{evidence}; an octave is forgiven.")
    p_value = _binomial_tail(len(scored), sum(scored), chance)
    verdict: Verdict = "does not hold"
    if share > chance:
        verdict = "holds" if p_value < SIGNIFICANCE else "not clear"
    return Finding(claim, verdict, f"{evidence}; chance is {chance:.1%}. “Holds” says better than chance, not always.")


def _binomial_tail(count: int, right: int, chance: float) -> float:
    """Compute how likely at least `right` of `count` answers are by chance alone; logarithms hold for thousands of
    clips."""
    log_factorial = math.lgamma(count + 1)
    terms = (
        log_factorial
        - math.lgamma(n + 1)
        - math.lgamma(count - n + 1)
        + n * math.log(chance)
        + (count - n) * math.log1p(-chance)
        for n in range(right, count + 1)
    )
    return min(1.0, sum(math.exp(term) for term in terms))
