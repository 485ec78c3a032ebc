"""SQL over the store: a view a table, through DuckDB, on a local disk and on any fsspec filesystem.

A table of derived data shows what of it was published last (`schemas.storage.publications`); a table of records, all of
its versions. A shard may be replaced while a query reads it: the query is then asked again, so that its answer is of
what was published before or of what was published after, and never of both.
"""

import itertools
import logging
import os
import re
import shutil
import time
import uuid
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

import duckdb
import pyarrow as pa

from schemas.names import did_you_mean
from schemas.queries.columns import COLUMNS, VIEW_COLUMNS
from schemas.queries.made_from import FileState, ViewSource, keep_sources, recall_sources
from schemas.queries.views import EVERY_CLIP, VIEWS
from schemas.sql import literal
from schemas.storage.addresses import ADDRESS, HERE
from schemas.storage.publications import Publications
from schemas.storage.store import Store
from schemas.storage.take_downs import HIDDEN_BY, TakeDowns
from schemas.tables import BESIDE, CLIPS, RUNS, TABLES, Row, Table

log = logging.getLogger(__name__)

PATIENCE, READS = 120.0, 3
"""For how many seconds a query is asked again while shards are being replaced, and how often it is asked where they are
not and one of their files cannot be read."""

FILE = "segue.duckdb"
"""The database of views at the root of a store on a local disk."""

PLACE = "segue_store"
"""The variable of DuckDB that says where a store lies: `SET VARIABLE segue_store = '/mnt/store'`."""

OPENED_IN = f"nullif(regexp_extract(current_setting('temp_directory'), '^(.*/){re.escape(FILE)}[.]tmp$', 1), '')"
"""The folder of the database that a client has opened, in SQL, NULL where that is none of a store. DuckDB has no name
for it, but keeps its temporary files beside it; a table function may call this, and no subquery."""

ONE_STORE = f"""(
    SELECT CASE WHEN {OPENED_IN} IS NULL OR getvariable('{PLACE}') IS NOT NULL OR count(*) < 2 THEN true
           ELSE error('expected one store in a session that opened its database, got several: open none, as in '
                      || '`duckdb`, and ATTACH each')
           END
    FROM duckdb_databases() WHERE ends_with(path, '/{FILE}')
)"""
"""A condition that holds unless a client opened the database of one store and then attached that of another, whose
views would look for their files beside the first."""


NO_EXTENSIONS = {"autoinstall_known_extensions": "false", "autoload_known_extensions": "false"}
"""How a database is opened that may be somebody else's: nothing is fetched for what its views read."""

WORDS = "words"
"""The table of words that a question brings along."""


class QueryError(ValueError):
    """A query that cannot be answered, with DuckDB's reason."""


def query(
    store: Store,
    sql: str,
    candidates: Mapping[str, Sequence[str]] | None = None,
    words: Mapping[str, Sequence[float]] | None = None,
) -> pa.Table:
    """Return the answer to one read-only statement over the store's tables.

    Args:
        words: what the table `words` holds, which is there for this statement alone: texts with their embeddings.
        candidates: files that take the place of what is published of a table, by the table's name.

    Raises:
        QueryError: the statement is not one SELECT, DESCRIBE, SHOW or EXPLAIN of one, or DuckDB refuses it.
    """
    # Only what the statement can read is looked for: on an object store each look is a request.
    named = [table.name for table in _tables_in(sql) if table.name not in (candidates or {})]
    deadline, publications = time.monotonic() + PATIENCE, Publications(store)
    for attempt in itertools.count(1):
        shown = _shown(publications, named)
        try:
            files = {**shown.files, **(candidates or {})}
            answer = _query(store, sql, files, whole=candidates or (), words=words or {})
        except _Unread as error:
            # A shard was replaced between two looks of the reader, or the network failed for a moment.
            if attempt >= READS and shown == _shown(publications, named):
                raise QueryError(f"{error}; `segue check` says what is damaged, and its cure") from error
        else:
            if shown == _shown(publications, named):
                return answer
        if time.monotonic() > deadline:
            break
    raise QueryError(
        f"expected {store.url} to stay as it is for one query, got {attempt} changes in {PATIENCE:.0f} s; ask again"
    )


