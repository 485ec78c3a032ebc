"""Queries share an instance of DuckDB, and nothing else."""

import os
import threading
from multiprocessing import get_context
from pathlib import Path

import duckdb
import pyarrow as pa
import pytest

from schemas import Store
from schemas.queries.in_memory import database_for, sealed_database
from tests.worlds.patience import PATIENCE_SECONDS


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(str(tmp_path / "store"))


def tables(connection: duckdb.DuckDBPyConnection) -> list[str]:
    return [name for (name,) in connection.execute("SHOW TABLES").fetchall()]


def test_views_and_tables_of_a_query_are_seen_by_no_other_and_are_gone_after_it(store: Store) -> None:
    with database_for(store) as first, database_for(store) as second:
        for number, connection in enumerate((first, second)):
            connection.execute(
                f"CREATE VIEW tracks AS SELECT {number} AS n; CREATE TEMP TABLE words AS SELECT {number}"
            )
        assert tables(first) == tables(second) == ["tracks", "words"]
        assert [each.execute("FROM main.tracks").fetchall() for each in (first, second)] == [[(0,)], [(1,)]]
    with database_for(store) as third:
        assert tables(third) == []
        assert len(third.execute("SELECT * FROM duckdb_databases() WHERE NOT internal").fetchall()) == 2


def test_queries_of_many_threads_have_their_own_answers(store: Store) -> None:
    answers = {}

    def ask(number: int) -> None:
        for _ in range(5):
            with database_for(store) as connection:
                connection.execute(f"CREATE VIEW tracks AS SELECT {number} AS n")
                answers[number] = connection.execute("FROM tracks").fetchall()

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert answers == {number: [(number,)] for number in range(8)}


def test_a_fork_of_a_process_that_made_a_query_makes_one_too(store: Store) -> None:
    with database_for(store):
        child = get_context("fork").Process(target=one_query, args=(store,))
        child.start()
        child.join(PATIENCE_SECONDS)
        child.kill()
    assert child.exitcode == 0


def one_query(store: Store) -> None:
    with database_for(store) as connection, sealed_database() as sealed:
        for each in (connection, sealed):
            assert each.execute("SELECT count(*) FROM range(1000000)").fetchall() == [(1_000_000,)]
    os._exit(0)


def test_an_instance_that_cannot_remove_a_database_is_not_used_again(store: Store) -> None:
    with database_for(store) as connection:
        ((name,),) = connection.execute("SELECT current_database()").fetchall()
        connection.execute(f"USE memory; DETACH {name}; CREATE TABLE left_behind AS SELECT 1")
    with database_for(store) as connection:
        assert connection.execute("SELECT table_name FROM duckdb_tables()").fetchall() == []


def test_a_sealed_connection_reaches_no_file_and_sees_no_rows_of_another(tmp_path: Path) -> None:
    (tmp_path / "secret.csv").write_text("a\n1\n")
    with sealed_database() as first, sealed_database() as second:
        first.register("rows", pa.table({"n": [1]}))
        second.register("rows", pa.table({"n": [2]}))
        assert [each.execute("SELECT n FROM rows").fetchall() for each in (first, second)] == [[(1,)], [(2,)]]
        with pytest.raises(duckdb.Error, match="disabled"):
            first.execute(f"SELECT * FROM '{tmp_path}/secret.csv'")
    with sealed_database() as third, pytest.raises(duckdb.CatalogException, match="rows"):
        third.execute("FROM rows")
