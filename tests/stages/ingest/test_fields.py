"""Fields: what is kept of any input is typed and bounded, and what is dropped is reported."""

import json
import math
import unicodedata

import pytest
from hypothesis import given, settings
from hypothesis import strategies as some

from stages.ingest.fields import (
    BPM_RANGE,
    FIELDS,
    GAIN_RANGE,
    LIST_ITEMS,
    LIST_LENGTHS,
    TEXT_LENGTHS,
    WARNINGS,
    Fields,
    clean_text,
    read_fields,
    resolve,
)

ANYTHING = some.recursive(
    some.none() | some.booleans() | some.integers() | some.floats() | some.text() | some.binary(),
    lambda inner: some.lists(inner, max_size=5) | some.dictionaries(some.text(max_size=5), inner, max_size=5),
    max_leaves=20,
)


@settings(max_examples=60, deadline=None)
@given(
    some.dictionaries(some.sampled_from([*FIELDS, "license", "mood", "Caption", " BPM ", "x"]) | some.text(), ANYTHING)
)
def test_any_input_becomes_fields_that_a_table_can_hold(raw):
    fields = read_fields(raw, "x.json")
    for name, value in fields.values.items():
        if name == "bpm":
            assert isinstance(value, float)
            assert BPM_RANGE[0] <= value <= BPM_RANGE[1]
            continue
        if name == "replay_gain":
            assert GAIN_RANGE[0] <= value <= GAIN_RANGE[1]
            continue
        texts = value if name in LIST_LENGTHS else [value]
        assert texts
        assert len(texts) <= LIST_ITEMS
        for text in texts:
            assert 0 < len(text) <= (LIST_LENGTHS | TEXT_LENGTHS)[name]
            assert not any(unicodedata.category(sign) in ("Cc", "Cs") for sign in text)
            text.encode()
    for warning in fields.warnings:
        warning.encode()
        assert len(warning) < 600
    assert Fields.from_json(fields.to_json()) == fields


TEMPI = {"120": 120.0, " 98.5 ": 98.5, "120,5": 120.5, "174.0 BPM": 174.0, "120bpm": 120.0, "~96": 96.0, "ca. 90": 90.0}


@pytest.mark.parametrize(
    ("value", "kept"), [*TEMPI.items(), ("\uff11\uff12\uff10", 120.0), (20, 20.0), ([120], 120.0), (400.0, 400.0)]
)
def test_a_tempo_is_a_number_from_20_to_400(value, kept):
    assert read_fields({"bpm": value}, "x.json") == Fields({"bpm": kept})


@pytest.mark.parametrize(("value", "middle"), [("60-80", 70.0), ("90 – 100 bpm", 95.0), ("120,5..121.5", 121.0)])
def test_a_range_of_tempi_becomes_its_middle_with_a_warning(value, middle):
    fields = read_fields({"bpm": value}, "x.json")
    assert fields.values == {"bpm": middle}
    assert fields.warnings[0].startswith("x.json: bpm: expected one tempo, got a range")


def test_a_key_gets_its_canonical_spelling_and_other_text_a_warning():
    assert read_fields({"key": "8A"}, "x.json") == Fields({"key": "A minor"})
    fields = read_fields({"key": "all over"}, "x.json")
    assert fields.values == {}
    assert fields.warnings[0].startswith("x.json: key: expected a key such as A minor, Am or 8A, got 'all over'")


@pytest.mark.parametrize("value", ["60-500", "10-80", "-6.3 dB", "120,5,5"])
def test_text_that_is_not_a_tempo_is_dropped(value):
    assert read_fields({"bpm": value}, "x.json").values == {}


@pytest.mark.parametrize(
    "value", ["fast", True, 19.9, 1e308, 10**400, math.inf, "nan", "1e999", -120, {"a": 1}, [1, 2], b"9"]
)
def test_a_tempo_out_of_range_or_of_another_type_is_dropped_with_a_warning(value):
    fields = read_fields({"bpm": value}, "x.json")
    assert fields.values == {}
    assert fields.warnings[0].startswith("x.json: bpm: expected a number from 20 to 400, got ")


@pytest.mark.parametrize("value", ["", " ", 0, "0", None])
def test_a_missing_tempo_gives_no_warning(value):
    assert read_fields({"bpm": value}, "x.json") == Fields()


