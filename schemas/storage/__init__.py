"""Storage: tables as Parquet shards and the files beside them, whole or not there, and which of them are published."""

DEFAULT_STORE = "segue-store"
"""The store of whoever names none."""
