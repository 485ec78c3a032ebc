"""The database of views at the root of a store on a local disk, which any DuckDB client opens."""

import logging
import os
import shutil
import uuid
from collections import defaultdict
from collections.abc import Mapping, Sequence

import duckdb

from schemas.queries.columns import COLUMNS, VIEW_COLUMNS
from schemas.queries.errors import UnreadFile
from schemas.queries.made_from import FileState, ViewSource, load_sources, save_sources
from schemas.queries.shown import shown_files
from schemas.queries.table_views import FILE, create_view, make_views_over, quoted, table_view, view_of
from schemas.queries.views import VIEWS
from schemas.sql import literal
from schemas.storage.store import Store
from schemas.storage.take_downs import TakeDowns
from schemas.tables import TABLES, Table

log = logging.getLogger(__name__)

NO_EXTENSIONS = {"autoinstall_known_extensions": "false", "autoload_known_extensions": "false"}
"""Settings for opening a database that may be somebody else's: DuckDB fetches nothing for what its views read."""


def write_views(store: Store) -> None:
    """Write `<store>/segue.duckdb`, with a view for each table, for any DuckDB client. A table with a damaged shard has
    no view until a run has made the shard again. On an object store there is no such file; `query` makes its views in
    memory.

    If the database records what its views were made from (`schemas.queries.made_from`), only the views of tables with
    other files are made again, in a copy of it.
    """
    if not store.is_local:
        return
    target = store.path(FILE)
    os.makedirs(store.root, exist_ok=True)
    temporary = f"{target}.{uuid.uuid4().hex}.inprogress"
    try:
        if not _bring_up_to_date(store, target, temporary):
            _remove_database(temporary)
            with duckdb.connect(temporary) as connection:
                _write_views(store, connection, {})
        os.replace(temporary, target)
    finally:
        _remove_database(temporary)


def _bring_up_to_date(store: Store, database: str, copy: str) -> bool:
    """Make the views that have changed in a copy of a database; return whether the copy now has all views."""
    try:
        shutil.copyfile(database, copy)
        with duckdb.connect(copy, config={**NO_EXTENSIONS}) as connection:
            known = load_sources(connection)
            return bool(known) and _write_views(store, connection, known)
    except (duckdb.Error, FileNotFoundError):  # the database is absent or damaged
        return False


def _write_views(store: Store, connection: duckdb.DuckDBPyConnection, known: Mapping[str, ViewSource]) -> bool:
    """Make the views of a database; return whether all could be made.

    Args:
        known: what the existing views of tables were made from, by table.
    """
    sources = dict[str, ViewSource]()
    shown, take_downs, is_complete, before = shown_files(store), TakeDowns(store), True, _columns(connection)
    for table in TABLES.values():
        try:
            source = _view_source(store, table, shown[table.name], take_downs)
            if known.get(table.name) != source:
                create_view(connection, source.statement, f"shards of {table.name}", store)
            sources[table.name] = source
        except UnreadFile as error:
            is_complete = False
            log.warning("no view of %s: %s; `segue check` shows how to repair it", table.name, error)
    # Making the views over tables takes longest, so they stay unless the columns of their tables have changed.
    after = before if sources == known else _columns(connection)
    views = {name: view_of(TABLES[name]) for name in sources}
    changed = {name for name, view in views.items() if name not in known or before[view] != after[view]}
    try:
        make_views_over(connection, store, set(sources), changed=changed)
    except UnreadFile as error:
        is_complete = False
        log.warning("no view over tables: %s; `segue check` shows how to repair it", error)
    _comment(connection)
    if is_complete:
        save_sources(connection, sources)
    return is_complete


def _columns(connection: duckdb.DuckDBPyConnection) -> dict[str, list[tuple[str, str]]]:
    """Return the columns of each view of a database, with their types, by the view's name."""
    sql = "SELECT table_name, column_name, data_type FROM duckdb_columns() WHERE NOT internal ORDER BY column_index"
    columns = defaultdict[str, list[tuple[str, str]]](list)
    for view, column, kind in connection.execute(sql).fetchall():
        columns[view].append((column, kind))
    return columns


def _view_source(store: Store, table: Table, files: Sequence[str], take_downs: TakeDowns) -> ViewSource:
    """Return what the view of a table in the store's database is made from.

    Raises:
        UnreadFile: a file is not there, or the take-downs cannot be read.
    """
    try:
        states = tuple(_file_state(store.path(file)) for file in files)
    except OSError as error:
        raise UnreadFile(f"expected shards of {table.name} in {store.url}: {error}") from error
    return ViewSource(table_view(store, table, files, take_downs, kept=True), states)


def _file_state(path: str) -> FileState:
    status = os.stat(path)
    return path, status.st_ino, status.st_size, status.st_mtime_ns


def _remove_database(path: str) -> None:
    for left in (path, f"{path}.wal"):
        if os.path.exists(left):
            os.remove(left)


def _comment(connection: duckdb.DuckDBPyConnection) -> None:
    """Add a comment to every view and column without one: what a row is, and what the column holds, with its unit."""
    about = {name: table.about for name, table in TABLES.items()} | {name: view.about for name, view in VIEWS.items()}
    meanings = {**COLUMNS, **VIEW_COLUMNS}
    views = "SELECT view_name FROM duckdb_views() WHERE NOT internal AND comment IS NULL"
    columns = "SELECT table_name, column_name FROM duckdb_columns() WHERE NOT internal AND comment IS NULL"
    uncommented = {name for (name,) in connection.execute(views).fetchall()}
    unexplained = connection.execute(columns).fetchall()
    connection.begin()  # one write to the disk, not one for each of hundreds of comments
    for name in uncommented & about.keys():
        connection.execute(f"COMMENT ON VIEW {name} IS {literal(f'One row is {about[name]}.')}")
    for name, column in unexplained:
        if column in meanings:
            connection.execute(f"COMMENT ON COLUMN {name}.{quoted(column)} IS {literal(meanings[column])}")
    connection.commit()


def follow_move(store: Store) -> None:
    """Write the database of a store again if its views read another place than the store's, since it was moved or
    copied.

    The database stays as it is if it cannot be written, if somebody else is writing it, or if a file that it reads is
    damaged.
    """
    if not store.is_local or not os.path.exists(store.path(FILE)):
        return
    try:
        with duckdb.connect(store.path(FILE), read_only=True) as connection:
            sql = "SELECT sql FROM duckdb_views() WHERE NOT internal AND contains(sql, 'read_parquet')"
            statements = [statement for (statement,) in connection.execute(sql).fetchall()]
        if not all(literal(f"{store.root}/") in statement for statement in statements):
            write_views(store)
    except (duckdb.Error, OSError, ValueError) as error:
        log.info("the views of %s stay as they are: %s", store.url, error)
