"""Databases in memory, each for one question, in an instance of DuckDB that a process starts once.

To start an instance takes a thirtieth of a second of a processor, as it learns all of DuckDB's functions then; a run
asks hundreds of questions, most of which take less.
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
    """Give an empty database that reads files of a store, and is gone afterwards.

    That of an object store is an instance of its own: what is registered reads for a whole instance, and another store
    of the same protocol may have other credentials.
    """
    if not store.is_local:
        with duckdb.connect(":memory:") as connection:
            connection.register_filesystem(store.filesystem)
            yield connection
        return
    name = f"question_{next(_numbers)}"
    with _instance(os.getpid()).cursor() as connection:
        connection.execute(f"ATTACH ':memory:' AS {name}; USE {name}")
        try:
            yield connection
        finally:
            _leave(connection, name)


def _leave(connection: duckdb.DuckDBPyConnection, name: str) -> None:
    """Let a database go; where DuckDB refuses, an error has made the whole instance useless: the next question has
    another one."""
    try:
        connection.execute(f"USE memory; DETACH {name}")
    except duckdb.Error:
        _instance.cache_clear()


@contextmanager
def sealed_database() -> Iterator[duckdb.DuckDBPyConnection]:
    """Give a connection that reaches no file and computes on one thread, in a database where nothing is made to stay:
    what is registered is seen by this connection alone."""
    with _sealed_instance(os.getpid()).cursor() as connection:
        yield connection


@functools.cache
def _instance(process: int) -> duckdb.DuckDBPyConnection:
    """Start the instance of a process: threads of another one are not there in its forks.

    It keeps nothing of the files that it reads: another shard may take a file's place.
    """
    return duckdb.connect(":memory:", config={"enable_external_file_cache": "false"})


@functools.cache
def _sealed_instance(process: int) -> duckdb.DuckDBPyConnection:
    return duckdb.connect(":memory:", config={"enable_external_access": "false", "threads": "1"})
