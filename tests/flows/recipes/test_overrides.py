"""Words of a command line parsed into a difference, and one-line errors."""

from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import Field, ValidationError

from flows.recipes.merging import merge
from flows.recipes.overrides import explain, parse_overrides
from schemas import Config, WeightsRef


class Inner(Config):
    width: int = Field(default=8, ge=1)
    delays: tuple[int, ...] = (0, 1)


class Outer(Config):
    model: Inner = Inner()
    maybe: Inner | None = None
    steps: int = 10
    name: str = "a"
    weights: WeightsRef | None = "org/name"
    kind: Literal["one", "two"] = "one"
    pairs: dict[str, float] = Field(default={})


MODELS = {"settings": Inner, "train": Outer}


def parsed(*pairs):
    return parse_overrides(pairs, MODELS)


def test_values_are_json_if_they_parse_and_their_field_is_not_text():
    assert parsed("train.steps=3", "train.name=3", "train.model.delays=[0, 2]") == {
        "train": {"steps": 3, "name": "3", "model": {"delays": [0, 2]}}
    }
    assert parsed("train.name=null", "train.weights=null", "train.kind=two") == {
        "train": {"name": "null", "weights": None, "kind": "two"}
    }
    assert parsed("train.maybe.width=2") == {"train": {"maybe": {"width": 2}}}
    assert parsed("train.name=a=b") == {"train": {"name": "a=b"}}


def test_a_later_word_wins_and_an_object_may_be_given_whole():
    assert parsed("train.steps=1", "train.steps=2") == {"train": {"steps": 2}}
    assert parsed('train.model={"width": 3}', "train.model.delays=[1]") == {
        "train": {"model": {"width": 3, "delays": [1]}}
    }


@pytest.mark.parametrize(
    ("pair", "words"),
    [
        ("train", ["stage.field=value"]),
        ("train=1", ["stage.field=value"]),
        ("trian.steps=1", ["unknown stage 'trian'", "settings, train"]),
        ("train.stepz=1", ["unknown field train.stepz", "model, maybe, steps, name"]),
        ("train.model.widht=1", ["unknown field train.model.widht", "width, delays"]),
        ("train.steps.more=1", ["train.steps", "has no fields: give"]),
    ],
)
def test_a_wrong_path_is_refused_with_the_allowed_names(pair, words):
    with pytest.raises(ValueError, match="--set") as raised:
        parsed(pair)
    assert all(word in str(raised.value) for word in words)


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ({"steps": "many"}, ["train.steps", "valid integer", "'many'"]),
        ({"kind": "three"}, ["train.kind", "'one' or 'two'", "'three'"]),
        ({"model": {"width": 0}}, ["train.model.width", "greater than or equal to 1", "got 0"]),
        ({"model": {"widht": 0}}, ["unknown field train.model.widht", "width, delays"]),
        ({"model": {"delays": "0,1"}}, ["train.model.delays", "JSON list", "got '0,1'"]),
        ({"model": 3}, ["train.model", "JSON object", "got 3"]),
        ({"pairs": 3}, ["train.pairs", "JSON object", "got 3"]),
        ({"maybe": {"depth": 0}}, ["unknown field train.maybe.depth", "width, delays"]),
    ],
)
def test_a_wrong_value_is_explained_in_one_line_with_its_field_and_what_is_allowed(value, words):
    with pytest.raises(ValidationError) as raised:
        Outer.model_validate(value)
    line = explain(raised.value, Outer, "train.")
    assert "\n" not in line
    assert all(word in line for word in words)


TREES = st.recursive(st.integers(), lambda below: st.dictionaries(st.sampled_from("abc"), below), max_leaves=6)
MAPPINGS = st.dictionaries(st.sampled_from("abc"), TREES)


@given(MAPPINGS, MAPPINGS)
def test_merging_keeps_given_values_and_fills_in_the_rest(base, over):
    merged = merge(base, over)
    assert merge(merged, over) == merged
    assert merge({}, over) == over == merge(over, {})
    assert set(merged) == set(base) | set(over)
    for key, value in over.items():
        if not isinstance(value, dict):
            assert merged[key] == value
