"""What the views of a store's database were made from, kept in that database.

To make a view, DuckDB reads the end of every file behind it, which takes a hundredth of a second for each view. That
would be a fifth of the time of a run with little to do, so views that would not change are not made again. The database
itself says what its views were made from, in the comment of a type, which no client lists among its tables. (DuckDB
lists its thousands of functions, with macros among them, in 20 ms, and its types in 3.)
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass

import duckdb

from schemas.queries.columns import COLUMNS, VIEW_COLUMNS
from schemas.queries.views import VIEWS
from schemas.sql import literal
from schemas.tables import TABLES

TYPE = "segue_views_made_from"

FileState = tuple[str, int, int, int]
"""A file's path, and numbers that change when the file is replaced or written to."""


@dataclass(frozen=True)
class ViewSource:
    """What a table's view is made from: its statement, and the files that DuckDB reads when it makes the view."""

    statement: str
    files: tuple[FileState, ...]


def save_sources(connection: duckdb.DuckDBPyConnection, sources: Mapping[str, ViewSource]) -> None:
    """Record in a database what its views were made from, by table."""
    record = {
        "definitions": _definitions(),
        "views": _views(connection),
        "sources": {name: [source.statement, source.files] for name, source in sources.items()},
    }
    connection.execute(f"CREATE OR REPLACE TYPE {TYPE} AS VARCHAR")
    connection.execute(f"COMMENT ON TYPE {TYPE} IS {literal(json.dumps(record))}")


def load_sources(connection: duckdb.DuckDBPyConnection) -> dict[str, ViewSource]:
    """Return what the views of a database were made from, by table. Empty if that is not recorded, if the views were
    changed since, or if this release of Segue or DuckDB would make them differently.
    """
    try:
        ((text,),) = connection.execute("SELECT comment FROM duckdb_types() WHERE type_name = ?", [TYPE]).fetchall()
        record = json.loads(text)
        if (record["definitions"], record["views"]) != (_definitions(), _views(connection)):
            return {}
        return {
            name: ViewSource(statement, tuple((path, *numbers) for path, *numbers in files))
            for name, (statement, files) in record["sources"].items()
        }
    except (ValueError, KeyError, TypeError):
        return {}


def _definitions() -> str:
    """Return a digest of everything that views depend on besides the store."""
    views = [(name, view.about, view.tables, view.statement) for name, view in VIEWS.items()]
    tables = [(name, table.about) for name, table in TABLES.items()]
    return _digest([duckdb.__version__, views, tables, dict(COLUMNS), dict(VIEW_COLUMNS)])


def _views(connection: duckdb.DuckDBPyConnection) -> str:
    """Return a digest of the views of a database, as DuckDB reports them."""
    sql = "SELECT view_name, sql FROM duckdb_views() WHERE NOT internal ORDER BY view_name"
    return _digest(connection.execute(sql).fetchall())


def _digest(content: object) -> str:
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()
