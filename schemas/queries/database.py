"""SQL over the store: a view for each table, through DuckDB, on a local disk and on any fsspec filesystem.

A table of derived data shows what was published last (`schemas.storage.publications`); a table of records shows all its
versions. If a shard is replaced while a query reads it, the query is run again, so that its answer comes from one
publication and never from two.
"""

import itertools
import re
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import duckdb
import pyarrow as pa

from schemas.names import did_you_mean
from schemas.queries.errors import QueryError, UnreadFile
from schemas.queries.in_memory import database_for
from schemas.queries.shown import shown_files_by
from schemas.queries.table_views import make_view, make_views_over, reason_of
from schemas.queries.views import EVERY_CLIP, VIEWS
from schemas.storage.publications import Publications
from schemas.storage.store import Store
from schemas.storage.take_downs import TakeDowns
from schemas.tables import CLIPS, TABLES, Table

PATIENCE, READS = 120.0, 3
"""The seconds for which a query is run again while shards are being replaced, and the tries after which a file that
cannot be read is an error if nothing was replaced."""

WORDS = "words"
"""The temporary table with the words of a query and their embeddings."""


def query(
    store: Store,
    sql: str,
    candidates: Mapping[str, Sequence[str]] | None = None,
    words: Mapping[str, Sequence[float]] | None = None,
) -> pa.Table:
    """Return the answer to one read-only statement over the store's tables.

    Args:
        candidates: files to read in place of those published of a table, by the table's name.
        words: texts with their embeddings, for the table `words` of this statement.

    Raises:
        QueryError: the statement is not one SELECT, DESCRIBE, SHOW or EXPLAIN of one, or DuckDB refuses it.
    """
    # Only the tables that the statement can read are listed: on an object store each listing is a request.
    named = [table.name for table in _tables_in(sql) if table.name not in (candidates or {})]
    deadline, publications = time.monotonic() + PATIENCE, Publications(store)
    for attempt in itertools.count(1):
        shown = _shown(publications, named)
        try:
            files = {**shown.files, **(candidates or {})}
            answer = _query(store, sql, files, whole=candidates or (), words=words or {})
        except UnreadFile as error:
            # A shard was replaced while it was read, or the network failed for a moment.
            if attempt >= READS and shown == _shown(publications, named):
                raise QueryError(f"{error}; `segue check` shows what is damaged, with its repair") from error
        else:
            if shown == _shown(publications, named):
                return answer
        if time.monotonic() > deadline:
            break
    raise QueryError(
        f"expected {store.url} to stay as it is for one query, got {attempt} changes in {PATIENCE:.0f} s; try again"
    )


@dataclass(frozen=True)
class _Shown:
    """What the views of some tables read at one moment."""

    publication: int
    """The number of the last publication. A later one may have the same file paths, with other rows in them."""
    files: Mapping[str, list[str]]


def _shown(publications: Publications, names: Sequence[str]) -> _Shown:
    last = publications.sequences()[-1:] if names else []
    return _Shown(last[0] if last else 0, shown_files_by(publications, names))


def _tables_in(sql: str) -> list[Table]:
    """Return the tables that a statement names, directly or through a view; all tables if it names none, since it may
    list them."""
    through = {table for name, view in VIEWS.items() if _names(sql, name) for table in view.tables}
    through |= {CLIPS.name} if _names(sql, EVERY_CLIP) else set()
    named = [table for table in TABLES.values() if table.name in through or _names(sql, table.name)]
    return named or list(TABLES.values())


def _names(sql: str, name: str) -> bool:
    return re.search(rf"\b{name}\b", sql, re.IGNORECASE) is not None


@dataclass(frozen=True)
class ColumnCounts:
    """How many rows some files of a table have, and how many values each column has."""

    rows: int
    distinct_keys: int
    values: Mapping[str, int]
    """The number of values that are not null, by column; without nested columns, which would have to be read whole."""


def column_counts(store: Store, table: Table, files: Sequence[str]) -> ColumnCounts:
    """Count the rows, keys and values in files of a table.

    Raises:
        QueryError: a file cannot be read.
    """
    plain = [field.name for field in table.schema if not pa.types.is_nested(field.type)]
    keys = ", ".join(f'"{name}"' for name in table.key)
    counts = ", ".join(f'count("{name}") AS "{name}"' for name in plain)
    sql = f'SELECT count(*) AS "*", count(DISTINCT ({keys})) AS "key *", {counts} FROM {table.name}'
    values = query(store, sql, {table.name: files}).to_pylist()[0]
    return ColumnCounts(values.pop("*"), values.pop("key *"), values)


def filled_columns(store: Store, table: Table, files: Sequence[str], names: Sequence[str]) -> list[str]:
    """Return those of the named columns that have a value in any row of some files of a table.

    Args:
        names: columns that are not nested.

    Raises:
        QueryError: a file cannot be read.
    """
    counts = ", ".join(f'count("{name}") AS "{name}"' for name in names)
    values = query(store, f"SELECT {counts} FROM {table.name}", {table.name: files}).to_pylist()[0]
    return [name for name in names if values[name]]


def _query(
    store: Store,
    sql: str,
    shown: Mapping[str, Sequence[str]],
    whole: Collection[str],
    words: Mapping[str, Sequence[float]],
) -> pa.Table:
    with database_for(store) as connection:
        # Only for the tables that the statement names, so that a damaged shard of another table does no harm.
        tables, take_downs = _tables_in(sql), TakeDowns(store)
        for table in tables:
            make_view(connection, store, table, shown[table.name], None if table.name in whole else take_downs)
        make_views_over(connection, store, {table.name for table in tables}, whole)
        if _names(sql, WORDS):
            connection.execute(f"CREATE TEMP TABLE {WORDS} (words VARCHAR, embedding FLOAT[])")
            for text, embedding in words.items():
                connection.execute(f"INSERT INTO {WORDS} VALUES (?, ?)", [text, list(embedding)])
        try:
            # EXPLAIN ANALYZE runs the statement that it explains, so that statement must be a SELECT.
            statements = connection.extract_statements(re.sub(r"(?i)^\s*explain\s+(analyze\s+)?", "", sql))
            if [statement.type for statement in statements] != [duckdb.StatementType.SELECT]:
                kinds = ", ".join(statement.type.name for statement in statements) or "nothing"
                raise QueryError(f"expected one SELECT (the store is read-only here), got {kinds}")
            return connection.sql(sql).to_arrow_table()
        except (duckdb.ParserException, duckdb.BinderException, duckdb.CatalogException) as error:
            raise QueryError(_with_suggestion(reason_of(error))) from error
        except (duckdb.Error, OSError) as error:
            raise UnreadFile(reason_of(error)) from error


def _with_suggestion(message: str) -> str:
    """Return DuckDB's message about an unknown name, with a suggestion from the whole store. DuckDB itself knows only
    the tables that the statement names."""
    table = re.match(r"Catalog Error: Table with name (\w+) does not exist", message)
    if table:
        return f"{table[0]}{did_you_mean(table[1], (*TABLES, *VIEWS))}"
    column = re.match(r'Binder Error: Referenced column "(\w+)" not found', message)
    tables = [name for name, other in TABLES.items() if column and column[1] in other.schema.names]
    return f"{message}; {', '.join(tables)} {'has' if len(tables) == 1 else 'have'} it" if tables else message