def test_lists_are_split_by_the_separator_of_their_source():
    assert read_fields({"moods": "noble; calm ;;noble"}, "t", ";").values == {"moods": ["noble", "calm"]}
    assert read_fields({"moods": "sad, slow"}, "t", ";").values == {"moods": ["sad, slow"]}
    assert read_fields({"keywords": "bright, pulsing; cool"}, "t").values == {"keywords": ["bright", "pulsing", "cool"]}
    assert read_fields({"keywords": ["a", "b"]}, "t").values == {"keywords": ["a", "b"]}
    assert read_fields({"instrument": "orchestra;percussion"}, "t", ";").values == {
        "instrument": "orchestra, percussion"
    }


def test_paraphrases_are_not_split_at_punctuation():
    several = ["Slow, dark; sad.", "A sad piece", "", "A sad piece"]
    kept = {"paraphrases": ["Slow, dark; sad.", "A sad piece"]}
    assert read_fields({"paraphrases": several}, "t").values == kept
    assert read_fields({"Paraphrases": "Slow, dark; sad."}, "t", ";").values == {"paraphrases": ["Slow, dark; sad."]}
    long = read_fields({"paraphrases": ["y" * 6_000]}, "t")
    assert long.values["paraphrases"] == ["y" * LIST_LENGTHS["paraphrases"]]
    assert "at most 64 items of 5,000 characters" in long.warnings[0]


def test_empty_values_are_unknown_and_give_no_warning():
    raw = {"key": "", "bpm": "", "title": None, "moods": [], "keywords": "", "artist": "  ", "genre": math.nan}
    assert read_fields(raw, "t") == Fields()


def test_values_that_are_too_long_are_cut_with_a_warning():
    fields = read_fields({"description": "x" * 1_000_000, "moods": ["m"] * 3 + [str(n) for n in range(100)]}, "t")
    assert fields.values["description"] == "x" * TEXT_LENGTHS["description"]
    assert len(fields.values["moods"]) == LIST_ITEMS
    assert len(fields.warnings) == 2
    assert "1,000,000" in fields.warnings[0]


def test_hostile_text_is_kept_as_text():
    for text in ("'; DROP TABLE tracks; --", "<script>alert(1)</script>", "../../etc/passwd", "=cmd|'/c calc'!A0"):
        assert read_fields({"title": text}, "t").values == {"title": text}
    assert read_fields({"title": "a\x00b\x1b[31m\u202ec\nd"}, "t").values == {"title": "a b [31m c d"}
    assert clean_text("a\ud800b") == "a\ufffdb"


def test_values_of_wrong_types_are_dropped_with_a_warning_and_the_rest_is_kept():
    deep: list = []
    for _ in range(500):
        deep = [deep]
    fields = read_fields(
        {"title": {"a": 1}, "artist": "me", "key": True, "moods": 5, "genre": deep, "album": b"x"}, "s.json"
    )
    assert fields.values == {"artist": "me", "artists": ["me"]}
    assert len(fields.warnings) == 5
    assert all(warning.startswith("s.json: ") and "so it was dropped" in warning for warning in fields.warnings)


def test_a_field_by_its_name_ranks_before_its_aliases():
    assert read_fields({"license": "b", "licence": "a"}, "t").values == {"licence": "a"}
    assert read_fields({"Caption": "slow", "LICENSE": "b"}, "t").values == {"description": "slow", "licence": "b"}


@settings(deadline=None)
@given(
    some.lists(some.dictionaries(some.sampled_from(FIELDS), some.just("140") | some.just("90"), max_size=4), max_size=5)
)
def test_the_earlier_source_wins_field_by_field(sources):
    parsed = [read_fields(source, str(number)) for number, source in enumerate(sources)]
    resolved = resolve(parsed).values
    for name in FIELDS:
        values = [fields.values[name] for fields in parsed if name in fields.values]
        assert resolved.get(name) == (values[0] if values else None)


def test_warnings_are_limited_and_each_is_stated_once():
    many = [Fields({}, tuple(str(number) for number in range(start, start + 15))) for start in (0, 5, 10)]
    assert resolve(many).warnings == tuple(str(number) for number in range(WARNINGS))
    assert json.loads(many[0].to_json())["warnings"][0] == "0"
