"""What a configuration says of its fields."""

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


def test_docstrings_under_fields_are_found_by_name_those_of_the_class_extended_too():
    assert field_docstrings(Engine) == {"power": "What it gives,\nin kW."}
    assert field_docstrings(Diesel) == {"power": "What it gives,\nin kW.", "cylinders": "How many there are."}


def test_a_json_schema_describes_its_fields_by_their_docstrings():
    properties = Diesel.model_json_schema()["properties"]
    assert properties["cylinders"]["description"] == "How many there are."
    assert properties["power"]["description"] == "What it gives,\nin kW."
