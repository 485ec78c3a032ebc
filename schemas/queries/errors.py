"""Errors of queries over a store."""


class QueryError(ValueError):
    """A query that cannot be answered, with DuckDB's reason."""


class UnreadFile(QueryError):
    """A file could not be read, perhaps because a run was replacing it; another try may succeed."""
