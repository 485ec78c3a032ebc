"""Descriptions of the fields of a configuration."""

from schemas import Config
from schemas.config import field_docstrings


class Engine(Config):
    """An engine."""

    power: float = 1.0
    """What it gives,
    in kW."""
    cylinders: int = 4


class Diesel(Engine):
    """Another one."""

    cylinders: int = 6
    """How many there are."""


def test_docstrings_of_fields_are_found_including_those_of_the_base_class():
    assert field_docstrings(Engine) == {"power": "What it gives,\nin kW."}
    assert field_docstrings(Diesel) == {"power": "What it gives,\nin kW.", "cylinders": "How many there are."}


def test_the_json_schema_describes_fields_by_their_docstrings():
    properties = Diesel.model_json_schema()["properties"]
    assert properties["cylinders"]["description"] == "How many there are."
    assert properties["power"]["description"] == "What it gives,\nin kW."
