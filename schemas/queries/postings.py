"""Postings: which of many rows have most keys in common, by a join that DuckDB takes to the disk where memory is short.

An inverted index, as search engines have it: of each key the rows that have it (its postings), the earliest first. Keys
that many rows have say little, as common words do. So a key counts the less, the more rows have it, and leads to the
earliest few of these alone: what is done grows with the rows, and not with their square, however common a key is. Of
many copies of one thing each is found by the first few of them. Rows that come later have no say in where a key leads,
only in how much it counts.
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
"""What DuckDB keeps in memory before it goes to the disk, in the folder for temporary files (`TMPDIR`)."""

WHOLE = 720_720_000
"""What a key counts as that one row has: sums of whole numbers are equal in whatever order threads add."""

SCHEMA = pa.schema({"number": pa.int64(), "key": pa.uint64()})


class Keys(NamedTuple):
    """Some rows' keys, each of a row once."""

    numbers: Int[npt.NDArray[np.int64], " N"]
    """The row of each key, as numbers in the order in which rows came."""
    keys: Int[npt.NDArray[np.uint64], " N"]


class InCommon(NamedTuple):
    """Pairs of rows, in the order of the first ones and then of what they have in common, the most first."""

    asked: Int[npt.NDArray[np.int64], " P"]
    others: Int[npt.NDArray[np.int64], " P"]


def keys_of(rows: Sequence[npt.NDArray[np.uint64]], first: int = 0) -> Keys:
    """Return the keys of rows that are numbered from `first` on."""
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
    """Find of each row that is asked about the others that it has most in common with: known ones, and asked ones that
    came before it.

    Args:
        asked, known: batches, each of which is read once; no row is in both.
        earliest: to how many rows a key leads.
        least: how much two rows must have in common: a key that two rows have counts 1/2, one that three have 1/3, and
            none less than 1/`earliest`.
        most: others that are found of a row.
        among_asked: whether asked ones are others too; their numbers need not be larger than those of known ones then.

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
            params={"earliest": earliest, "least": least, "most": most, "whole": WHOLE, "among_asked": among_asked},
        ).to_arrow_table()
    return InCommon(pairs.column("asked").to_numpy(), pairs.column("other").to_numpy())


def _fill(connection: "duckdb.DuckDBPyConnection", name: str, batches: Iterable[Keys], sql: str) -> None:
    """Make a table of what a query gives of batches, which stand in it as `batches`."""
    failures: list[Exception] = []

    def read() -> Iterator[pa.RecordBatch]:
        try:
            for batch in batches:
                yield pa.record_batch([batch.numbers, batch.keys], schema=SCHEMA)
        except Exception as error:  # which DuckDB would tell as one of its own
            failures.append(error)

    connection.register("batches", pa.RecordBatchReader.from_batches(SCHEMA, read()))
    connection.execute(f"CREATE TABLE {name} AS {sql}")
    connection.unregister("batches")
    if failures:
        raise failures[0]
