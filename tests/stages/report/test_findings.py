"""Findings of the report: their evidence, and when they say that something holds."""

import math

import pytest

from stages.report.findings import Finding, findings, gate_finding, melody_bars
from tests.worlds.small_catalog import measure_row

GOOD = {
    "valid_cross_entropy": 3.0,
    "valid_cross_entropy_unigram": 4.5,
    "uniform_cross_entropy": math.log(256),
    "valid_cross_entropy_unconditional": 3.3,
    "valid_cross_entropy_shuffled": 3.8,
}


def finding(part: str, measures: list[dict], metrics: dict[str, float] | None = None) -> Finding:
    return next(found for found in findings(measures, metrics or {}) if part in found.claim)


@pytest.mark.parametrize(
    ("clips", "chance", "untrained", "verdict"),
    [
        (0.6, 0.1, 0.2, "holds"),
        (0.6, 0.1, None, "holds"),
        (0.6, 0.55, 0.1, "not clear"),
        (0.6, 0.1, 0.52, "not clear"),
        (0.1, 0.2, 0.05, "does not hold"),
        (0.3, 0.3, 0.3, "does not hold"),
        (0.6, None, None, "not clear"),
    ],
)
def test_a_request_counts_as_followed_only_if_clips_are_clearly_better_than_chance_and_no_training(
    clips: float, chance: float | None, untrained: float | None, verdict: str
) -> None:
    groups = {"clips": clips, "chance": chance, "untrained": untrained}
    rows = [measure_row("key_correct", sounds, value) for sounds, value in groups.items() if value is not None]
    assert finding("in the key", rows).verdict == verdict


def test_the_evidence_has_every_group_with_its_interval_and_n() -> None:
    rows = [measure_row("chord_accuracy", sounds, 0.5, 40) for sounds in ("clips", "chance", "codec", "raw")]
    evidence = finding("chords", rows).evidence
    for words in ("clips 50 % (40–60 · n 40)", "chance 50 %", "codec ceiling 50 %", "recordings 50 %"):
        assert words in evidence


def test_nothing_is_claimed_from_two_clips() -> None:
    rows = [measure_row("bpm_correct", "clips", 1.0, 2), measure_row("bpm_correct", "chance", 0.0, 2)]
    assert finding("tempo", rows).verdict == "not clear"
    assert finding("tempo", []).verdict == "not measured"


@pytest.mark.parametrize(
    ("change", "part", "verdict"),
    [
        ({}, "unigram", "holds"),
        ({}, "right condition", "holds"),
        ({"valid_cross_entropy": 4.6}, "unigram", "does not hold"),
        ({"valid_cross_entropy_unconditional": 2.9}, "right condition", "does not hold"),
        ({"valid_cross_entropy_shuffled": 3.2}, "right condition", "does not hold"),
    ],
)
def test_cross_entropies_must_rise_from_the_best_to_the_worst(change: dict, part: str, verdict: str) -> None:
    assert finding(part, [], GOOD | change).verdict == verdict


def test_a_missing_metric_is_not_measured_and_named() -> None:
    found = finding("right condition", [], {"valid_cross_entropy": 3.0, "valid_cross_entropy_shuffled": 4.0})
    assert found.verdict == "not measured"
    assert "valid_cross_entropy_unconditional" in found.evidence


def test_a_clip_of_another_length_fails_the_finding() -> None:
    found = finding("as long", [measure_row("seconds_correct", "clips", 0.99, successes=99)])
    assert (found.verdict, found.evidence) == ("does not hold", "99 of 100 within 0.02 s.")
    all_right = [measure_row("seconds_correct", "clips", 1.0, successes=100)]
    assert finding("as long", all_right).verdict == "holds"


def test_bars_are_means_with_counts_from_the_ceiling_down() -> None:
    rows = [measure_row("chroma_similarity", sounds, value) for sounds, value in (("clips", 0.5), ("codec", 0.9))]
    assert [(bar.name, bar.mean, bar.count) for bar in melody_bars(rows)] == [
        ("Codec ceiling", 0.9, 100),
        ("Clips", 0.5, 100),
    ]


def originality_row(sound_seconds: float, too_near: bool, compared: int = 9) -> dict:
    row = {"code_seconds": 0.5, "code_threshold": 2.0, "sound_seconds": sound_seconds, "sound_threshold": 3.0}
    return row | {"too_near": too_near, "compared": compared}


@pytest.mark.parametrize(
    ("rows", "verdict", "part"),
    [
        ([], "not measured", "Nothing was compared"),
        ([originality_row(9.0, too_near=False, compared=0)], "not measured", "not known"),
        ([originality_row(1.0, too_near=False)] * 2, "holds", "0 of 2 clips too near and 0 later duplicates"),
        ([originality_row(1.0, too_near=True)] * 2, "holds", "0 of 2 clips too near and 2 later duplicates"),
        ([originality_row(4.5, too_near=True)], "does not hold", "4.5 s of equal sound (too near from 3.0 s)"),
    ],
)
def test_a_catalog_is_original_if_no_clip_is_too_near_to_the_training_data(rows, verdict, part):
    found = findings([], {}, rows)[-1]
    assert found.verdict == verdict
    assert part in found.evidence


def verdict(*tries: list[str]) -> dict:
    """A take whose tries had these reasons against them."""
    return {
        "passed": not tries[-1],
        "retake": len(tries) - 1,
        "reasons": tries[-1],
        "tries": [{"reasons": each} for each in tries],
    }


def test_the_finding_on_the_gate_states_retakes_and_quarantined_clips():
    silent, noisy = "tail_silence: expected at most 1 s, got 3", "end_noise: expected at most 0.3, got 0.8"
    told = gate_finding([verdict([]), verdict([silent], []), verdict([silent, noisy], [noisy], [noisy])])
    assert told.verdict == "does not hold"
    assert told.evidence == (
        "1 of 3 at their first try; 3 retakes; 1 quarantined; "
        "at first: tail silence 2, end noise 1; quarantined: end noise 1."
    )
    assert gate_finding([verdict([])]).evidence == "1 of 1 at their first try; 0 retakes; none quarantined."
    assert gate_finding([]).verdict == "not measured"
