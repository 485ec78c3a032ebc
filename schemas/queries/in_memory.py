"""Databases in memory, each for one query, in an instance of DuckDB that a process starts once.

Starting an instance takes 35 ms of processor time, since it registers all of DuckDB's functions. A run makes several
queries for each of its stages, most of which take less than that.
"""

import functools
import itertools
import os
from collections.abc import Iterator
from contextlib import contextmanager

import duckdb

from schemas.storage.store import Store

_numbers = itertools.count()


@contextmanager
def database_for(store: Store) -> Iterator[duckdb.DuckDBPyConnection]:
    """Yield a connection to an empty database that can read a store's files, and remove the database afterwards.

    An object store gets an instance of its own: a filesystem is registered for a whole instance, and another store of
    the same protocol may have other credentials.
    """
    if not store.is_local:
        with duckdb.connect(":memory:") as connection:
            connection.register_filesystem(store.filesystem)
            yield connection
        return
    name = f"query_{next(_numbers)}"
    with _instance(os.getpid()).cursor() as connection:
        connection.execute(f"ATTACH ':memory:' AS {name}; USE {name}")
        try:
            yield connection
        finally:
            _leave(connection, name)


def _leave(connection: duckdb.DuckDBPyConnection, name: str) -> None:
    """Remove a database. If DuckDB refuses, an error has made the whole instance useless, and the next query starts
    another one."""
    try:
        connection.execute(f"USE memory; DETACH {name}")
    except duckdb.Error:
        _instance.cache_clear()


@contextmanager
def sealed_database() -> Iterator[duckdb.DuckDBPyConnection]:
    """Yield a connection that cannot reach files and computes on one thread. What is registered with it, no other
    connection sees."""
    with _sealed_instance(os.getpid()).cursor() as connection:
        yield connection


@functools.cache
def _instance(process: int) -> duckdb.DuckDBPyConnection:
    """Start the instance of a process. A fork needs its own: the threads of its parent's instance do not exist there.

    It caches nothing of the files that it reads, since a file may be replaced by another shard.
    """
    return duckdb.connect(":memory:", config={"enable_external_file_cache": "false"})


@functools.cache
def _sealed_instance(process: int) -> duckdb.DuckDBPyConnection:
    return duckdb.connect(":memory:", config={"enable_external_access": "false", "threads": "1"})
