"""What goes wrong when a store is asked."""


class QueryError(ValueError):
    """A query that cannot be answered, with DuckDB's reason."""


class UnreadFile(QueryError):
    """A file could not be read; another try may find it whole."""
