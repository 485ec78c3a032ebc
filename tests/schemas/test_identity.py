import hashlib
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas import Config, WeightsRef
from schemas.identity import (
    canonical,
    fingerprint,
    hold_out,
    keys_digest,
    stage_fingerprint,
    weights_fields,
    weights_in,
)


class Inner(Config):
    width: int = 4


class Knobs(Config):
    NOT_IDENTITY = ("refresh",)

    rate: float = 0.5
    inner: Inner = Inner()
    refresh: str = "missing"
    weights: WeightsRef | None = None


plain = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda items: st.lists(items, max_size=4) | st.dictionaries(st.text(), items, max_size=4),
    max_leaves=12,
)


@given(plain)
def test_fingerprints_do_not_depend_on_the_order_of_fields(value):
    def reordered(item):
        if isinstance(item, dict):
            return {key: reordered(item[key]) for key in reversed(list(item))}
        return [reordered(one) for one in item] if isinstance(item, list) else item

    assert fingerprint(value) == fingerprint(reordered(value))


@pytest.mark.parametrize("value", [object(), {1, 2}, float("nan"), float("inf"), b"bytes", print, {1: "a"}])
def test_a_value_without_a_stable_identity_is_refused(value):
    with pytest.raises(ValueError, match="expected"):
        canonical({"field": value})


def test_a_fingerprint_is_the_same_in_another_process():
    code = "from schemas.identity import fingerprint; print(fingerprint({'b': [1, 2.5, None], 'a': 'ä'}))"
    other = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip()
    assert other == fingerprint({"a": "ä", "b": [1, 2.5, None]})


def test_every_part_of_a_stage_changes_its_fingerprint_except_fields_outside_the_identity():
    reference = WeightsRef("some/model")
    base = stage_fingerprint("chroma", 1, Knobs(weights=reference), {reference: "d1"}, {"tracks": "t1"})
    same = stage_fingerprint(
        "chroma", 1, Knobs(weights=reference, refresh="never"), {reference: "d1"}, {"tracks": "t1"}
    )
    others = [
        stage_fingerprint("clap", 1, Knobs(weights=reference), {reference: "d1"}, {"tracks": "t1"}),
        stage_fingerprint("chroma", 2, Knobs(weights=reference), {reference: "d1"}, {"tracks": "t1"}),
        stage_fingerprint("chroma", 1, Knobs(weights=reference, rate=0.25), {reference: "d1"}, {"tracks": "t1"}),
        stage_fingerprint("chroma", 1, Knobs(weights=reference), {reference: "d2"}, {"tracks": "t1"}),
        stage_fingerprint("chroma", 1, Knobs(weights=reference), {reference: "d1"}, {"tracks": "t2"}),
    ]
    assert same == base
    assert len({base, *others}) == 6


def test_weights_are_identified_by_their_digest_and_not_by_their_name():
    one, two = WeightsRef("/models/a"), WeightsRef("/elsewhere/b")
    assert fingerprint(Knobs(weights=one), {one: "d"}) == fingerprint(Knobs(weights=two), {two: "d"})
    with pytest.raises(ValueError, match="digest of the weights '/models/a'"):
        fingerprint(Knobs(weights=one))


def test_weights_are_found_wherever_a_config_names_them():
    class Outer(Config):
        knobs: Knobs = Knobs(weights=WeightsRef("a"))
        more: tuple[WeightsRef, ...] = (WeightsRef("b"), WeightsRef("a"))

    assert weights_in(Outer()) == ["a", "b"]
    assert weights_in(Outer.model_validate_json(Outer().model_dump_json())) == ["a", "b"]
    assert weights_fields(Outer(), "stage") == {"a": "stage.knobs.weights", "b": "stage.more.0"}


@given(st.lists(st.tuples(st.text(), st.text()), unique=True), st.randoms())
def test_the_digest_of_keys_depends_on_the_keys_and_not_on_their_order(keys, random):
    shuffled = list(keys)
    random.shuffle(shuffled)
    assert keys_digest(shuffled) == keys_digest(keys)
    assert keys_digest([*keys, ("one", "more than ever " * 3)]) != keys_digest(keys)


def test_keys_that_concatenate_to_the_same_text_have_different_digests():
    assert keys_digest([("a", "b")]) != keys_digest([("ab",)])
    assert keys_digest([("a,b", "c")]) != keys_digest([("a", "b,c")])


def test_tracks_are_held_out_by_the_hashes_of_their_ids_and_at_least_one_of_several():
    ids = [f"track {number}" for number in range(30)]
    first = sorted(ids, key=lambda track: hashlib.sha256(track.encode()).hexdigest())
    assert hold_out(ids, 0.2) == hold_out(ids[::-1], 0.2) == set(first[:6])
    assert hold_out(ids, 0.001) == set(first[:1])
    assert len(hold_out(ids[:2], 0.001)) == 1
    assert hold_out(ids[:1], 0.9) == hold_out([], 0.9) == set()
    kept = [track for track in ids if track != first[-1]]
    assert hold_out(kept, 0.2) == hold_out(ids, 0.2)


def test_a_reference_is_recognised_as_a_checkpoint_of_the_store_or_a_demucs_model():
    assert WeightsRef("checkpoint:codec").checkpoint == WeightsRef.to_checkpoint("codec").checkpoint == "codec"
    assert WeightsRef("demucs:htdemucs").demucs == "htdemucs"
    for elsewhere in ("facebook/musicgen-small", "./checkpoint", "s3://bucket/demucs"):
        assert WeightsRef(elsewhere).checkpoint is None
        assert WeightsRef(elsewhere).demucs is None
