"""Conditions in SQL over the columns of one table, such as `bandwidth > 12000 AND clipping < 0.001`.

They come from users, so DuckDB parses them and every part of the parse tree is checked before anything runs: a
condition consists of columns, constants, operators and the functions below, and nothing else. It reads no other table
and no file, and always gives the same result for the same row.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc

if TYPE_CHECKING:
    import duckdb

FUNCTIONS = frozenset(
    {
        *("+", "-", "*", "/", "//", "%", "**", "^", "||", "~~", "!~~", "~~*", "!~~*"),
        *(
            "abs",
            "round",
            "floor",
            "ceil",
            "least",
            "greatest",
            "sqrt",
            "ln",
            "log10",
            "log2",
            "pow",
            "exp",
            "isfinite",
        ),
        *("lower", "upper", "trim", "length", "strlen", "contains", "starts_with", "ends_with", "prefix", "suffix"),
        *("regexp_matches", "regexp_full_match", "like_escape", "ilike_escape", "nullif", "ifnull"),
        *("len", "list_contains", "list_has", "list_has_any", "list_has_all", "array_contains", "list_value"),
    }
)
"""The functions that a condition may use, including operators under DuckDB's names for them."""

CLASSES = frozenset(
    {"COLUMN_REF", "CONSTANT", "COMPARISON", "CONJUNCTION", "OPERATOR", "BETWEEN", "CASE", "CAST", "TYPE", "FUNCTION"}
)
"""DuckDB's classes of the expressions that a condition may consist of."""

ROWS = "rows"
"""The name of the only table that a condition can read."""


class Conditions:
    """Conditions on rows.

    Args:
        texts: the conditions, each a boolean expression in SQL.
        schema: the columns that they may name.

    Raises:
        ValueError: a text is not such a condition; the message quotes it.
    """

    def __init__(self, texts: Sequence[str], schema: pa.Schema) -> None:
        self.texts = tuple(texts)
        self.columns: Mapping[str, tuple[str, ...]] = {}
        """The columns that each condition names, by its text."""
        if not texts:
            return
        from schemas.queries.in_memory import sealed_database

        with sealed_database() as connection:
            self.columns = {text: _columns_of(text, schema, connection) for text in texts}
            nothing = pa.Table.from_batches([], schema)
            for text in self.texts:
                rows = nothing.select(self.columns[text] or schema.names[:1])
                kind = _evaluate([text], rows, connection).schema.field(0).type
                if not pa.types.is_boolean(kind):
                    raise ValueError(f"expected a condition that is true or false, got {text!r}, which gives {kind}")

    @property
    def all_columns(self) -> tuple[str, ...]:
        """The columns that the conditions name, each once."""
        return tuple(dict.fromkeys(name for names in self.columns.values() for name in names))

    def met(self, rows: pa.Table) -> pa.ChunkedArray:
        """Return for each row whether it meets all conditions, as booleans. A condition that gives NULL is not met.

        Args:
            rows: rows with at least one column, and with the columns that the conditions name.

        Raises:
            ValueError: a condition cannot be evaluated for a row, for example if a text is not a number.
        """
        met = pa.chunked_array([pa.repeat(pa.scalar(True), rows.num_rows)])
        for column in self._each_met(rows):
            met = pc.and_(met, pc.fill_null(column, False))
        return met

    def failed(self, rows: pa.Table) -> list[tuple[str, ...]]:
        """Return for each row the conditions that it does not meet.

        Args:
            rows: as in `met`.

        Raises:
            ValueError: as in `met`.
        """
        if not self.texts:
            return [()] * rows.num_rows
        columns = [column.to_pylist() for column in self._each_met(rows)]
        return [
            tuple(text for text, value in zip(self.texts, values, strict=True) if not value)
            for values in zip(*columns, strict=True)
        ]

    def _each_met(self, rows: pa.Table) -> list[pa.ChunkedArray]:
        """Return a column for each condition: whether each row meets it, or NULL."""
        if not self.texts:
            return []
        from schemas.queries.in_memory import sealed_database

        with sealed_database() as connection:
            named = rows.select(self.all_columns or rows.column_names[:1])
            return list(_evaluate(self.texts, named, connection).columns)


def _evaluate(texts: Sequence[str], rows: pa.Table, connection: "duckdb.DuckDBPyConnection") -> pa.Table:
    """Return a column for each of some checked conditions, with the rows in their order."""
    import duckdb

    connection.register(ROWS, rows)
    try:
        columns = ", ".join(f"({text}) AS condition_{number}" for number, text in enumerate(texts))
        return connection.sql(f"SELECT {columns} FROM {ROWS}").to_arrow_table()
    except duckdb.Error as error:
        reason = str(error).split("\n\nLINE ")[0]
        got = " and ".join(texts)
        raise ValueError(f"expected a condition that fits its columns, got {got}: {reason}") from error
    finally:
        connection.unregister(ROWS)


def _columns_of(text: str, schema: pa.Schema, connection: "duckdb.DuckDBPyConnection") -> tuple[str, ...]:
    """Parse a condition, and return the columns that it names, in order, each once.

    Raises:
        ValueError: the text is not a condition.
    """
    wanted = f"expected a condition over columns, such as `bandwidth > 12000`, got {text!r}"
    names: dict[str, None] = {}
    for expression in _expressions(_parse(text, wanted, connection)):
        kind = expression["class"]
        if kind not in CLASSES:
            raise ValueError(f"{wanted}: a {kind.lower()} is not allowed")
        if kind == "FUNCTION" and (name := expression["function_name"]) not in FUNCTIONS:
            allowed = ", ".join(sorted(each for each in FUNCTIONS if each.isidentifier()))
            raise ValueError(f"{wanted}: the function {name} is not one of {allowed}")
        if kind == "COLUMN_REF":
            column = ".".join(expression["column_names"])
            match = next((name for name in schema.names if name.lower() == column.lower()), None)
            if match is None:
                raise ValueError(f"{wanted}: there is no column {column}; the columns are {', '.join(schema.names)}")
            names[match] = None
    return tuple(names)


def _parse(text: str, wanted: str, connection: "duckdb.DuckDBPyConnection") -> Any:
    """Return DuckDB's parse tree of a condition, one expression as nested mappings."""
    if not text.strip():
        raise ValueError(f"{wanted}, which is empty")
    statement = f"SELECT ({text}) FROM {ROWS}"
    [(parsed,)] = connection.execute("SELECT json_serialize_sql(?)", [statement]).fetchall()
    tree = json.loads(parsed)
    if tree["error"]:
        raise ValueError(f"{wanted}: {tree['error_message']}")
    nodes = [statement["node"] for statement in tree["statements"]]
    if len(nodes) != 1 or nodes[0]["type"] != "SELECT_NODE" or len(nodes[0]["select_list"]) != 1:
        raise ValueError(f"{wanted}, which is more than one expression")
    rest = {name: part for name, part in nodes[0].items() if name != "select_list"}
    if rest["from_table"].get("table_name") != ROWS or any(_expressions(rest)) or rest["modifiers"]:
        raise ValueError(f"{wanted}, which is more than an expression")
    return nodes[0]["select_list"][0]


def _expressions(part: Any) -> Iterator[dict[str, Any]]:
    """Yield every expression in a parse tree."""
    if isinstance(part, dict):
        if "class" in part:
            yield part
        part = list(part.values())
    if isinstance(part, list):
        for each in part:
            yield from _expressions(each)
