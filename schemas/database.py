"""SQL over the store: a view a table, through DuckDB, on a local disk and on any fsspec filesystem.

A table of derived data shows its newest version (the one that the latest row of `runs` names, since going back to an
earlier recipe makes an earlier version the current one again); a table of records shows all of them.
"""

import os
import re
import uuid
from collections.abc import Sequence

import duckdb
import pyarrow as pa

from schemas.store import Store
from schemas.tables import REJECTS, REMARKS, RUNS, TABLES, Table

FILE = "segue.duckdb"
"""The database of views at the root of a store on a local disk."""


class QueryError(ValueError):
    """A query that cannot be answered, with DuckDB's reason."""


def query(store: Store, sql: str) -> pa.Table:
    """Return the answer to one read-only statement over the store's tables.

    Raises:
        QueryError: the statement is not one SELECT, DESCRIBE, SHOW or EXPLAIN of one, DuckDB refuses it, or something
            that is no shard lies among a table's.
    """
    with duckdb.connect(":memory:") as connection:
        if not store.is_local:
            connection.register_filesystem(store.filesystem)
        _make_views(connection, store)
        try:
            # EXPLAIN ANALYZE runs what it explains, so that is what must be a SELECT.
            statements = connection.extract_statements(re.sub(r"(?i)^\s*explain\s+(analyze\s+)?", "", sql))
            if [statement.type for statement in statements] != [duckdb.StatementType.SELECT]:
                kinds = ", ".join(statement.type.name for statement in statements) or "nothing"
                raise QueryError(f"expected one SELECT (the store is read-only here), got {kinds}")
            return connection.sql(sql).to_arrow_table()
        except duckdb.Error as error:
            raise QueryError(_reason(error)) from error


def write_views(store: Store) -> None:
    """Make `<store>/segue.duckdb` anew, with a view a table, so that any DuckDB client opens it. On an object store
    there is no such file: `query` makes the views in memory.

    Raises:
        QueryError: something that is no shard lies among a table's.
    """
    if not store.is_local:
        return
    target = store.path(FILE)
    os.makedirs(store.root, exist_ok=True)
    temporary = f"{target}.{uuid.uuid4().hex}.inprogress"
    try:
        with duckdb.connect(temporary) as connection:
            _make_views(connection, store)
        os.replace(temporary, target)
    finally:
        for left in (temporary, f"{temporary}.wal"):
            if os.path.exists(left):
                os.remove(left)


def current_versions(store: Store) -> dict[str, list[str]]:
    """Return the versions that each table's view shows, by table name."""
    runs = store.read(RUNS, "1", columns=["stage", "fingerprint", "started_at", "outputs"]).to_pylist()
    newest: dict[str, str] = {}
    stages: dict[str, str] = {}
    for run in sorted(runs, key=lambda row: row["started_at"]):
        stages[run["stage"]] = run["fingerprint"]
        newest |= {name: run["fingerprint"] for name in run["outputs"]}
    shown = {}
    for table in TABLES.values():
        versions = store.versions(table)
        if table in (REJECTS, REMARKS):
            shown[table.name] = [version for version in versions if version in stages.values()]
        elif table.accumulates:
            shown[table.name] = versions
        else:
            shown[table.name] = [
                version for version in (newest.get(table.name), *versions[-1:]) if version in versions
            ][:1]
    return shown


def _make_views(connection: duckdb.DuckDBPyConnection, store: Store) -> None:
    shown = current_versions(store)
    for table in TABLES.values():
        try:
            connection.execute(_view(store, table, shown[table.name]))
        except duckdb.Error as error:
            raise QueryError(f"expected nothing but shards of {table.name} in {store.url}: {_reason(error)}") from error


def _reason(error: duckdb.Error) -> str:
    """Return what DuckDB says, without the statement that it points at."""
    return str(error).split("\n\nLINE ")[0]


def _view(store: Store, table: Table, versions: Sequence[str]) -> str:
    """Return the statement that makes a table's view. It has all of the table's columns, also where there is no version
    yet or only files of an earlier release, which lacked some of them."""
    columns = ", ".join(f'NULL::{_sql_type(field.type)} AS "{field.name}"' for field in table.schema)
    view = f"CREATE OR REPLACE VIEW {table.name} AS SELECT {columns} WHERE false"
    if not versions:
        return view
    paths = ", ".join(_literal(f"{_prefix(store)}{store.folder(table, version)}/*.parquet") for version in versions)
    source = f"read_parquet([{paths}], hive_partitioning = false, union_by_name = true)"
    return f"{view} UNION ALL BY NAME SELECT * FROM {source}"


def _prefix(store: Store) -> str:
    if store.is_local:
        return f"{store.root}/"
    return f"{store.filesystem.unstrip_protocol(store.root)}/"


def _literal(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


def _sql_type(kind: pa.DataType) -> str:
    """DuckDB's name of an Arrow type that the tables use."""
    if pa.types.is_map(kind):
        return f"MAP({_sql_type(kind.key_type)}, {_sql_type(kind.item_type)})"
    if pa.types.is_list(kind):
        return f"{_sql_type(kind.value_type)}[]"
    if pa.types.is_struct(kind):
        fields = ", ".join(f'"{kind.field(i).name}" {_sql_type(kind.field(i).type)}' for i in range(kind.num_fields))
        return f"STRUCT({fields})"
    names = {"string": "VARCHAR", "bool": "BOOLEAN", "int16": "SMALLINT", "int32": "INTEGER", "int64": "BIGINT"}
    names |= {"uint16": "USMALLINT", "float": "FLOAT", "double": "DOUBLE", "timestamp[us, tz=UTC]": "TIMESTAMPTZ"}
    return names[str(kind)]
