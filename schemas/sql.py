"""How values are written in SQL: the only place where a text is quoted for it."""


def literal(value: object) -> str:
    """Return a value as an SQL literal: a text in quotes, anything else as `str` writes it."""
    return "'" + value.replace("'", "''") + "'" if isinstance(value, str) else str(value)
