"""Storage: tables as Parquet shards, the files beside them, each whole or absent, and which of them are published."""

DEFAULT_STORE = "segue-store"
"""The store of whoever names none."""
