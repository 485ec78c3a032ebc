"""What the report says of its numbers, and when it says that something holds."""

import math

import pytest

from stages.report.findings import Finding, findings, melody_bars

GOOD = {
    "valid_cross_entropy": 3.0,
    "valid_cross_entropy_unigram": 4.5,
    "uniform_cross_entropy": math.log(256),
    "valid_cross_entropy_unconditional": 3.3,
    "valid_cross_entropy_shuffled": 3.8,
}


def row(**given: object) -> dict:
    names = ("chroma_similarity", "seconds_asked", "seconds", "key_asked", "key_correct", "bpm_asked", "bpm_correct")
    marks = [f"chroma_similarity_{name}" for name in ("untrained", "chance", "ceiling")]
    return dict.fromkeys((*names, *marks)) | {"seconds_asked": 8.0, "seconds": 8.0} | given


def finding(part: str, scores: list[dict], metrics: dict[str, float] | None = None) -> Finding:
    return next(found for found in findings(scores, metrics or {}) if part in found.claim)


def pairs(ours: list[float], theirs: list[float]) -> list[dict]:
    return [
        row(chroma_similarity=one, chroma_similarity_untrained=other) for one, other in zip(ours, theirs, strict=True)
    ]


@pytest.mark.parametrize(
    ("ours", "theirs", "verdict"),
    [
        ([0.5, 0.6, 0.55, 0.52], [0.1, 0.12, 0.09, 0.2], "holds"),
        ([0.5, 0.1, 0.3, 0.2], [0.1, 0.3, 0.25, 0.3], "not clear"),
        ([0.1, 0.1, 0.2, 0.1], [0.2, 0.3, 0.25, 0.3], "does not hold"),
        ([0.5, 0.6], [0.1, 0.1], "not clear"),
        ([0.3, 0.3, 0.3], [0.3, 0.3, 0.3], "does not hold"),
        ([], [], "not measured"),
    ],
)
def test_the_melody_holds_only_where_the_difference_is_beyond_its_error(
    ours: list[float], theirs: list[float], verdict: str
) -> None:
    assert finding("untrained model", pairs(ours, theirs)).verdict == verdict


def test_clips_without_both_numbers_do_not_count() -> None:
    scores = [*pairs([0.5, 0.6, 0.7], [0.1, 0.1, 0.1]), row(chroma_similarity=0.0), row()]
    found = finding("untrained model", scores)
    assert found.verdict == "holds"
    assert "60.0% against 10.0%" in found.evidence
    assert "3 of 3 clips" in found.evidence


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


def test_a_metric_that_is_not_there_is_not_measured_and_named() -> None:
    found = finding("right condition", [], {"valid_cross_entropy": 3.0, "valid_cross_entropy_shuffled": 4.0})
    assert found.verdict == "not measured"
    assert "valid_cross_entropy_unconditional" in found.evidence


@pytest.mark.parametrize(("right", "of", "verdict"), [(6, 10, "holds"), (1, 10, "not clear"), (0, 10, "does not hold")])
def test_keys_must_be_right_more_often_than_chance_explains(right: int, of: int, verdict: str) -> None:
    scores = [row(key_asked="A minor", key_correct=number < right) for number in range(of)]
    found = finding("key", scores)
    assert found.verdict == verdict
    assert f"{right} of {of}" in found.evidence


def test_thousands_of_clips_are_no_problem_for_the_exact_test() -> None:
    scores = [row(key_asked="A minor", key_correct=number % 20 == 0) for number in range(20_000)]
    assert finding("key", scores).verdict == "holds"


def test_clips_in_which_nothing_was_heard_are_told_apart_from_wrong_ones() -> None:
    scores = [row(key_asked="A minor", key_correct=value) for value in (True, True, None)]
    assert "in 1 more nothing could be heard" in finding("key", scores).evidence
    assert finding("key", [row(key_asked="A minor")]).evidence == "None could be heard."
    assert finding("key", [row()]).evidence == "No request names one."


def test_a_clip_of_another_length_is_told() -> None:
    found = finding("as long", [row(), row(seconds=7.5)])
    assert (found.verdict, "off by 0.50 s" in found.evidence) == ("does not hold", True)


def test_bars_are_means_with_counts_from_the_ceiling_down() -> None:
    scores = [row(chroma_similarity=0.4, chroma_similarity_ceiling=0.9), row(chroma_similarity=0.6)]
    bars = melody_bars(scores)
    assert [(bar.name, round(bar.mean, 6), bar.count) for bar in bars] == [
        ("Codec ceiling", 0.9, 1),
        ("Trained model", 0.5, 2),
    ]
