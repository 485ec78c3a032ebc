"""The views of tables, and the views joined from them: their SQL statements, and making them.

Views of the database that is kept in a store find its files wherever the store is when they are read. Views made for
one query read them where the store is now.
"""

import re
from collections.abc import Collection, Sequence

import duckdb
import pyarrow as pa

from schemas.queries.errors import UnreadFile
from schemas.queries.views import EVERY_CLIP, VIEWS
from schemas.sql import literal
from schemas.storage.addresses import ADDRESS, STORE_PREFIX
from schemas.storage.store import Store
from schemas.storage.take_downs import HIDDEN_BY, TakeDowns
from schemas.tables import CLIPS, Table

FILE = "segue.duckdb"
"""The database of views at the root of a store on a local disk."""

PLACE_VARIABLE = "segue_store"
"""The DuckDB variable that says where a store lies: `SET VARIABLE segue_store = '/mnt/store'`."""

OPENED_FOLDER = f"nullif(regexp_extract(current_setting('temp_directory'), '^(.*/){re.escape(FILE)}[.]tmp$', 1), '')"
"""SQL expression for the folder of the database that a client opened; NULL if that is not a store's. DuckDB has no
function for it, but keeps temporary files beside the database. A table function may use this, a subquery may not."""

ONE_STORE = f"""(
    SELECT CASE WHEN {OPENED_FOLDER} IS NULL OR getvariable('{PLACE_VARIABLE}') IS NOT NULL OR count(*) < 2 THEN true
           ELSE error('expected one store in a session that opened its database, got several: open none, as in '
                      || '`duckdb`, and ATTACH each')
           END
    FROM duckdb_databases() WHERE ends_with(path, '/{FILE}')
)"""
"""SQL condition that fails if a client opened the database of one store and then attached that of another: the views of
the second would look for their files beside the first."""


def make_views_over(
    connection: duckdb.DuckDBPyConnection,
    store: Store,
    made: set[str],
    whole: Collection[str] = (),
    changed: Collection[str] | None = None,
) -> None:
    """Make the views over tables whose own views exist.

    Args:
        made: names of the tables whose views exist.
        whole: names of tables whose views show all rows.
        changed: names of tables whose views are new. Views that read none of them exist already and are not made
            again; None makes all views.
    """
    for name, view in VIEWS.items():
        if made.issuperset(view.tables) and (changed is None or not set(view.tables).isdisjoint(changed)):
            statement = f"FROM {EVERY_CLIP}" if name == CLIPS.name and name in whole else view.statement
            create_view(connection, f"CREATE OR REPLACE VIEW {name} AS {statement}", name, store)


def make_view(
    connection: duckdb.DuckDBPyConnection,
    store: Store,
    table: Table,
    files: Sequence[str],
    take_downs: TakeDowns | None,
) -> None:
    """Make the view of a table over the given files.

    Args:
        take_downs: decide which rows are hidden; None shows all.
    """
    create_view(connection, table_view(store, table, files, take_downs), f"shards of {table.name}", store)


def table_view(
    store: Store, table: Table, files: Sequence[str], take_downs: TakeDowns | None, kept: bool = False
) -> str:
    """Return the SQL statement that makes the view of a table over the given files.

    Args:
        take_downs: decide which rows are hidden; None shows all.
        kept: whether the view stays in the store's database, for any client and wherever the store is then.

    Raises:
        UnreadFile: the take-downs cannot be read.
    """
    try:
        condition = take_downs.hidden.condition(table) if take_downs and table.name in HIDDEN_BY else ""
    except ValueError as error:
        raise UnreadFile(f"expected what was taken down in {store.url}: {error}") from error
    statement = _statement(store, table, files, kept)
    conditions = [each for each in (ONE_STORE if kept else "", condition) if each]
    return f"{statement} WHERE {' AND '.join(conditions)}" if files and conditions else statement


def view_of(table: Table) -> str:
    """Return the name of the view of a table's own rows: `clips` is one over that of the clips."""
    return EVERY_CLIP if table is CLIPS else table.name


