"""Deciding which clips are too near, from what they have in common with recordings and clips and what held-out music
has."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from schemas.tables import Row
from stages.originality.comparing import Nearest, Subject, compare_with_each_other, compare_with_learned
from stages.originality.config import Config
from stages.originality.subjects import ComparedClip
from stages.pipeline.contract import Context


@dataclass(frozen=True)
class Baseline:
    """Seconds that each held-out recording has in common with what a model learned from, ascending."""

    codes: Sequence[float]
    sounds: Sequence[float]


def judge(config: Config, context: Context, clips: Sequence[ComparedClip], held_out: Sequence[Subject]) -> list[Row]:
    """Return the rows of `originality`, in the order of the clips. `held_out` are held-out recordings to compare with
    the same recordings as the clips."""
    nearest = compare_with_learned(context, [*(clip.subject for clip in clips), *held_out])
    rate = next((clip.frame_rate for clip in clips if clip.frame_rate), 1.0)
    baselines: dict[frozenset[str], Baseline] = {}
    for learned in {subject.learned for subject in held_out}:
        of_set = [
            nearby
            for subject, nearby in zip(held_out, nearest[len(clips) :], strict=True)
            if subject.learned == learned
        ]
        codes = sorted(nearby.run.equal / rate if nearby.run else 0.0 for nearby in of_set)
        sounds = sorted(nearby.passage.strength if nearby.passage else 0.0 for nearby in of_set)
        baselines[learned] = Baseline(codes, sounds)
    pairs = compare_with_each_other([clip.subject for clip in clips])
    rows: list[Row] = []
    for number, (clip, nearby, pair) in enumerate(zip(clips, nearest, pairs, strict=False)):
        baseline = baselines.get(clip.subject.learned, Baseline((), ()))
        row = _key(clip) | _codes_columns(config, clip, nearby, baseline) | _sound_columns(config, nearby, baseline)
        row["held_out"], row["compared"] = len(baseline.sounds), len(clip.subject.learned)
        reasons = _reasons(row)
        if pair is not None:
            other, passage = clips[pair.number], pair.passage
            lengths = [each.clip["seconds"] - each.prompt_seconds for each in (clip, other)]
            row |= {
                "nearest_request_id": other.clip["request_id"],
                "nearest_take": other.clip["take"],
                "nearest_seconds": min(lengths) if passage is None else passage.strength,
                "nearest_share": 1.0 if passage is None else passage.likeness(*lengths),
            }
            if config.duplicates is not None and pair.number < number and row["nearest_share"] >= config.duplicates:
                name = f"request {other.clip['request_id'][:8]}, take {other.clip['take']}"
                reasons.append(f"expected an original clip, got {row['nearest_share']:.0%} in common with {name}")
        rows.append(row | {"too_near": bool(reasons), "reasons": reasons})
    return rows


def threshold(least: float, values: Sequence[float], quantile: float) -> float:
    """Return the seconds in common from which on a clip is too near: more than the share `quantile` of the held-out
    recordings have (`values`), and at least `least`."""
    return max(least, math.nextafter(float(np.quantile(values, quantile)), math.inf)) if len(values) else least


def _key(clip: ComparedClip) -> Row:
    return {
        **{name: clip.clip[name] for name in ("request_id", "take", "checkpoint_id", "sha256")},
        "prompt_seconds": clip.prompt_seconds,
        "referred": list(clip.referred),
    }


def _codes_columns(config: Config, clip: ComparedClip, nearby: Nearest, baseline: Baseline) -> Row:
    """Return the columns about equal codes."""
    row: Row = {"code_threshold": threshold(config.code_seconds, baseline.codes, config.quantile)}
    row["code_seconds"] = nearby.run.equal / clip.frame_rate if nearby.run else 0.0
    row["code_percentile"] = _percentile(row["code_seconds"], baseline.codes)
    if nearby.run is not None:
        row |= {
            "code_track": nearby.run_track,
            "code_begin": clip.prompt_seconds + nearby.run.begin / clip.frame_rate,
            "code_track_begin": nearby.run.other_begin / clip.frame_rate,
            "code_share": nearby.run.equal / max(nearby.run.frames, 1),
        }
    return row


def _sound_columns(config: Config, nearby: Nearest, baseline: Baseline) -> Row:
    """Return the columns about equal sound."""
    row: Row = {"sound_threshold": threshold(config.sound_seconds, baseline.sounds, config.quantile)}
    row["sound_seconds"] = nearby.passage.strength if nearby.passage else 0.0
    row["sound_percentile"] = _percentile(row["sound_seconds"], baseline.sounds)
    if nearby.passage is not None:
        row |= {
            "sound_track": nearby.passage_track,
            "sound_begin": nearby.passage.begin,
            "sound_track_begin": nearby.passage.other_begin,
            "sound_share": nearby.passage.share,
        }
    row["melody_seconds"] = nearby.allowed.strength if nearby.allowed else None
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
            source = f"recording {row[f'{what}_track'][:12]} at {row[f'{what}_track_begin']:.1f} s"
            reasons.append(
                f"expected under {most:.1f} s of {thing} with the training set, got {seconds:.1f} s: {source}"
            )
    return reasons
