"""Measures: the score card counts right answers, states its certainty, and compares with the commonest answer."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from schemas.tables import CLIPS, CONTROLS, MEASURES, ORIGINALITY, SCORES, TRACKS
from stages.evaluate import measures
from stages.evaluate.measures import CARD, card_rows, chance_values
from stages.evaluate.statistics import least_sounds, wilson_interval
from stages.judging.judging import Asked, Detected, judge
from tests.worlds.small_catalog import request_row, small_catalog

KEYS = ("C major", "A minor", "G major", "E minor", "D major", "B minor")


def clip(number: int, key_asked: str, key: str | None, bpm: float = 100.0, **given: Any) -> dict:
    """A row of `scores`."""
    empty = dict.fromkeys(
        ["beats_asked", "chords_asked", "drums_asked", "instruments_asked", *(measure.column for measure in CARD)]
    )
    judged = judge(Asked(key=key_asked, bpm=bpm), Detected(key, bpm, (), (), drums=False))
    mel = list(np.random.default_rng(number).normal(size=16))
    row = {"request_id": f"{number:04x}", "take": 1, "seconds_asked": 8.0, "seconds": 8.0, "mel_statistics": mel}
    return empty | row | judged | given


def measured(groups: dict[str, list[dict]]) -> dict[tuple[str, str], dict]:
    rows = list(card_rows(groups))
    pa.Table.from_pylist(rows, schema=MEASURES.schema)
    return {(row["measure"], row["sounds"]): row for row in rows}


def test_a_share_is_the_right_answers_of_all_asked_with_wilsons_interval() -> None:
    clips = [clip(number, KEYS[number % 6], KEYS[number % 6] if number < 9 else None) for number in range(12)]
    row = measured({"clips": clips})["key_correct", "clips"]
    assert (row["successes"], row["n"], row["value"]) == (9, 12, 0.75)
    expected = wilson_interval(9, 12)
    assert (row["low"], row["high"]) == (expected.low, expected.high)


def test_always_answering_the_commonest_key_is_no_better_than_chance() -> None:
    asked = ["C major"] * 60 + ["A minor"] * 40
    clips = [clip(number, key, "C major") for number, key in enumerate(asked)]
    rows = measured({"clips": clips})
    assert rows["key_correct", "clips"]["value"] == 0.6
    assert rows["key_correct", "chance"]["value"] == pytest.approx(0.6, abs=0.06)
    follows = measured({"clips": [clip(number, key, key) for number, key in enumerate(asked)]})
    assert follows["key_correct", "clips"]["value"] == 1.0
    assert follows["key_correct", "chance"]["high"] < 0.7


def test_chance_is_computed_from_the_requests_of_other_clips() -> None:
    clips = [clip(number, key, key) for number, key in enumerate(KEYS)]
    assert chance_values("key_correct", clips) == [0.0] * 6
    assert chance_values("key_correct", clips[:1]) == []
    assert chance_values("dc", clips) == []


def test_a_clip_of_another_length_is_wrong() -> None:
    clips = [clip(0, "C major", None), clip(1, "C major", None, seconds=7.5)]
    assert measured({"clips": clips})["seconds_correct", "clips"]["value"] == 0.5


def test_the_distance_of_sets_is_refused_for_few_sounds_and_measured_for_many() -> None:
    few, many = ([clip(number, "C major", None) for number in range(n)] for n in (20, 2 * least_sounds(16)))
    rows = measured({"clips": few, "raw": many})
    assert rows["mel_fd", "clips"].get("value") is None
    assert rows["mel_fd", "clips"]["note"] == "refused: expected at least 64 sounds in each set, got 20 and 128"
    off = [row | {"mel_statistics": [value + 3 for value in row["mel_statistics"]]} for row in many]
    rows = measured({"clips": off, "codec": many, "raw": many})
    halves, same, other = (rows["mel_fd", name] for name in ("raw", "codec", "clips"))
    assert same["value"] == pytest.approx(0.0, abs=1e-6)
    assert halves["value"] < 6 < other["low"] < 16 * 9 < other["high"]
    assert halves["n"] == 64


def test_a_measure_that_no_request_asks_for_has_no_row() -> None:
    rows = measured({"clips": [clip(0, "C major", "C major")]})
    assert ("chord_accuracy", "clips") not in rows
    assert ("key_correct", "raw") not in rows


def test_equal_answers_still_have_an_interval() -> None:
    rows = measured({"clips": [clip(number, "C major", "F# minor") for number in range(4)]})
    assert rows["key_score", "clips"]["value"] == 0.0
    assert rows["key_score", "clips"]["high"] == pytest.approx(wilson_interval(0, 4).high)


def test_the_card_leaves_out_clips_quarantined_by_originality_or_held_back_by_the_gate(
    tmp_path: Path,
) -> None:
    context = small_catalog(str(tmp_path), [request_row(number) for number in range(8)])
    clips = context.rows(CLIPS).to_pylist()
    clips[0]["reasons"] = ["silent"]
    near = [
        {"request_id": row["request_id"], "take": row["take"], "sha256": row["sha256"], "too_near": True, "reasons": []}
        for row in clips[1:3]
    ]
    tables = [context.rows(SCORES), context.rows(CONTROLS), pa.Table.from_pylist(clips, schema=CLIPS.schema)]
    for originality, count in ((near, 5), (near[:1], 6), ([], 7)):
        rows = pa.Table.from_pylist(originality, schema=ORIGINALITY.schema)
        result = measures.reduce(measures.Config(clap=None), context, *tables, rows, context.rows(TRACKS))
        card = {(row["measure"], row["sounds"]): row for row in result.rows}
        assert card["clap_similarity", "clips"]["n"] == count
