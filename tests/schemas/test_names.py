"""Suggestions for misspelt names."""

import pytest

from schemas.names import did_you_mean, nearest_name
from schemas.tables import TABLES


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("trakcs", "tracks"),
        ("clip", "clips"),
        ("Tracks", "tracks"),
        ("generation", "generations"),
        ("taken-down", "taken_down"),
    ],
)
def test_a_misspelt_name_finds_the_nearest_name(name, meant):
    assert nearest_name(name, TABLES) == meant
    assert did_you_mean(name, TABLES) == f" (did you mean {meant}?)"


def test_a_prefix_finds_the_only_name_that_begins_with_it():
    assert nearest_name("recon", TABLES) == "reconstructions"


def test_a_name_unlike_all_others_gets_no_suggestion():
    assert nearest_name("xylophone", TABLES) is None
    assert did_you_mean("xylophone", TABLES) == ""


def test_a_known_name_gets_no_suggestion():
    assert did_you_mean("tracks", TABLES) == ""