def create_view(connection: duckdb.DuckDBPyConnection, statement: str, expected: str, store: Store) -> None:
    """Make a view. DuckDB reads the end of each of its files for that.

    Raises:
        UnreadFile: a file could not be read.
    """
    try:
        connection.execute(statement)
    except (duckdb.Error, OSError) as error:
        raise UnreadFile(f"expected {expected} in {store.url}: {reason_of(error)}") from error


def reason_of(error: Exception) -> str:
    """Return DuckDB's message without the statement it quotes; for an error in a filesystem, only the last line."""
    message = str(error).split("\n\nLINE ")[0].strip()
    return message.rpartition("\n")[2].strip() if "Traceback (most recent call last)" in message else message


def _statement(store: Store, table: Table, files: Sequence[str], kept: bool) -> str:
    """Return the statement that makes a table's view. The view has all of the table's columns, even if there is no
    shard yet, or only files of an early release that lack some of them."""
    columns = ", ".join(f'NULL::{_sql_type(field.type)} AS "{field.name}"' for field in table.schema)
    name = view_of(table)
    view = f"CREATE OR REPLACE VIEW {name} AS SELECT {columns} WHERE false"
    if not files:
        return view
    paths = f"[{_prefix(store, kept)} || file FOR file IN [{', '.join(literal(file) for file in files)}]]"
    source = f"read_parquet({paths}, hive_partitioning = false, union_by_name = true)"
    once = f"DISTINCT ON ({', '.join(quoted(name) for name in table.key)}) *" if table.combined else "*"
    rows = f"{columns} WHERE false UNION ALL BY NAME SELECT {once} FROM {source}"
    if not table.locations:
        return f"CREATE OR REPLACE VIEW {name} AS SELECT {rows}"
    located = ", ".join(f"{_located(store, table, each, kept)} AS {quoted(each)}" for each in table.locations)
    return f"CREATE OR REPLACE VIEW {name} AS SELECT * REPLACE ({located}) FROM (SELECT {rows})"


def _located(store: Store, table: Table, column: str, kept: bool) -> str:
    """Return the SQL expression for a column of addresses in which those inside the store are full addresses."""

    def located(address: str) -> str:
        return f"replace({address}, {literal(STORE_PREFIX)}, {_prefix(store, kept)})"

    if pa.types.is_list(table.schema.field(column).type):
        return f"[struct_update(record, {ADDRESS} := {located(f'record.{ADDRESS}')}) FOR record IN {quoted(column)}]"
    return located(quoted(column))


def quoted(name: str) -> str:
    return f'"{name}"'


def _prefix(store: Store, kept: bool) -> str:
    """Return the SQL expression for what precedes the paths of a store's files: where the store is now. Views that are
    kept first try the client's variable `PLACE_VARIABLE`, then the folder of the database that the client opened."""
    url = literal(f"{store.root if store.is_local else store.filesystem.unstrip_protocol(store.root)}/")
    return f"coalesce(getvariable('{PLACE_VARIABLE}') || '/', {OPENED_FOLDER}, {url})" if kept else url


def _sql_type(kind: pa.DataType) -> str:
    """Return DuckDB's name of an Arrow type that the tables use."""
    if pa.types.is_map(kind):
        return f"MAP({_sql_type(kind.key_type)}, {_sql_type(kind.item_type)})"
    if pa.types.is_list(kind):
        return f"{_sql_type(kind.value_type)}[]"
    if pa.types.is_struct(kind):
        fields = ", ".join(f'"{kind.field(i).name}" {_sql_type(kind.field(i).type)}' for i in range(kind.num_fields))
        return f"STRUCT({fields})"
    names = {"string": "VARCHAR", "bool": "BOOLEAN", "timestamp[us, tz=UTC]": "TIMESTAMPTZ"}
    names |= {"int8": "TINYINT", "int16": "SMALLINT", "int32": "INTEGER", "int64": "BIGINT"}
    names |= {"uint8": "UTINYINT", "uint16": "USMALLINT", "uint32": "UINTEGER", "uint64": "UBIGINT"}
    names |= {"float": "FLOAT", "double": "DOUBLE"}
    return names[str(kind)]