@dataclass(frozen=True)
class _Shown:
    """What the views of some tables read at a moment."""

    publication: int
    """The number of the last one: another one may have the same files, with other rows in them."""
    files: Mapping[str, list[str]]


def _shown(publications: Publications, names: Sequence[str]) -> _Shown:
    last = publications.sequences()[-1:] if names else []
    return _Shown(last[0] if last else 0, _shown_files(publications, names))


def _tables_in(sql: str) -> list[Table]:
    """Return the tables that a statement names, also by a view over them; all where it names none, as it may list
    them."""
    through = {table for name, view in VIEWS.items() if _names(sql, name) for table in view.tables}
    through |= {CLIPS.name} if _names(sql, EVERY_CLIP) else set()
    named = [table for table in TABLES.values() if table.name in through or _names(sql, table.name)]
    return named or list(TABLES.values())


def _names(sql: str, name: str) -> bool:
    return re.search(rf"\b{name}\b", sql, re.IGNORECASE) is not None


class _Unread(QueryError):
    """A file could not be read; another try may find it whole."""


@dataclass(frozen=True)
class ColumnCounts:
    """How many rows some files of a table have, and how full their columns are."""

    rows: int
    distinct_keys: int
    values: Mapping[str, int]
    """The number of values that are not null, by plain column: lists would have to be read whole."""


def column_counts(store: Store, table: Table, files: Sequence[str]) -> ColumnCounts:
    """Count rows, keys and values in files of a table.

    Raises:
        QueryError: a file cannot be read.
    """
    plain = [field.name for field in table.schema if not pa.types.is_nested(field.type)]
    keys = ", ".join(f'"{name}"' for name in table.key)
    counts = ", ".join(f'count("{name}") AS "{name}"' for name in plain)
    sql = f'SELECT count(*) AS "*", count(DISTINCT ({keys})) AS "key *", {counts} FROM {table.name}'
    values = query(store, sql, {table.name: files}).to_pylist()[0]
    return ColumnCounts(values.pop("*"), values.pop("key *"), values)


def _query(
    store: Store,
    sql: str,
    shown: Mapping[str, Sequence[str]],
    whole: Collection[str],
    words: Mapping[str, Sequence[float]],
) -> pa.Table:
    with duckdb.connect(":memory:") as connection:
        if not store.is_local:
            connection.register_filesystem(store.filesystem)
        # Of the tables that the statement speaks of, so that a damaged shard of another one is not in its way.
        tables, take_downs = _tables_in(sql), TakeDowns(store)
        for table in tables:
            _make_view(connection, store, table, shown[table.name], None if table.name in whole else take_downs)
        _make_views_over(connection, store, {table.name for table in tables}, whole)
        if _names(sql, WORDS):
            connection.execute(f"CREATE TEMP TABLE {WORDS} (words VARCHAR, embedding FLOAT[])")
            for text, embedding in words.items():
                connection.execute(f"INSERT INTO {WORDS} VALUES (?, ?)", [text, list(embedding)])
        try:
            # EXPLAIN ANALYZE runs what it explains, so that is what must be a SELECT.
            statements = connection.extract_statements(re.sub(r"(?i)^\s*explain\s+(analyze\s+)?", "", sql))
            if [statement.type for statement in statements] != [duckdb.StatementType.SELECT]:
                kinds = ", ".join(statement.type.name for statement in statements) or "nothing"
                raise QueryError(f"expected one SELECT (the store is read-only here), got {kinds}")
            return connection.sql(sql).to_arrow_table()
        except (duckdb.ParserException, duckdb.BinderException, duckdb.CatalogException) as error:
            raise QueryError(_what_was_meant(_reason(error))) from error
        except (duckdb.Error, OSError) as error:
            raise _Unread(_reason(error)) from error


