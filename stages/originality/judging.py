"""Deciding which clips are too near, from what they have in common with recordings and clips and what held-out music
has."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from schemas.tables import Row
from stages.originality.comparing import Nearest, Subject, compare_with_each_other, compare_with_learned
from stages.originality.config import Config
from stages.originality.subjects import HeardClip
from stages.pipeline.contract import Context


@dataclass(frozen=True)
class Baseline:
    """Seconds that each held-out recording has in common with what a model learned from, ascending."""

    codes: Sequence[float]
    sounds: Sequence[float]


def judge(config: Config, context: Context, heard: Sequence[HeardClip], held_out: Sequence[Subject]) -> list[Row]:
    """Return the rows of `originality`, in the order of the clips. `held_out` are held-out recordings to compare with
    the same recordings as the clips."""
    nearest = compare_with_learned(context, [*(each.subject for each in heard), *held_out])
    rate = next((each.frame_rate for each in heard if each.frame_rate), 1.0)
    baselines: dict[frozenset[str], Baseline] = {}
    for learned in {subject.learned for subject in held_out}:
        of_set = [
            found for subject, found in zip(held_out, nearest[len(heard) :], strict=True) if subject.learned == learned
        ]
        codes = sorted(found.run.equal / rate if found.run else 0.0 for found in of_set)
        sounds = sorted(found.passage.strength if found.passage else 0.0 for found in of_set)
        baselines[learned] = Baseline(codes, sounds)
    pairs = compare_with_each_other([each.subject for each in heard])
    rows: list[Row] = []
    for place, (each, found, pair) in enumerate(zip(heard, nearest, pairs, strict=False)):
        baseline = baselines.get(each.subject.learned, Baseline((), ()))
        row = _key(each) | _codes_columns(config, each, found, baseline) | _sound_columns(config, found, baseline)
        row["held_out"], row["compared"] = len(baseline.sounds), len(each.subject.learned)
        reasons = _reasons(row)
        if pair is not None:
            other, passage = heard[pair.place], pair.passage
            lengths = [one.clip["seconds"] - one.prompt_seconds for one in (each, other)]
            row |= {
                "nearest_request_id": other.clip["request_id"],
                "nearest_take": other.clip["take"],
                "nearest_seconds": min(lengths) if passage is None else passage.strength,
                "nearest_share": 1.0 if passage is None else passage.likeness(*lengths),
            }
            if config.duplicates is not None and pair.place < place and row["nearest_share"] >= config.duplicates:
                name = f"{other.clip['request_id'][:8]}, take {other.clip['take']}"
                reasons.append(f"expected a clip of its own, got {row['nearest_share']:.0%} of request {name}")
        rows.append(row | {"too_near": bool(reasons), "reasons": reasons})
    return rows


def threshold(least: float, values: Sequence[float], quantile: float) -> float:
    """Return the seconds in common from which on a clip is too near: more than the share `quantile` of the held-out
    recordings have (`values`), and at least `least`."""
    return max(least, math.nextafter(float(np.quantile(values, quantile)), math.inf)) if len(values) else least


def _key(each: HeardClip) -> Row:
    return {
        **{name: each.clip[name] for name in ("request_id", "take", "checkpoint_id", "sha256")},
        "prompt_seconds": each.prompt_seconds,
        "referred": list(each.referred),
    }


def _codes_columns(config: Config, each: HeardClip, found: Nearest, baseline: Baseline) -> Row:
    """Return the columns about equal codes."""
    row: Row = {"code_threshold": threshold(config.code_seconds, baseline.codes, config.quantile)}
    row["code_seconds"] = found.run.equal / each.frame_rate if found.run else 0.0
    row["code_percentile"] = _percentile(row["code_seconds"], baseline.codes)
    if found.run is not None:
        row |= {
            "code_track": found.run_track,
            "code_begin": each.prompt_seconds + found.run.begin / each.frame_rate,
            "code_track_begin": found.run.other_begin / each.frame_rate,
            "code_share": found.run.equal / max(found.run.frames, 1),
        }
    return row


def _sound_columns(config: Config, found: Nearest, baseline: Baseline) -> Row:
    """Return the columns about equal sound."""
    row: Row = {"sound_threshold": threshold(config.sound_seconds, baseline.sounds, config.quantile)}
    row["sound_seconds"] = found.passage.strength if found.passage else 0.0
    row["sound_percentile"] = _percentile(row["sound_seconds"], baseline.sounds)
    if found.passage is not None:
        row |= {
            "sound_track": found.passage_track,
            "sound_begin": found.passage.begin,
            "sound_track_begin": found.passage.other_begin,
            "sound_share": found.passage.share,
        }
    row["melody_seconds"] = found.allowed.strength if found.allowed else None
    return row


def _percentile(value: float, values: Sequence[float]) -> float | None:
    """Return the percentage of held-out recordings that have as much in common or less, 0 to 100; None without any."""
    return 100 * float(np.searchsorted(values, value, "right")) / len(values) if len(values) else None


def _reasons(row: Row) -> list[str]:
    """Return the reasons why a clip is too near to a recording; empty if it is not."""
    reasons = []
    for what, thing in (("code", "equal codes"), ("sound", "equal sound")):
        seconds, most = row[f"{what}_seconds"], row[f"{what}_threshold"]
        if seconds >= most:
            place = f"{row[f'{what}_track'][:12]} at {row[f'{what}_track_begin']:.1f} s"
            reasons.append(
                f"expected under {most:.1f} s of {thing} with what was learned from, got {seconds:.1f} s: {place}"
            )
    return reasons
