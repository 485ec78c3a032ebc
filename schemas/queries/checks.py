"""Checks: what must hold of a table before users see it, written by a user in SQL."""

from typing import Literal

from pydantic import Field, field_validator

from schemas.config import Config
from schemas.names import did_you_mean
from schemas.tables import TABLES

Severity = Literal["warn", "error"]


class Check(Config):
    """A statement that finds what is wrong with a table: every row that it returns is a fault."""

    name: str | None = None
    """The check's name in the table `checks`; None takes the statement itself."""
    table: str
    """The table that is published only after this check."""
    severity: Severity = "error"
    """`error`: the stage fails and the views stay as they were; `warn`: the run reports the fault and goes on."""
    sql: str = Field(min_length=1)
    """One SELECT over the store's tables, in which this table is as it would be published."""

    @field_validator("table")
    @classmethod
    def _is_derived(cls, name: str) -> str:
        if name not in TABLES or TABLES[name].accumulates:
            tables = ", ".join(table.name for table in TABLES.values() if not table.accumulates)
            raise ValueError(
                f"expected a table that a stage publishes ({tables}), got {name!r}{did_you_mean(name, TABLES)}"
            )
        return name