def write_views(store: Store) -> None:
    """Make `<store>/segue.duckdb` anew, with a view a table, so that any DuckDB client opens it; of a table with a
    damaged shard there is none until a run has made that anew. On an object store there is no such file: `query` makes
    the views in memory.

    Of a database that says what its views were made from (`schemas.queries.made_from`), only those of tables with other
    files are made, in a copy of it.
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
    """Make the views that have changed in a copy of a database; tell whether it has all of them now."""
    try:
        shutil.copyfile(database, copy)
        with duckdb.connect(copy, config={**NO_EXTENSIONS}) as connection:
            known = recall_sources(connection)
            return bool(known) and _write_views(store, connection, known)
    except (duckdb.Error, FileNotFoundError):  # there is none, or it is damaged
        return False


def _write_views(store: Store, connection: duckdb.DuckDBPyConnection, known: Mapping[str, ViewSource]) -> bool:
    """Make the views of a database; tell whether all could be made.

    Args:
        known: what those of tables that are there already were made from.
    """
    sources = dict[str, ViewSource]()
    shown, take_downs, whole = shown_files(store), TakeDowns(store), True
    for table in TABLES.values():
        try:
            source = _view_source(store, table, shown[table.name], take_downs)
            if known.get(table.name) != source:
                _create_view(connection, source.statement, f"shards of {table.name}", store)
            sources[table.name] = source
        except _Unread as error:
            whole = False
            log.warning("no view of %s: %s; `segue check` says its cure", table.name, error)
    changed = {name for name, source in sources.items() if known.get(name) != source}
    try:
        _make_views_over(connection, store, set(sources), changed=changed)
    except _Unread as error:
        whole = False
        log.warning("no view over tables: %s; `segue check` says its cure", error)
    _comment(connection)
    if whole:
        keep_sources(connection, sources)
    return whole


def _view_source(store: Store, table: Table, files: Sequence[str], take_downs: TakeDowns) -> ViewSource:
    """Return what the view of a table is made from that stays in the database of the store.

    Raises:
        _Unread: a file is not there, or what was taken down cannot be read.
    """
    try:
        states = tuple(_file_state(store.path(file)) for file in files)
    except OSError as error:
        raise _Unread(f"expected shards of {table.name} in {store.url}: {error}") from error
    return ViewSource(_table_view(store, table, files, take_downs, kept=True), states)


def _file_state(path: str) -> FileState:
    status = os.stat(path)
    return path, status.st_ino, status.st_size, status.st_mtime_ns


def _remove_database(path: str) -> None:
    for left in (path, f"{path}.wal"):
        if os.path.exists(left):
            os.remove(left)


def _comment(connection: duckdb.DuckDBPyConnection) -> None:
    """Say of every view that says nothing yet what a row is, and of every column what it holds, with its unit."""
    about = {name: table.about for name, table in TABLES.items()} | {name: view.about for name, view in VIEWS.items()}
    meanings = {**COLUMNS, **VIEW_COLUMNS}
    views = "SELECT view_name FROM duckdb_views() WHERE NOT internal AND comment IS NULL"
    columns = "SELECT table_name, column_name FROM duckdb_columns() WHERE NOT internal AND comment IS NULL"
    silent = {name for (name,) in connection.execute(views).fetchall()}
    unexplained = connection.execute(columns).fetchall()
    connection.begin()  # one write to the disk, not one for each of hundreds of comments
    for name in silent & about.keys():
        connection.execute(f"COMMENT ON VIEW {name} IS {literal(f'One row is {about[name]}.')}")
    for name, column in unexplained:
        if column in meanings:
            connection.execute(f"COMMENT ON COLUMN {name}.{_quoted(column)} IS {literal(meanings[column])}")
    connection.commit()


def follow_move(store: Store) -> None:
    """Make the database of a store anew where its views read another place than the store's: it was moved or copied.

    Where that cannot be written, somebody else is writing it, or what it is made from is damaged, it stays as it is.
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
        log.info("the views of %s are left as they are: %s", store.url, error)


