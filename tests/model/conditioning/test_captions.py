"""Captions: every probability of the augmentation has its stated effect, and no metadata gives no caption."""

import itertools
import math
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as some

from model.conditioning.captions import CaptionConfig, drawn_caption, plain_caption, request_text
from schemas.tables import TRACKS

DRAWS = 3000
DESCRIPTION = "A slow waltz."
NOTHING = dict.fromkeys(TRACKS.schema.names)
TRACK = NOTHING | {
    "description": DESCRIPTION,
    "genre": "jazz",
    "moods": ["dark", "calm"],
    "key": "A minor",
    "bpm": 92.0,
}
FIELDS = ("genre: jazz", "moods: dark, calm", "key: A minor", "bpm: 92")
NEVER = {"merge": 0.0, "drop_description": 0.0, "drop_other": 0.0, "drop_words": 0.0}


def captions(track: dict, **probabilities: float) -> list[str | None]:
    """Many drawn captions with the given probabilities, all others being 0."""
    random = np.random.default_rng(7)
    config = CaptionConfig.model_validate(NEVER | probabilities)
    return [drawn_caption(track, config, random) for _ in range(DRAWS)]


def parts(text: str | None) -> list[str]:
    return (text or "").split(". ")


def is_rate(count: int, total: int, probability: float) -> bool:
    """Whether a count fits a probability, within five standard deviations; 0 and 1 are exact."""
    return abs(count - total * probability) <= 5 * math.sqrt(total * probability * (1 - probability))


PROBABILITIES = pytest.mark.parametrize("probability", [0.0, 0.13, 0.5, 0.8, 1.0])


@PROBABILITIES
def test_metadata_is_merged_with_the_requested_probability(probability: float) -> None:
    drawn = captions(TRACK, merge=probability)
    assert is_rate(sum(text != DESCRIPTION for text in drawn), DRAWS, probability)
    assert {frozenset(parts(text)) for text in drawn if text != DESCRIPTION} <= {frozenset([DESCRIPTION[:-1], *FIELDS])}


@PROBABILITIES
def test_the_description_is_dropped_with_the_requested_probability_when_metadata_is_merged(probability: float) -> None:
    drawn = captions(TRACK, merge=1.0, drop_description=probability)
    assert is_rate(sum(DESCRIPTION[:-1] not in parts(text) for text in drawn), DRAWS, probability)
    assert all(set(FIELDS) <= set(parts(text)) for text in drawn)
    assert set(captions(TRACK, drop_description=1.0)) == {DESCRIPTION}  # nothing is merged, so nothing is dropped


@PROBABILITIES
def test_each_merged_field_is_dropped_independently_with_the_requested_probability(probability: float) -> None:
    drawn = captions(TRACK, merge=1.0, drop_other=probability)
    present = np.array([[field in parts(text.rstrip(".")) for field in FIELDS] for text in drawn if text])
    for column in range(len(FIELDS)):
        assert is_rate(int((~present[:, column]).sum()), DRAWS, probability)
    for one, other in itertools.combinations(range(len(FIELDS)), 2):
        both = int((~present[:, one] & ~present[:, other]).sum())
        assert is_rate(both, DRAWS, probability**2)


def test_a_description_stays_if_every_field_is_dropped() -> None:
    assert set(captions(TRACK, merge=1.0, drop_other=1.0, drop_description=1.0)) == {DESCRIPTION}


@PROBABILITIES
def test_words_are_dropped_with_the_requested_probability(probability: float) -> None:
    track = NOTHING | {"description": "one two three four five"}
    drawn = captions(track, drop_words=probability)
    kept = [(text or "").split() for text in drawn]
    assert is_rate(5 * DRAWS - sum(map(len, kept)), 5 * DRAWS, probability)
    assert all(words == [word for word in track["description"].split() if word in words] for words in kept)
    assert all((text is None) == (not words) for text, words in zip(drawn, kept, strict=True))


@PROBABILITIES
def test_the_description_is_replaced_with_the_requested_probability_by_each_paraphrase_equally(
    probability: float,
) -> None:
    others = ["In three.", "Dance for two", "Walzer"]
    found = Counter(captions(TRACK | {"paraphrases": others}, paraphrase=probability))
    assert is_rate(DRAWS - found[DESCRIPTION], DRAWS, probability)
    assert all(is_rate(found[other], DRAWS, probability / 3) for other in others)
    assert set(found) <= {DESCRIPTION, *others}


def test_a_paraphrase_is_merged_and_dropped_like_a_description() -> None:
    track = TRACK | {"paraphrases": ["In three."]}
    assert all(parts(text)[0] == "In three" for text in captions(track, paraphrase=1.0, merge=1.0))
    drawn = captions(track, paraphrase=1.0, merge=1.0, drop_description=1.0)
    assert all(sorted(parts(text)) == sorted(FIELDS) for text in drawn)


def test_paraphrases_without_a_description_give_no_caption() -> None:
    assert set(captions(NOTHING | {"paraphrases": ["In three."]}, paraphrase=1.0)) == {None}
    assert set(captions(TRACK | {"paraphrases": []}, paraphrase=1.0)) == {DESCRIPTION}


def test_all_orders_of_merged_fields_are_equally_frequent() -> None:
    track = NOTHING | {"description": DESCRIPTION, "genre": "jazz", "key": "A minor", "bpm": 92.0}
    found = Counter(tuple(parts(text)) for text in captions(track, merge=1.0))
    assert {order[0] for order in found} == {DESCRIPTION[:-1]}
    orders = set(itertools.permutations(["genre: jazz", "key: A minor", "bpm: 92"]))
    assert {order[1:] for order in found} == orders
    assert all(is_rate(count, DRAWS, 1 / len(orders)) for count in found.values())


def test_a_track_without_a_description_is_described_by_its_other_metadata() -> None:
    track = TRACK | {"description": "  "}
    assert set(captions(track)) == {". ".join(FIELDS)} == {plain_caption(track)}
    assert plain_caption(TRACK) == DESCRIPTION


@settings(max_examples=30, deadline=None)
@given(some.lists(some.floats(0, 1), min_size=5, max_size=5))
def test_a_track_without_metadata_never_has_a_caption(probabilities: list[float]) -> None:
    config = CaptionConfig(**dict(zip(CaptionConfig.model_fields, probabilities, strict=True)))
    empty = NOTHING | {"description": "", "moods": [], "paraphrases": []}
    random = np.random.default_rng(0)
    assert [drawn_caption(track, config, random) for track in (NOTHING, empty)] == [None, None]
    assert plain_caption(NOTHING) is None


def test_a_request_names_key_and_tempo_as_training_merges_them() -> None:
    assert request_text("A slow waltz.", "A minor", 92.0) == "A slow waltz. key: A minor. bpm: 92"
    assert request_text(None, None, None) is None
