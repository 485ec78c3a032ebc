"""Postings: which of many rows share most keys, by a join that DuckDB takes to the disk where memory is short.

This is an inverted index, as in search engines: for each key, the rows that have it (its postings), earliest first. A
key that many rows have says little, like a common word. So a key counts less the more rows have it, and leads only to
the earliest few of them. The work then grows with the number of rows and not with its square, however common a key is.
Of many copies of one thing, each is found through the first few. Later rows do not change where a key leads, only how
much it counts.
"""

import tempfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from jaxtyping import Int

if TYPE_CHECKING:
    import duckdb

MEMORY = "2GB"
"""How much DuckDB keeps in memory before it uses the disk, in the folder for temporary files (`TMPDIR`)."""

WEIGHT = 720_720_000
"""The weight of a key that one row has, divisible by 1 to 16. Weights are whole numbers, since their sums do not depend
on the order in which threads add."""

SCHEMA = pa.schema({"number": pa.int64(), "key": pa.uint64()})


class Keys(NamedTuple):
    """The keys of some rows; each key appears once for a row."""

    numbers: Int[npt.NDArray[np.int64], " N"]
    """The row of each key; rows are numbered in the order in which they came."""
    keys: Int[npt.NDArray[np.uint64], " N"]


class InCommon(NamedTuple):
    """Pairs of rows that share keys, sorted by the row asked about, then by how much they share, most first."""

    asked: Int[npt.NDArray[np.int64], " P"]
    """The number of the row asked about, for each pair."""
    others: Int[npt.NDArray[np.int64], " P"]
    """The number of the row found for it."""


def keys_of(rows: Sequence[npt.NDArray[np.uint64]], first: int = 0) -> Keys:
    """Return the keys of rows that are numbered from `first`."""
    numbers = np.repeat(np.arange(first, first + len(rows)), [len(keys) for keys in rows])
    return Keys(numbers, np.concatenate([np.zeros(0, np.uint64), *rows]))


def most_in_common(
    asked: Iterable[Keys],
    known: Iterable[Keys],
    earliest: int = 16,
    least: float = 2.0,
    most: int = 8,
    among_asked: bool = True,
) -> InCommon:
    """Find, for each row that is asked about, the rows that share most with it: known rows, and rows asked about that
    came earlier.

    Args:
        asked, known: batches, each read once; no row is in both.
        earliest: to how many rows a key leads.
        least: how much two rows must share. A key that two rows have counts 1/2, one that three have 1/3, and none
            counts less than 1/`earliest`.
        most: how many rows are found for one row.
        among_asked: whether rows asked about are found too. If not, number them after all known rows, so that they do
            not take the places of known rows among the earliest of a key.

    Raises:
        Whatever reading a batch raises.
    """
    import duckdb

    with (
        tempfile.TemporaryDirectory(prefix="segue-postings-") as folder,
        duckdb.connect(str(Path(folder) / "postings.duckdb")) as connection,
    ):
        connection.execute(f"SET memory_limit = '{MEMORY}'")
        connection.execute(f"SET temp_directory = '{folder}'")
        _fill(connection, "asked", asked, "SELECT * FROM batches")
        _fill(connection, "known", known, "SELECT batches.* FROM batches SEMI JOIN asked USING (key)")
        pairs = connection.sql(
            """
            WITH postings AS (
                SELECT number, key, true AS is_asked FROM asked UNION ALL SELECT number, key, false FROM known
            ),
            first_ones AS (
                SELECT *, count(*) OVER (PARTITION BY key) AS owners
                FROM postings
                QUALIFY owners > 1 AND row_number() OVER (PARTITION BY key ORDER BY number) <= $earliest
            ),
            shared AS (
                SELECT
                    asked.number AS asked,
                    first_ones.number AS other,
                    sum($whole // least(owners, $earliest)) AS weight
                FROM asked JOIN first_ones USING (key)
                WHERE NOT first_ones.is_asked OR ($among_asked AND first_ones.number < asked.number)
                GROUP BY asked.number, first_ones.number
                HAVING weight >= $least * $whole
            )
            SELECT asked, other
            FROM shared
            QUALIFY row_number() OVER (PARTITION BY asked ORDER BY weight DESC, other) <= $most
            ORDER BY asked, weight DESC, other
            """,
            params={"earliest": earliest, "least": least, "most": most, "whole": WEIGHT, "among_asked": among_asked},
        ).to_arrow_table()
    return InCommon(pairs.column("asked").to_numpy(), pairs.column("other").to_numpy())


def _fill(connection: "duckdb.DuckDBPyConnection", name: str, batches: Iterable[Keys], sql: str) -> None:
    """Make a table from the result of a query over `batches`, the name under which the batches are registered."""
    failures: list[Exception] = []

    def read() -> Iterator[pa.RecordBatch]:
        try:
            for batch in batches:
                yield pa.record_batch([batch.numbers, batch.keys], schema=SCHEMA)
        except Exception as error:  # DuckDB would turn it into one of its own
            failures.append(error)

    connection.register("batches", pa.RecordBatchReader.from_batches(SCHEMA, read()))
    connection.execute(f"CREATE TABLE {name} AS {sql}")
    connection.unregister("batches")
    if failures:
        raise failures[0]