def shown_files(store: Store, names: Iterable[str] = tuple(TABLES)) -> dict[str, list[str]]:
    """Return the files that the views of some tables read, by the table's name."""
    return _shown_files(Publications(store), names)


def _shown_files(publications: Publications, names: Iterable[str]) -> dict[str, list[str]]:
    store, wanted = publications.store, [TABLES[name] for name in names]
    if not wanted:
        return {}
    published = publications.shown_files({table.name for table in wanted})
    # A run leaves a record for each of its stages: they are read only where they decide what is shown.
    by_runs = any(table.name not in published and (table in BESIDE or not table.accumulates) for table in wanted)
    ordered = _runs_in_order(store) if by_runs else []
    last_of_stage = {run["stage"]: run["fingerprint"] for run in ordered}
    shown = {}
    for table in wanted:
        if table.name in published:
            shown[table.name] = published[table.name]
            continue
        versions = store.versions(table)
        if table in BESIDE:
            versions = [version for version in versions if version in last_of_stage.values()]
        elif not table.accumulates:
            # A store of an earlier release, which has no publications yet.
            passed = [run["fingerprint"] for run in ordered if table.name in run["outputs"] and not run["error"]]
            versions = [version for version in (*passed[-1:], *versions[-1:]) if version in versions][:1]
        shown[table.name] = [
            store.shard_path(table, version, shard) for version in versions for shard in store.shards(table, version)
        ]
    return shown


def _runs_in_order(store: Store) -> list[Row]:
    """Return the records of runs, of each stage in the order of its runs."""
    runs = store.read(RUNS, "1", columns=["stage", "fingerprint", "started_at", "outputs", "error", "sequence"])
    return sorted(runs.to_pylist(), key=lambda row: (row["sequence"] or 0, row["started_at"]))


def _make_views_over(
    connection: duckdb.DuckDBPyConnection,
    store: Store,
    made: set[str],
    whole: Collection[str] = (),
    changed: Collection[str] | None = None,
) -> None:
    """Make the views over tables whose own views are there.

    Args:
        whole: tables of which all rows are to be seen.
        changed: tables whose views are new: views over none of them are there already. None makes all.
    """
    for name, view in VIEWS.items():
        if made.issuperset(view.tables) and (changed is None or not set(view.tables).isdisjoint(changed)):
            statement = f"FROM {EVERY_CLIP}" if name == CLIPS.name and name in whole else view.statement
            _create_view(connection, f"CREATE OR REPLACE VIEW {name} AS {statement}", name, store)


def _make_view(
    connection: duckdb.DuckDBPyConnection,
    store: Store,
    table: Table,
    files: Sequence[str],
    take_downs: TakeDowns | None,
) -> None:
    """Make the view of a table over some files.

    Args:
        take_downs: say which rows are hidden; None shows all.
    """
    _create_view(connection, _table_view(store, table, files, take_downs), f"shards of {table.name}", store)


def _table_view(
    store: Store, table: Table, files: Sequence[str], take_downs: TakeDowns | None, kept: bool = False
) -> str:
    """Return the statement that makes the view of a table over some files.

    Args:
        take_downs: say which rows are hidden; None shows all.
        kept: it stays in the database of the store, for any client, wherever the store is then.

    Raises:
        _Unread: what was taken down cannot be read.
    """
    try:
        condition = take_downs.hidden.condition(table) if take_downs and table.name in HIDDEN_BY else ""
    except ValueError as error:
        raise _Unread(f"expected what was taken down in {store.url}: {error}") from error
    statement = _view(store, table, files, kept)
    conditions = [each for each in (ONE_STORE if kept else "", condition) if each]
    return f"{statement} WHERE {' AND '.join(conditions)}" if files and conditions else statement


