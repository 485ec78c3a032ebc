"""What the views of a store's database were made from, kept in that database.

To make a view DuckDB reads the end of every file behind it, a hundredth of a second a view. A run with little to do
spends a fifth of its time so, unless it knows which views are still what they would be made to be. The database says
that itself, in a macro, which no client lists among its tables.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass

import duckdb

from schemas.queries.columns import COLUMNS, VIEW_COLUMNS
from schemas.queries.views import VIEWS
from schemas.sql import literal
from schemas.tables import TABLES

MACRO = "segue_views_made_from"

FileState = tuple[str, int, int, int]
"""A file's path, and what changes where another file takes its place or it is written."""


@dataclass(frozen=True)
class ViewSource:
    """What a table's view is made from: its statement, and the files that DuckDB looks into as it is made."""

    statement: str
    files: tuple[FileState, ...]


def keep_sources(connection: duckdb.DuckDBPyConnection, sources: Mapping[str, ViewSource]) -> None:
    """Keep what the views of a database were made from, by table."""
    kept = {
        "definitions": _definitions(),
        "views": _views(connection),
        "sources": {name: asdict(source) for name, source in sources.items()},
    }
    connection.execute(f"CREATE OR REPLACE MACRO {MACRO}() AS {literal(json.dumps(kept))}")


def recall_sources(connection: duckdb.DuckDBPyConnection) -> dict[str, ViewSource]:
    """Return what the views of a database were made from, by table; nothing where it does not say so, where its views
    are others by now, and where another release of Segue or of DuckDB would make others of the same.

    The macro is read and never run: the database may be somebody else's.
    """
    sql = "SELECT macro_definition FROM duckdb_functions() WHERE function_name = ?"
    try:
        ((text,),) = connection.execute(sql, [MACRO]).fetchall()
        kept = json.loads(text.removeprefix("'").removesuffix("'").replace("''", "'"))
        if (kept["definitions"], kept["views"]) != (_definitions(), _views(connection)):
            return {}
        return {
            name: ViewSource(source["statement"], tuple((path, *numbers) for path, *numbers in source["files"]))
            for name, source in kept["sources"].items()
        }
    except (ValueError, KeyError, TypeError):
        return {}


def _definitions() -> str:
    """Return a digest of all that views follow from beside a store."""
    views = [(name, view.about, view.tables, view.statement) for name, view in VIEWS.items()]
    tables = [(name, table.about) for name, table in TABLES.items()]
    return _digest([duckdb.__version__, views, tables, dict(COLUMNS), dict(VIEW_COLUMNS)])


def _views(connection: duckdb.DuckDBPyConnection) -> str:
    """Return a digest of the views of a database, as DuckDB has them."""
    sql = "SELECT view_name, sql FROM duckdb_views() WHERE NOT internal ORDER BY view_name"
    return _digest(connection.execute(sql).fetchall())


def _digest(content: object) -> str:
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()
