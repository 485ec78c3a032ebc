"""Artists and splits: which artists are named, and that connected ones are in one split."""

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as some

from stages.ingest.artists import (
    SPLITS,
    ArtistGroups,
    artist_key,
    distinct,
    featured_names,
    group_keys,
    split_names,
    split_of,
)

NAMED = {
    "Pink Floyd feat. Someone": ["Pink Floyd", "Someone"],
    "Pink Floyd (ft. A & B)": ["Pink Floyd", "A", "B"],
    "A; B;C": ["A", "B", "C"],
    "A / B": ["A", "B"],
    "A vs. B": ["A", "B"],
    "Tyga x Chris Brown": ["Tyga", "Chris Brown"],
    "X [with Y]": ["X", "Y"],
    "Simon & Garfunkel": ["Simon", "Garfunkel"],
    "Earth, Wind & Fire": ["Earth, Wind & Fire"],
    "Bob Marley & The Wailers": ["Bob Marley & The Wailers"],
    "Florence and the Machine": ["Florence and the Machine"],
    "Tyler, The Creator": ["Tyler, The Creator"],
    "AC/DC": ["AC/DC"],
    "Malcolm X": ["Malcolm X"],
    "Sunn O))) (live)": ["Sunn O))) (live)"],
    "Various Artists": [],
    "unknown": [],
    "": [],
}


@pytest.mark.parametrize("text", NAMED)
def test_artists_in_a_text_are_separated_and_names_of_bands_stay_whole(text):
    assert split_names(text) == NAMED[text]


def test_artists_in_a_title_are_found_only_in_brackets():
    assert featured_names("Song (feat. X & Y) [ft. Z]") == ["X", "Y", "Z"]
    assert featured_names("Feat. of strength") == []


def test_spellings_of_one_artist_have_one_key_and_are_listed_once():
    for name in ("The Beatles", "beatles", " BEATLES ", "the  beatles"):
        assert artist_key(name) == "beatles"
    assert artist_key("Simon and Garfunkel") == artist_key("Simon & Garfunkel")
    assert distinct(["Björk", "Bjo\u0308rk", "BJÖRK", "X"]) == ["Björk", "X"]


def test_a_whole_name_is_connected_with_its_parts_that_may_be_artists():
    assert group_keys(["Earth, Wind & Fire"], "t") == [
        *("artist:earth, wind & fire", "artist:earth", "artist:wind", "artist:fire"),
    ]
    assert group_keys(["Benny Goodman & His Orchestra"], "t")[1:] == ["artist:benny goodman"]
    assert group_keys([], "t") == ["track:t"]


def test_the_splits_have_their_shares():
    counts = Counter(split_of(f"artist:{number}", 0.05, 0.1) for number in range(20_000))
    assert abs(counts["valid"] / 20_000 - 0.05) < 0.006
    assert abs(counts["test"] / 20_000 - 0.1) < 0.008
    assert sum(counts.values()) == 20_000


@given(some.text(min_size=1), some.floats(0, 0.2), some.floats(0, 0.2))
def test_a_larger_share_keeps_all_keys_of_the_split(key, valid, more):
    if split_of(key, valid, 0.1) == "valid":
        assert split_of(key, valid + more, 0.1) == "valid"


KEYS = some.lists(some.lists(some.sampled_from("abcdefghij"), min_size=1, max_size=3), max_size=12)


@given(KEYS, some.randoms())
def test_groups_do_not_depend_on_the_order_and_have_one_split_each(tracks, random):
    shuffled = list(tracks)
    random.shuffle(shuffled)
    first, second = ArtistGroups(0.3, 0.3), ArtistGroups(0.3, 0.3)
    for keys in tracks:
        first.connect(keys, None)
    for keys in shuffled:
        second.connect(keys, None)
    for keys in tracks:
        assert len({first.split(key) for key in keys}) == 1
        assert first.split(keys[0]) == second.split(keys[0])


@given(KEYS, some.lists(some.sampled_from("abcdefghij"), min_size=2, max_size=3))
def test_a_further_track_moves_others_only_towards_training(tracks, further):
    groups = ArtistGroups(0.3, 0.3)
    for keys in tracks:
        groups.connect(keys, None)
    before = {key: groups.split(key) for keys in tracks for key in keys}
    groups.connect(further, None)
    for key, split in before.items():
        assert SPLITS.index(groups.split(key)) <= SPLITS.index(split)


def test_a_group_keeps_the_split_of_a_track_already_in_it():
    held_out = next(f"artist:{number}" for number in range(99) if split_of(f"artist:{number}", 0.3, 0.3) == "test")
    groups = ArtistGroups(0.3, 0.3)
    groups.connect([held_out], "train")
    assert groups.split(held_out) == "train"