def _create_view(connection: duckdb.DuckDBPyConnection, statement: str, expected: str, store: Store) -> None:
    """Make a view, for which DuckDB looks into the files that it reads.

    Raises:
        _Unread: a file could not be read.
    """
    try:
        connection.execute(statement)
    except (duckdb.Error, OSError) as error:
        raise _Unread(f"expected {expected} in {store.url}: {_reason(error)}") from error


def _reason(error: Exception) -> str:
    """Return what DuckDB says, without the statement that it points at; of an error in a filesystem, its last line."""
    message = str(error).split("\n\nLINE ")[0].strip()
    return message.rpartition("\n")[2].strip() if "Traceback (most recent call last)" in message else message


def _what_was_meant(message: str) -> str:
    """Return what DuckDB says of a name that is not there, with what of the store may be meant: it knows only the
    tables that were spoken of."""
    table = re.match(r"Catalog Error: Table with name (\w+) does not exist", message)
    if table:
        return f"{table[0]}{did_you_mean(table[1], (*TABLES, *VIEWS))}"
    column = re.match(r'Binder Error: Referenced column "(\w+)" not found', message)
    tables = [name for name, other in TABLES.items() if column and column[1] in other.schema.names]
    return f"{message}; {', '.join(tables)} {'has' if len(tables) == 1 else 'have'} it" if tables else message


def _view(store: Store, table: Table, files: Sequence[str], kept: bool) -> str:
    """Return the statement that makes a table's view. It has all of the table's columns, also where there is no shard
    yet or only files of an earlier release, which lacked some of them."""
    columns = ", ".join(f'NULL::{_sql_type(field.type)} AS "{field.name}"' for field in table.schema)
    name = EVERY_CLIP if table is CLIPS else table.name
    view = f"CREATE OR REPLACE VIEW {name} AS SELECT {columns} WHERE false"
    if not files:
        return view
    paths = f"[{_prefix(store, kept)} || file FOR file IN [{', '.join(literal(file) for file in files)}]]"
    source = f"read_parquet({paths}, hive_partitioning = false, union_by_name = true)"
    once = f"DISTINCT ON ({', '.join(_quoted(name) for name in table.key)}) *" if table.combined else "*"
    rows = f"{columns} WHERE false UNION ALL BY NAME SELECT {once} FROM {source}"
    if not table.locations:
        return f"CREATE OR REPLACE VIEW {name} AS SELECT {rows}"
    located = ", ".join(f"{_located(store, table, each, kept)} AS {_quoted(each)}" for each in table.locations)
    return f"CREATE OR REPLACE VIEW {name} AS SELECT * REPLACE ({located}) FROM (SELECT {rows})"


def _located(store: Store, table: Table, column: str, kept: bool) -> str:
    """Return a column of addresses in SQL, with those inside the store where the store is now."""

    def located(address: str) -> str:
        return f"replace({address}, {literal(HERE)}, {_prefix(store, kept)})"

    if pa.types.is_list(table.schema.field(column).type):
        return f"[struct_update(record, {ADDRESS} := {located(f'record.{ADDRESS}')}) FOR record IN {_quoted(column)}]"
    return located(_quoted(column))


def _quoted(name: str) -> str:
    return f'"{name}"'


def _prefix(store: Store, kept: bool) -> str:
    """Return what stands before the paths of a store's files, in SQL: where the store is; of views that are kept first
    where a client says that it is, and then the folder of the database that the client opened."""
    url = literal(f"{store.root if store.is_local else store.filesystem.unstrip_protocol(store.root)}/")
    return f"coalesce(getvariable('{PLACE}') || '/', {OPENED_IN}, {url})" if kept else url


def _sql_type(kind: pa.DataType) -> str:
    """DuckDB's name of an Arrow type that the tables use."""
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
