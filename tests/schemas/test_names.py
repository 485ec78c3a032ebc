"""Names that are nearly right."""

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
def test_a_name_that_is_nearly_right_finds_the_one_that_was_meant(name, meant):
    assert nearest_name(name, TABLES) == meant
    assert did_you_mean(name, TABLES) == f" (did you mean {meant}?)"


def test_the_only_name_that_begins_so_is_meant_however_long_it_is():
    assert nearest_name("recon", TABLES) == "reconstructions"


def test_a_name_like_none_is_told_nothing():
    assert nearest_name("xylophone", TABLES) is None
    assert did_you_mean("xylophone", TABLES) == ""


def test_a_name_that_is_known_is_not_said_to_mean_itself():
    assert did_you_mean("tracks", TABLES) == ""
