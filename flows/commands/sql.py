"""Querying a store: `segue sql`, `segue show` and `segue schema`."""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from flows.commands.completion import complete_table
from flows.commands.options import StoreOption, UsageError, existing_store
from flows.console import say
from schemas.sql import literal

if TYPE_CHECKING:
    from schemas.storage.store import Store
    from schemas.tables import Row, Table

app = typer.Typer()

FormatOption = Annotated[
    Literal["table", "markdown", "csv", "json", "parquet"],
    typer.Option(help="The output format; Parquet must go to a file or a pipe."),
]
REQUEST = "request_id"
"""The column that a key begins with if a person may give a request's name instead of its id."""

MOST_KEYS = 5
"""How many keys an error message lists if several rows match."""


@app.command()
def sql(
    query: Annotated[str, typer.Argument(help="One SELECT over the store's tables.")],
    store: StoreOption = None,
    format: FormatOption = "table",
    words: Annotated[
        list[str] | None,
        typer.Option(
            "--words",
            metavar="TEXT",
            help="Add a row with the CLAP embedding of TEXT to the table `words`. Repeatable.",
        ),
    ] = None,
    full: Annotated[bool, typer.Option("--full", help="Do not shorten ids, lists and numbers on a terminal.")] = False,
) -> int:
    """Query the store's tables; a query cannot change anything."""
    from flows.commands.answers import print_answer
    from flows.runs.output import open_console
    from schemas.queries.database import query as answer

    opened = existing_store(store)
    console = open_console()
    try:
        table = answer(opened, query, words=_embedded(opened, words) if words else None)
        print_answer(table, format, console, full or not console.is_terminal)
    except ValueError as error:
        raise UsageError(str(error)) from error
    return 0


def _embedded(store: "Store", words: list[str]) -> dict[str, list[float]]:
    from flows.runs.output import be_quiet

    be_quiet()  # before anything imports transformers, which looks only once
    from flows.commands.words import embed_words

    return embed_words(store, words)


@app.command()
def show(
    table: Annotated[
        str, typer.Argument(metavar="TABLE", help="A table or view, such as tracks.", autocompletion=complete_table)
    ],
    key: Annotated[
        str | None,
        typer.Argument(
            metavar="KEY",
            help="A row's key or its beginning, with / between parts; a request's name may stand for its id.",
        ),
    ] = None,
    store: StoreOption = None,
) -> int:
    """Describe a table or, with a key, print one row in full."""
    from flows.commands.answers import print_record, print_rows
    from flows.runs.output import open_console
    from schemas.queries.columns import describe_columns
    from schemas.queries.database import query
    from schemas.queries.views import VIEWS
    from schemas.tables import TABLES

    opened, console = existing_store(store), open_console()
    if key is not None:
        if table in VIEWS.keys() - TABLES.keys():
            raise UsageError(f"expected a table for a row by its key, got the view {table}: query it by segue sql")
        print_record(console, _row(opened, _table(table), key))
        return 0
    about = VIEWS[table].about if table in VIEWS else _table(table, tuple(dict.fromkeys((*TABLES, *VIEWS)))).about
    print_rows(console, describe_columns(query(opened, f"SELECT * FROM {table} LIMIT 0").schema))
    count = query(opened, f"SELECT count(*) AS rows FROM {table}").to_pylist()[0]["rows"]
    keys = f" Key: {', '.join(TABLES[table].key)}." if table in TABLES else ""
    say(f"One row is {about}.{keys} {count:,} {'row' if count == 1 else 'rows'}.")
    return 0


@app.command()
def schema(
    tables: Annotated[
        list[str] | None,
        typer.Argument(metavar="TABLE", help="Tables; by default all.", autocompletion=complete_table),
    ] = None,
    format: FormatOption = "table",
) -> int:
    """List the columns of tables with their types, units and meaning; needs no store."""
    import pyarrow as pa

    from flows.commands.answers import print_answer
    from flows.runs.output import open_console
    from schemas.arrow import leave_pandas_out
    from schemas.queries.columns import describe_columns
    from schemas.tables import TABLES

    leave_pandas_out()
    rows = [{"table": name, **row} for name in tables or TABLES for row in describe_columns(_table(name).schema)]
    try:
        print_answer(pa.Table.from_pylist(rows), format, open_console())
    except ValueError as error:
        raise UsageError(str(error)) from error
    return 0


