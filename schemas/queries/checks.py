"""Checks: what must hold of a table before users see it, as a user says it in SQL."""

from typing import Literal

from pydantic import Field, field_validator

from schemas.config import Config
from schemas.names import did_you_mean
from schemas.tables import TABLES

Severity = Literal["warn", "error"]


class Check(Config):
    """A statement that finds what is wrong with a table: rows that it returns are faults."""

    name: str | None = None
    """What the table `checks` calls it; None takes the statement itself."""
    table: str
    """The table whose publication waits for it."""
    severity: Severity = "error"
    """`error`: the stage fails and the views stay as they were; `warn`: the run says so and goes on."""
    sql: str = Field(min_length=1)
    """One SELECT over the store's tables, this table as it is to be published."""

    @field_validator("table")
    @classmethod
    def _is_derived(cls, name: str) -> str:
        if name not in TABLES or TABLES[name].accumulates:
            tables = ", ".join(table.name for table in TABLES.values() if not table.accumulates)
            raise ValueError(
                f"expected a table that a stage publishes ({tables}), got {name!r}{did_you_mean(name, TABLES)}"
            )
        return name
