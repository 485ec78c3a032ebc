"""How values are written in SQL: the only place where a text is quoted for it."""


def literal(value: object) -> str:
    """Return a value as SQL writes it: a text between quotes, a number as it is."""
    return "'" + value.replace("'", "''") + "'" if isinstance(value, str) else str(value)