def _table(name: str, known: Sequence[str] = ()) -> "Table":
    """Return a table.

    Args:
        known: the names to list in the error; by default those of the tables.

    Raises:
        UsageError: there is no such table.
    """
    from schemas.names import did_you_mean
    from schemas.tables import TABLES

    if name not in TABLES:
        names = known or tuple(TABLES)
        raise UsageError(f"unknown table {name!r}{did_you_mean(name, names)}; allowed: {', '.join(names)}")
    return TABLES[name]


def _row(store: "Store", table: "Table", key: str) -> "Row":
    """Return the only row whose key begins with a text, or whose request has that name.

    Raises:
        UsageError: no row matches, or several do.
    """
    from schemas.names import did_you_mean
    from schemas.queries.database import query

    keys = ", ".join(f'"{column}"' for column in table.key)
    matching: list[Row] = []
    for where in _meanings(table, key):
        matching = query(store, f"SELECT {keys} FROM {table.name} WHERE {where} ORDER BY ALL").to_pylist()
        if matching:
            break
    if not matching:
        names, near = "", ""
        if table.key[0] == REQUEST:
            named = query(store, "SELECT DISTINCT name FROM requests WHERE name IS NOT NULL ORDER BY name")
            names, near = " or the name of its request", did_you_mean(key, named["name"].to_pylist())
        raise UsageError(
            f"expected a key of {table.name} ({'/'.join(table.key)}){names}, got {key!r}, which no row has{near}"
        )
    if len(matching) > 1:
        examples = ", ".join(_key_text(row) for row in matching[:MOST_KEYS])
        more = " …" if len(matching) > MOST_KEYS else ""
        raise UsageError(
            f"expected one row, got {len(matching):,} of {table.name} that match {key!r}: {examples}{more}"
        )
    exactly = " AND ".join(f'"{column}" = {literal(value)}' for column, value in matching[0].items())
    row: Row = query(store, f"SELECT * FROM {table.name} WHERE {exactly}").to_pylist()[0]
    return row


def _meanings(table: "Table", key: str) -> Iterator[str]:
    """Yield what a key on a command line may mean, as SQL conditions, the likeliest first: a request's name in place of
    its id, then the beginning of a row's key."""
    if table.key[0] != REQUEST:
        yield " AND ".join(_conditions(table, key))
        return
    named = f"{REQUEST} IN (SELECT {REQUEST} FROM requests WHERE name = {{}})"
    yield named.format(literal(key))
    name, _, take = key.rpartition("/")
    if len(table.key) > 1 and take.isdecimal():
        yield f'{named.format(literal(name))} AND "{table.key[1]}" = {int(take)}'
    yield " AND ".join(_conditions(table, key))


def _conditions(table: "Table", key: str) -> Iterator[str]:
    """Yield the SQL conditions for the parts of a key: text columns begin with their part, number columns equal it.

    Raises:
        UsageError: the part for a number column is not a number.
    """
    import pyarrow as pa

    parts = key.split("/", len(table.key) - 1)
    for column, part in zip(table.key, parts, strict=False):
        if pa.types.is_string(table.schema.field(column).type):
            yield f'starts_with("{column}", {literal(part)})'
        elif not part.isdecimal():
            raise UsageError(
                f"expected a number for {column} in a key of {table.name} ({'/'.join(table.key)}), got {part!r}"
            )
        else:
            yield f'"{column}" = {int(part)}'


def _key_text(row: "Row") -> str:
    """Return a row's key in the form that `segue show` takes."""
    return "/".join(str(value) for value in row.values())
