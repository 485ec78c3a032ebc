"""Raw conditions: which are refused, and how they are dropped in training."""

import math
from collections import Counter
from pathlib import Path

import pytest
import torch

from model.conditioning.config import CONDITIONS
from model.music_model import Attributes, drop_attributes, drop_conditions
from tests.worlds.oracles import read_pack
from tests.worlds.tiny_model import melody

FULL = Attributes(
    "calm piano", melody(0, 4, 7), torch.ones(8), {"genre": "jazz", "keywords": "slow", "bpm": 92.0, "seconds": 30}
)


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def band(probability: float, draws: int) -> float:
    """Four standard deviations of a share of `draws` draws."""
    return 4 * (probability * (1 - probability) / draws) ** 0.5


def test_given_conditions_are_named_in_the_order_of_fusing() -> None:
    assert FULL.names == ("description", "genre", "keywords", "bpm", "seconds", "chroma", "clap")
    assert Attributes().names == ()
    assert Attributes(fields={"seconds": 3.0, "bpm": 92.0, "key": "C"}).names == ("key", "bpm", "seconds")
    assert set(FULL.names) < set(CONDITIONS)


def test_removing_conditions_leaves_the_others_unchanged() -> None:
    kept = FULL.without(["chroma", "genre", "artist"])
    assert kept.names == ("description", "keywords", "bpm", "seconds", "clap")
    assert kept.clap is FULL.clap
    assert FULL.without(CONDITIONS).names == ()
    assert FULL.names == ("description", "genre", "keywords", "bpm", "seconds", "chroma", "clap")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"description": ""}, "expected a description or None, got ''"),
        ({"description": " \n"}, r"expected a description or None, got ' \\n'"),
        ({"fields": {"colour": "red"}}, r"expected fields among \['genre', .*\], got 'colour'"),
        ({"fields": {"description": "calm"}}, "expected fields among .* got 'description'"),
        ({"fields": {"bpm": "120"}}, "expected a finite number for the field bpm, got '120'"),
        ({"fields": {"bpm": math.nan}}, "expected a finite number for the field bpm, got nan"),
        ({"fields": {"seconds": math.inf}}, "expected a finite number for the field seconds, got inf"),
        ({"fields": {"bpm": True}}, "expected a finite number for the field bpm, got True"),
        ({"fields": {"genre": 3.0}}, r"expected a text for the field genre, got 3\.0"),
        ({"fields": {"genre": " "}}, "expected a text for the field genre, got ' '"),
        ({"chroma": torch.zeros(4, 11)}, r"expected a chroma \[F, 12\], got \[4, 11\]"),
        ({"chroma": torch.zeros(0, 12)}, r"expected a chroma \[F, 12\], got \[0, 12\]"),
        ({"chroma": torch.zeros(1, 4, 12)}, r"expected a chroma \[F, 12\], got \[1, 4, 12\]"),
        ({"chroma": torch.full((4, 12), math.nan)}, "expected finite values in chroma"),
        ({"clap": torch.zeros(1, 8)}, r"expected a joint embedding \[E\], got \[1, 8\]"),
        ({"clap": torch.full((8,), math.inf)}, "expected finite values in clap"),
    ],
)
def test_invalid_attributes_are_refused(given: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Attributes(**given)


def test_dropping_removes_every_kind_of_condition_of_an_item() -> None:
    (dropped,) = drop_conditions([FULL], 1.0, torch.Generator())
    assert dropped.names == ()
    (kept,) = drop_conditions([FULL], 0.0, torch.Generator())
    assert kept is FULL


def test_items_drawn_one_by_one_are_dropped_where_the_oracle_drops_them(oracles: Path) -> None:
    """The reference draws once for a whole batch, which is the same for batches of one item."""
    facts = read_pack(oracles, "conditioning").facts["cfg_dropout"]
    generator = seeded(facts["seed"])
    drops = [drop_conditions([FULL], facts["p"], generator)[0] is not FULL for _ in facts["drops_per_call"]]
    assert drops == facts["drops_per_call"]


def test_items_are_dropped_independently_at_the_given_rate() -> None:
    generator = seeded(11)
    draws = torch.tensor(
        [[item is not FULL for item in drop_conditions([FULL] * 4, 0.3, generator)] for _ in range(4000)]
    ).double()
    assert abs(draws.mean() - 0.3) < band(0.3, 16_000)
    assert (draws.mean(0) - 0.3).abs().max() < band(0.3, 4000)
    correlation = torch.corrcoef(draws.T) - torch.eye(4)
    assert correlation.abs().max() < 4 / 4000**0.5


def test_attributes_are_dropped_independently_at_their_own_rates() -> None:
    rates = {"description": 0.1, "genre": 0.4, "bpm": 0.25, "chroma": 0.5, "clap": 0.7, "seconds": 0.0, "keywords": 1.0}
    items = drop_attributes([FULL] * 6000, rates, seeded(5))
    counts = Counter(name for item in items for name in item.names)
    for name, rate in rates.items():
        assert abs(1 - counts[name] / 6000 - rate) <= band(rate, 6000), name
    drawn = [name for name, rate in rates.items() if 0 < rate < 1]
    kept = torch.tensor([[name in item.names for name in drawn] for item in items]).double()
    assert (torch.corrcoef(kept.T) - torch.eye(len(drawn))).abs().max() < 4 / 6000**0.5
    assert (torch.corrcoef(torch.stack([kept[:-1, 0], kept[1:, 0]])) - torch.eye(2)).abs().max() < 4 / 6000**0.5


def test_dropping_depends_only_on_the_generator() -> None:
    first, second = (drop_conditions([FULL] * 50, 0.5, seeded(2)) for _ in range(2))
    assert [item is FULL for item in first] == [item is FULL for item in second]
    rates = {"chroma": 0.5, "genre": 0.5}
    once = drop_attributes([FULL] * 50, rates, seeded(2))
    again = drop_attributes([FULL] * 50, dict(reversed(rates.items())), seeded(2))
    assert [item.names for item in once] == [item.names for item in again]


def test_dropping_one_attribute_does_not_depend_on_the_probability_of_another() -> None:
    alone = drop_attributes([FULL] * 50, {"chroma": 0.5}, seeded(3))
    beside = drop_attributes([FULL] * 50, {"chroma": 0.5, "description": 0.9, "clap": 0.2}, seeded(3))
    assert [item.chroma is None for item in alone] == [item.chroma is None for item in beside]
    assert [item.clap is None for item in alone] == [False] * 50


def test_an_item_that_loses_nothing_is_not_copied() -> None:
    poor = Attributes("bass")
    assert drop_attributes([poor, FULL], {"chroma": 1.0, "genre": 1.0}, seeded(0))[0] is poor
    assert drop_attributes([FULL], {}, seeded(0))[0] is FULL


def test_invalid_probabilities_and_names_are_refused() -> None:
    with pytest.raises(ValueError, match=r"expected a probability from 0 to 1, got 1\.5"):
        drop_conditions([FULL], 1.5, torch.Generator())
    with pytest.raises(ValueError, match=r"expected conditions among \['description', .*\], got 'melody'"):
        drop_attributes([FULL], {"melody": 0.5}, torch.Generator())
    with pytest.raises(ValueError, match=r"expected a probability of clap from 0 to 1, got -0\.5"):
        drop_attributes([FULL], {"clap": -0.5}, torch.Generator())
    with pytest.raises(ValueError, match="expected a probability of clap from 0 to 1, got nan"):
        drop_attributes([FULL], {"clap": math.nan}, torch.Generator())
